"""What is measured of a network for a claim: small functions from records to numbers.

Each takes the evidence, a network and what it names, and gives None where a record is missing.
Accuracies and shares are in percent.
"""

from __future__ import annotations

import numpy as np

from reproduce.papers import double
from reproduce.papers.units import Network
from reproduce.report.claims.evidence import Evidence
from reproduce.report.double_before import detector_roc
from reproduce.report.results import robust_accuracy
from reproduce.report.smallest import broken

BATCH = 100  # images of the detector


def _bits(evidence: Evidence, network: Network, suite: str, *names: str) -> list | None:
    """(N,) bool of each condition, cut to the images that all of them met."""
    records = [evidence.record(network, suite, name) for name in names]
    if any(r is None for r in records):
        return None
    few = min(r.total for r in records)
    return [r.bits[:few] for r in records]


def accuracy(evidence: Evidence, network: Network, suite: str, name: str) -> float | None:
    """Under one condition, over all images that met it."""
    found = _bits(evidence, network, suite, name)
    return found and robust_accuracy(found[0])


def changed(evidence: Evidence, network: Network, suite: str, *names: str) -> float | None:
    """How many images some of these conditions judge otherwise than the first does."""
    found = _bits(evidence, network, suite, *names)
    return found and float(np.any([bits != found[0] for bits in found[1:]], axis=0).sum())


def drop(evidence: Evidence, network: Network, suite: str, one: str, other: str) -> float | None:
    """By how many points accuracy is lower under the second condition, on the same images."""
    found = _bits(evidence, network, suite, one, other)
    return found and robust_accuracy(found[0]) - robust_accuracy(found[1])


def kept(evidence: Evidence, network: Network, suite: str, one: str, other: str) -> float | None:
    """Of the images right under the first condition, the share right under the second."""
    found = _bits(evidence, network, suite, one, other)
    return found and 100 * float(found[1].sum() / max(1, found[0].sum()))


def kept_under(evidence: Evidence, network: Network, *families: str) -> float | None:
    """Of the images that the trial's network judges rightly as they are, the share that survives
    every attack of these families, over the images that all of them met."""
    if not evidence.complete(network, "trial"):
        return None
    return _kept_of(evidence, network, families=families)


def kept_at(evidence: Evidence, network: Network, name: str) -> float | None:
    """The same under one attack of the trial, by its name."""
    if not evidence.complete(network, "trial"):
        return None
    return _kept_of(evidence, network, names=[name])


def _kept_of(evidence: Evidence, network: Network, **which) -> float | None:
    results = evidence.of(network)
    left = results.worst_case(**which)
    if not len(left):
        return None
    return 100 * float(left.sum() / max(1, results.clean()[: len(left)].sum()))


def mean_norm(evidence: Evidence, network: Network, *names: str) -> float | None:
    """Of the images that broke: the l2 norm that sufficed, by the best of these attacks."""
    records = [evidence.record(network, "norms", name) for name in names]
    records = [r for r in records if r is not None]
    if not records:
        return None
    few = min(len(r.norms) for r in records)
    return broken(np.min([r.norms[:few] for r in records], axis=0)).mean


def success(evidence: Evidence, network: Network, *names: str) -> float | None:
    """Of the images that were right, the share that an attack breaks; the best of these attacks."""
    records = [evidence.record(network, "norms", name) for name in names]
    if any(r is None for r in records):
        return None
    return max(robust_accuracy(broken(r.norms).bits) for r in records)


def neighbours(evidence: Evidence, network: Network, condition: str) -> float | None:
    """Of an image's ten nearest neighbours in the last features, the share of its class."""
    record = evidence.record(network, "table", "features")
    return record and 100 * record.values[f"knn/{condition}"]


def ahead_on_own_kind(evidence: Evidence, network: Network) -> float | None:
    """By how many points a network does better on its own kind of image than on any other."""
    of = {}
    for kind in double.KINDS:
        name = double.kind_name(*kind)
        of[name] = accuracy(evidence, network, "table", f"clean/{name}")
    if None in of.values():
        return None
    own = of.pop(double.kind_name(network.bits, network.dithered))
    return own - max(of.values())


def detected(evidence: Evidence, network: Network) -> float | None:
    """Of batches that were attacked before dithering, the share that raises the alarm."""
    found = _bits(evidence, network, "trial", "before/clean", "before/bare")
    return found and 100 * detector_roc(*found, BATCH).chosen[1]


def false_alarms(evidence: Evidence, network: Network) -> float | None:
    """Of batches that were not attacked, the share that raises the alarm."""
    found = _bits(evidence, network, "trial", "before/clean", "before/bare")
    return found and 100 * detector_roc(*found, BATCH).chosen[0]


MEASURES = {
    "accuracy": accuracy,
    "changed": changed,
    "drop": drop,
    "kept": kept,
    "kept under": kept_under,
    "kept at": kept_at,
    "mean norm": mean_norm,
    "success": success,
    "neighbours": neighbours,
    "ahead on own kind": ahead_on_own_kind,
    "detected": detected,
    "false alarms": false_alarms,
}
