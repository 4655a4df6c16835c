"""Figures of Double quantization; all draw what report.double and report.double_before give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from reproduce.papers.double import KINDS
from reproduce.quantizers import filter_radius
from reproduce.report.double import Kind, decided, steps, whole_radius, words
from reproduce.report.style import close, depth, legend_below

ROUNDINGS = {"floor": "rounding down, as released", "nearest": "rounding to the nearest level"}
LOOK = {True: {"color": "C0", "marker": "o"}, False: {"color": "C1", "marker": "s"}}  # dithered?
DITHERED = {True: "dithered", False: "not dithered"}
KIND_AXIS = "bits (d: dithered)"


def short(kind: Kind) -> str:
    """A kind where there is little room: "2", "2 d"."""
    bits, dithered = kind
    return f"{bits} d" if dithered else f"{bits}"


# --- What arithmetic decides ----------------------------------------------------------------------


def margins() -> Figure:
    """The levels of 1 to 4 bits on the line of grey values, and what is sure to come back to each:
    what lies within the largest whole radius. The radius stands at the right."""
    figure, ax = plt.subplots(figsize=(5.4, 4.2))
    depths = (1, 2, 3, 4)
    for row, bits in enumerate(depths):
        levels = 255 * np.arange(2**bits) / (2**bits - 1)
        for offset, colour, rounding in ((-0.17, "C0", "floor"), (0.17, "C1", "nearest")):
            radius = filter_radius(bits, rounding)
            low, high = (levels - radius).clip(0), (levels + radius).clip(max=255)
            y = row + offset
            ax.barh([y] * len(levels), high - low, 0.24, low, color=colour, alpha=0.45, lw=0)
            ax.plot(levels, [y] * len(levels), "o", color=colour, ms=5)
            spot = {"color": colour, "fontsize": 13, "va": "center", "fontweight": "bold"}
            ax.text(262, y, f"±{radius}", **spot)
    ax.set(xlabel="grey value", xlim=(-4, 259), xticks=[0, 64, 128, 192, 255])
    ax.set_yticks(range(len(depths)), map(depth, depths))
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    pairs = zip(("C0", "C1"), ROUNDINGS.values(), strict=True)
    legend_below(figure, [Patch(color=c, alpha=0.6, label=name) for c, name in pairs], columns=1)
    return close(figure)


def frontier(panels: Mapping[str, pd.DataFrame], eps_255: float) -> Figure:
    """Clean accuracy of the dithered networks against the certified radius of either rounding.

    Args: panels: {title: a table of `double.frontier`}. eps_255: a vertical line.
    """
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(5.6, 3.2 * len(panels)), sharex=True, squeeze=False
    )
    for ax, (title, table) in zip(axes[:, 0], panels.items(), strict=True):
        part = table[table["dithered"]].dropna(subset="accuracy")
        for row in part.itertuples():
            ax.plot([row.floor, row.nearest], [row.accuracy] * 2, color="0.6", lw=1.5, zorder=1)
            spot = {"xytext": (7, 4), "textcoords": "offset points", "fontsize": 12}
            ax.annotate(f"{row.bits}", (row.nearest, row.accuracy), **spot)
        for (rounding, name), look in zip(ROUNDINGS.items(), ("oC0", "DC1"), strict=True):
            mark = {"marker": look[0], "color": look[1:], "ls": "", "ms": 8, "label": name}
            ax.plot(part[rounding], part["accuracy"], **mark)
        ax.axvline(eps_255, color="0.3", ls="--", lw=1)
        ax.margins(y=0.15)
        ax.set_xscale("symlog", linthresh=1, base=2)
        ticks = [0, 1, 2, 4, 8, 16, 32, 64, 127]
        ax.set(title=title, ylabel="clean accuracy (%)", xlim=(-0.3, 210), xticks=ticks)
        ax.set_xticklabels(ticks)
    axes[-1, 0].set_xlabel("certified ε (grey values)")
    legend_below(figure, axes[0, 0].get_legend_handles_labels()[0], columns=1)
    return close(figure)


# --- Tables I and II ------------------------------------------------------------------------------


def _kind_axes(ax: Axes) -> None:
    names = [short(kind) for kind in KINDS]
    middle = np.arange(len(KINDS)) + 0.5
    ax.set_xticks(middle, names, rotation=90, fontsize=12)
    ax.set_yticks(middle, names, rotation=0, fontsize=12)
    ax.grid(False)
    ax.set_xlabel(f"tested on: {KIND_AXIS}", fontsize=13)
    ax.set_ylabel(f"trained on: {KIND_AXIS}", fontsize=13)


def _outline(ax: Axes, columns: int) -> None:
    edge = {"fill": False, "ec": "0.2", "lw": 1.5, "ls": "--", "clip_on": False}
    ax.add_patch(Rectangle((0, 0), columns, len(KINDS), **edge))


def difference(
    ours: pd.DataFrame,
    published: pd.DataFrame,
    *,
    marked: Sequence[tuple[Kind, Kind]] = (),
    eps_255: float | None = None,
    limit: float = 60,
) -> Figure:
    """Ours minus published in points, a cell a pair of kinds; hatched where one of them is missing.

    Args: marked: (train, test) of cells with a heavy frame. eps_255: outline the columns that are
          decided at it; None for no outline. limit: points at the ends of the scale of colours.
    """
    figure, ax = plt.subplots(figsize=(6.4, 6))
    gap = (ours - published).round(0) + 0.0  # no "-0"
    ax.set_facecolor("0.85")
    ax.add_patch(Rectangle((0, 0), *gap.shape[::-1], fill=False, hatch="////", ec="0.65", lw=0))
    sns.heatmap(
        gap, ax=ax, vmin=-limit, vmax=limit, cmap="vlag_r", linewidths=0.5, mask=gap.isna(),
        annot=gap.where(gap.abs() >= 10).map(lambda v: f"{v:+.0f}" if v == v else ""), fmt="",
        annot_kws={"size": 10}, cbar_kws={"label": "ours minus published (points)", "pad": 0.02},
    )  # fmt: skip
    _kind_axes(ax)
    if eps_255 is not None:
        _outline(ax, len(decided(eps_255)))
    for train, test in marked:
        corner = KINDS.index(test), KINDS.index(train)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=2.5, zorder=4))
    figure.tight_layout()
    return close(figure)


def accuracies(tables: Mapping[str, pd.DataFrame], eps_255: float | None = None) -> Figure:
    """Whole tables in percent, {title: table}, one below the other. eps_255: as in `difference`."""
    figure, axes = plt.subplots(len(tables), 1, figsize=(9, 6.3 * len(tables)), squeeze=False)
    for ax, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        sns.heatmap(
            table.round(1) + 0.0, ax=ax, annot=True, annot_kws={"size": 8.5}, linewidths=0.5,
            vmin=0, vmax=100, cmap="cividis", fmt=".1f", cbar_kws={"label": "%", "pad": 0.02},
        )  # fmt: skip
        _kind_axes(ax)
        ax.set_title(title)
        if eps_255 is not None:
            _outline(ax, len(decided(eps_255)))
    figure.tight_layout()
    return close(figure)


# --- Fig. 4 ---------------------------------------------------------------------------------------


def against_eps(measured: pd.DataFrame, published: Mapping[Kind, tuple[float, float]]) -> Figure:
    """Accuracy against the eps of PGD after dithering, a panel for 1, 2, 3 and 8 bits.

    Solid: what theory fixes, the clean accuracy as far as nothing can change. Points: measured.
    Ticks at the foot: each eps at which the best attack can do something that it could not before;
    between two of them its accuracy is level, so that the points are not joined.

    Args: measured: as of `double.against_eps`. published: {kind: (up to which eps, percent)}.
    """
    figure, axes = plt.subplots(2, 2, figsize=(6, 5.6), sharex=True, sharey=True)
    top = int(measured["eps"].max()) if len(measured) else 32
    for ax, bits in zip(axes.flat, (1, 2, 3, 8), strict=True):
        radius = min(whole_radius(bits), top)
        ax.axvspan(-1, radius, color="0.93", zorder=0)
        ax.plot(steps(bits, top), [-4] * len(steps(bits, top)), "|", color="0.3", ms=9, mew=1.5)
        for dithered, look in LOOK.items():
            part = measured[(measured["bits"] == bits) & (measured["dithered"] == dithered)]
            for _, seed in part.groupby("seed"):
                clean = seed.loc[seed["eps"] == 0, "accuracy"].iloc[0]
                ax.plot([0, radius], [clean] * 2, color=look["color"], lw=2, alpha=0.6)
                bars = abs(seed[["low", "high"]].sub(seed["accuracy"], axis=0).T)
                x = seed["eps"] + (-0.45 if dithered else 0.45)  # side by side
                ax.errorbar(x, seed["accuracy"], bars, ls="", ms=5.5, capsize=2, **look)
            if (bits, dithered) in published:
                reach, said = published[bits, dithered]
                ax.plot([0, reach], [said] * 2, color="black", ls=":" if dithered else "--", lw=1.3)
        ax.set(title=depth(bits), xticks=[0, 4, 8, 16, 24, 32], ylim=(-8, 103))
        ax.set(xlabel="ε (grey values)", ylabel="accuracy (%)")
        ax.label_outer()
    handles = [Line2D([], [], ls="", ms=6, label=DITHERED[d], **look) for d, look in LOOK.items()]
    handles += [
        Line2D([], [], color="black", ls=":", lw=1.3, label="published, dithered"),
        Line2D([], [], color="black", ls="--", lw=1.3, label="published, not dithered"),
        Patch(color="0.9", label="nothing can change"),
        Line2D([], [], color="0.3", ls="", marker="|", ms=9, mew=1.5, label="ε of a possible step"),
    ]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2,
                  frameon=False)  # fmt: skip
    figure.tight_layout()
    return close(figure)


# --- Noise before dithering -----------------------------------------------------------------------

SHOWN = {
    "clean": ("clean", {"marker": "o", "color": "0.35", "mfc": "white"}),
    "transfer": ("transferred from the 8-bit network", {"marker": "^", "color": "C1"}),
    "bare": ("PGD on the network, as in the paper", {"marker": "s", "color": "C0"}),
    "all": ("the worst of all attacks", {"marker": "D", "color": "C3"}),
}


def left(table: pd.DataFrame) -> Figure:
    """What is left of each network under attacks before dithering, from what knows least to all.

    Args: table: as of `double_before.left`; a row a network.
    """
    figure, ax = plt.subplots(figsize=(5.4, 6))
    y = np.arange(len(table))
    ax.hlines(y, table["all"], table["clean"], color="0.8", lw=2, zorder=1)
    for column, (name, look) in SHOWN.items():
        ax.plot(table[column], y, ls="", ms=8, label=name, **look)
    names = [words((r.bits, r.dithered)) for r in table.itertuples()]
    ax.set_yticks(y, names)
    ax.set(xlabel="accuracy (%)", xlim=(-3, 100))
    ax.invert_yaxis()
    legend_below(figure, ax.get_legend_handles_labels()[0], columns=1)
    return close(figure)


def detectability(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Area under the ROC of the detector for each network, a mark for each size of batch.

    Args: panels: {title: as of `double_before.detection`}.
    """
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(5.8, 2.7 * len(panels)), sharex=True, sharey=True, squeeze=False
    )
    marks = ("s", "o", "D")
    for ax, (title, found) in zip(axes[:, 0], panels.items(), strict=True):
        for number, (n, part) in enumerate(found.groupby("n")):
            x = [KINDS.index(kind) for kind in zip(part["bits"], part["dithered"], strict=True)]
            size = 10 - 4 * number  # equal areas lie on top of each other
            look = {"ls": "", "marker": marks[number], "ms": size, "color": f"C{number}"}
            ax.plot(x, part["auc"], label=f"batches of {n}", **look)
        ax.axhline(0.5, color="0.4", ls="--", lw=1)
        ax.set(title=title, ylabel="area under\nthe ROC", ylim=(0.44, 1.04))
    axes[-1, 0].set_xticks(range(len(KINDS)), [short(k) for k in KINDS], rotation=90)
    axes[-1, 0].set_xlabel(f"trained and tested on: {KIND_AXIS}")
    legend_below(figure, axes[0, 0].get_legend_handles_labels()[0], columns=3)
    return close(figure)
