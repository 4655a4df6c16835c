"""Double quantization when the noise comes first: what is left, did the attacks work, detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from torch import Tensor

from reproduce.evaluation import paired
from reproduce.papers.double import FIG4, HALFTONES, ImageNetwork, kind_name
from reproduce.report import checks
from reproduce.report.checks import Check
from reproduce.report.double import trained_on
from reproduce.report.results import Results, survivors

# --- What is left ---------------------------------------------------------------------------------

BEFORE = ("clean", "bare", "identity", "averaged", "strong", "square", "transfer")


def before(results: Results) -> dict[str, np.ndarray]:
    """{one of BEFORE: (N,) bool}: which images survive each attack before dithering, over the first
    images that all of those that were run have met. Empty where nothing was run."""
    found = results.met()
    few = min(map(len, found.values()), default=0)
    return {name: bits[:few] for name, bits in found.items()}


def worst_before(results: Results) -> np.ndarray:
    """(N,) bool: which images survive every attack before dithering that was run.

    Raises: ValueError: none was.
    """
    return survivors(results.met().values())


def left(results: Sequence[Results]) -> pd.DataFrame:
    """Percent that each attack before dithering leaves, and all of them, image by image the worst.

    Returns: bits, dithered, seed, images, a column for each of BEFORE (NaN where it was not run),
             all.
    """
    rows = []
    for one in results:
        found = before(one)
        if found:
            shares = [100 * found[n].mean() if n in found else np.nan for n in BEFORE]
            worst = worst_before(one)
            where = [*trained_on(one), one.network.seed, len(worst)]
            rows.append([*where, *shares, 100 * worst.mean()])
    return pd.DataFrame(rows, columns=["bits", "dithered", "seed", "images", *BEFORE, "all"])


def left_by_the_same(results: Results) -> int:
    """How many images each attack that knows the pipeline leaves, if all leave the same, else 0."""
    found = before(results)
    names = ("identity", "averaged", "strong", "square")
    if not found.keys() >= set(names):
        return 0
    knowing = [found[n] for n in names]
    same = all(np.array_equal(bits, knowing[0]) for bits in knowing)
    return int(knowing[0].sum()) if same else 0


# --- Did the attacks work? ------------------------------------------------------------------------

# From what knows least to what knows most.
GRADIENTS = {
    "bare": "PGD on the bare network",
    "identity": "PGD on the pipeline",
    "averaged": "the averaged attack",
    "strong": "the strong attack",
}


def _blind(suite: checks.Suite) -> tuple[float, float]:
    """How many images fall to one black-box attack and to no gradient: the larger number."""
    standing = survivors([suite[f"before/{n}"].bits for n in ("clean", *GRADIENTS)])
    blind = [suite[n].bits for n in ("before/square", "before/transfer") if n in suite]
    alone = [int((standing[: len(b)] & ~b[: len(standing)]).sum()) for b in blind]
    return max(alone), len(standing) / 100


AFTER_DITHERING = (
    checks.falls("clean", *(f"after/{e}" for e in FIG4)),
    Check(
        "one grey level beyond the radius breaks half",
        ("clean", "after/outside"),
        lambda s: (s["after/outside"].correct, s["clean"].correct / 2),
    ),
)
BEFORE_DITHERING = (
    *(
        checks.no_more(
            f"{GRADIENTS[stronger]} leaves no more than {GRADIENTS[weaker]}",
            f"before/{stronger}",
            f"before/{weaker}",
        )
        for weaker, stronger in pairwise(GRADIENTS)
    ),
    Check("fall to Square or transfer alone", ("before/strong", "before/square"), _blind),
)


def attack_checks(results: Results) -> pd.DataFrame:
    """Whether the attacks of a trial worked, by their own results.

    Counts may differ by 1 % of the images where random attacks are compared, over the same ones.

    Returns: as `checks.main_checks`; attack is "after dithering" or "before dithering".
    """
    suite = results.suite("trial")
    frames = [
        checks.judge("after dithering", AFTER_DITHERING, suite),
        checks.judge("before dithering", BEFORE_DITHERING, suite),
    ]
    return pd.concat(frames, ignore_index=True)


# --- Other halftones ------------------------------------------------------------------------------

HALFTONE_NAMES = {None: "Floyd–Steinberg", "bayer": "ordered", "jjn": "Jarvis et al."}


def of_each_halftone(network: ImageNetwork) -> list[Results]:
    """The results of a dithered network and of those for the other halftones, that were trained."""
    found = [Results(replace(network, halftone=h)) for h in HALFTONES]
    return [one for one in found if one.training is not None]


def halftones(results: Sequence[Results]) -> pd.DataFrame:
    """Networks of one depth on their own halftone, compared with the first image by image.

    Returns: halftone, clean (percent of all images), same (of those under PGD), pgd, plain (of all
             8-bit images), gain, margin (points over the first network's clean accuracy; 95 %, of
             the images alone), unchanged (bool: PGD changed no verdict).
    """
    rows, base = [], None
    for one in results:
        table, cell = one.suite("table"), one.network.cell
        clean, pgd = table[f"clean/{cell}"].bits, table[f"pgd/{cell}"].bits
        base = clean if base is None else base
        same = clean[: len(pgd)]
        shares = [100 * b.mean() for b in (clean, same, pgd, table["clean/8bit"].bits)]
        name = HALFTONE_NAMES[one.network.halftone]
        rows.append([name, *shares, *paired(clean, base), np.array_equal(same, pgd)])
    columns = ["halftone", "clean", "same", "pgd", "plain", "gain", "margin", "unchanged"]
    return pd.DataFrame(rows, columns=columns).astype({"unchanged": bool})


# --- Detectors ------------------------------------------------------------------------------------


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
    clean: np.ndarray,
    attacked: np.ndarray,
    n: int,
    *,
    draws: int = 1_000,
    seed: int = 0,
    false_alarm: float = 0.05,
) -> Roc:
    """A detector that counts the hits in a batch and raises the alarm where there are too few.

    Batches of n images are drawn with replacement. Those of the images 1, 3, 5 ... give the curve,
    each batch once clean and once attacked. The threshold is chosen on clean batches of the images
    0, 2, 4 ...: the highest whose share of false alarms there is at most `false_alarm`.

    Args:    clean, attacked: (N,) bool, hits of the same images. n: 1 or more. draws: batches.
    Returns: Roc, with n + 2 thresholds.
    Raises:  ValueError: fewer than two images, as many of both not given, or n below 1.
    Source:  Double quantization, section V, has the idea: compare accuracies.
    """
    clean, attacked = np.asarray(clean), np.asarray(attacked)
    if clean.shape != attacked.shape or len(clean) < 2:
        raise ValueError(
            f"{len(clean)} clean and {len(attacked)} attacked; give the same images, >= 2"
        )
    if n < 1:
        raise ValueError(f"n is {n}; a batch has at least 1 image")
    random = np.random.default_rng(seed)

    def alarms(*images: np.ndarray) -> list[np.ndarray]:
        """Share of batches with at most -1, 0, ..., n hits; the same batches of each."""
        batches = random.integers(len(images[0]), size=(draws, n))
        counts = [np.bincount(i[batches].sum(1), minlength=n + 1) for i in images]
        return [np.concatenate([[0], c.cumsum()]) / draws for c in counts]

    (held_out,) = alarms(clean[::2])
    quiet, raised = alarms(clean[1::2], attacked[1::2])
    chosen = int((held_out <= false_alarm).sum()) - 1
    return Roc(
        false_alarm=quiet,
        detected=raised,
        auc=float(np.trapezoid(raised, quiet)),
        chosen=(float(quiet[chosen]), float(raised[chosen])),
    )


def seen_by_detector(results: Results, noise: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(N,) bool each: hits on the training kind of image, clean and under PGD on the bare network.

    Args: noise: "before" dithering, from the trial, or "after" it, from Table II. None where it was
          not run.
    """
    if noise == "before":
        suite, names = results.suite("trial"), ("before/clean", "before/bare")
    else:
        own = kind_name(*trained_on(results))
        suite, names = results.suite("table"), (f"clean/{own}", f"pgd/{own}")
    if not suite.keys() >= set(names):
        return None
    clean, attacked = (suite[name].bits for name in names)
    return clean[: len(attacked)], attacked


def detection(
    results: Sequence[Results], noise: str, sizes: Sequence[int] = (10, 100)
) -> pd.DataFrame:
    """`detector_roc` of each network, by batch size. Args: noise: as in `seen_by_detector`.

    Returns: bits, dithered, seed, n, auc, false_alarm, detected (shares at the chosen threshold).
    """
    rows = []
    for one in results:
        pair = seen_by_detector(one, noise)
        for n in sizes if pair is not None else ():
            roc = detector_roc(*pair, n)
            rows.append([*trained_on(one), one.network.seed, n, roc.auc, *roc.chosen])
    columns = ["bits", "dithered", "seed", "n", "auc", "false_alarm", "detected"]
    return pd.DataFrame(rows, columns=columns)
