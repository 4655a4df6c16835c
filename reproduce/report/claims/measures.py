"""What is measured of a network for a claim: small functions from its records to a number.

Each gives None where a record is missing. Accuracies and shares are in percent.
"""

from __future__ import annotations

import numpy as np

from reproduce.papers.double import KINDS
from reproduce.report.double import by_kind, trained_on
from reproduce.report.double_before import detector_roc, seen_by_detector
from reproduce.report.results import Results, robust_accuracy, survivors
from reproduce.report.smallest import broken

BATCH = 100  # images of the detector


def _bits(results: Results, suite: str, *names: str) -> list[np.ndarray] | None:
    """(N,) bool of each condition, cut to the images that all of them met."""
    found = results.suite(suite)
    if not found.keys() >= set(names):
        return None
    few = min(found[name].total for name in names)
    return [found[name].bits[:few] for name in names]


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return 100 * float(part.sum() / max(1, whole.sum()))


def accuracy(results: Results, suite: str, name: str) -> float | None:
    """Under one condition, over all images that met it."""
    found = _bits(results, suite, name)
    return found and robust_accuracy(found[0])


def changed(results: Results, suite: str, *names: str) -> float | None:
    """How many images some of these conditions judge otherwise than the first does."""
    found = _bits(results, suite, *names)
    return found and float(np.any([bits != found[0] for bits in found[1:]], axis=0).sum())


def drop(results: Results, suite: str, one: str, other: str) -> float | None:
    """By how many points accuracy is lower under the second condition, on the same images."""
    found = _bits(results, suite, one, other)
    return found and robust_accuracy(found[0]) - robust_accuracy(found[1])


def kept(results: Results, suite: str, one: str, other: str) -> float | None:
    """Of the images right under the first condition, the share right under the second."""
    found = _bits(results, suite, one, other)
    return found and _share(found[1], found[0])


def kept_under(results: Results, *families: str) -> float | None:
    """Of the images that the trial's network judges rightly as they are, the share that survives
    every attack of these families, over the images that all of them met."""
    left = results.worst_case(*families) if results.complete("trial") else ()
    return _share(left, results.clean()[: len(left)]) if len(left) else None


def kept_at(results: Results, name: str) -> float | None:
    """The same under one attack of the trial, by its name."""
    found = _bits(results, "trial", "clean", name) if results.complete("trial") else None
    return found and _share(survivors(found), found[0])


def _norms(results: Results, names: tuple[str, ...]) -> list[np.ndarray]:
    found = results.suite("norms")
    return [found[name].norms for name in names if name in found]


def mean_norm(results: Results, *names: str) -> float | None:
    """Of the images that broke: the l2 norm that sufficed, by the best of these attacks."""
    found = _norms(results, names)
    if not found:
        return None
    few = min(map(len, found))
    return broken(np.min([norms[:few] for norms in found], axis=0)).mean


def success(results: Results, *names: str) -> float | None:
    """Of the images that were right, the share that an attack breaks; the best of these attacks."""
    found = _norms(results, names)
    if len(found) < len(names):
        return None
    return max(robust_accuracy(broken(norms).bits) for norms in found)


def neighbours(results: Results, condition: str) -> float | None:
    """Of an image's ten nearest neighbours in the last features, the share of its class."""
    record = results.suite("table").get("features")
    return record and 100 * record.values[f"knn/{condition}"]


def ahead_on_own_kind(results: Results) -> float | None:
    """By how many points a network does better on its own kind of image than on any other."""
    of = {kind: robust_accuracy(bits) for kind, bits in by_kind(results, "clean").items()}
    if len(of) < len(KINDS):
        return None
    own = of.pop(trained_on(results))
    return own - max(of.values())


def detected(results: Results) -> float | None:
    """Of batches that were attacked before dithering, the share that raises the alarm."""
    found = seen_by_detector(results, "before")
    return found and 100 * detector_roc(*found, BATCH).chosen[1]


def false_alarms(results: Results) -> float | None:
    """Of batches that were not attacked, the share that raises the alarm."""
    found = seen_by_detector(results, "before")
    return found and 100 * detector_roc(*found, BATCH).chosen[0]
