"""Double quantization: its tables from records, what arithmetic alone decides in them, detectors.

A kind of image is (bits, dithered), one of 15. Tables have a row a kind that a network was trained
on, a column a kind that it was tested on, and percent in their cells, NaN where nothing was run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reproduce import published
from reproduce.evaluation import paired
from reproduce.quantizers import Rounding, linear_quantize
from reproduce.results import Record, hits

Kind = tuple[int, bool]


def words(kind: Kind) -> str:
    """A kind as tables call it: "1 bit", "2 bits, dithered" ..."""
    bits, dithered = kind
    return f"{bits} bit{'s' if bits > 1 else ''}" + (", dithered" if dithered else "")


def published_table(numeral: str) -> pd.DataFrame:
    """Table "I" (clean) or "II" (under PGD, eps 8/255) as printed, in percent."""
    cells = published.load(f"double_quantization_table{len(numeral)}")
    rows, columns = ["train_bits", "train_dithered"], ["test_bits", "test_dithered"]
    return 100 * cells.pivot(index=rows, columns=columns, values="value").astype(float)


def share(record: Record | None, condition: str, first: int | None = None) -> float:
    """Percent of hits, on the first images where asked; NaN where there is no record."""
    return float("nan") if record is None else 100 * hits(record, condition)[:first].mean()


def trained_on(record: Record) -> Kind:
    """The kind of image that a record's network was trained on."""
    return record.experiment["bits"], record.experiment["dithered"]


def _conditions(record: Record, wanted: str) -> dict[Kind, str]:
    """{kind: condition} of what was run of "clean" or "pgd"."""
    names = {name: re.fullmatch(rf"{wanted}/(\d)bit(-dithered)?", name) for name in record.metrics}
    return {(int(m[1]), m[2] is not None): name for name, m in names.items() if m}


def measured_table(
    records: Sequence[Record], wanted: str, first: int | None = None
) -> pd.DataFrame:
    """What the records say, "clean" or "pgd", as a table like `published_table`.

    Args:    records: of one scale, none for another halftone; seeds of one network are pooled.
             first: this many images only.
    Raises:  ValueError: records of several scales, or two of one network and seed.
    """
    scales = sorted({r.scale for r in records})
    if len(scales) > 1:
        raise ValueError(
            f"records of several scales ({', '.join(scales)}); never mix them in one table"
        )
    if len({(*trained_on(r), r.seed) for r in records}) < len(records):
        raise ValueError("two records of one network and seed; select one configuration, by key")
    seen: dict[tuple[Kind, Kind], list[np.ndarray]] = {}
    for record in records:
        for kind, condition in _conditions(record, wanted).items():
            seen.setdefault((trained_on(record), kind), []).append(hits(record, condition)[:first])
    table = published_table("I") * np.nan
    for (train, test), arrays in seen.items():
        table.loc[train, test] = 100 * np.concatenate(arrays).mean()
    return table


def own(table: pd.DataFrame) -> pd.Series:
    """Each network on the kind of image that it was trained on."""
    return pd.Series({kind: table.loc[kind, kind] for kind in table.index})


# --- What arithmetic decides ----------------------------------------------------------------------


def whole_radius(bits: int, rounding: Rounding = "floor") -> int:
    """What filter_radius is for images that hold whole grey values, found by trying every value.

    Level k is stored as 255 k / (2**bits - 1), rounded down, as the released dither does, or to the
    nearest whole value, as the test images of the experiments are; both must come back. The
    quantiser never decreases, so the two ends of an interval decide for all that lies between.
    """
    k = torch.arange(2**bits)
    exact = 255 * k / (2**bits - 1)
    stored = torch.stack([255 * k // (2**bits - 1), exact.round()]).double()
    level = (k.double() / (2**bits - 1)).expand_as(stored)
    radius = 0
    while all(
        torch.equal(linear_quantize(end.clamp(0, 255) / 255, bits, rounding), level)
        for end in (stored - radius - 1, stored + radius + 1)
    ):
        radius += 1
    return radius


def decided(eps_255: float, rounding: Rounding = "floor") -> list[Kind]:
    """The kinds of test image on which no attack of this size can change anything."""
    return [k for k in published_table("I").columns if whole_radius(k[0], rounding) >= eps_255]


def verdicts(records: Sequence[Record]) -> pd.DataFrame:
    """The decided cells that were run, at each record's own eps: does the theorem hold in them?

    Returns: train, test, seed, images, clean, attacked (counts of hits on the same first images),
             same (bool: every image got the same verdict).
    """
    rows = []
    for record in records:
        clean, attacked = _conditions(record, "clean"), _conditions(record, "pgd")
        for kind in decided(record.experiment["attack"]["eps_255"]):
            if kind in clean and kind in attacked:
                after = hits(record, attacked[kind])
                before = hits(record, clean[kind])[: len(after)]
                same = np.array_equal(before, after)
                counts = [len(after), int(before.sum()), int(after.sum()), same]
                rows.append([trained_on(record), kind, record.seed, *counts])
    columns = ["train", "test", "seed", "images", "clean", "attacked", "same"]
    return pd.DataFrame(rows, columns=columns)


def frontier(clean: pd.DataFrame) -> pd.DataFrame:
    """Each network on its own kind of image: certified radius of either rounding, and accuracy.

    The second quantisation only finds the level that a pixel already has, so that its rounding
    changes the radius and not the accuracy.

    Args:    clean: a table of clean accuracies.
    Returns: bits, dithered, floor, nearest (radii in grey levels), accuracy (percent or NaN).
    """
    rows = [
        (bits, dithered, whole_radius(bits), whole_radius(bits, "nearest"), accuracy)
        for (bits, dithered), accuracy in own(clean).items()
    ]
    return pd.DataFrame(rows, columns=["bits", "dithered", "floor", "nearest", "accuracy"])


def deepest(table: pd.DataFrame, rounding: Rounding, eps_255: float) -> pd.Series:
    """The row of `frontier` with the most bits, dithered where it can be, that holds at eps."""
    holds = table[table[rounding] >= eps_255]
    return holds.sort_values(["bits", "dithered"]).iloc[-1]


def impossible(clean: pd.DataFrame, attacked: pd.DataFrame, eps_255: float) -> list[tuple]:
    """(train, test) of the cells above their clean cell, or other than it where that is decided."""
    differs = attacked.sub(clean).where(attacked.notna() & clean.notna(), 0).round(6)
    sure = decided(eps_255)
    return [
        (train, test)
        for train in clean.index
        for test in clean.columns
        if differs.loc[train, test] > 0 or (test in sure and differs.loc[train, test] != 0)
    ]


# --- Detectors ------------------------------------------------------------------------------------


def worst_before(record: Record) -> np.ndarray:
    """(N,) bool: which images survive every attack before dithering, of those that all of them saw.

    Args: record: of a trial.
    """
    few = record.metrics["before/strong"]["total"]
    names = [n for n in record.metrics if n.startswith("before/")]
    return np.all([hits(record, n)[:few] for n in names], axis=0)


def attack_checks(record: Record) -> dict[str, tuple[bool, str]]:
    """Whether the attacks of a trial of Double quantization worked, by their own results.

    Counts may differ by 1 % of the images where random attacks are compared, over the same ones.

    Returns: {check: (passed, what was measured)}.
    """
    after = ["clean", *(f"after/{e}" for e in (2, 4, 8, 16, 24, 32))]
    path = [record.metrics[n]["correct"] for n in after]
    climb = max(b - a for a, b in pairwise(path))
    clean, beyond = path[0], record.metrics["after/outside"]["correct"]
    few = len(worst_before(record))
    names = ("bare", "identity", "averaged", "strong")
    bits = {n: hits(record, f"before/{n}")[:few] for n in ("clean", *names)}
    left = {n: int(b.sum()) for n, b in bits.items()}
    standing = np.all(list(bits.values()), axis=0)
    blind = {
        n: int((standing & ~hits(record, f"before/{n}")[:few]).sum())
        for n in ("square", "transfer")
        if f"before/{n}" in record.metrics
    }
    ladder = {
        "what knows the pipeline beats what does not": ("identity", "bare"),
        "averaging does not harm": ("averaged", "identity"),
        "more steps and restarts do not harm": ("strong", "averaged"),
    }
    return {
        "after dithering: accuracy falls as ε grows": (
            climb <= record.metrics["clean"]["total"] / 100,
            f"at most {max(climb, 0)} more",
        ),
        "one grey level beyond the radius breaks half": (
            beyond <= clean / 2,
            f"{beyond} of {clean} left",
        ),
        **{
            f"before dithering: {check}": (
                left[more] <= left[less] + few / 100,
                f"{left[more]} left, {left[less]} by the other",
            )
            for check, (more, less) in ladder.items()
        },
        "before dithering: white box beats black box on each image": (
            all(missed <= few / 100 for missed in blind.values()),
            "; ".join(f"{m} of {few} fall to {n} alone" for n, m in blind.items()),
        ),
    }


def compare_halftones(networks: Mapping[str, Record | None], conditions: Mapping[str, str]) -> str:
    """What networks that differ in their halftone say of clean images, against the first of them.

    Args: networks: {halftone: record}, None where it was not run. conditions: {halftone: the
          record's clean condition on images of this halftone}.
    """
    (first, base), *others = networks.items()
    if base is None or any(record is None for _, record in others):
        return "not all of these networks have been trained."
    of = {name: hits(record, conditions[name]) for name, record in networks.items()}
    said = []
    for name, _ in others:
        gain, margin = paired(of[name], of[first])
        sure = "" if abs(gain) > margin else ", which is within chance"
        said.append(f"{name} {gain:+.1f} points (±{margin:.1f}{sure})")
    return f"against {first} ({100 * of[first].mean():.1f} %): {'; '.join(said)}."


def off_level(images: Tensor, bits: int) -> Tensor:
    """Which images hold a pixel that no image of the released dither holds.

    Args:    images: (N, C, H, W) uint8, as received. bits: 1..8.
    Returns: (N,) bool.
    """
    level = images.int() // 2 ** (8 - bits)
    return (255 * level // (2**bits - 1) != images).flatten(1).any(1)


@dataclass(frozen=True)
class Roc:
    """A detector at each of its thresholds, from never to always raising the alarm.

    false_alarm, detected: shares of clean and of attacked batches, 0 to 1. auc: the area under the
    curve. chosen: (false alarm, detected) at the threshold that was chosen on held-out images.
    """

    false_alarm: np.ndarray
    detected: np.ndarray
    auc: float
    chosen: tuple[float, float]


def detector_roc(
    clean_hits: np.ndarray,
    attacked_hits: np.ndarray,
    n: int,
    draws: int = 1_000,
    seed: int = 0,
    false_alarm: float = 0.05,
) -> Roc:
    """A detector that counts the hits in a batch and raises the alarm where there are too few.

    Batches of n images are drawn with replacement. Those of the images 1, 3, 5 ... give the curve,
    each batch once clean and once attacked. The threshold is chosen on clean batches of the images
    0, 2, 4 ...: the highest whose share of false alarms there is at most `false_alarm`.

    Args:    clean_hits, attacked_hits: (N,) bool of the same images. n: 1 or more. draws: batches.
    Returns: Roc, with n + 2 thresholds.
    Raises:  ValueError: fewer than two images, as many of both not given, or n below 1.
    Source:  Double quantization, section V, has the idea: compare accuracies.
    """
    clean_hits, attacked_hits = np.asarray(clean_hits), np.asarray(attacked_hits)
    if clean_hits.shape != attacked_hits.shape or len(clean_hits) < 2:
        raise ValueError(
            f"{len(clean_hits)} clean and {len(attacked_hits)} attacked; give the same images, >= 2"
        )
    if n < 1:
        raise ValueError(f"n is {n}; a batch has at least 1 image")
    random = np.random.default_rng(seed)

    def alarms(*images: np.ndarray) -> list[np.ndarray]:
        """Share of batches with at most -1, 0, ..., n hits; the same batches of each."""
        batches = random.integers(len(images[0]), size=(draws, n))
        counts = [np.bincount(i[batches].sum(1), minlength=n + 1) for i in images]
        return [np.concatenate([[0], c.cumsum()]) / draws for c in counts]

    (held_out,) = alarms(clean_hits[::2])
    clean, attacked = alarms(clean_hits[1::2], attacked_hits[1::2])
    chosen = int((held_out <= false_alarm).sum()) - 1
    return Roc(
        false_alarm=clean,
        detected=attacked,
        auc=float(np.trapezoid(attacked, clean)),
        chosen=(float(clean[chosen]), float(attacked[chosen])),
    )


def detection(records: Sequence[Record], sizes: Sequence[int] = (10, 100)) -> pd.DataFrame:
    """`detector_roc` on each network's own kind of image, clean and under attack, by batch size.

    Args:    records: of networks, attacked after dithering; or of their trials, attacked before it.
    Returns: bits, dithered, seed, n, auc, false_alarm, detected (at the chosen threshold).
    """
    rows = []
    for record in records:
        bits, dithered = kind = trained_on(record)
        names = "before/clean", "before/bare"
        if "before/bare" not in record.metrics:
            names = _conditions(record, "clean")[kind], _conditions(record, "pgd")[kind]
        clean, attacked = (hits(record, name) for name in names)
        for n in sizes:
            roc = detector_roc(clean[: len(attacked)], attacked, n)
            rows.append([bits, dithered, record.seed, n, roc.auc, *roc.chosen])
    columns = ["bits", "dithered", "seed", "n", "auc", "false_alarm", "detected"]
    return pd.DataFrame(rows, columns=columns)
