"""Numbers of ours that a claim compares, at one scale and in one reading of the training risk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from reproduce.papers.units import Network
from reproduce.report.claims.evidence import Evidence, Subject, without_bfloat16
from reproduce.report.claims.measures import MEASURES
from reproduce.report.results import lead


class Reading(NamedTuple):
    """A number of ours.

    sampling: its margin (95 %) where chance is in it, else 0. seeds: of the network that has the
    fewest. same_precision: whether all networks were trained in one. keys: of their records.
    """

    value: float
    sampling: float
    seeds: int
    same_precision: bool = True
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mean:
    """The mean of a measure over the seeds of a network.

    Args: measure: a name of MEASURES. of: which network. arguments: of the measure.
    """

    measure: str
    of: Subject
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.of.name

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading | None:
        """At one scale and training risk; None of no seed."""
        networks = evidence.networks(self.of, scale, mixed=mixed)
        found = {n: MEASURES[self.measure](evidence, n, *self.arguments) for n in networks}
        found = {n: value for n, value in found.items() if value is not None}
        if not found:
            return None
        same, keys = one_precision(evidence, found), tuple(n.key for n in found)
        return Reading(mean(found.values()), 0.0, len(found), same, keys)


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
        subjects = (m.of for m in (self.left, self.right))
        networks = [n for s in subjects for n in evidence.networks(s, scale, mixed=mixed)]
        seeds = min(r.seeds for r in pair)
        same = one_precision(evidence, networks)
        keys = tuple(dict.fromkeys(key for r in pair for key in r.keys))
        return Reading(pair[0].value - pair[1].value, 0.0, seeds, same, keys)


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
        tried = [
            [n for n in evidence.networks(s, scale, mixed=mixed) if evidence.complete(n, "trial")]
            for s in (self.one, self.other)
        ]
        both = {n.seed for n in tried[0]} & {n.seed for n in tried[1]}
        if not both:
            return None
        tried = [[n for n in networks if n.seed in both] for networks in tried]
        gain, margin = lead(*([evidence.of(n) for n in networks] for networks in tried))
        networks = [*tried[0], *tried[1]]
        keys = tuple(n.key for n in networks)
        return Reading(gain, margin, len(both), one_precision(evidence, networks), keys)


@dataclass(frozen=True)
class Printed:
    """A number of the papers' own. Args: name: of what."""

    name: str
    value: float

    def read(self, evidence: Evidence, scale: str, *, mixed: bool) -> Reading:
        return Reading(self.value, 0.0, 0)


def one_precision(evidence: Evidence, networks: Iterable[Network]) -> bool:
    """Whether networks were trained with bfloat16 all of them, or none."""
    return len({without_bfloat16(evidence.of(n)) for n in networks}) < 2
