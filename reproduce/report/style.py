"""One look for all figures: palette, marks, names, legends, rows of images."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure


def style() -> None:
    """The one look of all figures; call it once at the top of a notebook."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.titlesize": "medium",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "reproduce",
        }
    )


def close(figure: Figure) -> Figure:
    """Take a figure out of pyplot's hands, so that a notebook shows it once, as a value."""
    plt.close(figure)
    return figure


def depth(bits: int) -> str:
    """ "1 bit", "2 bits" ..."""
    return f"{bits} bit{'s' if bits > 1 else ''}"


def model_name(activation: str, bits: int | None) -> str:
    """A model as the tables call it: "ReLU", "fixed, 2 bits" ..."""
    return "ReLU" if activation == "relu" else f"{activation}, {depth(bits)}"


def look(name: str, number: int) -> dict:
    """How a network is drawn. ReLU, the control, is black and dashed. DQA's networks look the same
    in every line plot of results: a colour for the bits, open squares where the thresholds are
    learnt. Others take the palette's colours in their order.

    Args: name: as by `model_name`, or any other. number: of the network in its figure, from 0.
    """
    if name == "ReLU":
        style = {"color": "black", "ls": "--", "lw": 2, "marker": "o", "zorder": 3}
    elif found := re.fullmatch("(fixed|dynamic), ([1-9]) bits?", name):
        style = {"color": f"C{int(found[2]) - 1}", "marker": "o"}
        if found[1] == "dynamic":
            style |= {"marker": "s", "mfc": "white", "ls": "-."}
    else:
        style = {"color": f"C{number}", "marker": "o"}
    return {"label": name, **style}


def panels(count: int, *, height: float, below: float) -> tuple[Figure, np.ndarray]:
    """A figure of so many panels, at most two in a row, on the same axes, and its grid of axes.

    Args: height: of a panel; below: what remains for a legend (inches).
    """
    columns = min(2, count)
    rows = -(-count // columns)
    size = 6.4, height * rows + below
    figure, grid = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for ax in grid.flat[count:]:
        ax.set_visible(False)
    return figure, grid


def legend_below(
    figure: Figure, handles: Sequence[Artist], columns: int = 4, title: str | None = None
) -> None:
    """One legend for all axes of a figure, below them. Args: columns: at most."""
    columns = min(columns, len(handles))
    rows = -(-len(handles) // columns)
    figure.legend(handles=handles, title=title, loc="lower center", ncols=columns, frameon=False)
    below = (0.26 * rows + 0.1 + (0.3 if title else 0)) / figure.get_figheight()  # inches
    figure.tight_layout(rect=(0, below, 1, 1))


def image_grid(rows: dict[str, np.ndarray], captions: dict[str, Sequence[object]]) -> Figure:
    """Rows of images with a caption under each.

    Args: rows: {row title: (N, C, H, W) uint8}. captions: {row title: N captions}.
    """
    count = len(next(iter(rows.values())))
    size = 0.95 * count + 1.2, 1.2 * len(rows)  # inches; the titles stand at the left
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for ax, image, caption in zip(line, images, captions[title], strict=True):
            grey = image.shape[0] == 1
            ax.imshow(image[0] if grey else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_xlabel(str(caption), fontsize="small", labelpad=2)
            for side in ax.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.3)
    return close(figure)
