"""The claims ledger: what both papers claim, and the rule by which records decide each claim.

The rules, their margins and the number of seeds they ask for stand here. A first version was
committed before the first trial was run; book/deviations.md lists what was changed since, and what
was known by then. A verdict follows from the records of one scale; the scale is the paper's where
it suffices, else the laptop's.

- A published number is reproduced if the mean over our seeds is within TOLERANCE points of it.
- A comparison holds in direction if its sign is right; it is reproduced if its size is, too.
- What holds in a table, but not for the worst case over all attacks of the trial, holds only
  under the paper's own attacks.
- Where the paper can be read in two ways (mixed or purely adversarial training), the reading that
  is kinder to the claim counts.
"""

from __future__ import annotations

from reproduce.claims import double, dqa
from reproduce.claims.evidence import (
    DIRECTION,
    NOT,
    OWN_ONLY,
    REPRODUCED,
    STATUSES,
    TOLERANCE,
    UNDECIDED,
    Claim,
    Evidence,
)
from reproduce.claims.headlines import HEADER, RISKS, fullest, headlines, in_short
from reproduce.claims.scales import by_scale, compare_scales

__all__ = [
    "DIRECTION",
    "HEADER",
    "NOT",
    "OWN_ONLY",
    "REPRODUCED",
    "RISKS",
    "STATUSES",
    "TOLERANCE",
    "UNDECIDED",
    "Claim",
    "Evidence",
    "by_scale",
    "compare_scales",
    "fullest",
    "headlines",
    "in_short",
    "ledger",
]


def ledger() -> list[Claim]:
    """All claims, in the order of the papers."""
    return [*dqa.claims(), *double.claims()]
