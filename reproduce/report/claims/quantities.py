"""Numbers of ours that a claim compares, at one scale and in one reading of the training risk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from reproduce.evaluation import paired
from reproduce.report.claims.evidence import Evidence, Subject, one_precision
from reproduce.report.results import met_by_both


class Reading(NamedTuple):
    """A number of ours.

    sampling: its margin (95 %) where chance is in it, else 0. seeds: of the network that has the
    fewest. same_precision: whether all networks were trained in one.
    """

    value: float
    sampling: float
    seeds: int
    same_precision: bool = True


@dataclass(frozen=True)
class Mean:
    """The mean of a measure over the seeds of a network.

    Args: measure: a function of claims.measures. of: which network. arguments: of the measure.
    """

    measure: Callable[..., float | None]
    of: Subject
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.of.name

    def __sub__(self, other: Mean) -> Difference:
        return Difference(self, other)

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading | None:
        """At one scale and training risk; None of no seed."""
        networks = evidence.of(self.of, scale, mixed=mixed)
        found = {r: self.measure(r, *self.arguments) for r in networks}
        found = {r: value for r, value in found.items() if value is not None}
        if not found:
            return None
        return Reading(mean(found.values()), 0.0, len(found), one_precision([*found]))


@dataclass(frozen=True)
class Difference:
    """One mean minus another."""

    left: Mean
    right: Mean

    @property
    def name(self) -> str:
        if self.left.of == self.right.of:
            return self.left.name
        return f"{self.left.name} – {self.right.name}"

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading | None:
        pair = [m.read(evidence, scale, mixed=mixed) for m in (self.left, self.right)]
        if None in pair:
            return None
        subjects = (self.left.of, self.right.of)
        same = one_precision([r for s in subjects for r in evidence.of(s, scale, mixed=mixed)])
        return Reading(pair[0].value - pair[1].value, 0.0, min(r.seeds for r in pair), same)


@dataclass(frozen=True)
class Lead:
    """By how many points one network of DQA keeps more images than another, under the worst case of
    the attacks that both met, in the seeds whose trials are complete for both."""

    one: Subject
    other: Subject

    @property
    def name(self) -> str:
        return f"{self.one.name} – {self.other.name}"

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading | None:
        pairs = evidence.pairs(self.one, self.other, scale, mixed=mixed)
        if not pairs:
            return None
        same = one_precision([r for pair in pairs for r in pair])
        return Reading(*paired(*met_by_both(pairs)), len(pairs), same)


@dataclass(frozen=True)
class Printed:
    """A number of the papers' own. Args: name: of what."""

    name: str
    value: float

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading:
        return Reading(self.value, 0.0, 0)
