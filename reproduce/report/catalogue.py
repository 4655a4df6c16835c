"""The tables of the book by name, as DataFrames of numbers, for other programs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from reproduce import records
from reproduce.evaluation import wilson
from reproduce.report import claims, double, double_before, dqa, dqa_details, smallest, transfer
from reproduce.report.results import Results

Table = Callable[[str], pd.DataFrame]  # of a scale


def _bounds(bits: np.ndarray) -> dict[str, float]:
    low, high = wilson(int(bits.sum()), len(bits))
    return {"low": 100 * low, "high": 100 * high}


def _accuracies(dataset: str) -> Table:
    """Table 1 or 2 of DQA: a row a network, risk, seed and attack; percent, Wilson (95 %)."""

    def table(scale: str, mixed: bool) -> pd.DataFrame:
        printed, rows = dqa.printed(dataset), []
        for name, runs in dqa.find_seeds(dataset, scale, mixed=mixed).items():
            for r in runs:
                suite = r.suite("table")
                for attack in dqa.ATTACKS:
                    if attack in suite:
                        bits = suite[attack].bits
                        row = {"network": name, "seed": r.network.seed, "attack": attack}
                        row |= {"published": printed.loc[name, attack], "images": len(bits)}
                        row |= {"measured": 100 * bits.mean()} | _bounds(bits)
                        rows.append(row | {"key": r.network.key})
        return pd.DataFrame(rows)

    return _both_risks(table)


def _both_risks(table: Callable[[str, bool], pd.DataFrame]) -> Table:
    """Networks trained on adversarial examples alone, then those of the mixed risk."""

    def both(scale: str) -> pd.DataFrame:
        parts = [table(scale, mixed).assign(mixed=mixed) for mixed in (False, True)]
        filled = [part for part in parts if len(part)]  # an empty one would turn counts to floats
        return pd.concat(filled or parts, ignore_index=True)

    return both


def _by_seed(of: Callable[[dict[str, list[Results]]], pd.DataFrame], dataset: str) -> Table:
    return _both_risks(lambda scale, mixed: of(dqa.find_seeds(dataset, scale, mixed=mixed)))


def _of_seed_0(of: Callable[[dict[str, Results]], pd.DataFrame], dataset: str) -> Table:
    return _both_risks(lambda scale, mixed: of(dqa.find(dataset, scale, mixed=mixed)))


def _images(numeral: str, condition: str) -> Table:
    """Table I or II of Double quantization: a row a network, seed and kind of test image."""

    def table(scale: str) -> pd.DataFrame:
        printed, rows = double.published_table(numeral), []
        for one in double.find(scale):
            train = double.trained_on(one)
            for test, bits in double.by_kind(one, condition).items():
                row = {"train_bits": train[0], "train_dithered": train[1]}
                row |= {"test_bits": test[0], "test_dithered": test[1], "seed": one.network.seed}
                row |= {"published": printed.loc[train, test], "images": len(bits)}
                row |= {"measured": 100 * bits.mean()} | _bounds(bits)
                rows.append(row | {"key": one.network.key})
        return pd.DataFrame(rows)

    return table


def _claims(_scale: str) -> pd.DataFrame:
    """A row a claim; what scale decides it is part of the verdict."""
    return pd.DataFrame(
        {
            "claim": d.claim.key,
            "paper": d.claim.paper,
            "text": d.claim.text,
            "place": d.claim.place,
            "published": d.claim.said,
            "verdict": d.verdict.status,
            "decided_by": d.verdict.scale,
        }
        for d in claims.decide(claims.ledger())
    )


def _records(scale: str) -> pd.DataFrame:
    """A row a record of which images are counted, in percent."""
    rows = []
    for r in records.every():
        if r.error is not None or not r.folder.partition("/")[2].startswith(f"{scale}-"):
            continue
        if r.counted is not None:
            what, bits = r.counted
            row = {"folder": r.folder, "name": r.name, "key": r.key, "images": len(bits)}
            row |= {"what": what, "percent": 100 * bits.mean()} | _bounds(bits)
            rows.append(row | {"seconds": r.run.own_s, "device": r.run.device})
    return pd.DataFrame(rows)


TABLES: dict[str, Table] = {
    "claims": _claims,
    "records": _records,
    "dqa-table1": _accuracies("mnist"),
    "dqa-table2": _accuracies("cifar10"),
    "dqa-norms": lambda scale: smallest.outcomes(smallest.tried("cifar10", scale)),
    "dqa-table6": lambda scale: transfer.table6(transfer.tried("cifar10", scale)),
    "double-table1": _images("I", "clean"),
    "double-table2": _images("II", "pgd"),
    "double-after": lambda scale: double.against_eps(double.find(scale)),
    "double-edge": lambda scale: double.at_the_edge(double.find(scale)),
    "double-before": lambda scale: double_before.left(double.find(scale)),
}
for _dataset in ("mnist", "cifar10"):
    TABLES |= {
        f"dqa-trial-{_dataset}": _by_seed(dqa.trial_by_seed, _dataset),
        f"dqa-control-{_dataset}": _by_seed(dqa.beside_control, _dataset),
        f"dqa-rules-{_dataset}": _of_seed_0(dqa_details.rules, _dataset),
        f"dqa-radii-{_dataset}": _of_seed_0(dqa_details.radii, _dataset),
        f"dqa-queries-{_dataset}": _of_seed_0(dqa_details.without_gradients, _dataset),
    }
