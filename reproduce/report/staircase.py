"""What a quantised activation does forward, and what may stand in for its slope backward."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from reproduce.quantizers import FixedQuantizer
from reproduce.report.style import close

RULES = {
    "true gradient": ("zero", 1.0),
    "straight-through": ("straight_through", 1.0),
    "sigmoid, $T$ = 5": ("sigmoid", 5.0),
}


def staircases(bits: int = 2) -> Figure:
    """DQA's fixed quantiser beside ReLU, and its slope by three backward rules.

    Args: bits: 1..3.
    """
    x = torch.linspace(-3, 3, 1201).view(1, -1)
    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 5.4), sharex=True)
    with torch.no_grad():
        above.plot(x[0], torch.relu(x)[0], color="0.5", ls="--", label="ReLU")
        above.plot(x[0], FixedQuantizer(bits)(x)[0], color="C0", label=f"fixed, {bits} bits")
    above.set(ylabel="activation", ylim=(-1.2, 2), title="forward pass")
    above.legend(fontsize="small", loc="upper left")
    for number, (name, (rule, temperature)) in enumerate(RULES.items()):
        point = x.clone().requires_grad_(True)
        out = FixedQuantizer(bits, rule, temperature)(point).sum()
        (slope,) = torch.autograd.grad(out, point)
        below.plot(x[0], slope[0], color=f"C{number}", label=name)
    below.set(xlabel="input $x$", ylabel="slope", ylim=(-0.05, 1.9), title="backward pass")
    below.legend(fontsize="small", loc="upper right")
    figure.tight_layout()
    return close(figure)
