"""DQA's Table 4, other defences, beside our networks and beside what later evaluations found."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from reproduce import published
from reproduce.report import dqa, tables
from reproduce.report.results import Results

# Our networks that stand in a row of Table 4: what is trained there is trained here.
OURS = {"Madry": "ReLU", "DQA": "dynamic, 2 bits"}


def printed(dataset: str) -> pd.DataFrame:
    """Table 4: defense, architecture, clean, pgd, fgsm (percent, NaN where not printed)."""
    table = published.load("dqa_table4")
    table = table[table["dataset"] == dataset]
    wide = table.pivot(index=["defense", "architecture"], columns="attack", values="value")
    wide = wide.loc[:, list(dqa.ATTACKS)].rename_axis(columns=None).reset_index()
    return wide.set_index("defense").loc[table["defense"].unique()].reset_index()


def later(dataset: str) -> pd.DataFrame:
    """What later evaluations left: defense, condition, citation (a key of references.bib), value
    (percent)."""
    found = published.load("later_findings")
    columns = ["defense", "condition", "citation", "value"]
    return found.loc[found["dataset"] == dataset, columns].reset_index(drop=True)


def ours(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Our networks of Table 4, those that were tried: ReLU beside Madry, 2 dynamic bits as DQA.

    Args:    networks: {name: results}, as report.dqa.find.
    Returns: report.dqa.trial, all over the same images of a row; its index is the defense.
    """
    tried = {d: networks[name] for d, name in OURS.items() if name in networks}
    return dqa.trial(tried).set_index("network").rename_axis("defense")


def beside(dataset: str, mine: pd.DataFrame) -> pd.DataFrame:
    """Table 4 of one data set as it is shown; the later evaluations are cited, in MyST.

    Args: mine: `ours`.
    """
    found, rows = later(dataset), []
    for row in printed(dataset).itertuples():
        pgd, left, key = float("nan"), tables.NONE, tables.NONE
        if row.defense in mine.index:
            own = mine.loc[row.defense]
            pgd, key = own["pgd"], f"`{own['key']}`"
            left = f"{own['all']:.1f} ({own['low']:.1f}–{own['high']:.1f})"
        findings = "; ".join(
            f"{f.value:g} % {f.condition} {{cite:p}}`{f.citation}`"
            for f in found[found["defense"] == row.defense].itertuples()
        )
        name = f"{row.defense}, {row.architecture}"
        rows.append((name, row.clean, row.pgd, row.fgsm, findings or tables.NONE, pgd, left, key))
    said = ["defence", "clean", "PGD", "FGSM", "later evaluations"]
    return pd.DataFrame(rows, columns=[*said, "ours: PGD", "ours: all attacks", "record"])
