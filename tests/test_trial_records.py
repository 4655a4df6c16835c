"""What is read out of the records of trials."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reproduce import results, trial_records
from reproduce.results import hits
from reproduce.trial_records import BLACK_BOX, WHITE_BOX, checks, union


def record_of(bits: dict[str, list[bool]]) -> results.Record:
    return results.Record(
        name="a-trial", slug="a", experiment={}, scale="smoke", seed=0, dataset={}, curves={},
        metrics={n: {"correct": sum(b), "total": len(b)} for n, b in bits.items()},
        wall_s=1.0, device="", versions={}, commit=None, dirty=None, created="",
        arrays={f"correct/{n}": np.packbits(np.array(b)) for n, b in bits.items()},
    )  # fmt: skip


NAMES = {
    "clean": 21, "table/pgd": 21, "rule/own": 21, "main": 21, "steps/long": 9, "loss/dlr": 21,
    "autoattack": 9, "square": 9, "nes/20": 9, "noise": 21, "transfer": 21, "hopskipjump": 4,
    "eps/2": 21, "eps/unbounded": 21,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("families", "names"),
    [
        (None, set(NAMES) - {"clean", "eps/2", "eps/unbounded"}),
        (BLACK_BOX, {"square", "nes/20", "noise", "transfer", "hopskipjump"}),
        (WHITE_BOX, {"table/pgd", "rule/own", "main", "steps/long", "loss/dlr", "autoattack"}),
        (("noise",), {"noise"}),
        (("nothing",), set()),
    ],
)
def test_the_union_is_what_a_loop_over_images_and_attacks_finds(seed, families, names):
    rng = np.random.default_rng(seed)
    bits = {n: (rng.random(total) < 0.85).tolist() for n, total in NAMES.items()}
    record = record_of(bits)
    for name, expected in bits.items():
        assert hits(record, name).tolist() == expected
    expected = []
    for i in range(21):
        survives = bits["clean"][i]
        for name in names:
            if i < NAMES[name] and not bits[name][i]:
                survives = False
        expected.append(survives)
    found = union(record) if families is None else union(record, families)
    assert found.tolist() == expected
    assert all(hits(record, n).tolist() == b for n, b in bits.items()), "the record is as it was"


@pytest.mark.parametrize("total", range(1, 20))
def test_bits_survive_the_record(total):
    rng = np.random.default_rng(total)
    for bits in itertools.islice(iter(lambda: (rng.random(total) < 0.5).tolist(), None), 5):
        assert hits(record_of({"clean": bits}), "clean").tolist() == bits


# --- Did the attacks work? ------------------------------------------------------------------------

LEFT = {
    "clean": 90, "table/fgsm": 50, "table/pgd": 45, "rule/own": 44, "main": 40, "steps/twice": 39,
    "eps/0": 90, "eps/0.25": 80, "eps/0.5": 60, "eps/2": 10, "eps/unbounded": 0,
    "autoattack": 30, "square": 41, "noise": 70,
}  # fmt: skip


def attacked(left: dict[str, int] | None = None, **arrays) -> results.Record:
    """A trial of 100 images whose attacks all work; each keeps the first ones."""
    of = LEFT | (left or {})
    record = record_of({n: [i < count for i in range(100)] for n, count in of.items()})
    record.experiment = {"trial": {"conditions": {"noise": {"attack": {"draws": 1000}}}}}
    found = {
        "zero_gradients/main/images": np.array(0.0),
        "loss/main": np.linspace(1, 3, 101),
        "loss/own": np.linspace(1, 2, 41),
        "flags/randomised": np.array(False),
        "flags/softmax": np.array(False),
        "false_label/own": np.arange(10) < 3,
        "false_label/main": np.arange(10) < 1,
        "planted/valid": np.ones(50, bool),
        "planted/random": np.arange(50) < 10,
        "planted/main": np.arange(50) >= 12,  # 38 of the 40 that random points miss
        "planted/own": np.ones(50, bool),
    }
    record.arrays |= found | {n.replace("__", "/"): v for n, v in arrays.items()}
    return record


@pytest.mark.parametrize(
    ("left", "met", "passes"), [(38, 40, False), (20, 20, True), (40, 60, True)]
)
def test_random_points_are_compared_on_the_images_that_they_met(left, met, passes):
    """The main attack leaves the first 40 of 100 images."""
    record = attacked()
    few = record_of({"noise": [i < left for i in range(met)]})
    record.metrics |= few.metrics
    record.arrays |= few.arrays
    passed, said = checks(record)["many steps beat random points"]
    assert (passed, said) == (passes, f"{min(40, met)} left, random points {left}")


def test_what_the_time_left_out_is_named():
    record = attacked()
    assert "Left out" not in trial_records.checked({"ReLU": record})
    record.experiment["trial"]["conditions"] |= {"autoattack": {}, "nes/500": {}}
    assert not trial_records.doubtful(record)
    record.experiment["trial"]["limit_s"] = 60.0
    text = trial_records.checked({"ReLU": record})
    assert text.endswith("Left out when the time was up: ReLU: nes/500.")
    assert trial_records.doubtful(record)


def test_what_other_units_did_to_the_same_network_counts_too():
    trial = record_of({"clean": [True] * 10, "main": [True] * 8 + [False] * 2})
    trial.experiment = {"attacks": {"pgd": {"eps_255": 8.0}}, "trial": {"conditions": {}}}
    trial.weights_sha256 = "these"
    substitute = record_of({"defense/pgd": [False] + [True] * 19})
    substitute.experiment = {"trial": {"network": "vgg16"}}
    small = record_of({})
    small.experiment = {"trial": {}}
    small.arrays["norm/cw/own"] = np.array([0, 9, 8 / 255, 0.5, np.inf], np.float32)
    for other in (substitute, small):
        other.weights_sha256 = "these"
    whole = trial_records.completed(trial, [substitute, small])
    assert hits(whole, "transfer/vgg16").tolist() == [False] + [True] * 9
    assert hits(whole, "cw/own").tolist() == [False, True, False, True, True]
    assert union(whole).tolist() == [False, True, False, True, True, True, True, True, False, False]
    assert union(trial).sum() == 8, "the record is as it was"
    substitute.weights_sha256 = small.weights_sha256 = "others"
    assert trial_records.completed(trial, [substitute, small]).metrics == trial.metrics


def test_attacks_that_work_pass_every_check():
    assert all(passed for passed, _ in checks(attacked()).values())


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (attacked({"eps/0": 89}), "ε = 0 changes nothing", "89 and 90 correct"),
        (attacked({"eps/0.5": 82}), "accuracy falls as ε grows", "at most 2 more"),
        (attacked({"eps/2": 41}), "a larger ε does more", "80 left at a quarter of the radius, 41"),
        (attacked({"noise": 38}), "many steps beat random points", "40 left, random points 38"),
        (attacked({"eps/unbounded": 1}), "unbounded ε leaves nothing", "1 left"),
        (attacked({"table/fgsm": 38}), "many steps beat one", "40 left, FGSM 38"),
        (attacked({"steps/twice": 38}), "twice the steps change little", "40 and 38 left"),
        (attacked({"square": 37}), "white box beats black box on each image", "2 of 100"),
        (attacked({"transfer": 37}), "white box beats black box on each image", "to transfer"),
        (attacked({"hopskipjump": 37}), "white box beats black box on each image", "HopSkipJump"),
        (attacked(zero_gradients__main__images=np.array(0.25)), "gradients do not vanish", "25%"),
        (attacked(loss__main=np.linspace(3, 1, 101)), "the loss rises with the steps", "3.00 to"),
        (attacked(loss__main=np.linspace(2, 2.2, 101)), "the loss rises with the steps", "2.20"),
        (
            attacked(loss__main=np.r_[np.linspace(1, 4, 90), np.full(11, 3.0)]),
            "the loss rises with the steps",
            "1.00 to 3.00, at most 4.00",
        ),
        (
            attacked(planted__main=np.arange(50) >= 13),
            "planted examples are found",
            "37 of 40",
        ),
        (attacked({"table/pgd": 52}), "many steps beat one, own", "52 left, FGSM 50"),
        (attacked(planted__own=np.arange(50) >= 13), "planted examples are found, own", "37 of 40"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_went_wrong_fails_its_own_check_and_says_what_was_measured(broken, check, says):
    found = checks(broken)
    assert {name for name, (passed, _) in found.items() if not passed} >= {check}
    assert says in found[check][1]
    related = {
        "many steps beat one": "many steps beat one, own",
        "many steps beat random points": "white box beats black box on each image",
    }.get(check)
    assert {name for name, (passed, _) in found.items() if not passed} <= {check, related}


def test_a_network_is_marked_where_a_check_fails_but_not_for_the_tables_own_attack():
    assert trial_records.marked("a", attacked()) == "a"
    assert trial_records.marked("a", attacked({"eps/unbounded": 1})) == "a †"
    assert trial_records.marked("a", attacked({"table/pgd": 52})) == "a"
    assert [trial_records.blunt(attacked(left)) for left in ({}, {"table/pgd": 52})] == [
        False,
        True,
    ]
    assert not trial_records.blunt(attacked({"eps/unbounded": 1}))
    assert not trial_records.blunt(attacked({"clean": 5, "table/pgd": 52})), "it collapsed"
    spent = attacked({"table/pgd": 0}, planted__own=np.zeros(50, bool))
    assert not trial_records.blunt(spent), "nothing is left that could be too much"
    nothing = attacked({"eps/unbounded": 1, "autoattack": 0})
    assert trial_records.marked("a", nothing) == "a", "nothing is left that could be too much"


def test_no_valid_planted_example_proves_nothing():
    none = attacked(planted__valid=np.zeros(50, bool))
    assert checks(none)["planted examples are found"] == (False, "0 of 0")


def test_the_table_of_checks_counts_names_and_leaves_out_what_collapsed():
    networks = {
        "good": attacked(),
        "odd": attacked({"eps/unbounded": 7}, flags__softmax=np.array(True)),
        "lost": attacked(dict.fromkeys(LEFT, 5)),
    }
    text = trial_records.checked(networks)
    assert "| unbounded ε leaves nothing | 1 of 2 | odd: 7 left |" in text
    assert "| gradients do not vanish | 2 of 2 | none |" in text
    assert text.endswith("end in a softmax): odd.")


# --- Tables ---------------------------------------------------------------------------------------


def table_of(pgd: int) -> results.Record:
    return record_of({"pgd": [i < pgd for i in range(100)]})


def rows(markdown: str) -> dict[str, list[str]]:
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in markdown.split("\n")[2:]]
    return {line[0]: line[1:] for line in lines}


def test_the_numbers_are_the_worst_of_each_family():
    few = {"autoattack": 20, "square": 18, "hopskipjump": 30}
    record = attacked()
    for name, count in few.items():  # over 50 images
        bits = np.arange(50) < count
        record.metrics[name] = {"correct": count, "total": 50}
        record.arrays[f"correct/{name}"] = np.packbits(bits)
    assert trial_records.sizes(record) == (50, 100)
    (cells,) = rows(trial_records.numbers({"ReLU": (record, table_of(47))})).values()
    worst, on_all = cells[2:4]
    assert worst.startswith("**36.0**<br>24.1–49.9")  # 18 of 50
    assert on_all.startswith("**39.0**<br>")  # of 100; steps/twice
    expected = ["50.0", "47.0", "45.0", "44.0", "39.0", "40.0", "36.0"]
    assert cells[:2] == ["90.0", "100.0"] and cells[4:] == expected
    blunted = attacked(planted__own=np.zeros(50, bool)), table_of(47)
    assert rows(trial_records.numbers({"ReLU": blunted}))["ReLU"][6] == "45.0\u00a0†"


def test_attacks_with_and_without_gradients_are_counted_by_themselves():
    networks = {
        "ReLU": attacked({"autoattack": 35}),
        "one": attacked({"autoattack": 5, "square": 12}),
        "two": attacked({"steps/twice": 20, "noise": 33}, planted__main=np.zeros(50, bool)),
        "lost": attacked(dict.fromkeys(LEFT, 5)),
    }
    text = trial_records.by_sight(networks, "ReLU", "both")
    assert "(trained on both)" in text
    assert "with gradients leave the 2 quantised networks 20–39 % (ReLU 39 %)" in text
    assert "answers only 12–33 % (ReLU 41 %); the first 100 images" in text
    assert text.endswith("misses planted examples in 1 of these 2.")
    assert "not run" in trial_records.by_sight({"one": networks["one"]}, "ReLU", "both")


def test_a_ladder_goes_from_clean_images_to_the_worst_of_everything():
    assert trial_records.rungs(attacked()) == [90, 50, 45, 44, 44, 30]
    quantised = attacked({"rule/straight_through": 43, "rule/sigmoid-5": 20})
    del quantised.metrics["rule/own"]
    assert trial_records.rungs(quantised) == [90, 50, 45, 43, 20, 20]
    few = quantised.arrays["correct/autoattack"][:1]  # seen by 8 images, of which it breaks all
    quantised.metrics["autoattack"] = {"correct": 0, "total": 8}
    quantised.arrays["correct/autoattack"] = 0 * few
    assert trial_records.rungs(quantised)[-1] == 20


def test_backward_rules_are_shown_of_quantised_networks_alone():
    named = {f"rule/{rule}": 10 + i for i, rule in enumerate(trial_records.RULES)}
    text = trial_records.rules(
        {"ReLU": (attacked(), table_of(1)), "q": (attacked(named), table_of(1))}
    )
    assert rows(text) == {"q": [f"{10 + i}.0" for i in range(6)]}


def test_a_repairing_attack_is_told_where_it_repairs_most():
    starts = {"a": 45, "b": 44, "c": 30}
    networks = {n: (attacked({"rule/zero": s}), table_of(1)) for n, s in starts.items()}
    networks["lost"] = attacked(dict.fromkeys(LEFT, 5) | {"rule/zero": 1}), table_of(1)
    networks["ReLU"] = attacked(), table_of(1)
    text = trial_records.repaired(networks)
    assert text.startswith("In 2 of 3 networks") and "by 15.0 points (c: 30.0 % at the" in text
    assert trial_records.repaired({"a": networks["a"]}).startswith("In none")


def test_the_rule_that_leaves_least_is_named_for_each_network():
    shares = dict(zip(trial_records.RULES, (80, 30, 20, 25, 21, 40), strict=True))
    tanh = attacked({f"rule/{rule}": left for rule, left in shares.items()})
    steep = attacked({f"rule/{r}": left for r, left in (shares | {"sigmoid-5": 3}).items()})
    lost = attacked(dict.fromkeys(LEFT, 5) | {"rule/zero": 1})
    of = {"a": tanh, "b": steep, "ReLU": attacked(), "lost": lost}
    text = trial_records.best_rules({name: (r, table_of(1)) for name, r in of.items()})
    assert text.startswith("What leaves least: a: tanh; b: T = 5. ")
    assert text.endswith("another rule does more in as many steps in 1 of 2.")
    none = attacked({f"rule/{rule}": 0 for rule in trial_records.RULES} | {"rule/zero": 9})
    text = trial_records.best_rules({"c": (none, table_of(1))})
    assert "c: straight-through and tanh and sigmoid, T = 1 and T = 5 and T = 10." in text
    assert text.endswith("in 0 of 1."), "as little is not less"


def test_what_the_maximum_changes_most_is_told():
    networks = {"a": (attacked(), table_of(49)), "b": (attacked(), table_of(12))}
    text = trial_records.moved_by_maximum(networks)
    assert text.endswith("for b: from 12.0 to 45.0 %.")


def test_queries_are_counted_and_draws_are_told_and_what_was_left_out_is_a_dash():
    record = attacked({"nes/100": 41, "nes/20": 42})
    record.experiment["trial"]["conditions"] |= {"nes/100": {}, "nes/20": {}, "hopskipjump": {}}
    text = trial_records.queries({"q": (record, table_of(1))})
    assert "1,000 draws of noise" in text and "NES, samples 20" in text
    assert rows(text) == {"q": ["90.0", "70.0", "41.0", "42.0", "41.0", "–"]}
    first = record_of({"square": [True, False]})
    record.metrics |= first.metrics
    record.arrays |= first.arrays | {"correct/clean": np.packbits(np.arange(100) >= 10)}
    text = trial_records.queries({"q": (record, table_of(1))})
    assert text.startswith("| network | clean (100) | 1,000 draws of noise | NES, samples 20 |")
    assert "| clean (2) | Square |" in text
    assert rows(text)["q"][-3:] == ["0.0", "50.0", "–"]


def test_the_tables_attack_is_judged_by_the_networks_it_fails_on():
    blunted = attacked({"table/pgd": 52})
    text = trial_records.conclude_blunt([attacked(), blunted, attacked(dict.fromkeys(LEFT, 5))])
    assert "On 1 of 2 networks" in text
    assert "No trial" in trial_records.conclude_blunt([])


def test_the_shares_of_zero_gradients_are_told_by_layer_and_at_the_pixels():
    each = {"1": 0.25, "2": 0.6, "10": 0.1, "pixels": 0.05, "images": 0.0}
    arrays = {f"zero_gradients__own__{n}": np.array(v) for n, v in each.items()}
    arrays |= {f"zero_gradients__main__{n}": np.array(0.5 * v) for n, v in each.items()}
    networks = {"q": attacked(**arrays), "lost": attacked(dict.fromkeys(LEFT, 5))}
    assert rows(trial_records.zero_gradients(networks)) == {
        "q": ["10.0–60.0", "5.0", "5.0–30.0", "2.5"]
    }
    assert "Not run" in trial_records.zero_gradients({})


def test_leaks_are_counted():
    assert rows(trial_records.leaks({"q": attacked()})) == {"q": ["3 of 10", "1 of 10"]}


def test_the_conclusion_waits_for_all_networks_and_counts_those_above_the_control():
    def conclude(networks, total):
        return trial_records.conclude(networks, "ReLU", "both", total)

    weak = attacked({"square": 3, "rule/straight_through": 44})
    firm = attacked({"autoattack": 31, "main": 35, "rule/straight_through": 44})
    networks = {"ReLU": attacked(), "weak": weak, "firm": firm}
    some = conclude(networks, 7)
    assert "3 of 7 networks tried so far" in some
    assert some.endswith("in percent: ReLU 45.0 → 30.0; weak 45.0 → 3.0; firm 45.0 → 31.0.")
    text = conclude(networks, 3)
    assert "2 quantised networks that did not collapse keep 45.0–45.0 % under" in text
    assert "(100 images; ReLU 45.0 %)" in text
    assert "but 3.0–31.0 % under all attacks (the first 100 images; 3.0–31.0 %" in text
    assert "ReLU keeps 30.0 %. 0 of 2 lie above ReLU, Wilson's intervals apart." in text


def test_every_seed_stands_beside_relu_of_the_same_seed():
    def seeded(seed, record):
        record.seed = seed
        return record

    lost = seeded(1, attacked(dict.fromkeys(LEFT, 5)))
    networks = {
        "ReLU": [seeded(0, attacked()), seeded(1, attacked({"autoattack": 10}))],
        "a": [seeded(s, attacked({"autoattack": 28, "autoattack/sigmoid": 5})) for s in (0, 1)]
        + [lost],
    }
    networks["b"] = [seeded(7, attacked({"autoattack": 1}))]  # there is no ReLU of this seed
    text = trial_records.by_seed(networks, "ReLU")
    found = rows(text)
    assert found["ReLU"] == ["90.0<br>90.0", "50.0<br>50.0", "45.0<br>45.0", *2 * ["30.0<br>10.0"]]
    assert found["a"][0] == "90.0<br>90.0<br>*5.0*" and found["a"][3] == "5.0<br>5.0<br>*5.0*"
    assert "The 2 trainings of quantised networks that did not collapse keep 45.0–45.0 %" in text
    assert "but 5.0–5.0 % under all attacks (the first 100 images; 28.0–28.0 %" in text
    assert "ReLU keeps 10.0–30.0 %. 0 of 2 lie above ReLU of their seed" in text
    networks["a"][1] = seeded(1, attacked({"autoattack": 29}))
    assert "1 of 2 lie above" in trial_records.by_seed(networks, "ReLU")
    networks["a"] = [lost]
    assert trial_records.by_seed(networks, "ReLU").endswith("|"), "nothing to compare"


def knows(straight_through: int, sigmoid: int, worst: int) -> results.Record:
    named = {"rule/straight_through": straight_through, "rule/sigmoid-5": sigmoid}
    return attacked(named | {"square": worst})


def test_informed_training_stands_beside_the_tables():
    pairs = {"a": (knows(60, 20, 0), knows(50, 35, 12)), "b": (knows(70, 10, 0), None)}
    found = rows(trial_records.informed(pairs, attacked()))
    assert found["ReLU"][:3] == ["90.0", "44.0", "–"] and found["ReLU"][3].startswith("**30.0**")
    assert found["ReLU"][4:] == ["–"] * 4
    before, after = found["a"][:4], found["a"][4:]
    assert before[:3] == ["90.0", "60.0", "20.0"] and before[3].startswith("**0.0**")
    assert after[:3] == ["90.0", "50.0", "35.0"] and after[3].startswith("**12.0**")
    assert found["b"][4:] == ["missing"] * 4


def test_the_lesson_of_informed_training_waits_for_all_and_names_the_best():
    networks = {"a": firm(60, 55), "b": knows(50, 20, 12), "c": None}
    assert "2 of 3 networks tried so far" in trial_records.conclude_informed(networks, attacked())
    networks["c"] = attacked(dict.fromkeys([*LEFT, "rule/straight_through"], 5))
    text = trial_records.conclude_informed(networks, attacked())
    assert "keep 12.0–55.0 % under all attacks (the first 100 images; 12.0–60.0 %" in text
    assert "ReLU keeps 30.0 %. 1 of 2 lie above ReLU" in text
    assert text.endswith("Collapsed in training: c.")
    networks["a"] = firm(60, 40)  # above 30 of 100, but not beyond doubt
    assert "0 of 2 lie above ReLU" in trial_records.conclude_informed(networks, attacked())


def firm(shared: int, worst: int) -> results.Record:
    """So many of 100 are left under the attacks that ReLU meets, and under all."""
    extra = {"rule/sigmoid-5": worst, "rule/straight_through": 95, "autoattack/sigmoid": 95}
    return attacked({n: max(shared, left) for n, left in LEFT.items()} | extra)


def test_attacks_that_relu_never_met_do_not_count_where_only_shared_ones_should():
    networks = {"a": attacked({"rule/straight_through": 44, "autoattack/sigmoid": 2})}
    text = trial_records.conclude_informed(networks, attacked())
    assert "2.0–2.0 % under all attacks (the first 100 images; 30.0–30.0 % under those" in text


def test_where_only_relu_was_tried_no_table_is_empty():
    only = {"ReLU": (attacked(), table_of(1))}
    assert trial_records.rules(only) == "No quantised network has been tried yet."
    lost = attacked(dict.fromkeys(LEFT, 5))
    assert trial_records.checked({"lost": lost}).startswith("| check | passed")
