"""DQA's pages say what the records say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reproduce import dqa, published
from reproduce.results import Record


def record(activation: str, bits, seed: int, clean: int, pgd: int, fgsm: int, weight=0.0) -> Record:
    experiment = {"activation": activation, "training": {"clean_weight": weight}}
    counts = {"clean": clean, "pgd": pgd, "fgsm": fgsm}
    return Record(
        name="dqa-cifar10",
        slug=activation,
        experiment=experiment | ({"bits": bits} if bits else {}),
        scale="laptop",
        seed=seed,
        dataset={},
        metrics={n: {"correct": c, "total": 1000} for n, c in counts.items()},
        curves={},
        wall_s=1.0,
        device="",
        versions={},
        commit=None,
        dirty=None,
        created="",
    )


RECORDS = [
    record("relu", None, 0, 800, 400, 450),
    record("relu", None, 1, 800, 420, 450),
    record("fixed", 1, 0, 700, 650, 500),  # above ReLU, and PGD weaker than FGSM
    record("fixed", 2, 0, 700, 500, 510),  # above ReLU without a sign
    record("dynamic", 2, 0, 100, 100, 100),  # collapsed
    record("dynamic", 2, 1, 700, 300, 350),
]
RISK = dqa.RISKS[dqa.ADVERSARIAL]


def measured(records=RECORDS) -> pd.DataFrame:
    rows = [
        [*map(r.experiment.get, ("activation", "bits")), r.seed, r.key, name, c["correct"] / 1000]
        for r in records
        for name, c in r.metrics.items()
    ]
    columns = ["activation", "bits", "seed", "key", "condition", "accuracy"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(low=0.1, high=0.9).assign(**{"training.clean_weight": 0.0})


def test_signs_are_reported_of_trained_runs_alone_each_with_its_network():
    text = dqa.flagged(dqa.checks(RECORDS))
    assert text.startswith("1 of 5 trained runs")
    assert text.splitlines()[-1] == f"| {RISK} | fixed, 1 bit | 0 | pgd weaker than fgsm |"
    assert dqa.flagged(dqa.checks([])) == "0 of 0 trained runs show at least one sign."


def test_the_conclusion_counts_collapsed_better_and_suspicious_runs():
    text = dqa.conclude(dqa.checks(RECORDS), RISK)
    assert "ReLU keeps 40.0, 42.0 %" in text
    assert "Of the quantised runs (4), 1 collapsed in training" in text
    assert "2 end above every ReLU run; 1 of these 2 show" in text


@pytest.mark.parametrize("few", [[], RECORDS[:2], RECORDS[2:]])
def test_without_both_kinds_of_network_there_is_no_conclusion(few):
    assert dqa.conclude(dqa.checks(few), RISK) == f"- **Trained on {RISK}:** not run at this scale."
    mixed = dqa.RISKS[dqa.MIXED]
    assert "not run" in dqa.conclude(dqa.checks(RECORDS), mixed)


@pytest.mark.parametrize(("table", "rows"), [("dqa_table1", 3), ("dqa_table2", 3)])
def test_published_rows_are_shown_where_one_step_does_more_than_many(table, rows):
    cells = published.load(table)
    wide = cells.pivot(index=["activation", "bits"], columns="attack", values="value")
    expected = wide[wide["fgsm"] < wide["pgd"]]
    lines = dqa.fgsm_below_pgd(cells).splitlines()[2:]
    assert len(lines) == len(expected)
    for value in expected["fgsm"]:
        assert sum(f"| {value:.2f} |" in line for line in lines) >= 1


def test_each_run_is_a_line_and_none_is_no_table():
    lines = dqa.each_run(measured()).splitlines()
    assert len(lines) == 2 + len(RECORDS)
    assert lines[3].startswith(f"| ReLU | {RISK} | 1 | 80.00 (10.00–90.00) | 42.00")
    assert dqa.each_run(measured([])) == "None yet."


def test_table_4_has_the_published_numbers_our_means_and_what_was_found_later():
    lines = dqa.comparison(measured(), "cifar10", {"ReLU": 33.25}).splitlines()
    madry, thermometer, _cowboy, ours = lines[2:6]
    assert "| ReLU: 80.00 / 41.00 / 45.00 (2 seeds) | 33.2 |" in madry
    assert madry.startswith("| Madry, Wide ResNet | 87.30 | 50.00 | 56.10 |")
    assert "dynamic, 2 bits: 40.00 / 20.00 / 22.50 (2 seeds) | missing |" in ours
    assert "not re-run" in thermometer
    assert "0 % alone" in thermometer and "30 % with adversarial training" in thermometer
    assert lines[-1].startswith("Highest on RobustBench: 73.7 %") and "March 2025" in lines[-1]


@pytest.mark.parametrize("runs", [measured([]), measured(RECORDS[2:4])])
def test_what_was_not_run_is_missing_in_table_4(runs):
    text = dqa.comparison(runs, "mnist", {})
    assert text.count("missing") == 4 and text.count("not printed") == 1
    assert "Highest on" not in text


def test_every_later_finding_is_of_a_defence_of_table_4_and_has_its_source():
    later = published.load("later_findings")
    defences = set(published.load("dqa_table4")["defense"]) | {"highest on RobustBench"}
    assert set(later["defense"]) <= defences
    assert later.duplicated(["dataset", "defense", "condition"]).sum() == 0


def with_features(r: Record, clean: float, pgd: float) -> Record:
    r.arrays |= {"knn/clean": np.array(clean), "knn/pgd": np.array(pgd)}
    r.arrays |= {"silhouette/clean": np.array(0.5), "silhouette/pgd": np.array(-0.25)}
    return r


def test_collapse_is_counted_for_each_risk():
    mixed = record("dynamic", 2, 0, 700, 400, 450, weight=dqa.MIXED)
    text = dqa.lost_to_collapse(dqa.checks([*RECORDS, mixed]))
    assert text == (
        "1 of 4 quantised runs trained on adversarial examples alone, "
        "0 of 1 quantised runs trained on clean and adversarial examples mixed"
    )


def test_clusters_are_summed_up_seed_by_seed_without_records_that_have_none_or_collapsed():
    runs = [
        with_features(record("relu", None, 1, 800, 400, 450), 0.9, 0.5),
        with_features(record("relu", None, 0, 800, 400, 450), 0.8, 0.5),
        with_features(record("dynamic", 2, 0, 700, 400, 450), 0.7, 0.65),
        with_features(record("dynamic", 3, 0, 100, 100, 100), 0.1, 0.1),
        with_features(record("fixed", 2, 0, 700, 400, 450), 0.6, 0.1),
    ]
    lines = dqa.clusters([*RECORDS, *runs]).splitlines()
    assert lines[2] == (
        "| ReLU | 0.800<br>0.900 | 0.500<br>0.500 | 0.500<br>0.500 | -0.250<br>-0.250 |"
    )
    assert len(lines) == 2 + 4
    text = dqa.conclude_clusters([*RECORDS, *runs])
    assert "80.0–90.0 % have its class for ReLU and 70.0 % for dynamic activations" in text
    assert text.endswith("under PGD 50.0 % and 65.0 %."), "some silhouettes are above 0"
    for run in runs[:3]:
        run.arrays["silhouette/clean"] = np.array(-0.1)
    assert "All silhouettes are negative" in dqa.conclude_clusters([*RECORDS, *runs])
    assert dqa.clusters(RECORDS) == "missing"
    for few in (RECORDS, runs[:2], runs[2:]):
        assert "not run" in dqa.conclude_clusters(few)


def test_other_readings_stand_beside_the_literal_one_collapsed_in_italics():
    literal = {"fixed-2bit": RECORDS[3], "dynamic-2bit": None}
    what = {"fixed-2bit-image": "per image", "dynamic-2bit-tanh": "tanh"}
    tried = {"fixed-2bit": 3.0, "dynamic-2bit-tanh": 0.25}
    others = {"dynamic-2bit-tanh": RECORDS[4]}
    lines = dqa.readings(what, literal, others, tried).splitlines()
    assert lines[2] == (
        "| fixed-2bit | 70.00 / 50.00 / 51.00 | 3.0 | per image | missing | missing |"
    )
    assert lines[3] == (
        "| dynamic-2bit | missing | missing | tanh | *10.00 / 10.00 / 10.00* | 0.2 |"
    )


def test_a_gain_is_put_beside_the_published_ones_and_its_absence_is_said():
    trained = {dqa.name_of(r): r for r in RECORDS if r.seed == 0}
    text = dqa.conclude_gain(trained, "cifar10")
    assert "2 of 2 quantised networks are better than ReLU" in text, "one of three collapsed"
    assert "+10.0 to +25.0 points, where the paper prints +14.5 to +31.1." in text
    worse = {"ReLU": RECORDS[0], "fixed": record("fixed", 1, 0, 700, 400, 350)}
    assert "0 of 1" in dqa.conclude_gain(worse, "mnist") and "not appear" in dqa.conclude_gain(
        worse, "mnist"
    )
    assert "not run" in dqa.conclude_gain({"ReLU": RECORDS[0]}, "cifar10")


def test_the_most_frequent_level_and_merged_levels_are_told():
    def layer(levels, counts):
        made = record("dynamic", 2, 0, 700, 300, 350)
        made.arrays |= {"first/levels": np.array(levels), "first/counts": np.array(counts)}
        return made

    text = dqa.levels_used(
        {"a": layer([-1, -0.99, 1, 0.5], [0, 90, 10, 0]), "b": layer([-1, 1], [1, 1])}
    )
    assert "a 90.0 %, 1 of its levels within 0.02 of the next; b 50.0 %." in text
    assert dqa.levels_used({}) == "missing"
