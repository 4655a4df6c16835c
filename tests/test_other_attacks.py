"""Tables 3, 5 and 6 say what the norms and counts of the records say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from reproduce import other_attacks
from reproduce.other_attacks import broken

INF = float("inf")


def norms(seed=0, **arrays) -> SimpleNamespace:
    named = {f"norm/{n.replace('_', '/')}": np.array(v, np.float32) for n, v in arrays.items()}
    return SimpleNamespace(seed=seed, arrays=named)


def counts(seed=0, **shares) -> SimpleNamespace:
    named = {n.replace("_", "/"): c for n, c in shares.items()}
    metrics = {n: {"correct": c, "total": 100} for n, c in named.items()}
    arrays = {f"correct/{n}": np.packbits(np.arange(100) < c) for n, c in named.items()}
    return SimpleNamespace(seed=seed, metrics=metrics, arrays=arrays)


def test_images_that_were_wrong_as_they_stood_count_neither_as_broken_nor_as_attacked():
    found = broken(norms(cw_own=[0, 0.5, 1.0, 3.0, INF]), "cw/own")
    assert (found.total, found.broken, found.rate) == (4, 3, 75)
    assert (found.mean, found.median) == (1.5, 1.0)


def test_norms_of_nothing_are_no_number():
    whole = broken(norms(cw_own=[0, INF]), "cw/own")
    assert (whole.total, whole.broken, whole.rate) == (1, 0, 0) and np.isnan(whole.mean)
    none = {"relu": [norms(cw_own=[0, 0])]}
    assert np.isnan(broken(none["relu"][0], "cw/own").rate)
    assert "| no image was right | the same |" in other_attacks.table3(none)[1]


NORM_TRIALS = {
    "relu-clean": [norms(cw_own=[0.1, 0.3, 0.0])],
    "fixed-1bit-clean": [norms(cw_own=[0.5, INF], cw_sigmoid=[0.25, 0.75])],
    "relu": [norms(cw_own=[1.0], **{"zoo_1-255": [0.2, 0.3, INF, INF]})],
    "dynamic-2bit": [
        norms(cw_own=[INF, INF], cw_sigmoid=[1.0, INF], zoo_small=[INF, INF], zoo_large=[1, INF])
    ],
}


def test_table_3_has_norms_without_adversarial_training_and_success_rates_with_it():
    without, defended = (t.splitlines() for t in other_attacks.table3(NORM_TRIALS))
    assert without[2] == "| ReLU | 0.12 | 0.200 (0.200), 100 % of 2 | the same |"
    assert without[5] == (
        "| fixed, 1 bit | 0.55 | 0.500 (0.500), 50 % of 2 | 0.500 (0.500), 100 % of 2 |"
    )
    assert without[3].count("missing") == 2
    assert defended[2] == "| ReLU | 0 % | 100.0 % of 1, norm 1.000 (1.000) | the same |"
    assert "| 0.0 % of 2 | 50.0 % of 2, norm 1.000 (1.000) |" in defended[4]


def test_table_5_has_a_column_for_each_width():
    lines = other_attacks.table5(NORM_TRIALS, ["small", "large"]).splitlines()
    assert lines[0].replace("\xa0", " ").endswith("| h = small | h = large |")
    assert lines[4] == "| dynamic, 2 bits | 0.00 | 0.0 | 50.0 (1.00) |"
    assert lines[2] == "| ReLU | 81.75 | missing | missing |"


def test_figures_get_the_norms_of_images_that_were_right_beside_the_published_mean():
    networks, means = other_attacks.norms_to_break(NORM_TRIALS)
    assert list(networks) == ["ReLU", "fixed, 1 bit"] and means["fixed, 1 bit"] == 0.55
    assert networks["ReLU"]["own rule"].tolist() == pytest.approx([0.1, 0.3])
    assert networks["fixed, 1 bit"]["own rule"].tolist() == [0.5, INF]


def test_figures_get_zoos_success_with_its_interval():
    found = other_attacks.zoo_rates(
        {"dynamic-2bit": NORM_TRIALS["dynamic-2bit"]}, ["small", "large"]
    )
    (none, _, high), (half, *_) = found["dynamic, 2 bits"]
    assert (none, half) == (0, 50) and high == pytest.approx(65.76, abs=0.01)


def test_what_cw_breaks_within_the_radius_of_pgd_was_missed_by_pgd():
    trial = norms(cw_own=[0, 0.01, 0.03, 0.04, INF], cw_sigmoid=[0, 0.5, 0.5, 0.0019, INF])
    right = np.array([True, False, True, True, True])  # after PGD
    network = SimpleNamespace(
        seed=0,
        metrics={"pgd": {"correct": 4, "total": 5}},
        arrays={"correct/pgd": np.packbits(right)},
        experiment={"attacks": {"pgd": {"eps_255": 8.0}}},
    )
    text = other_attacks.within_the_ball({"dynamic-1bit": [trial]}, {"dynamic-1bit": [network]})
    assert text.splitlines()[-1] == "| dynamic, 1 bit | 5 | 4 | 3 | 2 |"
    assert other_attacks.within_the_ball({}, {}) == "Not run at this scale."


TRANSFERS = {
    "dynamic-2bit-vgg16": [
        counts(s, defense_clean=80, substitute_clean=70, substitute_pgd=5, defense_pgd=40 + s,
               defense_fgsm=50, substitute_fgsm=9)
        for s in (0, 1)
    ]
}  # fmt: skip


def test_table_6_lists_each_seed_beside_the_published_value():
    lines = other_attacks.table6(TRANSFERS).splitlines()
    assert len(lines) == 2 + 6
    assert lines[3] == (
        "| VGG-16 | dynamic, 2 bits | 85.06 | 80.00<br>80.00 | 85.06 | 70.00<br>70.00 "
        "| 56.62 | 5.00<br>5.00 | 60.46 | 40.00<br>41.00 | 50.00<br>50.00 |"
    )
    assert lines[-1].startswith("| AlexNet | dynamic, 1 bit |") and lines[-1].count("missing") == 5


def test_conclusions_count_what_broke_and_where_a_transfer_did_more_than_the_direct_attack():
    tables = {"dynamic-2bit": [counts(0, clean=80, pgd=45), counts(1, clean=80, pgd=44)]}
    for table in tables["dynamic-2bit"]:
        table.experiment = {"attacks": {"pgd": {"eps_255": 255.0}}}
    first, second, within, zoo, transfer = other_attacks.conclude(
        NORM_TRIALS, tables, TRANSFERS
    ).splitlines()
    assert "of 2 images" in within and "breaks 1 without leaving" in within
    assert "; 0 of these by less than half a grey value" in within
    assert "breaks 1 of 2 with the network's own rule, 2 of 2 through the sigmoid" in first
    assert "breaks 0 of 2 with the network's own rule, 1 of 2 through the sigmoid" in second
    assert "50.0 % of the images of 1 of 3 dynamic networks (h = large) and 50.0 %" in zoo
    assert "Of the 1 images of dynamic networks that it breaks at no width, C&W breaks 0." in zoo
    assert "in 1 of 2 cases" in transfer, "3 images of 100 are within the margin, 5 are not"
    collapsed = {"dynamic-2bit": [counts(0, clean=10, pgd=45)]}
    lines = other_attacks.conclude(NORM_TRIALS, collapsed, TRANSFERS).splitlines()
    assert ["run at this scale" in line for line in lines] == [False, True, True, True]
    tables["dynamic-2bit"][1] = counts(1, clean=10, pgd=99)
    assert "in 1 of 1 cases" in other_attacks.conclude(NORM_TRIALS, tables, TRANSFERS)


def test_zoo_may_have_met_fewer_images_than_cw():
    few = {
        "relu": NORM_TRIALS["relu"],
        "dynamic-1bit": [norms(cw_own=[1.0, 2.0, 3.0], cw_sigmoid=[INF] * 3, zoo_large=[INF, 1])],
    }
    zoo = other_attacks.conclude(few, {}, {}).splitlines()[2]
    assert "Of the 1 images of dynamic networks that it breaks at no width, C&W breaks 1." in zoo


@pytest.mark.parametrize("few", [{}, {"relu": NORM_TRIALS["relu"]}])
def test_what_was_not_run_is_said(few):
    text = other_attacks.conclude(few, {}, TRANSFERS)
    assert text.count("run at this scale") == 4
    assert ("Table 5:** of some networks only run" in text) == bool(few)
    assert "missing" in other_attacks.table6({})


def test_what_pgd_leaves_of_the_substitutes_is_a_share_of_what_they_get_right():
    few = {
        **TRANSFERS,
        "dynamic-1bit-vgg16": [counts(substitute_clean=50, substitute_pgd=10)],
        "dynamic-1bit-alexnet": [counts(substitute_clean=40, substitute_pgd=0)],
    }
    text = other_attacks.substitutes_left(few)
    assert text == (
        "PGD-7 on the substitutes leaves 7–20 % of what our VGG-16 get right and 0 % of what our "
        "AlexNet get right."
    )
    assert other_attacks.substitutes_left({}) == ""


def test_the_printed_tables_are_compared_with_each_other():
    text = other_attacks.as_printed()
    assert "leave 14 to 28 points less than PGD" in text and "printed with 45 to 57 %" in text
