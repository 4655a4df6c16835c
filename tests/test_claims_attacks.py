"""The rules for Tables 3, 5, 6 and Fig. 3, on records made up for each verdict."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from reproduce import norms
from reproduce.claims import DIRECTION, NOT, OWN_ONLY, REPRODUCED, UNDECIDED, dqa_attacks, ledger
from reproduce.claims.dqa_attacks import DYNAMIC, NAME

INF = float("inf")


class Made:
    """Evidence of records by (name, cell), and of worst cases by cell."""

    def __init__(self, records: dict, worst: dict | None = None) -> None:
        self.found, self.worsts = records, worst or {}

    def records(self, name, cell):
        return self.found.get((name, cell), [])

    def accuracy(self, name, cell, condition):
        return [r.metrics[condition] for r in self.records(name, cell)]

    def lead(self, name, cell, other):
        both = [self.worsts.get(c) for c in (cell, other)]
        return None if None in both else (both[0][0] - both[1][0], 0.5)


def network(clean: int = 80):
    return SimpleNamespace(metrics={"clean": {"correct": clean, "total": 100}}, arrays={})


def with_norms(trials: dict, clean: int = 80) -> Made:
    """A trial for each cell, of {condition: norms}, and its network."""
    found = {}
    for cell, conditions in trials.items():
        arrays = {f"norm/{n}": np.array(v, np.float32) for n, v in conditions.items()}
        found[f"{NAME}-norms", cell] = [SimpleNamespace(arrays=arrays)]
        found[NAME, cell] = [network(clean)]
    return Made(found)


CELLS = ("relu-clean", "fixed-3bit-clean", "fixed-2bit-clean", "fixed-1bit-clean")
PRINTED = (0.12, 0.17, 0.26, 0.55)


def carlini(own, sigmoid) -> Made:
    relu, *fixed = CELLS
    trials = {relu: {"cw/own": [0, own[0]]}}
    for cell, a, b in zip(fixed, own[1:], sigmoid[1:], strict=True):
        trials[cell] = {"cw/own": [0, a], "cw/sigmoid": [0, b]}
    return with_norms(trials)


@pytest.mark.parametrize(
    ("own", "sigmoid", "status"),
    [
        (PRINTED, PRINTED, REPRODUCED),
        ([1, 2, 3, 4], [1, 2, 3, 4], DIRECTION),
        ([1, 2, 3, 2.5], [1, 2, 3, 4], NOT),
        ([1, 2, 3, INF], [1, 2, 3, 4], NOT),
        ([1, 2, 3, 4], [1, 2, 0.5, 4], OWN_ONLY),
        ([1, 2, 3, 4], [1, 9, INF, 9], DIRECTION),  # the other rule is no better
    ],
)
def test_norms_must_grow_as_bits_get_fewer_by_the_better_rule_too(own, sigmoid, status):
    assert dqa_attacks.cw_norms(carlini(own, sigmoid))[0] == status


def success(own: int, sigmoid: int, clean: int = 80) -> Made:
    """How many of 100 images fall, in all three dynamic networks."""
    trial = {
        f"cw/{n}": [1] * k + [INF] * (100 - k) for n, k in (("own", own), ("sigmoid", sigmoid))
    }
    return with_norms({cell: trial for cell in DYNAMIC}, clean)


@pytest.mark.parametrize(
    ("own", "sigmoid", "status"),
    [(0, 0, REPRODUCED), (2, 2, REPRODUCED), (0, 3, OWN_ONLY), (3, 0, NOT)],
)
def test_cw_fails_only_if_no_rule_succeeds(own, sigmoid, status):
    assert dqa_attacks.cw_fails(success(own, sigmoid))[0] == status


def test_networks_that_collapsed_decide_nothing():
    assert dqa_attacks.cw_fails(success(0, 0, clean=10))[0] == UNDECIDED


def zoo(relu: tuple[int, int], dynamic: tuple[int, int]) -> Made:
    """Of 100 images, how many fall at the authors' width and at every other."""
    trials = {}
    for cell, (own, other) in {"relu": relu, **dict.fromkeys(DYNAMIC, dynamic)}.items():
        counts = {h: own if h == "1e-4" else other for h in norms.H_255}
        trials[cell] = {f"zoo/{h}": [1] * k + [INF] * (100 - k) for h, k in counts.items()}
    return with_norms(trials)


@pytest.mark.parametrize(
    ("relu", "dynamic", "status"),
    [
        ((82, 90), (0, 1), REPRODUCED),
        ((50, 60), (0, 30), DIRECTION),
        ((82, 90), (0, 95), OWN_ONLY),
        ((1, 90), (0, 0), NOT),
    ],
)
def test_zoo_is_judged_at_its_authors_width_and_then_at_its_best(relu, dynamic, status):
    assert dqa_attacks.zoo_fails(zoo(relu, dynamic))[0] == status


def transfers(net: str, clean, after, theirs, seeds: int = 3) -> Made:
    found = {}
    for i, cell in enumerate(DYNAMIC):
        metrics = {"defense/clean": clean, "defense/pgd": after[i], "substitute/pgd": theirs}
        counts = {n: {"correct": 100 * v, "total": 10_000} for n, v in metrics.items()}
        runs = [SimpleNamespace(metrics=counts, arrays={}, seed=s) for s in range(seeds)]
        found[f"{NAME}-substitutes", f"{cell}-{net}"] = runs
    return Made(found)


@pytest.mark.parametrize(
    ("net", "clean", "after", "theirs", "status"),
    [
        ("vgg16", 85, (60.85, 60.46, 49.18), 99, REPRODUCED),
        ("vgg16", 50, (40, 40, 40), 10, DIRECTION),
        ("vgg16", 50, (40, 40, 40), 45, NOT),
        ("vgg16", 50, (40, 49, 40), 10, NOT),
        ("alexnet", 85, (82.59, 82.11, 79.74), 99, REPRODUCED),
        ("alexnet", 50, (47, 47, 47), 10, DIRECTION),
        ("alexnet", 50, (47, 40, 47), 10, NOT),
    ],
)
def test_a_transfer_is_judged_by_its_numbers_then_by_its_cost_and_the_substitute(
    net, clean, after, theirs, status
):
    assert dqa_attacks.transfer(net)(transfers(net, clean, after, theirs))[0] == status
    few = transfers(net, clean, after, theirs, seeds=2)
    assert dqa_attacks.transfer(net)(few)[0] == UNDECIDED
    lost = transfers(net, clean, after, theirs)
    lost.found[NAME, DYNAMIC[0]] = [network(80), network(10), network(80)]
    for seed, made in enumerate(lost.found[NAME, DYNAMIC[0]]):
        made.seed = seed
    assert dqa_attacks.transfer(net)(lost)[0] == UNDECIDED, "one of its targets collapsed"


def features(relu, dynamic, worst=None, seeds: int = 3) -> Made:
    found = {}
    for cell, (clean, pgd) in {"relu": relu, **dict.fromkeys(DYNAMIC, dynamic)}.items():
        arrays = {"knn/clean": np.array(clean), "knn/pgd": np.array(pgd)}
        found[NAME, cell] = [SimpleNamespace(arrays=arrays)] * seeds
    cells = dict.fromkeys(DYNAMIC, worst and [worst]) | {"relu": worst and [30]}
    return Made(found, cells)


def test_every_dynamic_network_must_gain_not_only_one():
    found = zoo((82, 90), (0, 30))
    assert dqa_attacks.zoo_fails(found)[0] == REPRODUCED
    one = zoo((82, 90), (0, 95))
    mixed = Made(found.found | {k: v for k, v in one.found.items() if k[1] == "dynamic-1bit"})
    assert dqa_attacks.zoo_fails(mixed)[0] == OWN_ONLY
    clustered = features((0.9, 0.4), (0.9, 0.8), 40)
    assert dqa_attacks.clusters(clustered)[0] == DIRECTION
    clustered.worsts["dynamic-1bit"] = [20]
    assert dqa_attacks.clusters(clustered)[0] == OWN_ONLY


@pytest.mark.parametrize(
    ("relu", "dynamic", "worst", "status"),
    [
        ((0.9, 0.4), (0.9, 0.8), 40, DIRECTION),
        ((0.9, 0.4), (0.9, 0.8), None, UNDECIDED),
        ((0.9, 0.4), (0.9, 0.8), 30.4, UNDECIDED),  # within the margin
        ((0.9, 0.4), (0.9, 0.8), 20, OWN_ONLY),
        ((0.9, 0.4), (0.9, 0.3), 40, NOT),
        ((0.9, 0.4), (0.1, 0.1), 40, NOT),  # collapsed: nothing to lose
        ((0.5, 0.4), (0.9, 0.7), 40, NOT),
    ],
)
def test_features_stay_clustered_if_they_lose_less_and_keep_more_than_relu(
    relu, dynamic, worst, status
):
    assert dqa_attacks.clusters(features(relu, dynamic, worst))[0] == status
    assert dqa_attacks.clusters(features(relu, dynamic, worst, seeds=2))[0] == UNDECIDED


def test_without_records_every_claim_of_the_attacks_is_undecided():
    of = ("cw-norm", "cw-zero", "zoo", "vgg16", "alexnet", "tsne")
    claims = {c.key: c for c in ledger()}
    for key in of:
        status, why = claims[f"dqa-{key}"].decide(Made({}))
        assert status == UNDECIDED and why.startswith("not enough runs")
