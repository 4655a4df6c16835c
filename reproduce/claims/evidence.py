"""Claims, the evidence that decides them, and the words for a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reproduce import experiments, results, trial_records, units
from reproduce.evaluation import collapsed
from reproduce.results import Record

REPRODUCED = "reproduced"
DIRECTION = "reproduced in direction only"
IGNORANT = "holds only against attacks that ignore the defence"
NOT = "not reproduced"
UNDECIDED = "undecided"
STATUSES = (REPRODUCED, DIRECTION, IGNORANT, NOT, UNDECIDED)

TOLERANCE = 2.0  # percentage points

_KINDEST = (REPRODUCED, DIRECTION, IGNORANT, UNDECIDED, NOT)

Verdict = tuple[str, str]


class Evidence:
    """The records of one scale that belong to the book's experiments and trials.

    Args:   scale: smoke, laptop or paper. Raises: ValueError: an unknown scale, a damaged record.
    """

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self._found: dict[tuple[str, str], list[Record]] = {}
        for e in units.grid(scale=scale):
            record = experiments.load(e)
            if record is not None:
                self._found.setdefault((e.name, e.cell), []).append(record)

    def records(self, name: str, cell: str) -> list[Record]:
        """All seeds of a cell, in their order."""
        return self._found.get((name, cell), [])

    def accuracy(self, name: str, cell: str, condition: str, trained: bool = False) -> list[float]:
        """In percent, each seed, or only those whose training did not collapse."""
        return [
            results.percent(r, condition)
            for r in self.records(name, cell)
            if condition in r.metrics and not (trained and collapsed(r.metrics))
        ]

    def worst(self, name: str, cell: str, families: Sequence[str] | None = None) -> list[float]:
        """In percent, each seed: images of a trial that survive every attack of the families, by
        default of all, over the images that all of these attacks saw."""
        of = trial_records.ALL if families is None else tuple(families)
        tried = self.records(f"{name}-trial", cell)
        return [100 * float(trial_records.union(r, of, common=True).mean()) for r in tried]

    def kept(self, name: str, cell: str, families: Sequence[str]) -> list[float]:
        """In percent, each seed: of the images judged correctly without an attack, those that
        survive every attack of the families, over the images that all of these saw.

        A trial of a network whose training collapsed is left out: it has nothing to keep.
        """
        found = []
        for r in self.records(f"{name}-trial", cell):
            if not collapsed(r.metrics):
                left = trial_records.union(r, tuple(families), common=True)
                found.append(100 * float(left.sum() / results.hits(r, "clean")[: len(left)].sum()))
        return found


@dataclass(frozen=True)
class Claim:
    """Args: place: in the paper. text: in our words. published: what is printed. decide: the rule;
    from the evidence of one scale to a status and the sentence that supports it. needs_runs: or
    decided by the paper's own tables."""

    key: str
    paper: str
    place: str
    text: str
    published: str
    decide: Callable[[Evidence], Verdict]
    needs_runs: bool = True

    def verdict(self, evidence: Sequence[Evidence]) -> tuple[str, str, str]:
        """(status, sentence, scale) by the first of the evidence that decides; none is undecided.

        Args: evidence: of each scale, the one that counts most first.
        """
        for e in evidence:
            status, why = self.decide(e)
            if status != UNDECIDED:
                break
        return status, why, e.scale


def kinder(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that is best for the claim; one still undecided may become better than NOT.

    Where several readings come to it, the evidence of each is given.
    """
    best = min((status for status, _ in verdicts), key=_KINDEST.index)
    return best, "; ".join(why for status, why in verdicts if status == best)


def near(ours: float, published: float) -> bool:
    """Within TOLERANCE, the margin included: the last bit of a float decides nothing."""
    return abs(ours - published) < TOLERANCE + 1e-9


def points(values: Sequence[float]) -> str:
    return ", ".join(f"{v:+.1f}" for v in values)


def missing(what: str) -> Verdict:
    return UNDECIDED, f"not enough runs: {what}"
