"""The claims ledger: what both papers claim as data, one rule, and what became of each claim.

The rules, their margins and the number of seeds they ask for stand here. A first version was
committed before the first trial was run; book/deviations.md lists what was changed since, and what
was known by then.
"""

from __future__ import annotations

import csv
from importlib.resources import files

from reproduce.report.claims import double, dqa
from reproduce.report.claims.board import board, counts, decide, details
from reproduce.report.claims.evidence import Activations, Evidence
from reproduce.report.claims.quantities import Printed
from reproduce.report.claims.rule import (
    DIRECTION,
    NOT,
    OWN_ONLY,
    PRINTED,
    REPRODUCED,
    STATUSES,
    UNDECIDED,
    Claim,
    Comparison,
    verdict,
)
from reproduce.report.claims.survival import survival

__all__ = [
    "DIRECTION",
    "NOT",
    "OWN_ONLY",
    "PRINTED",
    "REPRODUCED",
    "STATUSES",
    "UNDECIDED",
    "Activations",
    "Comparison",
    "Evidence",
    "Printed",
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
    return [Claim(**row | rules[row["key"]]) for row in rows]
