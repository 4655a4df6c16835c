"""Figures of the trials; all take percentages or curves by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reproduce.figures import close, legend_below, look


def ladder(panels: Mapping[str, Mapping[str, Sequence[float]]], rungs: Sequence[str]) -> Figure:
    """Accuracy of each network as the attacker learns more.

    Args: panels: {title: {network: percent on each rung}}. rungs: their names.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.75 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for ax, (title, networks) in zip(axes[0], panels.items(), strict=True):
        for number, (name, values) in enumerate(networks.items()):
            ax.plot(range(len(rungs)), values, ms=5, **look(name, number))
        ax.set(title=title, ylim=(-3, 103), xticks=range(len(rungs)))
        ax.set_xticklabels(rungs, fontsize="small")
        ax.set_xlabel("what the attacker does, from nothing to everything", fontsize="small")
    axes[0][0].set_ylabel("accuracy (%)")
    legend_below(figure, axes[0][0].get_legend_handles_labels()[0])
    return close(figure)


def against_eps(
    eps: Sequence[float],
    networks: Mapping[str, Sequence[float]],
    unit: str,
    mark: float,
    published: Mapping[str, tuple[float, float]] | None = None,
    kinks: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy against the radius; a vertical line marks the radius of the tables.

    Args: eps: radii in `unit`. networks: {name: percent at each radius}. published: {name: (up to
          which radius, percent)}, dashed in the network's colour. kinks: {label: radius}, dotted.
    """
    figure, ax = plt.subplots(figsize=(7, 4.2))
    for number, (name, values) in enumerate(networks.items()):
        line = look(name, number)
        ax.plot(eps, values, ms=5, **line)
        if name in (published or {}):
            reach, said = published[name]
            ax.plot([0, reach], [said, said], color=line["color"], ls="--", lw=1)
    ax.axvline(mark, color="0.6", lw=1)
    for label, radius in (kinks or {}).items():
        ax.axvline(radius, color="0.3", lw=1, ls=":")
        spot = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(
            label, (radius, 0.58), xytext=(2, 0), va="center", rotation=90, size="x-small", **spot
        )
    ax.set(xlabel=f"ε ({unit})", ylabel="accuracy (%)", ylim=(-3, 103))
    legend_below(figure, ax.get_legend_handles_labels()[0])
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
    legend_below(figure, axes[0][0].get_legend_handles_labels()[0])
    return close(figure)


def broken_within(
    networks: Mapping[str, Mapping[str, np.ndarray]], published: Mapping[str, float]
) -> Figure:
    """Share of the images that an attack breaks within each norm; a panel a network.

    Args: networks: {network: {backward rule: norms of the images it had to move, inf where it never
          broke one}}. published: the mean norm printed for each network, dotted.
    """
    figure, axes = plt.subplots(
        1, len(networks), figsize=(2.6 * len(networks), 3.4), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, (title, rules) in zip(axes[0], networks.items(), strict=True):
        for number, (name, norms) in enumerate(rules.items()):
            ax.ecdf(norms, color=f"C{number}", ls="-" if number else "--", label=name)
        ax.axvline(published[title], color="0.4", ls=":", label="published mean")
        ax.set(title=title, xlabel="$\\ell_2$ norm", xscale="log", ylim=(-0.03, 1.03))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    axes[0][0].set_ylabel("images broken")
    legend_below(figure, axes[0][-1].get_legend_handles_labels()[0])
    return close(figure)


def success_by_width(widths: Sequence[str], networks: Mapping[str, Sequence[tuple]]) -> Figure:
    """Success of ZOO against the width of its finite difference.

    Args: widths: their names, in order. networks: {name: (percent, low, high) at each width}.
    """
    figure, ax = plt.subplots(figsize=(7, 4.2))
    for number, (name, found) in enumerate(networks.items()):
        rates, low, high = np.array(found, float).T
        line = look(name, number)
        ax.plot(range(len(widths)), rates, ms=5, **line)
        ax.fill_between(range(len(widths)), low, high, color=line["color"], alpha=0.12, lw=0)
    ax.set(xlabel="width h of the finite difference ([0, 1] units)", ylabel="images broken (%)",
           ylim=(-3, 103))  # fmt: skip
    ax.set_xticks(range(len(widths)), widths)
    legend_below(figure, ax.get_legend_handles_labels()[0])
    return close(figure)
