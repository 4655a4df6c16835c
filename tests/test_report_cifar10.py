"""DQA on CIFAR-10: tables and figures say what the norms and bits of the records say."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from reproduce.papers import dqa as paper
from reproduce.report import dqa, inside, rivals, smallest, tables, transfer
from reproduce.report.results import Results
from tests.stored import put, right

ROOT = Path(__file__).resolve().parent.parent
INF = float("inf")
WHERE = "cifar10", "laptop"


def network(activation: str, bits: int | None = None, *, clean: bool = False):
    one = paper.network("cifar10", activation, bits)
    return paper.undefended(one) if clean else one


def put_norms(one, accuracy: int = 80, **found: list[float]) -> Results:
    """Norms of named searches, and the table's clean images."""
    put(one)
    put(paper.table(one)["clean"], bits=right(accuracy))
    for name, norms in found.items():
        put(paper.norms(one)[name.replace("_", "/", 1)], norms=np.array(norms, np.float32))
    return Results(one)


# --- The smallest perturbations -------------------------------------------------------------------


def test_images_that_were_wrong_as_they_stood_count_neither_as_broken_nor_as_attacked():
    found = smallest.broken(np.array([0, 0.5, 1.0, 3.0, INF], np.float32))
    assert found.bits.tolist() == [True, True, True, False]
    assert (found.mean, found.median) == (1.5, 1.0)


def test_norms_of_nothing_are_no_number():
    none = smallest.broken(np.array([0, INF], np.float32))
    assert none.bits.tolist() == [False] and np.isnan(none.mean) and np.isnan(none.median)
    assert not len(smallest.broken(np.zeros(2, np.float32)).bits)


@pytest.fixture
def runs(folders) -> list[Results]:
    put_norms(network("relu", clean=True), cw_own=[0.1, 0.3, 0.0])
    put_norms(network("fixed", 1, clean=True), cw_own=[0.5, INF], cw_sigmoid=[0.25, 0.75])
    zoo = [0.2, 0.3, INF, INF]
    put_norms(network("relu"), cw_own=[1.0, 2.0, INF, 0.5], **{"zoo_1e-4": zoo, "zoo_1/255": zoo})
    put_norms(
        network("dynamic", 2),
        cw_own=[INF, INF],
        cw_sigmoid=[1.0, INF],
        **{"zoo_1e-4": [INF, INF], "zoo_8/255": [1, INF]},
    )
    put_norms(network("dynamic", 1), accuracy=10, cw_own=[0.0, 0.0], **{"zoo_1e-4": [0.0, 0.0]})
    return smallest.tried(*WHERE)


def test_networks_come_as_in_the_paper_and_those_without_norms_are_left_out(runs, folders):
    put(network("dynamic", 3))
    names = [r.network.cell for r in smallest.tried(*WHERE)]
    assert names == ["relu", "relu-clean", "dynamic-2bit", "dynamic-1bit", "fixed-1bit-clean"]
    assert smallest.tried("cifar10", "workstation") == []


def test_each_search_is_a_row_with_its_record(runs):
    found = smallest.outcomes(runs).set_index(["network", "defended", "attack", "how"])
    row = found.loc["fixed, 1 bit", False, "cw", "own"]
    assert (row["images"], row["broken"], row["rate"]) == (2, 1, 50)
    assert row["key"] == paper.norms(network("fixed", 1, clean=True))["cw/own"].key
    assert (row["low"], row["high"]) == pytest.approx((9.4531, 90.5469), abs=1e-4)
    assert found.loc["ReLU", True, "cw", "own"]["images"] == 4
    assert found["collapsed"].groupby("network").any().to_dict() == {
        "ReLU": False, "dynamic, 2 bits": False, "dynamic, 1 bit": True, "fixed, 1 bit": False
    }  # fmt: skip
    nothing = found.loc["dynamic, 1 bit", True, "cw", "own"]
    assert nothing["images"] == 0 and np.isnan(nothing["rate"])


def test_table_3_has_norms_without_adversarial_training_and_success_rates_with_it(runs):
    found = smallest.outcomes(runs)
    without = smallest.table3(found, defended=False)
    assert without["printed: mean norm"].tolist() == ["0.12", "0.55", "0.55"]
    assert without["median norm"].tolist() == pytest.approx([0.2, 0.5, 0.5])
    assert without["derivative"].tolist() == ["its own", "as trained", "sigmoids"]
    assert set(without["attack"]) == {"C&W"}
    defended = smallest.table3(found, defended=True)
    assert defended["printed: success (%)"].tolist() == ["0"] * 4
    names = ["ReLU", "dynamic, 2 bits", "dynamic, 2 bits", "*dynamic, 1 bit*"]
    assert defended["network"].tolist() == names, "in italics: its training collapsed"
    assert [s.split()[0] for s in defended["broken (%)"]] == ["75", "0", "50", tables.NONE]


def test_of_cw_and_ddn_the_smaller_norm_counts_and_both_have_rows(folders):
    put_norms(network("relu", None), cw_own=[2.0, INF, 0.0], ddn_own=[3.0, 0.5, 0.0])
    (run,) = smallest.tried(*WHERE)
    assert smallest.best(run, smallest.GRADIENT).tolist() == [2.0, 0.5, 0.0]
    table = smallest.table3(smallest.outcomes([run]), defended=True).set_index("attack")
    assert [s.split("\N{NO-BREAK SPACE}")[0] for s in table["broken (%)"]] == ["50", "100"]
    assert table["median norm"].to_dict() == {"C&W": 2.0, "DDN": 1.75}


def test_table_5_has_the_authors_width_beside_the_best_one(runs):
    alive = smallest.outcomes([r for r in runs if not r.collapsed])
    table = smallest.table5(alive).set_index("network")
    assert table["printed (%)"].to_dict() == {"ReLU": "81.75", "dynamic, 2 bits": "0"}
    assert table.loc["dynamic, 2 bits", "best h"] == "8/255"
    assert table.loc["ReLU", "best h"] == "1e-4", "of equals the first"
    assert table.loc["dynamic, 2 bits", "h = 1e-4: broken (%)"].startswith("0\N{NO-BREAK SPACE}(")
    assert table.loc["dynamic, 2 bits", "best h: broken (%)"].startswith("50\N{NO-BREAK SPACE}(")
    wide = smallest.every_width(alive).set_index("network")
    assert wide.loc["dynamic, 2 bits", "h = 8/255"] == "50.0 · 1.00"
    assert wide.loc["dynamic, 2 bits", "h = 1e-4"] == "0.0"
    assert wide.loc["ReLU"].notna().sum() == 2


def test_a_network_of_which_no_image_was_right_is_no_obstacle(runs):
    table = smallest.table5(smallest.outcomes(runs)).set_index("network")
    row = table.loc["*dynamic, 1 bit*"]
    assert (row["images"], row["best h: broken (%)"]) == (0, tables.NONE)


def test_a_norm_up_to_the_radius_lies_in_the_ball_and_a_norm_of_zero_was_wrong_before(folders):
    one = network("dynamic", 2)
    radius = np.float32(8 / 255)
    norms = [0.0, 0.01, radius, 0.04, INF, 0.0019, 0.01]
    put_norms(one, cw_own=norms, cw_sigmoid=[0, 0.5, 0.5, 0.5, 0.03, 0.5, 0.5])
    after = np.array([True, True, True, True, True, True, False])
    put(paper.table(one)["pgd"], bits=np.concatenate([after, right(0, 20)]))
    (row,) = smallest.inside_the_ball(smallest.tried(*WHERE)).itertuples()
    assert (row.images, row.right, row.wrong, row.within, row.tiny) == (7, 6, 1, 4, 1)


def test_the_ball_is_asked_of_networks_that_were_trained_on_adversarial_examples_alone(runs):
    assert smallest.inside_the_ball(runs).empty, "none has a record of PGD"
    for one in ("relu", None), ("dynamic", 1):
        put(paper.table(network(*one))["pgd"], bits=right(2))
    put(paper.table(network("relu", clean=True))["pgd"], bits=right(2))
    found = smallest.inside_the_ball(smallest.tried(*WHERE))
    assert found["network"].tolist() == ["ReLU"], "the dynamic one collapsed"


def test_zoo_may_have_met_fewer_images_than_cw(folders):
    put_norms(
        network("dynamic", 1),
        cw_own=[1.0, INF, 3.0],
        cw_sigmoid=[INF] * 3,
        **{"zoo_1e-4": [INF, 1], "zoo_8/255": [INF, INF]},
    )
    (row,) = smallest.left_by_zoo(smallest.tried(*WHERE)).itertuples()
    assert (row.standing, row.broken) == (1, 1)


def test_what_was_not_run_is_empty():
    found = smallest.outcomes([])
    assert smallest.table3(found, defended=True).empty and smallest.table5(found).empty
    assert smallest.every_width(found).empty


def curve(line) -> list[tuple[float, float]]:
    return list(zip(*(np.asarray(d, float) for d in line.get_data()), strict=True))


def test_figures_draw_the_norms_and_the_rates_of_the_records(runs):
    figure = smallest.undefended_figure(runs)
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert titles == ["ReLU", "fixed, 1 bit"]
    own, sigmoid, mean = figure.axes[1].get_lines()
    assert mean.get_xdata()[0] == 0.55
    assert max(own.get_ydata()) == 1 and (0.5, 0.5) in curve(own)
    assert {0.25, 0.75} <= set(sigmoid.get_xdata())
    defended = smallest.defended_figure([r for r in runs if not r.collapsed])
    relu, dynamic, radius = defended.axes[0].get_lines()
    assert {0.5, 1.0, 2.0} <= set(relu.get_xdata()) and 1.0 in dynamic.get_xdata()
    assert radius.get_xdata()[0] == 8 / 255
    widths = smallest.widths_figure(smallest.outcomes(runs)).axes[0].get_lines()
    rates = {line.get_label(): line.get_ydata() for line in widths}
    assert rates["dynamic, 2 bits"][[0, 5]].tolist() == [0, 50]
    assert np.isnan(rates["dynamic, 2 bits"][1:5]).all()


# --- Substitutes ----------------------------------------------------------------------------------


def put_transfer(bits: int, clean: int, direct: int, transferred: int, **more) -> None:
    target = network("dynamic", bits)
    made = paper.substitute(target, "vgg16")
    for unit in (target, made):
        put(unit)
    suite, table = paper.transfer(made), paper.table(target)
    put(table["clean"], bits=right(clean))
    put(table["pgd"], bits=right(direct))
    put(suite["substitute/clean"], bits=right(70))
    put(suite["substitute/pgd"], bits=right(5))
    put(suite["defense/pgd"], bits=right(transferred, 60))
    for name, count in more.items():
        put(suite[name], bits=right(count))


def test_the_direct_and_the_transferred_attack_are_compared_on_the_same_images(folders):
    put_transfer(2, 80, 45, 40, agreement=66)
    (row,) = transfer.table6(transfer.tried(*WHERE)).to_dict("records")
    assert (row["architecture"], row["network"]) == ("VGG-16", "dynamic, 2 bits")
    assert row["gap"] == pytest.approx(100 * 5 / 60)
    assert row["margin"] == pytest.approx(1.959964 * 100 * (5 / 60 * 55 / 60 / 60) ** 0.5)
    assert (row["defense/clean"], row["substitute/clean"]) == (80, 70)
    assert (row["direct"], row["agreement"]) == (45, 66)
    assert row["defense/pgd"] == pytest.approx(100 * 40 / 60)
    assert np.isnan(row["defense/fgsm"]), "it was not run"
    printed = [row[f"printed/{n}"] for n in ("defense/pgd", "substitute/pgd", "defense/clean")]
    assert printed == [60.46, 56.62, 85.06]


def test_a_collapsed_target_is_marked_and_a_missing_substitute_is_no_row(folders):
    put_transfer(1, 10, 9, 9)
    put_transfer(3, 80, 30, 20)
    runs = transfer.tried(*WHERE)
    table = transfer.table6(runs)
    assert table["bits"].tolist() == [3, 1] and table["collapsed"].tolist() == [False, True]
    shown = transfer.shown(table)
    assert shown["target"].tolist() == ["dynamic, 3 bits", "*dynamic, 1 bit*"]
    assert shown["difference (points)"].iloc[0].startswith("+16.7 ± ")
    assert transfer.shown_in_full(table).shape == (2, 10)
    assert transfer.table6([]).empty and transfer.shown(transfer.table6([])).empty


def test_as_printed_the_transferred_attack_is_held_against_the_direct_one_of_the_same_bits():
    found = transfer.as_printed().set_index(["architecture", "bits"])
    assert found.loc["VGG-16", 1]["gap"] == pytest.approx(77.62 - 49.18)
    assert found.loc["VGG-16", 3]["gap"] == pytest.approx(75.01 - 60.85)
    assert found.loc["AlexNet", 2]["gap"] == pytest.approx(79.83 - 82.11)
    assert found.loc["VGG-16", 2]["own"] == 56.62
    assert found["same_clean"].groupby("bits").all().to_dict() == {1: True, 2: False, 3: False}


# --- Inside the networks --------------------------------------------------------------------------


def put_features(one, levels, counts, accuracy: int = 80) -> None:
    put(one)
    suite = paper.table(one)
    put(suite["clean"], bits=right(accuracy))
    values = {"knn/clean": 0.25, "knn/pgd": 0.125, "silhouette/clean": 0.5, "silhouette/pgd": -0.5}
    maps = np.arange(8, dtype=np.float32).reshape(4, 2)
    arrays = {
        "first/levels": np.array(levels, np.float32),
        "first/counts": np.array(counts),
        "tsne/clean": maps,
        "tsne/pgd": -maps,
        "features/labels": np.array([0, 1, 1, 9]),
    }
    put(suite["features"], values=values, arrays=arrays)


def test_levels_that_training_moved_together_are_counted_and_relu_has_none(folders):
    put_features(network("dynamic", 2), [-1, -0.99, 0.5, 1], [10, 60, 10, 20])
    put_features(network("relu"), [], [])
    put_features(network("dynamic", 1), [-1, 1], [50, 50], accuracy=10)
    found = inside.measured(dqa.find(*WHERE))
    assert list(found) == ["ReLU", "dynamic, 2 bits"], "the third one collapsed"
    (row,) = inside.levels(found).itertuples()
    assert (row.network, row.levels, row.most, row.merged) == ("dynamic, 2 bits", 4, 60, 1)
    clusters = inside.clusters(found).set_index("network").loc["ReLU"]
    assert clusters.tolist() == [25, 12.5, 0.5, -0.5]
    bars = inside.levels_figure({"d": found["dynamic, 2 bits"]}).axes[0].collections[0]
    heights = [segment[1][1] for segment in bars.get_segments()]
    assert heights == pytest.approx([0.1, 0.6, 0.1, 0.2])
    drawn = inside.maps_figure(found).axes[1].collections[0]
    assert drawn.get_offsets()[3].tolist() == [-6, -7]
    colours = drawn.get_facecolors()
    assert (colours[1] == colours[2]).all() and len(np.unique(colours, axis=0)) == 3


# --- Other defences -------------------------------------------------------------------------------


def test_table_4_keeps_the_paper_s_order_and_every_citation_is_in_the_bibliography():
    assert rivals.printed("cifar10")["defense"].tolist() == [
        "Madry", "Thermometer encoding", "Cowboy", "DQA"
    ]  # fmt: skip
    mnist = rivals.printed("mnist").set_index("defense")
    assert mnist.loc["Cowboy", ["clean", "pgd", "fgsm"]].tolist() == [97, 78, 81]
    assert np.isnan(mnist.loc["Defense-GAN", "pgd"])
    text = (ROOT / "book" / "references.bib").read_text()
    keys = set(re.findall(r"@\w+\{([^,]+),", text))
    assert set(rivals.later("cifar10")["citation"]) | set(rivals.later("mnist")["citation"]) <= keys
    assert "croce2021robustbench" in set(rivals.later("cifar10")["citation"])


def test_ours_stand_beside_the_defence_that_was_trained_alike_over_the_same_images(folders):
    for activation, bits, left in (("relu", None, 30), ("dynamic", 2, 1)):
        one = network(activation, bits)
        put(one)
        put(paper.table(one)["clean"], bits=right(80))
        put(paper.table(one)["pgd"], bits=right(90))
        suite = paper.trial(one)
        put(suite["clean"], bits=right(50))
        put(suite["table/pgd"], bits=right(40, 50))
        put(suite["main"], bits=right(left, 20))
    shown = rivals.beside("cifar10", rivals.ours(dqa.find(*WHERE))).set_index("defence")
    assert shown.loc["Madry, Wide ResNet", "ours: PGD"] == 100, "20 images, of which 20"
    assert shown.loc["Madry, Wide ResNet", "ours: all attacks"].startswith("100.0 (")
    assert shown.loc["DQA, ResNet-18", "ours: all attacks"].startswith("5.0 (")
    assert shown.loc["Cowboy, GAN", "ours: all attacks"] == tables.NONE
    assert "croce2020autoattack" in shown.loc["Madry, Wide ResNet", "later evaluations"]
    none = rivals.beside("cifar10", rivals.ours({}))
    assert set(none["ours: all attacks"]) == {tables.NONE} and len(none) == 4


# --- What is committed ----------------------------------------------------------------------------


def stored(cell: str, name: str, dtype: str) -> np.ndarray:
    """The values of one committed record, decoded without the package's help."""
    pattern = f"dqa-cifar10/laptop-{cell}-seed0-*/{name}-????????.json"
    files = [json.loads(f.read_text()) for f in sorted((ROOT / "results").glob(pattern))]
    table = [f for f in files if "view" not in f["configuration"]
             or f["configuration"]["view"]["kind"] == "as-trained"]  # fmt: skip
    (content,) = files if len(files) == 1 else table
    part = content["bits" if dtype == "bool" else "norms"]
    raw = base64.b64decode(part["base64"])
    if dtype == "bool":
        return np.unpackbits(np.frombuffer(raw, np.uint8))[: part["total"]].astype(bool)
    return np.frombuffer(raw, dtype)


@pytest.fixture(scope="module")
def committed() -> list[Results]:
    return smallest.tried(*WHERE)


def test_the_committed_norms_are_those_that_the_tables_count(committed):
    found = smallest.outcomes(committed).set_index(["network", "defended", "attack", "how"])
    files = {"cw/own": "cw-own", "cw/sigmoid": "cw-sigmoid"}
    files |= {f"zoo/{h}": f"zoo-{h.replace('/', '-')}" for h in paper.H_255}
    for bits in (1, 2, 3):
        for name, file in files.items():
            norms = stored(f"dynamic-{bits}bit", file, "<f4")
            moved = norms[norms != 0]
            row = found.loc[f"dynamic, {bits} bit{'s' * (bits > 1)}", True, *name.split("/", 1)]
            assert (row["images"], row["broken"]) == (len(moved), int((moved < INF).sum()))
            finite = moved[moved < INF].astype(float)
            assert row["median"] == pytest.approx(float(np.median(finite)))


def test_the_committed_norms_within_pgds_ball_are_counted_on_the_images_pgd_leaves(committed):
    found = smallest.inside_the_ball(committed).set_index("network")
    for bits in (1, 2, 3):
        cell = f"dynamic-{bits}bit"
        norms = np.minimum(*(stored(cell, f"cw-{r}", "<f4") for r in ("own", "sigmoid")))
        pgd = stored(cell, "pgd", "bool")[:100]
        row = found.loc[f"dynamic, {bits} bit{'s' * (bits > 1)}"]
        near = [n for n, ok in zip(norms.tolist(), pgd, strict=True) if ok and n <= 8 / 255]
        assert row["right"] == pgd.sum()
        assert row["wrong"] == near.count(0.0)
        assert row["within"] == len(near) - near.count(0.0)


def test_the_committed_transfers_are_those_of_the_table():
    table = transfer.table6(transfer.tried(*WHERE)).set_index(["architecture", "bits"])
    for bits in (1, 2, 3):
        cell = f"dynamic-{bits}bit"
        direct = stored(cell, "pgd", "bool").astype(int)
        for architecture, title in transfer.TITLES.items():
            after = stored(cell, f"{architecture}-defense-pgd", "bool").astype(int)
            gap = 100 * (direct[: len(after)] - after).mean()
            assert table.loc[(title, bits), "gap"] == pytest.approx(gap)


def test_networks_of_other_scales_never_enter(folders):
    other = paper.network("cifar10", "dynamic", 2, scale="paper")
    put(other)
    put(paper.norms(other)["cw/own"], norms=np.array([1.0], np.float32))
    assert smallest.tried(*WHERE) == []
    assert [r.network.scale for r in smallest.tried("cifar10", "paper")] == ["paper"]
    made = paper.substitute(other, "vgg16")
    put(made)
    put(paper.transfer(made)["substitute/clean"], bits=right(5))
    assert transfer.tried(*WHERE) == []
