"""Claims, the evidence that decides them, and the words for a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reproduce import experiments, results, trial_records, units
from reproduce.evaluation import collapsed
from reproduce.results import Record

REPRODUCED = "reproduced"
DIRECTION = "reproduced in direction only"
OWN_ONLY = "holds only under the paper's own attacks"
NOT = "not reproduced"
UNDECIDED = "undecided"
STATUSES = (REPRODUCED, DIRECTION, OWN_ONLY, NOT, UNDECIDED)

TOLERANCE = 2.0  # percentage points

_KINDEST = (REPRODUCED, DIRECTION, OWN_ONLY, UNDECIDED, NOT)

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
            # A trial that its time cut short says nothing of what is left in the end.
            if record is not None and not trial_records.left_out(record):
                self._found.setdefault((e.name, e.cell), []).append(record)
        for (name, cell), runs in self._found.items():
            base, is_trial, _ = name.partition("-trial")
            if is_trial:
                others = [
                    r
                    for kind in ("norms", "substitutes")
                    for (other, _), rs in self._found.items()
                    for r in rs
                    if other == f"{base}-{kind}"
                ]
                self._found[name, cell] = [trial_records.completed(r, others) for r in runs]

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

    def lead(self, name: str, cell: str, other: str) -> tuple[float, float] | None:
        """By how many points one network keeps more than another under the worst of the attacks
        that both met, and the margin; None where there is no trial of both, or they collapsed."""
        pair = [
            [r for r in self.records(f"{name}-trial", c) if not collapsed(r.metrics)]
            for c in (cell, other)
        ]
        seeds = [{r.seed for r in runs} for runs in pair]
        return trial_records.lead(*pair) if seeds[0] & seeds[1] else None

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
    return best, "<br>".join(why for status, why in verdicts if status == best)


def points(values: Sequence[float]) -> str:
    """Percentage points with their signs, as a sentence lists them."""
    return ", ".join(f"{v:+.1f}" for v in values)


def under_all(
    evidence: Evidence,
    name: str,
    pairs: Sequence[tuple[str, str]],
    verdict: Verdict,
    say: Callable[[Sequence[float]], str] = points,
) -> Verdict:
    """What a table shows, lowered where the worst of all attacks does not show it.

    Args: pairs: (cell, the cell that it must lead). verdict: by the table. say: the leads in words.
    """
    status, why = verdict
    leads = [evidence.lead(name, *pair) for pair in pairs]
    if None in leads:
        return UNDECIDED, f"{why}; not all of these networks have been tried, or they collapsed"
    gains, margins = zip(*leads, strict=True)
    why += f"; under the worst of all attacks {say(gains)} points, to ±{max(margins):.1f}"
    if min(gains) <= 0:
        return OWN_ONLY, why
    return (status if all(g > m for g, m in leads) else UNDECIDED), why


def near(ours: float, published: float) -> bool:
    """Within TOLERANCE, the margin included: the last bit of a float decides nothing."""
    return abs(ours - published) < TOLERANCE + 1e-9


def missing(what: str) -> Verdict:
    """Undecided for want of runs. Args: what: is missing."""
    return UNDECIDED, f"not enough runs: {what}"
