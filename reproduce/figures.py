"""Figures in one style, and tables of published beside measured accuracies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from reproduce.evaluation import TWICE_CHANCE, wilson
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer
from reproduce.results import Record

ATTACKS = {"clean": "clean", "pgd": "PGD", "fgsm": "FGSM"}


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


def model_name(activation: str, bits: int | None) -> str:
    """A model as the tables call it: "ReLU", "fixed, 2 bits" ..."""
    if activation == "relu":
        return "ReLU"
    return f"{activation}, {bits} bit{'s' if bits > 1 else ''}"


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


# --- Tables ---------------------------------------------------------------------------------------


def summary(measured: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Published beside measured: one row a model and attack.

    Args:    measured: results.load(...), at one scale. published: published.load("dqa_table1") or
             of the same columns (activation, bits, attack, value in percent).
    Returns: activation, bits, attack, published, each, high (in percent; the last two list the
             seeds, in their order: accuracy, and the upper end of its Wilson interval), in the
             published order.
    Raises:  ValueError: records of several scales, or two of one cell and seed.
    """
    if len(measured) and measured["scale"].nunique() > 1:
        scales = ", ".join(sorted(measured["scale"].unique()))
        raise ValueError(f"records of several scales ({scales}); never mix them in one table")
    cell_and_seed = ["activation", "bits", "condition", "seed"]
    if len(measured) and measured.duplicated(cell_and_seed).any():
        raise ValueError("two records of one cell and seed; select one configuration, by its key")
    if len(measured):
        measured = measured.sort_values("seed")
    rows = []
    for cell in published.itertuples():
        bits = None if pd.isna(cell.bits) else int(cell.bits)
        ours = pd.DataFrame(columns=["accuracy", "high"], dtype=float)
        if len(measured):
            same_bits = measured["bits"].isna() if bits is None else measured["bits"] == bits
            ours = (
                100
                * measured.loc[
                    same_bits
                    & (measured["activation"] == cell.activation)
                    & (measured["condition"] == cell.attack),
                    ["accuracy", "high"],
                ]
            )
        rows.append(
            {
                "activation": cell.activation,
                "bits": bits,
                "attack": cell.attack,
                "published": cell.value,
                "each": ours["accuracy"].tolist(),
                "high": ours["high"].tolist(),
            }
        )
    return pd.DataFrame(rows).astype({"bits": "Int64"})


def percent(value: float, digits: int = 1) -> str:
    """A number of percent or points as tables show it; "missing" for NaN."""
    return "missing" if pd.isna(value) else f"{value:.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers are aligned right, others left."""
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    numeric = [
        all(re.match(r"[*+-]*\d\S*$|missing|–$", str(c)) for c in column) for column in columns
    ]
    rule = ["---:" if right else "---" for right in numeric]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def conditions(record: Record) -> str:
    """How many images a run judged correctly under each condition, with Wilson's 95 % interval."""
    rows = []
    for name, counts in record.metrics.items():
        low, high = wilson(counts["correct"], counts["total"])
        share = f"{100 * counts['correct'] / counts['total']:.1f}"
        rows.append([name, share, f"{100 * low:.1f}–{100 * high:.1f}", counts["total"]])
    return markdown_table(["condition", "correct (%)", "95 % interval", "images"], rows)


def side_by_side(table: pd.DataFrame) -> str:
    """`summary` as a Markdown table: published and each of our seeds, for each attack.

    A seed that collapsed in training, as `evaluation.collapsed` has it, is in italics.
    """
    header = ["activation"]
    for name in ATTACKS.values():
        header += [f"{name}<br>published", f"{name}<br>ours"]
    rows = []
    models = table[["activation", "bits"]].drop_duplicates()
    for activation, bits in models.itertuples(index=False):
        same_bits = table["bits"].isna() if pd.isna(bits) else table["bits"] == bits
        cells = table[same_bits & (table["activation"] == activation)].set_index("attack")
        collapsed = [high < 100 * TWICE_CHANCE for high in cells.loc["clean", "high"]]
        row = [model_name(activation, None if pd.isna(bits) else int(bits))]
        for attack in ATTACKS:
            seeds = zip(cells.loc[attack, "each"], collapsed, strict=True)
            ours = [f"*{value:.2f}*" if lost else f"{value:.2f}" for value, lost in seeds]
            row += [f"{cells.loc[attack, 'published']:.2f}", "<br>".join(ours) or "missing"]
        rows.append(row)
    return markdown_table(header, rows)


def checks_table(every: Mapping[str, Mapping[str, tuple[bool, str]]]) -> str:
    """How many networks pass each check, and what was measured where one failed.

    Args: every: {network: {check: (passed, what was measured)}}, the same checks for all.
    """
    rows = []
    for check in next(iter(every.values()), ()):
        failed = [f"{n}: {found[check][1]}" for n, found in every.items() if not found[check][0]]
        passed = f"{len(every) - len(failed)} of {len(every)}"
        rows.append([check, passed, "; ".join(failed) or "none"])
    return markdown_table(["check", "passed", "failed, and what was measured"], rows)


# --- Figures --------------------------------------------------------------------------------------


def published_and_measured(table: pd.DataFrame) -> Figure:
    """`summary` as points: a diamond for the paper, a dot for each of our seeds."""
    models = list(table[["activation", "bits"]].drop_duplicates().itertuples(index=False))
    names = [model_name(a, None if pd.isna(b) else int(b)) for a, b in models]
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), sharey=True)
    for ax, (attack, title) in zip(axes, ATTACKS.items(), strict=True):
        part = table[table["attack"] == attack].reset_index(drop=True)
        y = np.arange(len(part))
        for row, values in enumerate(part["each"]):
            seeds = ax.plot(values, [row] * len(values), "o-", lw=1, ms=5, color="C0", alpha=0.7)
        seeds[0].set_label("ours, each seed")
        ax.plot(part["published"], y, "D", mfc="none", color="C3", label="published")
        ax.set(title=title, xlabel="accuracy (%)", yticks=y, yticklabels=names)
        ax.margins(x=0.1)
    axes[0].invert_yaxis()
    legend_below(figure, axes[0].get_legend_handles_labels()[0])
    return close(figure)


def legend_below(
    figure: Figure, handles: Sequence[Artist], columns: int = 4, title: str | None = None
) -> None:
    """One legend for all axes of a figure, below them. Args: columns: at most."""
    columns = min(columns, len(handles))
    rows = -(-len(handles) // columns)
    figure.legend(handles=handles, title=title, loc="lower center", ncols=columns, frameon=False)
    figure.tight_layout(rect=(0, 0.07 * rows + 0.02, 1, 1))


def image_grid(rows: dict[str, np.ndarray], captions: dict[str, Sequence[object]]) -> Figure:
    """Rows of images with a caption under each.

    Args: rows: {row title: (N, C, H, W) uint8}. captions: {row title: N captions}.
    """
    count = len(next(iter(rows.values())))
    figure, axes = plt.subplots(
        len(rows), count, figsize=(0.95 * count, 1.2 * len(rows)), squeeze=False
    )
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


def attacked(records: Mapping[str, Record]) -> Figure:
    """The first test images with their labels, then under PGD against each of the named networks
    with what it reads."""
    first = next(iter(records.values()))
    images, reads = {"clean": first.arrays["image/clean"]}, {"clean": first.arrays["labels"]}
    for name, record in records.items():
        images[f"against\n{name}"] = record.arrays["image/pgd"]
        reads[f"against\n{name}"] = record.arrays["prediction/pgd"]
    return image_grid(images, reads)


def training_curves(records: dict[str, Record]) -> Figure:
    """Loss and training accuracy per epoch, and the attack's radius, for named records."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for number, (name, record) in enumerate(records.items()):
        epochs = np.arange(1, len(record.curves["loss"]) + 1)
        for ax, curve in ((left, "loss"), (right, "accuracy")):
            ax.plot(epochs, record.curves[curve], ms=3.5, **look(name, number))
    radius = next(iter(records.values())).curves["eps_255"]
    for ax in (left, right):
        clean = sum(eps == 0 for eps in radius)
        if clean:
            ax.axvspan(0.5, clean + 0.5, color="0.9", zorder=0)
        ax.set(xlabel="epoch", xlim=(0.5, len(radius) + 0.5))
        ax.xaxis.get_major_locator().set_params(integer=True)
    left.set(ylabel="training loss (cross-entropy)")
    right.set(ylabel="accuracy on what it trained on", ylim=(0, 1))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    legend_below(figure, right.get_legend_handles_labels()[0])
    return close(figure)


def learnt_thresholds(records: Sequence[Record]) -> Figure:
    """The learnt thresholds of every layer and seed, one panel a depth, with their start values."""
    depths = sorted({r.experiment["bits"] for r in records})
    figure, axes = plt.subplots(
        1, len(depths), figsize=(3.2 * len(depths), 3.4), sharey=True, squeeze=False
    )
    for ax, bits in zip(axes[0], depths, strict=True):
        for start in DynamicQuantizer(bits).thresholds.tolist():
            ax.axhline(start, color="0.6", lw=1, ls="--", zorder=1)
        for record in (r for r in records if r.experiment["bits"] == bits):
            for layer, thresholds in enumerate(record.curves["thresholds"][-1], start=1):
                shift = 0.12 * (record.seed - 1)
                x = np.full(len(thresholds), layer + shift)
                ax.plot(x, thresholds, "o", ms=4, color=f"C{record.seed}")
                ax.xaxis.get_major_locator().set_params(integer=True)
        title = f"{bits} bit{'s' if bits > 1 else ''}"
        ax.set(title=title, xlabel="activation layer", xlim=(0.5, layer + 0.5))
    axes[0][0].set(ylabel="threshold", ylim=(-1.08, 1.08))
    seeds = sorted({r.seed for r in records})
    handles = [plt.Line2D([], [], color="0.6", ls="--", label="start")] + [
        plt.Line2D([], [], color=f"C{s}", marker="o", ms=4, ls="", label=f"seed {s}") for s in seeds
    ]
    legend_below(figure, handles)
    return close(figure)


def first_layer(records: dict[str, Record]) -> Figure:
    """How often the first activation layer of named records takes each level, on one image."""
    figure, panels = plt.subplots(
        1, len(records), figsize=(2.6 * len(records), 2.8), sharey=True, squeeze=False
    )
    for ax, (name, record) in zip(panels[0], records.items(), strict=True):
        counts = record.arrays["first/counts"]
        ax.vlines(record.arrays["first/levels"], 0, counts / counts.sum(), lw=5, color="C0")
        ax.set(title=name, xlabel="level", xlim=(-1.15, 1.15), ylim=(0, 1))
    panels[0][0].set(ylabel="share of the outputs")
    panels[0][0].yaxis.set_major_formatter(PercentFormatter(1))
    figure.tight_layout()
    return close(figure)


def feature_maps(records: dict[str, Record]) -> Figure:
    """Stored t-SNE maps of the last layer's input, clean and under PGD: a row a named record."""
    figure, panels = plt.subplots(len(records), 2, figsize=(8, 3.8 * len(records)), squeeze=False)
    for line, (name, record) in zip(panels, records.items(), strict=True):
        labels = record.arrays["features/labels"]
        for ax, condition in zip(line, ("clean", "pgd"), strict=True):
            ax.scatter(
                *record.arrays[f"tsne/{condition}"].T, c=labels, cmap="tab10", vmin=0, vmax=9, s=6
            )
            ax.set(title=f"{name}, {ATTACKS[condition]}", xticks=[], yticks=[])
    colours = plt.get_cmap("tab10").colors
    classes = range(len(colours))
    handles = [plt.Line2D([], [], color=colours[c], marker="o", ls="", label=c) for c in classes]
    legend_below(figure, handles, columns=len(colours), title="class")
    return close(figure)


def staircases(bits: int = 2) -> Figure:
    """The fixed quantiser and what each backward rule takes for its slope."""
    x = torch.linspace(-3, 3, 1201).view(1, -1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2))
    with torch.no_grad():
        left.plot(x[0], torch.relu(x)[0], color="0.5", ls="--", label="ReLU")
        left.plot(x[0], FixedQuantizer(bits)(x)[0], color="C0", label=f"fixed, {bits} bits")
    left.set(xlabel="input $x$", ylabel="activation", ylim=(-1.2, 2), title="forward pass")
    left.legend(fontsize="small", loc="upper left")
    rules = {"true gradient": ("zero", 1.0), "straight-through": ("straight_through", 1.0),
             "sigmoid, $T$ = 5": ("sigmoid", 5.0)}  # fmt: skip
    for number, (name, (rule, temperature)) in enumerate(rules.items()):
        point = x.clone().requires_grad_(True)
        out = FixedQuantizer(bits, rule, temperature)(point).sum()
        (slope,) = torch.autograd.grad(out, point)
        right.plot(x[0], slope[0], color=f"C{number}", label=name)
    right.set(xlabel="input $x$", ylabel="slope", ylim=(-0.05, 1.6), title="backward pass")
    right.legend(fontsize="small", loc="upper right")
    figure.tight_layout()
    return close(figure)


# --- Double quantization --------------------------------------------------------------------------


def heatmaps(ours: pd.DataFrame, published: pd.DataFrame, decided: int = 0) -> Figure:
    """Two tables of `double` and their difference, one below the other; NaN stays blank.

    Args: decided: so many columns, from the left, are outlined.
    """
    panels = {
        "ours (%)": (ours, {"vmin": 0, "vmax": 100, "cmap": "viridis", "fmt": ".1f"}),
        "published (%)": (published, {"vmin": 0, "vmax": 100, "cmap": "viridis", "fmt": ".1f"}),
        "ours minus published (points)": (
            ours - published,
            {"vmin": -60, "vmax": 60, "cmap": "vlag", "fmt": "+.1f"},
        ),
    }
    names = [f"{bits}{' d' if dithered else ''}" for bits, dithered in ours.index]
    figure, axes = plt.subplots(3, 1, figsize=(9, 14.5))
    for ax, (title, (table, look)) in zip(axes, panels.items(), strict=True):
        sns.heatmap(
            table.round(1) + 0.0,  # no "-0.0"
            ax=ax, annot=True, annot_kws={"size": 7.5}, linewidths=0.5, cbar_kws={"pad": 0.02},
            xticklabels=names, yticklabels=names, **look,
        )  # fmt: skip
        ax.grid(False)
        ax.tick_params(axis="y", rotation=0)
        ax.set(title=title, xlabel="tested on (bits; d: dithered)", ylabel="trained on")
        if decided:
            edge = {"fill": False, "ec": "C3", "lw": 2.5, "clip_on": False}
            ax.add_patch(Rectangle((0, 0), decided, len(table), **edge))
    figure.tight_layout()
    return close(figure)


def certified_frontier(panels: dict[str, pd.DataFrame], eps_255: float) -> Figure:
    """Clean accuracy against certified radius, a panel for each table of `double.frontier`."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9.5, 4.2), sharey=True, squeeze=False)
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        for number, (rounding, label) in enumerate(
            {"floor": "down", "nearest": "to nearest"}.items()
        ):
            for dithered, face in ((False, "none"), (True, None)):
                part = table[table["dithered"] == dithered].dropna(subset="accuracy")
                name = f"rounding {label}, {'dithered' if dithered else 'not dithered'}"
                options = {"color": f"C{number}", "mfc": face or f"C{number}", "label": name}
                ax.plot(part[rounding], part["accuracy"], "o" if dithered else "s", **options)
        for row in table[table["dithered"]].dropna(subset="accuracy").itertuples():
            for radius, offset in {row.floor: -14, row.nearest: 7}.items():  # the last where equal
                spot = {"xytext": (0, offset), "textcoords": "offset points", "ha": "center"}
                if radius:
                    ax.annotate(f"{row.bits}", (radius, row.accuracy), fontsize="small", **spot)
        ax.axvline(eps_255, color="0.4", ls="--", lw=1)
        if table["accuracy"].isna().all():
            ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", color="0.4")
        ax.margins(y=0.12)
        ax.set_xscale("symlog", linthresh=1, base=2)
        ticks = [0, 1, 2, 4, 8, 16, 32, 64, 127]
        ax.set(title=title, xlabel="certified ε (grey levels)", xlim=(-0.3, 180), xticks=ticks)
        ax.set_xticklabels(ticks)
    axes[0][0].set_ylabel("clean accuracy (%)")
    legend_below(figure, axes[0][0].get_legend_handles_labels()[0], columns=2)
    return close(figure)


def detectability(auc: pd.DataFrame) -> Figure:
    """Area under the ROC for each network, a line for each size of batch (the columns)."""
    names = [f"{bits}{' d' if dithered else ''}" for bits, dithered in auc.index]
    figure, ax = plt.subplots(figsize=(8, 3.4))
    for number, n in enumerate(auc.columns):
        size = 10 - 3 * number  # equal areas lie on top of each other
        ax.plot(range(len(auc)), auc[n], "o-", ms=size, color=f"C{number}", label=f"{n} images")
    ax.axhline(0.5, color="0.4", ls="--", lw=1)
    ax.set(xlabel="trained and tested on (bits; d: dithered)", ylabel="area under the ROC",
           ylim=(0.45, 1.03), xlim=(-0.5, len(auc) - 0.5))  # fmt: skip
    ax.set_xticks(range(len(auc)), names)
    if auc.isna().all(axis=None):
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", color="0.4")
    ax.legend(title="batch of", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return close(figure)
