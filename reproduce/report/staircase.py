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


def inputs() -> torch.Tensor:
    """(1201,): inputs of one activation, from -3 to 3."""
    return torch.linspace(-3, 3, 1201)


def levels(bits: int) -> torch.Tensor:
    """(1201,): DQA's fixed quantiser of the inputs. Args: bits: 1..3."""
    return FixedQuantizer(bits)(inputs().view(1, -1))[0].detach()


def slope(bits: int, rule: str, temperature: float) -> torch.Tensor:
    """(1201,): its derivative at the inputs by a backward rule."""
    point = inputs().view(1, -1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(FixedQuantizer(bits, rule, temperature)(point).sum(), point)
    return gradient[0]


def staircases(bits: int = 2) -> Figure:
    """DQA's fixed quantiser beside ReLU, and its slope by three backward rules.

    Args: bits: 1..3.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(5, 5.4), sharex=True)
    x = inputs()
    above.plot(x, torch.relu(x), color="0.5", ls="--", label="ReLU")
    above.plot(x, levels(bits), color="C0", label=f"fixed, {bits} bits")
    above.set(ylabel="activation", ylim=(-1.2, 2), title="forward pass")
    above.legend(fontsize="small", loc="upper left")
    for number, (name, rule) in enumerate(RULES.items()):
        below.plot(x, slope(bits, *rule), color=f"C{number}", label=name)
    below.set(xlabel="input $x$", ylabel="slope", ylim=(-0.05, 1.9), title="backward pass")
    below.legend(fontsize="small", loc="upper right")
    figure.tight_layout()
    return close(figure)
