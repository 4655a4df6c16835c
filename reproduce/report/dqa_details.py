"""What lies behind DQA's tables: parts of the trial, its diagnostics, thresholds, variations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from reproduce.papers import dqa
from reproduce.quantizers import DynamicQuantizer
from reproduce.report.dqa import ATTACKS, NAN, measured, name_of, trained, tried
from reproduce.report.results import Results, robust_accuracy

# --- Parts of the trial ---------------------------------------------------------------------------

RULES = {
    "rule/zero": "zero",
    "rule/straight_through": "straight-through",
    "rule/tanh": "tanh",
    "rule/sigmoid-1": "sigmoid, T = 1",
    "rule/sigmoid-5": "T = 5",
    "rule/sigmoid-10": "T = 10",
}


def rules(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Accuracy (%) under PGD through each backward rule, of the networks that have quantisers.

    Returns: network, a column a rule, and "PGD", the tables' attack on the same images.
    """
    columns = RULES | {"table/pgd": "PGD"}
    return _conditions({n: r for n, r in networks.items() if r.network.bits}, columns)


def without_gradients(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Accuracy (%) on clean images and under each attack that sees no gradient, over the images
    that all of these met."""
    first = next(iter(networks.values()), None)
    if first is None:
        return pd.DataFrame({"network": []})
    columns = {"clean": "clean", "noise": "noise", "square": "Square"}
    plan = dqa.trial(first.network)
    columns |= {n: f"NES, {n.removeprefix('nes/')} samples" for n in plan if n.startswith("nes/")}
    return _conditions(networks, columns | {"hopskipjump": "HopSkipJump"})


RADII = {"clean": 0.0, "eps/0.25": 0.25, "eps/0.5": 0.5, "main": 1.0, "eps/2": 2.0}


def radii(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Accuracy (%) under the main attack at shares of the radius, a column a share."""
    return _conditions(networks, RADII)


def in_a_file(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Accuracy (%) under two attacks that end in any float image, and under the same attacks where
    each step is rounded to whole grey values; a row a network that met both of the latter."""
    met = {name: r for name, r in networks.items() if r.complete("file")}
    columns = {"clean": "clean", "main": "main", "file/main": "main, whole grey values"}
    for r in met.values():  # networks of one data set and scale have one budget
        restarts = dqa.BUDGETS[r.network.dataset, r.network.scale].restarts[0]
        columns[f"restarts/{restarts}"] = "restarts"
    return _conditions(met, columns | {"file/restarts": "restarts, whole grey values"})


def _conditions(networks: Mapping[str, Results], columns: Mapping[str, object]) -> pd.DataFrame:
    """Accuracy (%) under conditions of the trial, over the first images that all of them met."""
    rows = []
    for name, r in networks.items():
        suite = r.suite("trial") | r.suite("file")
        members = [suite[c] for c in columns if c in suite]
        if not members:
            continue
        few = min(m.total for m in members)
        shares = {
            title: robust_accuracy(suite[c].bits[:few]) if c in suite else NAN
            for c, title in columns.items()
        }
        rows.append({"network": name, "images": few} | shares)
    return pd.DataFrame(rows, columns=["network", "images", *columns.values()])


def zero_gradients(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Share (%) of the gradient's entries that are exactly zero, a row a network and attack.

    Returns: network, attack ("table" or "main"), least and most over the activation layers, pixels.
    """
    rows = []
    for name, r in networks.items():
        for attack, zero in _diagnosed(r, "zero_gradients"):
            layers = [100 * share for key, share in zero.items() if key.isdigit()]
            rows.append((name, attack, min(layers), max(layers), 100 * zero["pixels"]))
    return pd.DataFrame(rows, columns=["network", "attack", "least", "most", "pixels"])


def label_leaking(networks: Mapping[str, Results]) -> pd.DataFrame:
    """How often a network names the false label that an attack was given, a row a network and
    attack: network, attack ("table" or "main"), named, of."""
    rows = [
        (name, attack, sum(named), len(named))
        for name, r in networks.items()
        for attack, named in _diagnosed(r, "false_label")
    ]
    return pd.DataFrame(rows, columns=["network", "attack", "named", "of"])


def loss_curves(results: Results) -> dict[str, list[float]]:
    """{"table" or "main": mean loss at the start and after each step of the attack}."""
    return dict(_diagnosed(results, "loss"))


def _diagnosed(results: Results, what: str) -> list[tuple[str, object]]:
    record = results.suite("trial").get("diagnostics")
    found = {} if record is None else record.values[what]
    return [(title, found[n]) for n, title in (("own", "table"), ("main", "main")) if n in found]


# --- What the thresholds learn --------------------------------------------------------------------


def thresholds(runs: Iterable[Results]) -> pd.DataFrame:
    """The learnt thresholds at the end of training, a row a threshold.

    Args:    runs: of networks with dynamic activations.
    Returns: bits, seed, layer (from 1), number (from 0), start, end.
    """
    rows = []
    for r in runs:
        start = DynamicQuantizer(r.network.bits).thresholds.tolist()
        for layer, ends in enumerate(r.training.values["thresholds"][-1], start=1):
            pairs = enumerate(zip(start, ends, strict=True))
            rows += [(r.network.bits, r.network.seed, layer, i, s, e) for i, (s, e) in pairs]
    return pd.DataFrame(rows, columns=["bits", "seed", "layer", "number", "start", "end"])


def thresholds_moved(frame: pd.DataFrame) -> pd.DataFrame:
    """How far the thresholds moved, and how far the seeds agree.

    Args:    frame: as `thresholds`.
    Returns: a row a depth: bits, seeds, moved (mean distance from the start), between (standard
             deviation over seeds, mean over thresholds; NaN of one seed).
    """
    rows = []
    for bits, part in frame.groupby("bits"):
        between = part.groupby(["layer", "number"])["end"].std(ddof=1).mean()
        moved = np.abs(part["end"] - part["start"]).mean()
        rows.append((bits, part["seed"].nunique(), moved, between))
    return pd.DataFrame(rows, columns=["bits", "seeds", "moved", "between"])


# --- Variations of the networks -------------------------------------------------------------------


def readings(dataset: str, scale: str) -> pd.DataFrame:
    """Networks of Table 1 under other readings of the paper, each below the literal one; seed 0.

    Returns: network, reading, "clean", "PGD", "FGSM" (%, of the table), "all attacks" (%, of the
             trial) and record (its key); NaN where it was not run.
    """
    rows = []
    for activation in ("fixed", "dynamic"):
        base = dqa.network(dataset, activation, 2, scale=scale, mixed=True)
        kinds = {"as the paper writes it": base}
        kinds |= {dqa.READINGS[other.cell]: other for other in dqa.readings(base)}
        for reading, network in kinds.items():
            r = Results(network)
            left = robust_accuracy(r.worst_case()) if tried(r) else NAN
            shares = {ATTACKS[a]: v for a, v in measured(r).items()}
            row = {"network": name_of(network), "reading": reading} | shares
            rows.append(row | {"all attacks": left, "record": f"`{network.key}`"})
    return pd.DataFrame(rows)


def informed(dataset: str, scale: str) -> dict[str, Results]:
    """{name: results} of the networks trained against an attack that knows their quantisers."""
    return trained(dqa.informed_networks(scale, 0)) if dataset in ("mnist", "digits") else {}
