"""DQA's figures; all take DataFrames of `report.dqa`, or curves by name.

They are about 6.4 inches wide, so that their type can be read on a phone.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import PercentFormatter

from reproduce.report import dqa, dqa_details, style
from reproduce.report.results import Results
from reproduce.report.staircase import inputs, levels, slope

GREY = "0.45"
TABLE, MAIN = "C0", "C3"  # the tables' attack, and one that knows the quantisers


# --- The method -----------------------------------------------------------------------------------

_LENET = ("conv", "Q", "conv", "Q", "dense", "Q", "dense", "Q", "dense")


def method() -> Figure:
    """LeNet with quantised activations; below, the staircase, and what stands for its slope."""
    figure = plt.figure(figsize=(6.4, 6.2))
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.35), hspace=0.28, wspace=0.3)
    _network(figure.add_subplot(grid[0, :]))
    _forward(figure.add_subplot(grid[1, 0]), bits=2)
    _backward(figure.add_subplot(grid[1, 1]), bits=2)
    return style.close(figure)


def _network(ax: Axes) -> None:
    """The layers from left to right, and the two directions."""
    ax.set(xlim=(0, 100), ylim=(0, 36))
    ax.axis("off")
    left = 8.5
    for kind in _LENET:
        quantiser = kind == "Q"
        width = 7.4 if quantiser else 8.8
        colour = "C1" if quantiser else "0.88"
        box = FancyBboxPatch(
            (left, 12), width, 11, boxstyle="round,pad=0,rounding_size=1.2", fc=colour, ec="0.3"
        )
        ax.add_patch(box)
        if quantiser:
            x = left + width * np.array([0.12, 0.36, 0.36, 0.63, 0.63, 0.88])
            ax.plot(x, [14.5, 14.5, 17.5, 17.5, 20.5, 20.5], color="white", lw=2)
        else:
            ax.text(left + width / 2, 17.5, kind, ha="center", va="center", fontsize=8.5)
        left += width + 1.0
    ax.text(4, 17.5, "digit", ha="center", va="center", fontsize=10)
    ax.text(left + 3.6, 17.5, "class", ha="center", va="center", fontsize=10)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 16, "lw": 1.6}
    ax.add_patch(FancyArrowPatch((9, 27), (left, 27), color="C1", **arrow))
    ax.add_patch(FancyArrowPatch((left, 8), (9, 8), color=MAIN, **arrow))
    ax.text(50, 31.5, "forward: through the staircases, always", ha="center", va="center")
    ax.text(
        50, 3.5, "gradient: through a stand-in of the attacker's choice", ha="center", va="center"
    )


def _forward(ax: Axes, bits: int) -> None:
    x = inputs()
    ax.plot(x, torch.relu(x), color=GREY, ls="--", label="ReLU")
    ax.plot(x, levels(bits), color="C1", lw=2.5, label=f"{bits} bits, fixed")
    ax.set(xlabel="input", ylabel="output", ylim=(-1.25, 2), title="What the network computes")
    ax.legend(fontsize=9.5, loc="lower right", frameon=False)


RULES = {
    "true slope: 0": ("zero", 1.0, GREY, "--"),
    "as in training": ("straight_through", 1.0, TABLE, "-"),
    "steep sigmoids": ("sigmoid", 5.0, MAIN, "-"),
}


def _backward(ax: Axes, bits: int) -> None:
    for label, (rule, temperature, colour, line) in RULES.items():
        ax.plot(inputs(), slope(bits, rule, temperature), color=colour, ls=line, label=label)
    ax.set(xlabel="input", ylabel="slope", ylim=(-0.08, 2.3), title="What an attack follows")
    ax.legend(fontsize=9.5, loc="upper left", frameon=False)


# --- Results --------------------------------------------------------------------------------------


def dumbbells(frame: pd.DataFrame) -> Figure:
    """Published accuracy under PGD, ours under the same PGD, and what all attacks leave.

    Args: frame: as `report.dqa.headline`.
    """
    figure, ax = plt.subplots(figsize=(6.4, 0.52 * len(frame) + 1.7))
    for y, row in enumerate(frame.itertuples()):
        ax.plot([row.left, row.same], [y, y], color="0.75", lw=3, zorder=1)
        ax.plot([row.low, row.high], [y, y], color=MAIN, lw=5, alpha=0.35, zorder=2)
        spot = {"textcoords": "offset points", "ha": "center", "fontsize": 11, "color": MAIN}
        ax.annotate(f"{row.left:.1f}", (row.left, y), xytext=(0, 8), **spot)
    y = np.arange(len(frame))
    ax.plot(
        frame["published"], y, "D", ms=11, mfc="none", mec="black", mew=1.5, label="published, PGD"
    )
    ax.plot(frame["same"], y, "o", ms=7, color=TABLE, label="ours, the same PGD")
    ax.plot(frame["left"], y, "s", ms=8, color=MAIN, label="ours, all attacks")
    ax.set(xlabel="accuracy (%)", xlim=(-4, 103), ylim=(len(frame) - 0.4, -0.6))
    ax.set_yticks(y, frame["network"])
    ax.grid(axis="y", visible=False)
    style.legend_below(figure, ax.get_legend_handles_labels()[0], columns=3)
    return style.close(figure)


def ladder(frame: pd.DataFrame) -> Figure:
    """Accuracy of each network as the attacker learns more.

    A ring where PGD leaves more than no attack does, which no working attack can.

    Args: frame: as `report.dqa.ladder`.
    """
    figure, ax = plt.subplots(figsize=(6.4, 5.0))
    steps = range(len(frame.columns))
    for number, (name, values) in enumerate(frame.iterrows()):
        ax.plot(steps, values, ms=6, **style.look(name, number))
    ax.set(ylabel="accuracy (%)", ylim=(-3, 106), xticks=steps, xlim=(-0.3, len(steps) - 0.7))
    ax.set_xticklabels([c.replace(" ", "\n", 1) for c in frame.columns])
    at = frame.columns.get_loc("PGD")
    high = frame.loc[frame["PGD"] > frame["clean"], "PGD"]
    if len(high):
        ax.plot([at] * len(high), high, "o", ms=15, mfc="none", mec=MAIN, mew=2, zorder=5)
        said = {"color": MAIN, "fontsize": 11, "ha": "right", "va": "top"}
        line = {"arrowstyle": "-", "color": MAIN, "lw": 1}
        spot = at - 0.06, high.min() - 2
        ax.annotate("more than\nwith no attack", spot, (at - 0.12, 74), arrowprops=line, **said)
    handles = ax.get_legend_handles_labels()[0]
    style.legend_below(figure, handles, columns=3)
    return style.close(figure)


def each_seed(frame: pd.DataFrame) -> Figure:
    """Published beside each of our seeds, for clean, PGD and FGSM. Crosses: collapsed trainings.

    Args: frame: as `report.dqa.table`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(6.0, 4.2), sharey=True)
    for ax, (attack, title) in zip(axes, dqa.ATTACKS.items(), strict=True):
        part = frame[frame["attack"] == attack]
        for y, row in enumerate(part.itertuples()):
            for value, lost in zip(row.ours, row.collapsed, strict=True):
                ax.plot(value, y, "x" if lost else "o", ms=6, color="C0", alpha=0.7)
        y = range(len(part))
        ax.plot(part["published"], y, "D", ms=9, mfc="none", mec="black", mew=1.3)
        ax.set(title=f"{title} (%)", xlim=(-5, 105), xticks=(0, 50, 100), yticks=y)
        ax.set_yticklabels(part["network"])
    axes[0].invert_yaxis()
    looks = {"published": ("D", "black", "none"), "ours, each seed": ("o", "C0", "C0"),
             "collapsed": ("x", "C0", "C0")}  # fmt: skip
    handles = [
        plt.Line2D([], [], ls="", marker=m, mec=c, mfc=f, label=n) for n, (m, c, f) in looks.items()
    ]
    style.legend_below(figure, handles)
    return style.close(figure)


def against_eps(frame: pd.DataFrame, radius: float) -> Figure:
    """Accuracy under the main attack against its radius; a line marks the radius of the tables.

    Args: frame: as `report.dqa_details.radii`. radius: of the tables, a share of the pixel range.
    """
    shares = [c for c in frame.columns if isinstance(c, float)]
    figure, ax = plt.subplots(figsize=(6.4, 4.6))
    for number, row in frame.iterrows():
        line = style.look(row["network"], number)
        ax.plot([s * radius for s in shares], row[shares].astype(float), ms=6, **line)
    ax.axvline(radius, color="0.6", lw=1)
    ax.set(xlabel="ε (share of the pixel range)", ylabel="accuracy (%)", ylim=(-3, 103))
    style.legend_below(figure, ax.get_legend_handles_labels()[0], columns=3)
    return style.close(figure)


def losses(networks: Mapping[str, Results]) -> Figure:
    """Mean loss of the attacked images, step by step, under PGD as in the tables and as in the
    trial."""
    figure, axes = plt.subplots(1, len(networks), figsize=(6.4, 3.2), squeeze=False)
    names = {"table": ("as in the table", TABLE), "main": ("the trial's main attack", MAIN)}
    for ax, (title, results) in zip(axes[0], networks.items(), strict=True):
        for attack, curve in dqa_details.loss_curves(results).items():
            label, colour = names[attack]
            ax.plot(curve, color=colour, label=label)
        ax.set(title=title, xlabel="steps", ylim=(0, None))
    axes[0][0].set_ylabel("cross-entropy")
    style.legend_below(figure, axes[0][0].get_legend_handles_labels()[0])
    return style.close(figure)


def attacked(networks: Mapping[str, Results], count: int = 6) -> Figure:
    """The first test images, and what each network reads under the tables' PGD and the main attack.

    Args: networks: by name, those that have both.
    """
    images, reads = {}, {}
    for name, results in networks.items():
        blunt, sharp = results.suite("table")["examples"], results.suite("shown")["attacked"]
        images.setdefault("no attack", blunt.arrays["image/clean"][:count])
        reads.setdefault("no attack", blunt.arrays["labels"][:count])
        for how, record, condition in (("PGD", blunt, "pgd"), ("main attack", sharp, "main")):
            images[f"{name}\n{how}"] = record.arrays[f"image/{condition}"][:count]
            reads[f"{name}\n{how}"] = record.arrays[f"prediction/{condition}"][:count]
    return style.image_grid(images, reads)


# --- Training -------------------------------------------------------------------------------------


def training_curves(networks: Mapping[str, Results]) -> Figure:
    """Training loss and accuracy after each epoch; shaded where it is on clean images alone."""
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True)
    for number, (name, results) in enumerate(networks.items()):
        curves = results.training.values
        for ax, curve in zip(axes, ("loss", "accuracy"), strict=True):
            epochs = np.arange(1, len(curves[curve]) + 1)
            ax.plot(epochs, curves[curve], ms=4, **style.look(name, number))
    radius = next(iter(networks.values())).training.values["eps_255"]
    clean = sum(eps == 0 for eps in radius)
    for ax in axes:
        if clean:
            ax.axvspan(0.5, clean + 0.5, color="0.9", zorder=0)
        ax.set(xlim=(0.5, len(radius) + 0.5))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("loss (cross-entropy)")
    axes[1].set(xlabel="epoch", ylabel="accuracy in training", ylim=(0, 1.02))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    style.legend_below(figure, axes[1].get_legend_handles_labels()[0], columns=3)
    return style.close(figure)


def thresholds(frame: pd.DataFrame) -> Figure:
    """Learnt thresholds of every layer and seed, a panel a depth; dashed where they started.

    Args: frame: as `report.dqa_details.thresholds`.
    """
    depths = sorted(frame["bits"].unique())
    figure, axes = plt.subplots(1, len(depths), figsize=(6.4, 3.8), sharey=True, squeeze=False)
    for ax, bits in zip(axes[0], depths, strict=True):
        part = frame[frame["bits"] == bits]
        for start in part["start"].unique():
            ax.axhline(start, color="0.6", lw=1, ls="--", zorder=1)
        shift = 0.14 * (part["seed"] - 1)
        colours = [sns.color_palette()[s] for s in part["seed"]]
        ax.scatter(part["layer"] + shift, part["end"], s=18, c=colours)
        ax.set(title=style.depth(bits), xlabel="layer", xlim=(0.5, part["layer"].max() + 0.5))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set(ylabel="threshold", ylim=(-1.08, 1.08))
    dot = {"marker": "o", "ms": 5, "ls": ""}
    handles = [plt.Line2D([], [], color="0.6", ls="--", label="start")]
    for seed in sorted(frame["seed"].unique()):
        handles.append(plt.Line2D([], [], color=f"C{seed}", label=f"seed {seed}", **dot))
    style.legend_below(figure, handles)
    return style.close(figure)
