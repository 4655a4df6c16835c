"""The claims ledger: what both papers claim as data, one rule, and what became of each claim.

The rules, their margins and the number of seeds they ask for stand here. A first version was
committed before the first trial was run; book/deviations.md lists what was changed since, and what
was known by then.
"""

from __future__ import annotations

import csv
from importlib.resources import files

from reproduce.report.claims import double, dqa
from reproduce.report.claims.board import Decided, board, counts, decide, details
from reproduce.report.claims.evidence import Activations, Evidence, Images
from reproduce.report.claims.measures import MEASURES
from reproduce.report.claims.quantities import Difference, Lead, Mean, Printed
from reproduce.report.claims.rule import (
    DIRECTION,
    NOT,
    OWN_ONLY,
    PRINTED,
    REPRODUCED,
    STATUSES,
    TOLERANCE,
    UNDECIDED,
    Claim,
    Comparison,
    Verdict,
    verdict,
)
from reproduce.report.claims.survival import survival

__all__ = [
    "DIRECTION",
    "MEASURES",
    "NOT",
    "OWN_ONLY",
    "PRINTED",
    "REPRODUCED",
    "STATUSES",
    "TOLERANCE",
    "UNDECIDED",
    "Activations",
    "Claim",
    "Comparison",
    "Decided",
    "Difference",
    "Evidence",
    "Images",
    "Lead",
    "Mean",
    "Printed",
    "Verdict",
    "board",
    "counts",
    "decide",
    "details",
    "ledger",
    "survival",
    "verdict",
]


def ledger() -> list[Claim]:
    """All claims, in the order of the papers."""
    rules = dqa.rules() | double.rules()
    with (files(__name__) / "claims.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if {row["key"] for row in rows} != rules.keys():
        raise ValueError("claims.csv and the rules name different claims")
    claims = []
    for row in rows:
        rule = rules[row["key"]]
        fields = row | rule | {"comparisons": tuple(rule["comparisons"])}
        claims.append(Claim(**fields))
    return claims
