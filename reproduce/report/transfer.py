"""Attacks through substitute networks (DQA, Table 6), published beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from reproduce import published
from reproduce.evaluation import paired
from reproduce.papers import dqa, registry
from reproduce.papers.dqa import Substitute
from reproduce.records import Record
from reproduce.report import style, tables
from reproduce.report.results import Results

TITLES = {"vgg16": "VGG-16", "alexnet": "AlexNet"}


class Tried(NamedTuple):
    """A substitute, its target, and the records of `dqa.transfer` that are there, by name."""

    substitute: Substitute
    target: Results
    found: dict[str, Record]


def tried(dataset: str, scale: str) -> list[Tried]:
    """The substitutes that were trained and tried, VGG-16 first, by falling bits of the target."""
    networks = registry.networks("dqa", scale, 0)
    every = [n for n in networks if isinstance(n, Substitute) and n.dataset == dataset]
    order = dqa.ARCHITECTURES.index
    every.sort(key=lambda n: (order(n.architecture), -n.target.bits))
    runs = [Tried(one, Results(one.target), Results(one).suite("transfer")) for one in every]
    return [run for run in runs if "substitute/clean" in run.found]


def table6(runs: Sequence[Tried]) -> pd.DataFrame:
    """Every substitute and its target, ours beside the paper's, in percent.

    The attack that the paper does not name is read as PGD.

    Args:    runs: `tried`.
    Returns: architecture, network (the target), bits, collapsed (the target), then for defense and
             substitute "who/clean" and "who/pgd" and their "printed/who/clean" and
             "printed/who/pgd"; defense/fgsm; agreement (images for which both name one class);
             direct (what PGD on the target itself leaves); gap, margin (points by which the
             transferred attack leaves less than that on the same images, and 95 %). NaN: not run.
    """
    said = published.load("dqa_table6").set_index(["substitute", "bits", "model", "attack"])
    rows = []
    for one, target, found in runs:
        bits = one.target.bits
        row = {
            "architecture": TITLES[one.architecture],
            "network": style.model_name(one.target.activation, bits),
            "bits": bits,
            "collapsed": target.collapsed,
        }
        for who in ("defense", "substitute"):
            for condition, printed in (("clean", "clean"), ("pgd", "transfer")):
                row[f"{who}/{condition}"] = _accuracy(found, f"{who}/{condition}")
                value = said.loc[(one.architecture, bits, who, printed), "value"]
                row[f"printed/{who}/{condition}"] = value
        row |= {n: _accuracy(found, n) for n in ("defense/fgsm", "agreement")}
        rows.append(row | _against_the_direct_attack(target, found))
    return pd.DataFrame(rows)


def _accuracy(found: dict[str, Record], name: str) -> float:
    return found[name].accuracy if name in found else float("nan")


def _against_the_direct_attack(target: Results, found: dict[str, Record]) -> dict[str, float]:
    table = target.suite("table")
    if "pgd" not in table or "defense/pgd" not in found:
        return dict.fromkeys(("direct", "gap", "margin"), float("nan"))
    direct, transferred = table["pgd"].bits, found["defense/pgd"].bits
    few = min(len(direct), len(transferred))
    gap, margin = paired(direct[:few], transferred[:few])
    return {"direct": table["pgd"].accuracy, "gap": gap, "margin": margin}


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`table6` as it is shown: clean accuracies, then what attacks leave of the target."""
    columns = [
        "substitute", "target", "printed: target attacked", "target, transferred",
        "target, direct PGD", "difference (points)",
    ]  # fmt: skip
    rows = []
    for row in frame.to_dict("records"):
        gap, margin = row["gap"], row["margin"]
        lead = tables.NONE if pd.isna(gap) else f"{gap:+.1f} ± {margin:.1f}"
        name = f"*{row['network']}*" if row["collapsed"] else row["network"]
        ours = (row["printed/defense/pgd"], row["defense/pgd"], row["direct"], lead)
        rows.append((row["architecture"], name, *ours))
    return pd.DataFrame(rows, columns=columns)


def shown_in_full(frame: pd.DataFrame) -> pd.DataFrame:
    """The rest of `table6`: the substitutes, printed and ours."""
    columns = [
        "substitute", "target", "target clean: printed", "ours", "substitute clean: printed",
        "ours ", "substitute attacked: printed", "ours  ", "same class", "target under FGSM",
    ]  # fmt: skip
    keys = [
        "architecture", "network", "printed/defense/clean", "defense/clean",
        "printed/substitute/clean", "substitute/clean", "printed/substitute/pgd", "substitute/pgd",
        "agreement", "defense/fgsm",
    ]  # fmt: skip
    return pd.DataFrame(frame.reindex(columns=keys).to_numpy(object), columns=columns)


def as_printed() -> pd.DataFrame:
    """The paper's own numbers: PGD on dynamic networks beside what was made on a substitute.

    Returns: architecture, bits, direct (Table 2, PGD), transferred (Table 6, target), gap (points
             by which the transferred attack leaves less), own (Table 6, the substitute itself),
             same_clean (whether both tables print one clean accuracy for the target).
    """
    table2 = published.load("dqa_table2").query("activation == 'dynamic'")
    alone = table2.pivot(index="bits", columns="attack", values="value")
    table6 = published.load("dqa_table6")
    both = table6.pivot(index=["substitute", "bits"], columns=["model", "attack"], values="value")
    rows = []
    for name, title in TITLES.items():
        for bits in (3, 2, 1):
            direct, cells = alone.loc[bits, "pgd"], both.loc[name, bits]
            after, own = cells["defense", "transfer"], cells["substitute", "transfer"]
            same = bool(cells["defense", "clean"] == alone.loc[bits, "clean"])
            rows.append((title, bits, direct, after, direct - after, own, same))
    columns = "architecture bits direct transferred gap own same_clean".split()
    return pd.DataFrame(rows, columns=columns)
