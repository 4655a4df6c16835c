"""Images of Double quantization: on their way from the sender to the network, and in each depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.report.style import close

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Step:
    """What is done to an image, and what it is then.

    image: (3, H, W) uint8. caption: below it. action: above the arrow that leads to it; its first
    line says who acts. attack: whether an attacker does.
    """

    image: np.ndarray
    caption: str
    action: str = ""
    attack: bool = False


def step(
    stages: Mapping[str, np.ndarray], stage: str, action: str = "", *, attack: bool = False
) -> Step:
    """The first image at a stage, and what the network says of it as it is.

    Args: stages: arrays of a record of `papers.double.Stages`. stage: one of its three.
    """
    confidence = stages[f"confidence/{stage}"][0]
    says = f"“{CLASSES[confidence.argmax()]}”, {100 * confidence.max():.0f} %"
    return Step(stages[f"example/{stage}"][0], says, action, attack)


def strips(rows: Mapping[str, Sequence[Step]]) -> Figure:
    """Images on their way from the sender to the network, a row for each order of events."""
    count = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), count, figsize=(1.55 * count, 2.6 * len(rows)), squeeze=False
    )
    for line, (title, chain) in zip(axes, rows.items(), strict=True):
        for ax in line[len(chain) :]:
            ax.set_visible(False)
        for ax, step in zip(line, chain, strict=False):
            ax.imshow(step.image.transpose(1, 2, 0), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_xlabel(step.caption, fontsize=13.5, labelpad=4)
            colour = "C3" if step.attack else "0.25"
            for side in ax.spines.values():
                side.set(visible=True, color=colour, linewidth=2.5 if step.attack else 0.8)
            if step.action:
                _arrow(ax, step.action, colour)
        line[0].set_title(title, loc="left", fontsize=14, fontweight="bold", pad=50)
    figure.subplots_adjust(wspace=0.45, hspace=0.85, left=0.02, right=0.98)
    return close(figure)


def _arrow(ax: Axes, text: str, colour: str) -> None:
    """From the image on the left of these axes to this one."""
    ends = {"xy": (-0.03, 0.5), "xytext": (-0.42, 0.5)}
    look = {"arrowstyle": "-|>", "color": colour, "lw": 2}
    ax.annotate("", **ends, xycoords="axes fraction", arrowprops=look)
    spot = {"xycoords": "axes fraction", "ha": "center", "va": "bottom"}
    ax.annotate(text, (-0.22, 1.05), color=colour, fontsize=13, linespacing=1.2, **spot)


def ramp() -> torch.Tensor:
    """(1, 3, 64, 64) uint8: every channel runs from black to full, in a direction of its own."""
    line = torch.linspace(0, 255, 64).round().byte()
    across, down = line.expand(64, 64), line.view(64, 1).expand(64, 64)
    return torch.stack([across, down, 255 - across])[None]


def images(rows: Mapping[str, torch.Tensor], captions: Sequence[str], columns: int = 4) -> Figure:
    """Images of each row, wrapped after so many columns, the rows' names above their first image.

    Args: rows: {title: (N, 3, H, W) uint8}. captions: N, the same for each row.
    """
    lines = -(-len(captions) // columns)
    figure, axes = plt.subplots(
        lines * len(rows), columns, figsize=(1.6 * columns, 1.95 * lines * len(rows)), squeeze=False
    )
    for number, (title, shown) in enumerate(rows.items()):
        block = axes[number * lines : (number + 1) * lines].flat
        for ax in block:
            ax.set_axis_off()
        for ax, image, caption in zip(block, shown, captions, strict=False):
            ax.imshow(image.permute(1, 2, 0), interpolation="nearest")
            ax.set_title(caption, fontsize=12, y=-0.2)
        spot = {"xycoords": "axes fraction", "fontsize": 13, "fontweight": "bold"}
        axes[number * lines, 0].annotate(title, (0, 1.06), **spot)
    figure.tight_layout()
    return close(figure)
