"""DQA's tables, flags and figures say what the bits of the records say."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from reproduce.papers import dqa as paper
from reproduce.quantizers import DynamicQuantizer
from reproduce.report import checks, dqa, dqa_details, dqa_figures, tables
from reproduce.report.results import Results
from tests.stored import put, right

ROOT = Path(__file__).resolve().parent.parent
ALL = 100


# What attacks that work leave of 100 images; what is not named leaves 45.
LEFT = {
    "clean": 90, "table/fgsm": 50, "table/pgd": 45, "rule/own": 44, "main": 40, "steps/twice": 39,
    "eps/0": 90, "eps/0.25": 80, "eps/0.5": 60, "eps/2": 10, "eps/unbounded": 0,
    "autoattack": 30, "square": 41, "noise": 70,
}  # fmt: skip
DIAGNOSED = {
    "flags": {"randomised": False, "softmax": False},
    "zero_gradients": {
        "own": {"images": 0.0, "pixels": 0.05, "1": 0.25, "2": 0.6, "10": 0.1},
        "main": {"images": 0.0, "pixels": 0.02, "1": 0.2, "2": 0.3, "10": 0.1},
    },
    "loss": {"own": np.linspace(1, 2, 41).tolist(), "main": np.linspace(1, 3, 101).tolist()},
    "false_label": {"own": [True] * 3 + [False] * 7, "main": [True] + [False] * 9},
    "binarization": {
        "valid": [True] * 50,
        "random": [True] * 10 + [False] * 40,
        "main": [False] * 12 + [True] * 38,  # 38 of the 40 that random points miss
        "own": [True] * 50,
    },
}


def network(activation: str = "relu", bits: int | None = None, **options):
    return paper.network("digits", activation, bits, scale="smoke", **options)


def tried(one, left=None, table=None, *, only=None, diagnosed=None, **curves) -> Results:
    """A network with a table and a trial.

    Args: left: {condition: how many of 100, or the bits}, beside LEFT. table: clean, fgsm, pgd.
          only: leave out what is not named there. diagnosed: {"loss/main": what is found instead}.
    """
    put(one, values=curves)
    for name, count in ({"clean": 90, "fgsm": 50, "pgd": 45} | (table or {})).items():
        put(paper.table(one)[name], bits=right(count))
    of = LEFT | (left or {})
    found = json.loads(json.dumps(DIAGNOSED))
    for path, value in (diagnosed or {}).items():
        *way, last = path.split("/")
        inside = found
        for step in way:
            inside = inside[step]
        inside[last] = value
    for name, unit in paper.trial(one).items():
        if name == "diagnostics":
            put(unit, values=found)
        elif only is None or name in only:
            bits = of.get(name, 45)
            put(unit, bits=right(bits) if isinstance(bits, int) else np.array(bits, bool))
    return Results(one)


def loop(bits: dict[str, list], names) -> list[bool]:
    """Which images survive these, over the first that all of them met, image by image."""
    few = min(len(bits[n]) for n in ("clean", *names))
    return [all(bool(bits[n][i]) for n in ("clean", *names)) for i in range(few)]


# --- What is left ---------------------------------------------------------------------------------

GRADIENT = {
    *(
        "table/fgsm",
        "table/pgd",
        "main",
        "steps/twice",
        "steps/7",
        "step/2",
        "loss/dlr",
    ),
    *("loss/margin", "scaled", "scaled/straight_through", "restarts/2", "steps/long"),
    *("rule/zero", "rule/straight_through", "rule/tanh"),
    *("rule/sigmoid-1", "rule/sigmoid-5", "rule/sigmoid-10"),
}
BLIND = {"noise", "square", "nes/4", "hopskipjump"}
FULL = GRADIENT | BLIND | {"autoattack", "autoattack/sigmoid", "transfer"}
FEW = {"steps/long", "square", "nes/4", "autoattack", "autoattack/sigmoid"}


@pytest.mark.parametrize("seed", range(3))
def test_each_column_of_the_trial_is_what_a_loop_over_images_and_attacks_finds(folders, seed):
    rng = np.random.default_rng(seed)
    one = network("fixed", 2)
    names = paper.trial(one).keys() - {"diagnostics"}
    assert names - FULL == {"clean", *(f"eps/{e}" for e in ("0", "0.25", "0.5", "2", "unbounded"))}
    size = dict.fromkeys(names, 21) | dict.fromkeys(FEW, 9) | {"hopskipjump": 7}
    bits = {n: (rng.random(size[n]) < 0.95).tolist() for n in names}
    results = tried(one, bits)
    (row,) = dqa.trial({"a": results}).itertuples()

    worst = loop(bits, FULL)
    assert row.images == len(worst) == 7
    expected = {
        "clean": bits["clean"],
        "fgsm": bits["table/fgsm"],
        "pgd": bits["table/pgd"],
        "gradient": loop(bits, GRADIENT),
        "blind": loop(bits, BLIND),
        "transfer": loop(bits, {"transfer"}),
        "all": worst,
    }
    for column, of in expected.items():
        assert getattr(row, column) == pytest.approx(100 * sum(of[:7]) / 7), column
    assert row.low <= row.all <= row.high and row.key == one.key

    (steps,) = dqa.ladder({"a": results}).to_numpy()
    rules = {n for n in GRADIENT if n.startswith(("rule/", "table/"))}
    ways = (bits["clean"], bits["table/fgsm"], bits["table/pgd"], loop(bits, rules), worst)
    assert steps == pytest.approx([100 * sum(of[:7]) / 7 for of in ways])


def test_the_tables_own_attacks_count_among_the_backward_rules(folders):
    low = tried(network(), {"table/pgd": 41, "rule/own": 44})
    assert dqa.ladder({"ReLU": low}).loc["ReLU", "any backward rule"] == 41


def test_a_trial_without_one_of_its_attacks_is_doubtful_although_every_check_passes(folders):
    part = tried(network(), only=paper.trial(network()).keys() - {"loss/dlr"})
    assert not failed(part) and checks.doubtful(part)


def test_what_was_not_run_is_no_number_and_no_row(folders):
    few = tried(network(), only={"clean", "table/pgd"})
    put(network("fixed", 1))
    frame = dqa.trial({"ReLU": few, "fixed, 1 bit": Results(network("fixed", 1))})
    assert frame["network"].tolist() == ["ReLU"]
    assert frame["pgd"].tolist() == [45] and frame[["fgsm", "blind"]].isna().all(axis=None)
    assert bool(frame["doubtful"].item()), "part of the trial is missing"
    text = tables.markdown(dqa.trial_shown(frame))
    assert "| ReLU | 100 | 90.0 | – | 45.0" in text


def test_the_shown_trial_marks_what_is_doubtful_and_what_collapsed(folders):
    rows = dqa.trial(
        {
            "ReLU": tried(network(), {"eps/unbounded": 1}),
            "a": tried(network(seed=1), diagnosed={"binarization/own": [False] * 50}),
            "b": tried(network(seed=2), {"clean": 5}, {"clean": 5}),
        }
    )
    shown = dqa.trial_shown(rows)
    assert [t.count("†") for t in shown["all attacks"]] == [1, 0, 0]
    assert [t.count("†") for t in shown["PGD"]] == [0, 1, 0]
    assert shown["network"].tolist() == ["ReLU", "a", "*b*"]
    assert list(dqa.trial_shown(rows, seed=True)["seed"]) == [0, 1, 2]


def test_a_quantised_network_stands_beside_relu_of_its_own_seed(folders):
    names = {"clean", "table/pgd", "autoattack", "autoattack/sigmoid"}

    def run(left, activation="fixed", bits=1, seed=0, table=None):
        return tried(network(activation, bits, seed=seed), left, table, only=names)

    relu = [run({}, "relu", None, s) for s in (0, 1)]
    apart = run({"table/pgd": 60, "autoattack": 60, "autoattack/sigmoid": 60}, seed=0)
    near = run({"autoattack": 36, "autoattack/sigmoid": 35}, seed=1)
    alone = run({}, seed=7)
    lost = run({}, "fixed", 2, 0, {"clean": 5})
    networks = {"ReLU": relu, "a": [apart, near, alone], "b": [lost]}
    found = dqa.beside_control(networks)
    assert found[["network", "seed", "all", "control", "above"]].to_numpy().tolist() == [
        ["a", 0, 60, 30, True],
        ["a", 1, 35, 30, False],
    ]
    # ReLU did not meet AutoAttack through a sigmoid: without it one image more is left.
    assert found["lead"].tolist() == [30, 6]


def test_relus_one_backward_rule_is_met_as_the_straight_through_rule_of_the_others(folders):
    own, through, table = "rule/own", "rule/straight_through", "table/pgd"
    relu = tried(network(), {own: 20, table: 60}, only={"clean", own, table})
    fixed = tried(network("fixed", 1), {through: 50, table: 60}, only={"clean", through, table})
    assert dqa.beside_control({"ReLU": [relu], "a": [fixed]})["lead"].tolist() == [30]


# --- Tables 1 and 2 -------------------------------------------------------------------------------


def test_every_seed_stands_beside_the_published_value(folders):
    for seed, clean in ((0, 81), (1, 5)):
        tried(network("fixed", 1, seed=seed), table={"clean": clean, "pgd": 12 + seed})
    put(network("dynamic", 2))
    frame = dqa.table(dqa.find_seeds("digits", "smoke"), "mnist")
    assert len(frame) == 21 and frame["network"].iloc[0] == "ReLU"
    cells = frame.set_index(["network", "attack"])
    assert cells.loc[("fixed, 1 bit", "clean"), "ours"] == (81, 5)
    assert cells.loc[("fixed, 1 bit", "pgd"), "published"] == 98.47
    assert cells.loc[("fixed, 1 bit", "pgd"), "collapsed"] == (False, True)
    assert cells.loc[("dynamic, 2 bits", "pgd"), "ours"] == (), "trained, not attacked"
    shown = dqa.side_by_side(frame).set_index("network")
    assert shown.loc["fixed, 1 bit", "PGD, ours"] == "12.00<br>*13.00*"
    assert shown.loc["ReLU", "clean, published"] == "99.24"
    assert shown.loc["ReLU", "clean, ours"] == tables.NONE
    assert dqa.printed("cifar10").loc["dynamic, 2 bits", "pgd"] == 79.83


def test_signs_of_failed_attacks_and_precision_are_told_of_each_run(folders):
    runs = [
        tried(network(), only=set()),
        tried(network("fixed", 1), table={"clean": 70, "pgd": 95, "fgsm": 60}, only=set()),
        Results(network("fixed", 2)),
    ]
    frame = dqa.signs(r for r in runs)
    assert frame["network"].tolist() == ["ReLU", "fixed, 1 bit"], "the third was not run"
    signs = frame[["pgd above clean", "fgsm above clean", "pgd above fgsm"]]
    assert signs.to_numpy().tolist() == [[False] * 3, [True, False, True]]
    lines = dqa.each_run(runs[:2])
    assert lines["PGD"].iloc[1].startswith("95.00 (88.8")
    assert lines["record"].tolist() == [f"`{r.network.key}`" for r in runs[:2]]


@pytest.mark.parametrize(
    ("scale", "device", "said"),
    [
        ("laptop", "a CPU", "bfloat16"),
        ("laptop", "a CPU, no bfloat16", "float32"),
        ("smoke", "a CPU", "float32"),
    ],
)
def test_arithmetic_is_what_was_asked_for_where_the_machine_had_it(folders, scale, device, said):
    one = paper.network("mnist" if scale == "laptop" else "digits", "relu", None, scale=scale)
    put(one, device=device)
    assert dqa.precision(Results(one)) == said


# --- Did the attacks work? ------------------------------------------------------------------------


def failed(results: Results) -> set[tuple[str, str]]:
    found = checks.checks(results)
    return {(r.attack, r.check.split(":")[0]) for r in found[~found["passed"]].itertuples()}


def test_attacks_that_work_pass_every_check(folders):
    results = tried(network())
    assert not failed(results) and not checks.doubtful(results) and not checks.blunt(results)
    assert len(checks.checks(results)) == 15


ONE_STEP, PLANTED = "no more left than by one step", "planted examples are found"
RISES = ("main", "the loss rises with the steps, and stays up")
HALF = ("main", "twice the radius leaves half of what a quarter leaves")
VANISH = ("main", "gradients do not vanish")
MISSED = [False] * 13 + [True] * 37
BROKEN = {
    "idle": ({"eps/0": 89}, {}, ("main", "ε = 0 changes nothing"), 1, 0),
    "climb": ({"eps/0.5": 82}, {}, ("main", "accuracy falls as ε grows"), 2, 1),
    "half": ({"eps/2": 41}, {}, HALF, 41, 40),
    "random": ({"noise": 38}, {}, ("main", "no more left than by random points"), 40, 39),
    "unbounded": ({"eps/unbounded": 1}, {}, ("main", "unbounded ε leaves nothing"), 1, 0),
    "step": ({"table/fgsm": 38}, {}, ("main", ONE_STEP), 40, 39),
    "longer": ({"steps/twice": 38}, {}, ("main", "twice the steps change little"), 2, 1),
    "queries": ({"square": 37}, {}, ("main", "images lost to queries alone"), 2, 1),
    "decisions": ({"hopskipjump": 37}, {}, ("main", "images lost to decisions alone"), 2, 1),
    "vanish": ({}, {"zero_gradients/main/images": 0.25}, VANISH, 0.25, 0),
    "falls": ({}, {"loss/main": [3.0] * 11 + [1.0] * 90}, RISES, -2, 0.3),
    "returns": ({}, {"loss/main": [1.0] + [4.0] * 88 + [3.0] * 12}, RISES, 2, 2.7),
    "planted": ({}, {"binarization/main": MISSED}, ("main", PLANTED), 37, 38),
    "none": ({}, {"binarization/valid": [False] * 50}, ("main", PLANTED), 0, 1),
    "table steps": ({"table/pgd": 52}, {}, ("table", ONE_STEP), 52, 51),
    "table planted": ({}, {"binarization/own": MISSED}, ("table", PLANTED), 37, 38),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_went_wrong_fails_its_own_check_and_the_numbers_are_told(folders, case):
    left, diagnosed, check, measured, limit = BROKEN[case]
    # The worst gradient attack, so that a change of the others breaks no other check.
    base = {"steps/long": 39}
    results = tried(network(), base | left, diagnosed=diagnosed)
    related = {
        "step": {("table", ONE_STEP)},
        "random": {("main", "images lost to queries alone")},
        "none": {("table", PLANTED)},
        "longer": set(),
    }.get(case, set())
    assert {check} <= failed(results) <= {check} | related
    found = checks.checks(results)
    row = found[(found["attack"] == check[0]) & found["check"].str.startswith(check[1])].iloc[0]
    assert (row["measured"], row["limit"]) == pytest.approx((measured, limit))
    assert checks.doubtful(results) == (check[0] == "main" or case == "none")
    assert checks.blunt(results) == (("table", check[1]) in failed(results))


def test_images_lost_to_transfer_alone_are_counted_of_networks_that_something_is_transferred_to(
    folders,
):
    names = ("rule/straight_through", "rule/sigmoid-5", "autoattack/sigmoid")
    left = dict.fromkeys(names, 44)
    assert ("main", "images lost to transfer alone") not in failed(tried(network("fixed", 1), left))
    assert failed(tried(network("fixed", 2), left | {"transfer": 37})) == {
        ("main", "images lost to transfer alone")
    }


@pytest.mark.parametrize(
    ("noise", "met", "passes"), [(38, 40, False), (20, 20, True), (40, 60, True)]
)
def test_random_points_are_compared_on_the_images_that_they_met(folders, noise, met, passes):
    """The main attack leaves the first 40 of 100 images."""
    results = tried(network(), {"noise": right(noise, met), "steps/long": 20})
    row = checks.checks(results).set_index("check").loc["no more left than by random points"]
    assert row["passed"] == passes and row["measured"] == min(40, met)
    assert row["limit"] == noise + met / 100


def test_nothing_left_and_nothing_learnt_leave_nothing_to_doubt(folders):
    spent = tried(network(), {"eps/unbounded": 1, "autoattack": 0})
    assert not checks.doubtful(spent)
    gone = tried(network(seed=1), {"table/pgd": 0}, diagnosed={"binarization/own": [False] * 50})
    assert not checks.blunt(gone)
    lost = tried(network(seed=2), {"table/pgd": 52, "eps/unbounded": 1}, {"clean": 5})
    assert lost.collapsed and not checks.doubtful(lost) and not checks.blunt(lost)


def test_a_check_that_was_not_run_has_not_passed(folders):
    names = paper.trial(network()).keys() - {"eps/2"}
    results = tried(network(), only=names)
    found = checks.checks(results)
    row = found[found["check"].str.startswith("twice the radius")].iloc[0]
    assert np.isnan(row["measured"]) and not row["passed"] and checks.doubtful(results)
    assert (
        checks.summary({"a": found})
        .set_index("check")
        .loc[row["check"], "failed"]
        .startswith("a: not run")
    )


def test_the_summary_counts_networks_and_names_those_that_failed(folders):
    frames = {
        "good": checks.checks(tried(network())),
        "odd": checks.checks(tried(network(seed=1), {"eps/unbounded": 7, "eps/2": 10})),
    }
    rows = checks.summary(frames).set_index(["attack", "check"])
    odd = rows.loc[("main", "unbounded ε leaves nothing")]
    assert (odd["passed"], odd["networks"], odd["failed"]) == (1, 2, "odd: 7, at most 0")
    assert rows.loc[("table", PLANTED), "failed"] == "" and len(rows) == 15
    assert checks.summary({}).empty


# --- What stands behind the tables ----------------------------------------------------------------


def test_conditions_are_shown_over_the_images_that_all_of_them_met(folders):
    rules = dict(zip(dqa_details.RULES, (80, 30, 20, 25, 21, 40), strict=True))
    results = tried(network("fixed", 1), rules | {"nes/4": right(10, 20), "square": right(3, 10)})
    relu = tried(network())
    found = dqa_details.rules({"ReLU": relu, "a": results})
    assert found.to_numpy().tolist() == [["a", 100, 80, 30, 20, 25, 21, 40, 45]]
    found = dqa_details.without_gradients({"a": results}).set_index("network").loc["a"]
    assert found["images"] == 10 and found["Square"] == 30 and found["clean"] == 100
    assert found["NES, 4 samples"] == 100 and found["noise"] == 100
    (row,) = dqa_details.radii({"ReLU": relu}).to_numpy().tolist()
    assert row == ["ReLU", 100, 90, 80, 60, 40, 10]
    assert dqa_details.rules({}).empty and dqa_details.without_gradients({}).empty


def test_attacks_that_end_in_a_file_stand_beside_those_that_do_not_on_the_same_images(folders):
    one, other = network("fixed", 1), network()
    results = tried(one, {"main": right(5), "restarts/2": right(2, 10)})
    assert dqa_details.in_a_file({"a": results, "b": tried(other)}).empty
    for name, bits in (("file/main", right(9, 10)), ("file/restarts", right(4, 10))):
        put(paper.file(one)[name], bits=bits)
    (row,) = dqa_details.in_a_file({"a": Results(one)}).to_dict("records")
    assert row == {
        "network": "a", "images": 10, "clean": 100, "main": 50, "main, whole grey values": 90,
        "restarts": 20, "restarts, whole grey values": 40,
    }  # fmt: skip


def test_diagnostics_are_told_for_both_attacks(folders):
    networks = {"ReLU": tried(network()), "none": Results(network("fixed", 1))}
    zero = dqa_details.zero_gradients(networks)
    assert zero.to_numpy().tolist() == [["ReLU", "table", 10, 60, 5], ["ReLU", "main", 10, 30, 2]]
    leaks = dqa_details.label_leaking(networks)
    assert leaks.to_numpy().tolist() == [["ReLU", "table", 3, 10], ["ReLU", "main", 1, 10]]
    assert list(dqa_details.loss_curves(networks["ReLU"])) == ["table", "main"]


def test_thresholds_move_from_where_they_started_and_scatter_between_seeds(folders):
    start = DynamicQuantizer(2).thresholds.tolist()
    shift = {0: 0.1, 1: 0.3}
    runs = []
    for seed, by in shift.items():
        ends = [[t + by for t in start]] * 4
        runs.append(
            tried(network("dynamic", 2, seed=seed), only=set(), thresholds=[[start] * 4, ends])
        )
    frame = dqa_details.thresholds(runs)
    assert len(frame) == 2 * 4 * 3 and set(frame["layer"]) == {1, 2, 3, 4}
    (moved,) = dqa_details.thresholds_moved(frame).itertuples()
    assert (moved.bits, moved.seeds) == (2, 2)
    assert moved.moved == pytest.approx(0.2)
    assert moved.between == pytest.approx(0.2 / 2**0.5)  # of two numbers 0.2 apart


def test_other_readings_stand_below_the_literal_one(folders):
    for kind, pgd in (("fixed", 60), ("dynamic", 70)):
        base = network(kind, 2, mixed=True)
        tried(base, table={"pgd": pgd}, only=set())
        for number, other in enumerate(paper.readings(base)):
            if other.cell in paper.READINGS:
                tried(other, {"autoattack": 12}, table={"pgd": 10 + number})
    frame = dqa_details.readings("digits", "smoke")
    assert (
        frame["PGD"].tolist()[0] == 60 and frame["network"].tolist()[2:] == ["dynamic, 2 bits"] * 3
    )
    assert frame["all attacks"].isna().tolist() == [True, False, True, False, False]
    assert frame["all attacks"].iloc[1] == 12


# --- Figures --------------------------------------------------------------------------------------


def points(figure, marker: str) -> list[tuple[float, float]]:
    return [
        (x, y)
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() == marker
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_the_dumbbells_stand_where_the_numbers_are():
    frame = pd.DataFrame(
        [("ReLU", 94.0, 93.0, 85.0, 82.0, 88.0), ("fixed, 1 bit", 98.0, 99.0, 0.2, 0.0, 1.1)],
        columns=["network", "published", "same", "left", "low", "high"],
    )
    figure = dqa_figures.dumbbells(frame)
    assert points(figure, "D") == [(94, 0), (98, 1)]
    assert points(figure, "o") == [(93, 0), (99, 1)]
    assert points(figure, "s") == [(85, 0), (0.2, 1)]
    assert [t.get_text() for t in figure.axes[0].texts] == ["85.0", "0.2"]


@pytest.mark.parametrize("high", [[], ["a"], ["a", "b"]])
def test_the_ladder_rings_what_no_working_attack_can_leave(high):
    rows = {n: [90, 80, 95 if n in high else 90, 20, 10] for n in ("a", "b", "ReLU")}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(dqa.LADDER))
    figure = dqa_figures.ladder(frame)
    rings = [line for line in figure.axes[0].lines if line.get_markersize() > 10]
    assert [list(r.get_ydata()) for r in rings] == ([[95] * len(high)] if high else [])
    assert len(figure.axes[0].texts) == bool(high)


def test_collapsed_seeds_are_crosses():
    rows = [("ReLU", a, 90.0, (80.0, 10.0), (False, True)) for a in dqa.ATTACKS]
    frame = pd.DataFrame(rows, columns=["network", "attack", "published", "ours", "collapsed"])
    figure = dqa_figures.each_seed(frame)
    assert points(figure, "x") == [(10, 0)] * 3 and points(figure, "o") == [(80, 0)] * 3


def test_digits_are_shown_as_they_were_attacked_with_what_was_read(folders):
    one = network("dynamic", 1)
    put(one)
    rng = np.random.default_rng(0)
    stored = {}
    for unit, names in (
        (paper.table(one)["examples"], ("clean", "pgd")),
        (paper.shown(one)["attacked"], ("clean", "main")),
    ):
        arrays = {"labels": np.arange(10)}
        for name in names:
            arrays[f"image/{name}"] = rng.integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
            arrays[f"prediction/{name}"] = rng.integers(0, 10, 10)
        put(unit, arrays=arrays)
        stored[unit.name] = arrays
    figure = dqa_figures.attacked({"x": Results(one)}, count=3)
    seen = [ax.images[0].get_array() for ax in figure.axes]
    read = [int(ax.get_xlabel()) for ax in figure.axes]
    table, shown = stored["examples"], stored["attacked"]
    expected = [table["image/clean"], table["image/pgd"], shown["image/main"]]
    for image, wanted in zip(seen, itertools.chain(*(e[:3, 0] for e in expected)), strict=True):
        assert np.array_equal(image, wanted)
    said = [np.arange(3), table["prediction/pgd"][:3], shown["prediction/main"][:3]]
    assert read == np.concatenate(said).tolist()


def test_every_other_figure_is_drawn(folders):
    curves = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.9], "eps_255": [0.0, 8.0]}
    results = tried(network(), **curves)
    figures = [
        dqa_figures.method(),
        dqa_figures.losses({"ReLU": results}),
        dqa_figures.training_curves({"ReLU": results}),
        dqa_figures.against_eps(dqa_details.radii({"ReLU": results}), 0.3),
    ]
    assert all(isinstance(f, matplotlib.figure.Figure) for f in figures)
    assert points(figures[3], "o") == [(0, 90), (0.075, 80), (0.15, 60), (0.3, 40), (0.6, 10)]


# --- The committed records ------------------------------------------------------------------------

# What is left of the first 500 test images at the paper's settings, counted from the files below.
PAPER = {
    "relu": 427, "fixed-1bit": 1, "fixed-2bit": 12, "fixed-3bit": 391, "dynamic-1bit": 0,
    "dynamic-2bit": 1, "dynamic-3bit": 0,
}  # fmt: skip


def bits_of(stored: dict) -> list[int]:
    packed = int.from_bytes(base64.b64decode(stored["base64"]), "big")
    width = 8 * len(base64.b64decode(stored["base64"]))
    return [packed >> (width - 1 - i) & 1 for i in range(stored["total"])]


@pytest.mark.parametrize("cell", PAPER)
def test_what_is_left_at_the_papers_settings_is_what_the_files_say(cell):
    (folder,) = (ROOT / "results/dqa-mnist").glob(f"paper-{cell}-mixed-seed0-*")
    standing = [1] * 500
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        asked = content["configuration"]
        alone = asked.get("view") == {"kind": "one-by-one"}
        clean = asked.get("kind") == "evaluation" and "attack" not in asked
        full = asked.get("attack", {}).get("eps_255") == 76.5
        if alone and "bits" in content and (clean or full):
            found = bits_of(content["bits"])
            assert len(found) >= 500
            standing = [a & b for a, b in zip(standing, found, strict=False)]
    assert sum(standing) == PAPER[cell]
    activation, _, bits = cell.partition("-")
    one = paper.network(
        "mnist", activation, int(bits[0]) if bits else None, scale="paper", mixed=True
    )
    (row,) = dqa.trial({"a": Results(one)}).itertuples()
    assert (row.images, row.all) == (500, pytest.approx(PAPER[cell] / 5))


def test_the_printed_accuracy_is_matched_by_these_counts():
    found = dqa.headline(dqa.find("mnist", "paper", mixed=True), "mnist").set_index("network")
    counts = {"fixed, 1 bit": 9948, "fixed, 2 bits": 9969, "dynamic, 3 bits": 9952, "ReLU": 9303}
    for name, count in counts.items():
        assert found.loc[name, "same"] == pytest.approx(count / 100)
    assert found["published"].tolist() == [94.04, 98.47, 98.46, 98.37, 98.53, 98.75, 98.51]


@pytest.mark.parametrize("seed", range(4))
def test_another_run_of_the_same_name_counts_beside_the_suite_s_own(folders, seed):
    one = network("fixed", 1)
    results = tried(one, {"noise": 80})
    own = paper.trial(one)["noise"]
    # Four budgets, so that the other's key comes before the own one's and after it.
    other = replace(own, attack=replace(own.attack, draws=500 + seed), images=50)
    found = np.ones(50, bool)
    found[:30] = False
    put(other, bits=found)
    both = Results(one).attacked()
    assert both["noise"][1].sum() == 80, "the suite's own keeps the name"
    assert len(both) == len(results.attacked()) + 1
    assert Results(one).worst_case("noise").tolist() == (
        (found & both["noise"][1][:50] & results.clean()[:50]).tolist()
    )
