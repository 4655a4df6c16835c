"""Claims as data, and the one rule that reads all of them.

A claim lists comparisons. Each gives a number of ours: a mean over seeds, a difference of two
means, a lead under the worst case of a trial, or a number that a paper prints. What is asked of it:
on which side of a bound it lies, and how near the published number. A comparison that fails decides
against the claim, or, where it is marked so, only lowers it. The worst status of all comparisons is
the claim's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import Literal, NamedTuple

import pandas as pd

from reproduce.report.claims.evidence import Evidence, Subject
from reproduce.report.claims.quantities import Difference, Lead, Mean, Printed, Reading

REPRODUCED = "reproduced"
DIRECTION = "reproduced in direction only"
OWN_ONLY = "holds only under the paper's own attacks"
NOT = "not reproduced"
UNDECIDED = "undecided"
STATUSES = (REPRODUCED, DIRECTION, OWN_ONLY, NOT, UNDECIDED)

TOLERANCE = 2.0  # percentage points
PRINTED = "printed"  # in place of a scale: the papers' own numbers decide

_WORSE = (REPRODUCED, DIRECTION, UNDECIDED, OWN_ONLY, NOT)  # of comparisons, the last one counts
_KINDER = (REPRODUCED, DIRECTION, OWN_ONLY, UNDECIDED, NOT)  # of readings, the first one counts
_LAST_BIT = 1e-9  # of a float, which decides nothing


@dataclass(frozen=True)
class Comparison:
    """What is asked of one number.

    Args: what: a few words for it. ours: where it comes from. above, below: it must lie strictly
          beyond; None, no such bound. published: the number that the paper prints for it, None for
          none. margin: how far from that it may lie, this included. side: whether it must be near
          the published one, at least it, or at most. exact: whether another size is a failure; by
          default the comparison then holds in direction. seeds: of each network, at least. fails:
          the claim's status, at best, where the comparison fails.
    """

    what: str
    ours: Mean | Difference | Lead | Printed
    _: KW_ONLY
    above: float | None = None
    below: float | None = None
    published: float | None = None
    margin: float = TOLERANCE
    side: Literal["both", "least", "most"] = "both"
    exact: bool = False
    seeds: int = 1
    fails: str = NOT

    def holds(self, reading: Reading) -> str:
        """ "yes"; "in sign", where only the size is another; "no"; or "open", within chance.

        NaN keeps no bound.
        """
        ours, chance = reading.value, reading.sampling
        if self.above is not None and not ours > self.above + _LAST_BIT:
            return "no"
        if self.below is not None and not ours < self.below - _LAST_BIT:
            return "no"
        if self.above is not None and chance and ours - self.above <= chance:
            return "open"
        if self.published is None or self._met(ours):
            return "yes"
        return "no" if self.exact else "in sign"

    def status(self, reading: Reading) -> str:
        """What a number comes to, by itself."""
        words = {"yes": REPRODUCED, "in sign": DIRECTION, "open": UNDECIDED, "no": self.fails}
        return words[self.holds(reading)]

    def _met(self, ours: float) -> bool:
        off = ours - self.published
        reach = self.margin + _LAST_BIT
        return {"both": abs(off), "least": -off, "most": off}[self.side] <= reach


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, in our words, and what decides it.

    Args: place: in the paper. text: one sentence. said: what is printed, as a table shows it.
          comparisons: all that it comes to. scales: that may decide, the one that counts most
          first; none where the papers' own numbers do. mixed: readings of the training risk (see
          Activations.at), of which the kinder one counts. in_part: whether more than half of the
          comparisons are enough for its direction. defended: networks that it says are robust.
    """

    key: str
    paper: str
    place: str
    text: str
    said: str
    comparisons: Sequence[Comparison]
    scales: tuple[str, ...] = ()
    mixed: tuple[bool, ...] = (False,)
    in_part: bool = False
    defended: tuple[Subject, ...] = ()

    @property
    def needs_runs(self) -> bool:
        return bool(self.scales)

    def combined(self, statuses: Sequence[str]) -> str:
        """The worst of what the comparisons come to."""
        worst = max(statuses, key=_WORSE.index)
        half = sum(s != NOT for s in statuses) > len(statuses) / 2
        return DIRECTION if worst == NOT and self.in_part and half else worst


COLUMNS = (
    "what network ours published difference margin seeds holds scale mixed same_precision".split()
)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    status: one of STATUSES. scale: whose records decided, None where none did. details: a row a
    comparison, scale and reading of the risk that has records: what; network; ours; published (NaN:
    nothing printed); difference (ours minus published); margin (of that, or of chance, 95 %; NaN:
    neither); seeds; holds ("yes", "in sign", "no", "open"); scale; mixed; same_precision.
    """

    status: str
    scale: str | None
    details: pd.DataFrame


class _Judged(NamedTuple):
    """A claim at one scale, in one reading of the risk.

    status: as far as there are records. enough: whether there are as many seeds as it asks for.
    begun: whether every comparison has one seed. rows: of `Verdict.details`.
    """

    status: str
    enough: bool
    begun: bool
    rows: list[dict]


def verdict(claim: Claim, evidence: Evidence) -> Verdict:
    """What became of a claim.

    The first scale decides that has enough records in at least one reading of the risk, whatever
    another reading waits for; of several, the kinder one counts. Where a scale that counts more has
    begun, with one seed of everything, and comes to another status, the claim is undecided.
    """
    rows, ahead = [], None
    for scale in claim.scales or (PRINTED,):
        found = [_judged(claim, evidence, scale, mixed=m) for m in claim.mixed]
        rows += [row for judged in found for row in judged.rows]
        decided = [j.status for j in found if j.enough]
        if decided:
            status = min(decided, key=_KINDER.index)
            if ahead not in (None, status):
                return Verdict(UNDECIDED, None, _details(rows))
            return Verdict(status, scale, _details(rows))
        begun = [j.status for j in found if j.begun]
        if begun and ahead is None:
            ahead = min(begun, key=_KINDER.index)
    return Verdict(UNDECIDED, None, _details(rows))


def _judged(claim: Claim, evidence: Evidence, scale: str, *, mixed: bool) -> _Judged:
    pairs = [(c, c.ours.read(evidence, scale, mixed=mixed)) for c in claim.comparisons]
    statuses = [c.status(r) for c, r in pairs if r is not None]
    status = claim.combined(statuses) if statuses else UNDECIDED
    # What fails needs no further comparison that could only lower it.
    asked = [(c, r) for c, r in pairs if status != NOT or c.fails == NOT]

    def seeds(at_most: float) -> bool:
        return all(r is not None and r.seeds >= min(c.seeds, at_most) for c, r in asked)

    rows = [_row(c, r, scale, mixed) for c, r in pairs if r is not None]
    return _Judged(status, seeds(inf), seeds(1), rows)


def _row(comparison: Comparison, reading: Reading, scale: str, mixed: bool) -> dict:
    unknown = comparison.published is None
    published = float("nan") if unknown else comparison.published
    return {
        "what": comparison.what,
        "network": comparison.ours.name,
        "ours": reading.value,
        "published": published,
        "difference": reading.value - published,
        "margin": reading.sampling or (published if unknown else comparison.margin),
        "seeds": reading.seeds,
        "holds": comparison.holds(reading),
        "scale": scale,
        "mixed": mixed,
        "same_precision": reading.same_precision,
    }


def _details(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)
