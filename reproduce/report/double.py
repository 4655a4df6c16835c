"""Double quantization: Tables I and II and Fig. 4 from records, and what arithmetic decides there.

A kind of image is (bits, dithered), one of 15. A table has a row for each kind that a network was
trained on, a column for each kind that it was tested on, and percent in its cells, NaN where
nothing was run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from reproduce import published
from reproduce.evaluation import wilson
from reproduce.papers import registry
from reproduce.papers.double import FIG4, KINDS, kind_name
from reproduce.quantizers import Rounding, linear_quantize
from reproduce.report.results import Results
from reproduce.report.style import depth

Kind = tuple[int, bool]


def words(kind: Kind) -> str:
    """A kind as tables call it: "1 bit", "2 bits, dithered" ..."""
    bits, dithered = kind
    return depth(bits) + (", dithered" if dithered else "")


def trained_on(results: Results) -> Kind:
    """The kind of image that a network was trained on."""
    return results.network.bits, results.network.dithered


def find(scale: str) -> list[Results]:
    """The results of the networks of Tables I and II at a scale, each seed that was trained."""
    networks = registry.networks("double-quantization", scale)
    found = [Results(network) for network in networks if registry.is_of_a_table(network)]
    return [one for one in found if one.training is not None]


# --- Tables I and II ------------------------------------------------------------------------------


def published_table(numeral: str) -> pd.DataFrame:
    """Table "I" (clean) or "II" (under PGD, eps 8/255) as printed, in percent."""
    cells = published.load(f"double_quantization_table{len(numeral)}")
    rows, columns = ["train_bits", "train_dithered"], ["test_bits", "test_dithered"]
    return 100 * cells.pivot(index=rows, columns=columns, values="value").astype(float)


def by_kind(results: Results, condition: str) -> dict[Kind, np.ndarray]:
    """{kind of test image: (N,) bool, which images a network judges rightly}, of what was run.

    Args: condition: "clean", "pgd", or another that its table has for each kind.
    """
    suite = results.suite("table")
    names = {kind: f"{condition}/{kind_name(*kind)}" for kind in KINDS}
    return {kind: suite[name].bits for kind, name in names.items() if name in suite}


def measured_table(
    results: Sequence[Results], condition: str, first: int | None = None
) -> pd.DataFrame:
    """What was measured, as a table like `published_table`; the seeds of a network together.

    Args:    results: of one scale, none for another halftone. condition: as by `by_kind`.
             first: this many images of each seed only.
    Raises:  ValueError: several scales, or two networks of one kind and seed.
    """
    scales = sorted({r.network.scale for r in results})
    if len(scales) > 1:
        raise ValueError(f"networks of several scales ({', '.join(scales)}); never mix them")
    if len({(*trained_on(r), r.network.seed) for r in results}) < len(results):
        raise ValueError("two networks of one kind and seed; select one configuration")
    seeds: dict[tuple[Kind, Kind], list[np.ndarray]] = {}
    for one in results:
        for kind, bits in by_kind(one, condition).items():
            seeds.setdefault((trained_on(one), kind), []).append(bits[:first])
    table = published_table("I") * np.nan
    for (train, test), bits in seeds.items():
        table.loc[train, test] = 100 * np.concatenate(bits).mean()
    return table


def own(table: pd.DataFrame) -> pd.Series:
    """Each network on the kind of image that it was trained on."""
    return pd.Series({kind: table.loc[kind, kind] for kind in table.index})


def best_on_its_training_kind(table: pd.DataFrame) -> pd.Series:
    """{kind: whether a network's accuracy on its training kind is its best, to half a point}; rows
    that were run alone. Half a point is about what sampling 10,000 images leaves open."""
    run = table.dropna(how="all")
    return own(run) >= run.max(axis=1).to_numpy() - 0.5


# --- What arithmetic decides ----------------------------------------------------------------------


def _stored(bits: int) -> torch.Tensor:
    """(2, 2**bits) float64, 0..255: the levels 255 k / (2**bits - 1) as whole grey values, rounded
    down as the released dither does, and to the nearest as the test images of our tables are."""
    levels = 255 * torch.arange(2**bits).double() / (2**bits - 1)
    return torch.stack([levels.floor(), levels.round()])


def _within_reach(bits: int, eps: int, rounding: Rounding = "floor") -> torch.Tensor:
    """(2, 2, 2**bits): the lowest and the highest level that each stored one can become.

    The quantiser never decreases, so the two ends of an interval decide for all that lies between.
    """
    ends = torch.stack([_stored(bits) - eps, _stored(bits) + eps]).clamp(0, 255)
    return linear_quantize(ends / 255, bits, rounding)


def whole_radius(bits: int, rounding: Rounding = "floor") -> int:
    """What filter_radius is for images that hold whole grey values, found by trying every value:
    the largest whole eps at which each stored level, rounded either way, comes back."""
    level = torch.arange(2**bits).double() / (2**bits - 1)
    radius = 0
    while radius < 255 and (_within_reach(bits, radius + 1, rounding) == level).all():
        radius += 1
    return radius


def steps(bits: int, up_to: int) -> list[int]:
    """Each whole eps, 1..up_to, at which some level can become one that it could not before.

    Between two of them the best attack can do nothing new: accuracy against eps is a staircase.
    """
    reach = [_within_reach(bits, eps) for eps in range(up_to + 1)]
    return [eps for eps in range(1, up_to + 1) if not torch.equal(reach[eps], reach[eps - 1])]


def decided(eps_255: float) -> list[Kind]:
    """The kinds of test image on which no attack of this size can change anything."""
    return [kind for kind in KINDS if whole_radius(kind[0]) >= eps_255]


def verdicts(results: Sequence[Results]) -> pd.DataFrame:
    """The decided cells that were run, at each attack's own eps: does the theorem hold in them?

    Returns: train, test, seed, images, clean, attacked (counts of hits on the same first images),
             same (bool: every image got the same verdict).
    """
    rows = []
    for one in results:
        clean, attacked = by_kind(one, "clean"), by_kind(one, "pgd")
        asked = registry.suites(one.network)["table"]
        for kind in clean.keys() & attacked.keys():
            eps = asked[f"pgd/{kind_name(*kind)}"].attack.eps_255
            if whole_radius(kind[0]) >= eps:
                after = attacked[kind]
                before = clean[kind][: len(after)]
                counts = [len(after), int(before.sum()), int(after.sum())]
                same = np.array_equal(before, after)
                rows.append([trained_on(one), kind, one.network.seed, *counts, same])
    columns = ["train", "test", "seed", "images", "clean", "attacked", "same"]
    return pd.DataFrame(sorted(rows), columns=columns).astype({"same": bool})


def frontier(clean: pd.DataFrame) -> pd.DataFrame:
    """Each network on its own training kind: certified radius of either rounding, and accuracy.

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


def impossible(
    clean: pd.DataFrame, attacked: pd.DataFrame, eps_255: float
) -> list[tuple[Kind, Kind]]:
    """(train, test) of the cells above their clean cell, or other than it where that is decided."""
    differs = attacked.sub(clean).where(attacked.notna() & clean.notna(), 0).round(6)
    sure = decided(eps_255)
    return [
        (train, test)
        for train in clean.index
        for test in clean.columns
        if differs.loc[train, test] > 0 or (test in sure and differs.loc[train, test] != 0)
    ]


# --- Fig. 4: noise after dithering ----------------------------------------------------------------


def against_eps(results: Sequence[Results]) -> pd.DataFrame:
    """Accuracy of each network on its own training kind, against the eps of PGD after dithering.

    Returns: bits, dithered, seed, eps (0 for clean), images, accuracy, low, high (percent; Wilson,
             95 %), same (bool: every image got the verdict of its clean version).
    """
    rows = []
    for one in results:
        trial = one.suite("trial")
        names = {0: "clean"} | {eps: f"after/{eps}" for eps in FIG4}
        for eps, name in names.items():
            if name in trial:
                bits = trial[name].bits
                low, high = wilson(int(bits.sum()), len(bits))
                shares = [100 * v for v in (bits.mean(), low, high)]
                same = np.array_equal(bits, trial["clean"].bits[: len(bits)])
                where = [*trained_on(one), one.network.seed, eps, len(bits)]
                rows.append([*where, *shares, same])
    columns = ["bits", "dithered", "seed", "eps", "images", "accuracy", "low", "high", "same"]
    return pd.DataFrame(rows, columns=columns).astype({"same": bool})


EDGE = {
    "clean": "clean",
    "at the radius": "after/inside",
    "one beyond": "after/outside",
    "nearest, PGD at 8/255": "after/nearest",
    "nearest, inside": "after/nearest-inside",
    "nearest, one beyond": "after/nearest-outside",
}


def at_the_edge(results: Sequence[Results]) -> pd.DataFrame:
    """Accuracy (percent) under attacks that know the filter, at either side of its radius.

    Returns: bits, dithered, seed, radius, radius of nearest, then one column for each of EDGE.
    """
    rows = []
    for one in results:
        trial, bits = one.suite("trial"), one.network.bits
        row = {"bits": bits, "dithered": one.network.dithered, "seed": one.network.seed}
        row |= {"radius": whole_radius(bits), "radius, nearest": whole_radius(bits, "nearest")}
        row |= {c: trial[n].accuracy if n in trial else np.nan for c, n in EDGE.items()}
        rows.append(row)
    return pd.DataFrame(rows)
