"""What DQA's networks hold inside: levels of the first layer (Fig. 2), last features (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reproduce.records import Record
from reproduce.report import style
from reproduce.report.results import Results

MERGED = 0.02  # levels that training moved this close together, of the range from -1 to 1
CLASSES = 10


def measured(networks: Mapping[str, Results]) -> dict[str, Record]:
    """{network: the record of its levels and features}, of those that did not collapse.

    Args: networks: {name: results}, as report.dqa.find.
    """
    suites = {name: results.suite("table") for name, results in networks.items()}
    return {
        name: suite["features"]
        for name, suite in suites.items()
        if {"features", "clean"} <= suite.keys() and not networks[name].collapsed
    }


def levels(found: Mapping[str, Record]) -> pd.DataFrame:
    """How a first activation layer uses its levels on the first test image.

    Returns: network, levels (how many occur), most (percent of the outputs that take the most
             frequent one), merged (how many lie within MERGED of the next). ReLU has no levels.
    """
    rows = []
    for name, record in found.items():
        values, counts = (record.arrays[f"first/{n}"] for n in ("levels", "counts"))
        if len(values):
            merged = int((np.diff(np.sort(values)) < MERGED).sum())
            rows.append((name, len(values), 100 * counts.max() / counts.sum(), merged))
    return pd.DataFrame(rows, columns=["network", "levels", "most", "merged"])


def clusters(found: Mapping[str, Record]) -> pd.DataFrame:
    """How far the last features keep to their classes, clean and under PGD.

    Returns: network; knn/clean, knn/pgd (percent of the ten nearest neighbours with an image's
             class); silhouette/clean, silhouette/pgd (-1..1).
    """
    names = [f"{measure}/{c}" for measure in ("knn", "silhouette") for c in ("clean", "pgd")]
    rows = [
        (name, *(record.values[n] * (100 if n.startswith("knn") else 1) for n in names))
        for name, record in found.items()
    ]
    return pd.DataFrame(rows, columns=["network", *names])


# --- Figures --------------------------------------------------------------------------------------


def levels_figure(found: Mapping[str, Record]) -> Figure:
    """How often the first activation layer takes each of its levels, on the first test image."""
    figure, grid = style.panels(len(found), height=2.3, below=0.4)
    for ax, (name, record) in zip(grid.flat, found.items(), strict=False):
        counts = record.arrays["first/counts"]
        ax.vlines(record.arrays["first/levels"], 0, counts / counts.sum(), lw=5, color="C0")
        ax.set(title=name, xlim=(-1.15, 1.15), ylim=(0, 1))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    for ax in grid[-1]:
        ax.set_xlabel("level")
    for line in grid:
        line[0].set_ylabel("outputs")
    figure.tight_layout()
    return style.close(figure)


def maps_figure(found: Mapping[str, Record]) -> Figure:
    """Stored t-SNE maps of the last layer's input, clean and under PGD: a row a network."""
    palette = np.array(sns.color_palette("colorblind", CLASSES))
    figure, grid = plt.subplots(len(found), 2, figsize=(6.4, 3.3 * len(found)), squeeze=False)
    for line, (name, record) in zip(grid, found.items(), strict=True):
        labels = record.arrays["features/labels"]
        for ax, condition in zip(line, ("clean", "pgd"), strict=True):
            ax.scatter(*record.arrays[f"tsne/{condition}"].T, c=palette[labels], s=6, lw=0)
            title = {"clean": "clean", "pgd": "under PGD"}[condition]
            ax.set(title=f"{name}, {title}", xticks=[], yticks=[])
            ax.set(xlabel="t-SNE, first axis", ylabel="second axis")
    dot = {"marker": "o", "ls": ""}
    handles = [plt.Line2D([], [], color=palette[c], label=str(c), **dot) for c in range(CLASSES)]
    style.legend_below(figure, handles, columns=5, title="class")
    return style.close(figure)
