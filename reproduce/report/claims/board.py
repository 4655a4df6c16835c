"""The ledger as tables to be shown: a row a claim, counts of verdicts, what decides a claim."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from reproduce.papers.registry import PAPERS
from reproduce.report import tables
from reproduce.report.claims.evidence import Evidence
from reproduce.report.claims.rule import STATUSES, Claim, Verdict, verdict
from reproduce.report.claims.survival import survival

TITLES = {"dqa": "DQA", "double-quantization": "Double quantization"}
SCALES = {
    "original": "authors' networks",
    "paper": "paper",
    "laptop": "pilot",
    "printed": "printed tables",
}
READINGS = {True: "clean and adversarial", False: "adversarial alone"}
SHOWN = 40  # rows of a claim's details; of more, those that do not hold


class Decided(NamedTuple):
    """A claim, what became of it, and whether its networks survive all attacks."""

    claim: Claim
    verdict: Verdict
    survival: pd.DataFrame

    @property
    def one_precision(self) -> bool:
        """Whether what decided it was trained in one precision."""
        details = self.verdict.details
        return bool(details[details["scale"] == self.verdict.scale]["same_precision"].all())


def decide(claims: list[Claim], evidence: Evidence | None = None) -> list[Decided]:
    """All of them, by the records below results/."""
    evidence = evidence or Evidence()
    return [Decided(c, verdict(c, evidence), survival(c, evidence)) for c in claims]


def counts(decided: list[Decided]) -> pd.DataFrame:
    """How many claims of each paper have each status; a row a status, a column a paper."""
    rows = [(d.claim.paper, d.verdict.status) for d in decided]
    frame = pd.DataFrame(rows, columns=["paper", "status"])
    table = pd.crosstab(frame["status"], frame["paper"])
    return table.reindex(index=STATUSES, columns=PAPERS, fill_value=0).rename(columns=TITLES)


def board(decided: list[Decided], paper: str) -> pd.DataFrame:
    """A row a claim of one paper, to be shown in MyST: claim (a link to its details), verdict (with
    the scale that decided; † where precisions differ), what all attacks leave of the networks that
    it says are robust, published, place."""
    rows = []
    for d in decided:
        if d.claim.paper == paper:
            status, scale = d.verdict.status, SCALES.get(d.verdict.scale)
            shown = f"**{status}**" + (f" ({scale})" if scale else "")
            shown += "" if d.one_precision else " †"
            link = f"[{d.claim.text}](#{d.claim.key})"
            rows.append((link, shown, _survivors(d), d.claim.said, d.claim.place))
    columns = ["claim", "verdict", "survives all attacks?", "published", "place"]
    return pd.DataFrame(rows, columns=columns)


def _survivors(d: Decided) -> str:
    if not d.claim.defended:
        return tables.NONE
    if d.survival.empty:
        return "not tried"
    left, control = d.survival["left"], d.survival["control"].mean()
    low, high = f"{left.min():.0f}", f"{left.max():.0f}"
    span = low if low == high else f"{low}–{high}"
    whole = f"{d.survival['survives'].sum()} of {len(left)}"
    mark = "" if d.survival["same_precision"].all() else " †"
    return f"{whole} ({span} % left, control {control:.0f} %){mark}"


def details(d: Decided) -> pd.DataFrame:
    """What decides a claim, to be shown; of very many rows those that do not hold."""
    found = d.verdict.details
    rest = found[found["holds"] == "yes"] if len(found) > SHOWN else found[:0]
    found = found.drop(rest.index)
    network = [
        n + ("" if same else " †")
        for n, same in zip(found["network"], found["same_precision"], strict=True)
    ]
    shown = pd.DataFrame({"asked": found["what"], "of": network})
    for column in ("ours", "published", "margin"):
        shown[column] = found[column].astype(float)
    shown["seeds"], shown["holds"] = found["seeds"], found["holds"]
    shown["scale"] = found["scale"].map(SCALES)
    if len(d.claim.mixed) > 1:
        shown["trained on"] = found["mixed"].map(READINGS)
    shown["records"] = [" ".join(f"`{key}`" for key in keys) for keys in found["keys"]]
    if len(rest):
        last = {"asked": f"{len(rest)} others", "holds": "yes"}
        shown = pd.concat([shown, pd.DataFrame([last])], ignore_index=True)
    if d.verdict.scale == "printed":
        return shown.drop(columns=["seeds", "scale", "records"])
    return shown
