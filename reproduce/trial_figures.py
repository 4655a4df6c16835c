"""Figures of the trials; all take percentages or curves by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.figures import close

CONTROL = "ReLU"


def _line(name: str, number: int) -> dict:
    """The control is black and dashed; the others keep the palette's colours."""
    if name == CONTROL:
        return {"color": "black", "ls": "--", "lw": 2, "zorder": 3, "label": name}
    return {"color": f"C{number}", "label": name}


def ladder(panels: Mapping[str, Mapping[str, Sequence[float]]], rungs: Sequence[str]) -> Figure:
    """Accuracy of each network as the attacker learns more.

    Args: panels: {title: {network: percent on each rung}}. rungs: their names.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.75 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for ax, (title, networks) in zip(axes[0], panels.items(), strict=True):
        number = 0
        for name, values in networks.items():
            ax.plot(range(len(rungs)), values, marker="o", ms=5, **_line(name, number))
            number += name != CONTROL
        ax.set(title=title, ylim=(-3, 103), xticks=range(len(rungs)))
        ax.set_xticklabels(rungs, fontsize="small")
        ax.set_xlabel("what the attacker does, from nothing to everything", fontsize="small")
    axes[0][0].set_ylabel("accuracy (%)")
    _legend_below(figure, axes[0][0])
    return close(figure)


def _legend_below(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False)
    figure.tight_layout(rect=(0, 0.07 * rows + 0.02, 1, 1))


def against_eps(
    eps: Sequence[float], networks: Mapping[str, Sequence[float]], unit: str, mark: float
) -> Figure:
    """Accuracy against the radius; a vertical line marks the radius of the tables.

    Args: eps: radii in `unit`. networks: {name: percent at each radius}.
    """
    figure, ax = plt.subplots(figsize=(7, 4.2))
    number = 0
    for name, values in networks.items():
        ax.plot(eps, values, marker="o", ms=5, **_line(name, number))
        number += name != CONTROL
    ax.axvline(mark, color="0.6", lw=1)
    ax.set(xlabel=f"ε ({unit})", ylabel="accuracy (%)", ylim=(-3, 103))
    _legend_below(figure, ax)
    return close(figure)


def losses(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Mean loss of the attacked images against the attack's steps.

    Args: panels: {network: {attack: loss at the start and after each step}}.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), squeeze=False)
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            ax.plot(curve, color=f"C{number}", label=name)
        ax.set(title=title, xlabel="steps", ylim=(0, None))
    axes[0][0].set_ylabel("cross-entropy")
    _legend_below(figure, axes[0][0])
    return close(figure)
