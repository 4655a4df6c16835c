"""The transcribed tables agree with what the papers say about them, and with each other."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from reproduce import published

RANGES = {"percent": (0, 100), "fraction": (0, 1), "points": (0, 100), "l2": (0, 1)}
TESTS = [(bits, dithered) for bits in range(1, 8) for dithered in (False, True)] + [(8, False)]


def cells(name: str, *key: str, column: str = "value") -> dict:
    """`{key: value}` of a table; full-precision bits read as 32."""
    frame = published.load(name)
    if "bits" in frame:
        frame["bits"] = frame["bits"].fillna(32)
    index = frame[key[0]] if len(key) == 1 else list(zip(*(frame[k] for k in key), strict=True))
    return dict(zip(index, frame[column], strict=True))


def accuracy(table: int) -> dict:
    return cells(f"dqa_table{table}", "activation", "bits", "attack")


def double_quantization(numeral: int) -> dict:
    """`{(train, test): value}` where train and test are (bits, dithered)."""
    key = ("train_bits", "train_dithered", "test_bits", "test_dithered")
    table = cells(f"double_quantization_table{numeral}", *key)
    return {((a, b), (c, d)): value for (a, b, c, d), value in table.items()}


# --- the loader -------------------------------------------------------------------------------


def test_every_csv_file_is_a_named_table_with_a_source_and_nothing_else_is():
    files = {path.stem for path in Path(published.__file__).parent.glob("*.csv")}
    assert files == set(published.NAMES) == set(published.SOURCES)
    assert len(set(published.SOURCES.values())) == len(published.NAMES) == len(files)


def test_an_unknown_name_is_refused_in_one_line_that_lists_the_allowed_ones():
    with pytest.raises(ValueError, match="'dqa_table7'") as error:
        published.load("dqa_table7")
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in published.NAMES)


@pytest.mark.parametrize("name", published.NAMES)
def test_columns_have_the_documented_types(name):
    frame = published.load(name)
    assert list(frame.columns[-2:]) == ["value", "unit"]
    for column, dtype in frame.dtypes.items():
        if column == "value":
            assert dtype == "float64"
        elif column.endswith("bits") or column == "eps_255":
            assert dtype == "Int64"
        elif column.endswith("dithered") or column == "adversarial_training":
            assert dtype == "bool"
        else:
            assert pd.api.types.is_string_dtype(dtype)
            assert frame[column].str.strip().str.len().min() > 0


@pytest.mark.parametrize("name", published.NAMES)
def test_changing_a_loaded_table_does_not_change_the_next_one(name):
    frame = published.load(name)
    frame["value"] = -1.0
    assert not (published.load(name)["value"] == -1.0).any()


# --- shape, keys and totals -------------------------------------------------------------------

QUANTISED = list(product(["fixed", "dynamic"], [1, 2, 3]))
GRIDS = {
    "dqa_table1": [
        (*row, attack) for row in [("relu", 32), *QUANTISED] for attack in ("clean", "pgd", "fgsm")
    ],
    "dqa_table3": [
        ("relu" if bits == 32 else name, bits, trained, quantity)
        for bits in (32, 3, 2, 1)
        for name, trained, quantity in (
            ("fixed", False, "l2_norm"),
            ("dynamic", True, "attack_success"),
        )
    ],
    "dqa_table4": [
        (dataset, defense, attack)
        for dataset, defense in product(
            ["mnist", "cifar10"],
            ["Madry", "Thermometer encoding", "Defense-GAN", "Cowboy", "DQA"],
        )
        if (dataset, defense) != ("cifar10", "Defense-GAN")
        for attack in ("clean", "pgd", "fgsm")
    ],
    "dqa_table5": [
        ("relu" if bits == 32 else "dynamic", bits, quantity)
        for bits in (32, 3, 2, 1)
        for quantity in ("clean_accuracy", "attack_success")
    ],
    "dqa_table6": list(
        product(["vgg16", "alexnet"], [3, 2, 1], ["defense", "substitute"], ["clean", "transfer"])
    ),
    "double_quantization_table1": [(*train, *test) for train in TESTS for test in TESTS],
}
GRIDS["dqa_table2"] = GRIDS["dqa_table1"]
GRIDS["double_quantization_table2"] = GRIDS["double_quantization_table1"]
KEYS = {
    "dqa_table1": ("activation", "bits", "attack"),
    "dqa_table2": ("activation", "bits", "attack"),
    "dqa_table3": ("activation", "bits", "adversarial_training", "quantity"),
    "dqa_table4": ("dataset", "defense", "attack"),
    "dqa_table5": ("activation", "bits", "quantity"),
    "dqa_table6": ("substitute", "bits", "model", "attack"),
    "double_quantization_table1": ("train_bits", "train_dithered", "test_bits", "test_dithered"),
    "double_quantization_table2": ("train_bits", "train_dithered", "test_bits", "test_dithered"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_table_holds_each_cell_of_the_papers_grid_exactly_once(name):
    assert len(published.load(name)) == len(GRIDS[name]) == len(set(GRIDS[name]))
    assert set(cells(name, *KEYS[name])) == set(GRIDS[name])


@pytest.mark.parametrize(("name", "rows"), [("dqa_text", 9), ("double_quantization_text", 6)])
def test_each_number_of_the_text_has_a_key_of_its_own(name, rows):
    keys = published.load(name)["key"]
    assert len(keys) == keys.nunique() == rows


@pytest.mark.parametrize("name", published.NAMES)
def test_values_lie_in_the_range_of_their_unit(name):
    for value, unit in zip(*map(published.load(name).get, ("value", "unit")), strict=True):
        low, high = RANGES[unit]
        assert pd.isna(value) or low <= value <= high


@pytest.mark.parametrize("name", published.NAMES)
def test_a_unit_follows_from_what_the_row_holds(name):
    frame = published.load(name)
    what = frame.get("quantity", frame.get("key", frame["unit"]))
    for label, unit in zip(what, frame["unit"], strict=True):
        if name.startswith("double_quantization_table"):
            assert unit == "fraction"
        elif label == "l2_norm":
            assert unit == "l2"
        elif "gain" in label or "gap" in label:
            assert unit == "points"
        else:
            assert unit == "percent"


@pytest.mark.parametrize(
    ("name", "total"),
    [  # each added up once over the papers' printed pages, not over the files
        ("dqa_table1", 2063.14),
        ("dqa_table2", 1578.89),
        ("dqa_table3", 1.10),
        ("dqa_table4", 2195.76),
        ("dqa_table5", 422.43),
        ("dqa_table6", 1719.37),
        ("double_quantization_table1", 164.160),
        ("double_quantization_table2", 39.443),
    ],
)
def test_the_printed_cells_of_a_table_add_up(name, total):
    assert published.load(name)["value"].sum() == pytest.approx(total, abs=1e-6)


def test_missing_are_one_blank_cell_of_dqa_and_the_thirty_lost_ones_of_table_ii():
    missing = {
        name: {key for key, value in cells(name, *KEYS[name]).items() if pd.isna(value)}
        for name in KEYS
    }
    lost = {
        (*train, *test)
        for train in TESTS[2:10]
        for test in (TESTS[12:] if train[0] == 2 else TESTS[11:])
    }
    assert len(lost) == 30
    assert missing.pop("double_quantization_table2") == lost
    assert missing.pop("dqa_table4") == {("mnist", "Defense-GAN", "pgd")}
    assert not any(missing.values())
    for name in ("dqa_text", "double_quantization_text"):
        assert published.load(name)["value"].notna().all()


# --- DQA: what its text says of its tables ------------------------------------------------------


def test_one_bit_fixed_activations_raise_mnist_under_pgd_as_section_5_1_says():
    table, text = accuracy(1), cells("dqa_text", "key")
    assert (table["relu", 32, "pgd"], table["fixed", 1, "pgd"]) == (94.04, 98.47)
    for activation, bits in QUANTISED:
        gain = table[activation, bits, "pgd"] - table["relu", 32, "pgd"]
        assert gain == pytest.approx(text["mnist_pgd_gain"], abs=1)
    for bits in (1, 2, 3):
        assert table["dynamic", bits, "pgd"] > table["fixed", bits, "pgd"]
    for bits in (1, 3):
        assert table["dynamic", bits, "pgd"] > table["dynamic", bits, "fgsm"]
    fgsm = {key: value for key, value in table.items() if key[2] == "fgsm"}
    assert max(fgsm, key=fgsm.get) == ("dynamic", 2, "fgsm")
    assert max(fgsm.values()) == 98.75


def test_fixed_activations_trade_clean_accuracy_for_robustness_on_cifar10():
    table, text = accuracy(2), cells("dqa_text", "key")
    assert (table["relu", 32, "clean"], table["fixed", 1, "clean"]) == (87.59, 81.43)
    for attack, order in (("clean", (1, 2, 3)), ("pgd", (3, 2, 1))):
        values = [table["fixed", bits, attack] for bits in order]
        assert values == sorted(values)
    gain = table["fixed", 3, "pgd"] - table["relu", 32, "pgd"]
    assert gain == pytest.approx(text["cifar10_3bit_fixed_pgd_gain"])


def test_dynamic_beats_fixed_in_every_cell_of_cifar10_and_two_bits_are_best_under_attack():
    table, text = accuracy(2), cells("dqa_text", "key")
    for bits, attack in product((1, 2, 3), ("clean", "pgd", "fgsm")):
        assert table["dynamic", bits, attack] > table["fixed", bits, attack]
    for attack, best in (("pgd", 79.83), ("fgsm", 76.37)):
        assert max(v for key, v in table.items() if key[2] == attack) == best
        assert table["dynamic", 2, attack] == best
    for bits in (1, 2):
        gain = table["dynamic", bits, "fgsm"] - table["fixed", bits, "fgsm"]
        assert gain == pytest.approx(text["cifar10_dynamic_fgsm_gain"], abs=1)


def test_one_step_fgsm_beats_pgd_on_dynamic_activations_of_cifar10():
    table = accuracy(2)
    assert all(table["dynamic", b, "fgsm"] < table["dynamic", b, "pgd"] for b in (1, 2, 3))
    assert table["relu", 32, "fgsm"] > table["relu", 32, "pgd"]


def test_carlini_wagner_needs_a_larger_norm_for_fewer_bits_and_fails_on_every_trained_model():
    table = cells("dqa_table3", "bits", "quantity")
    norms = [table[bits, "l2_norm"] for bits in (32, 3, 2, 1)]
    assert norms == sorted(norms)
    assert norms[0] > 0
    # also on the full-precision model: the failure is not the quantiser's doing
    assert {table[bits, "attack_success"] for bits in (32, 3, 2, 1)} == {0}


@pytest.mark.parametrize(("dataset", "source"), [("mnist", 1), ("cifar10", 2)])
def test_table_4_repeats_the_two_bit_dynamic_row_and_puts_it_first_under_pgd(dataset, source):
    table, own = cells("dqa_table4", "dataset", "defense", "attack"), accuracy(source)
    for attack in ("clean", "pgd", "fgsm"):
        assert table[dataset, "DQA", attack] == own["dynamic", 2, attack]
    others = [v for (d, m, a), v in table.items() if (d, a) == (dataset, "pgd") and m != "DQA"]
    assert all(table[dataset, "DQA", "pgd"] > v for v in others if not pd.isna(v))


def test_under_fgsm_dqa_leads_on_mnist_and_only_thermometer_encoding_leads_it_on_cifar10():
    table = cells("dqa_table4", "dataset", "defense", "attack")
    ahead = {
        (dataset, defense)
        for (dataset, defense, attack), value in table.items()
        if attack == "fgsm" and value > table[dataset, "DQA", "fgsm"]
    }
    assert ahead == {("cifar10", "Thermometer encoding")}


def test_bits_and_architecture_of_table_4_are_those_of_the_dqa_rows():
    frame = published.load("dqa_table4")
    own = frame["defense"] == "DQA"
    assert frame.loc[own, "bits"].eq(2).all()
    assert frame.loc[~own, "bits"].isna().all()
    rows = frame.groupby(["dataset", "defense"])["architecture"].unique().map(list).to_dict()
    assert rows["mnist", "DQA"] == ["LeNet"]
    assert rows["cifar10", "DQA"] == ["ResNet-18"]
    assert rows["mnist", "Madry"] == rows["mnist", "Thermometer encoding"] == ["Vanilla"]
    assert rows["cifar10", "Madry"] == rows["cifar10", "Thermometer encoding"] == ["Wide ResNet"]
    gan = [rows["mnist", "Defense-GAN"], rows["mnist", "Cowboy"], rows["cifar10", "Cowboy"]]
    assert gan == [["GAN"]] * 3


def test_the_text_gives_dqa_the_clean_accuracy_of_another_row_than_table_4():
    claimed = cells("dqa_text", "key")["mnist_clean"]
    assert claimed == 99.01 == accuracy(1)["dynamic", 3, "clean"]
    assert claimed != cells("dqa_table4", "dataset", "defense", "attack")["mnist", "DQA", "clean"]


def test_the_loss_of_clean_accuracy_on_cifar10_exceeds_the_two_points_of_the_text():
    text, table = cells("dqa_text", "key"), cells("dqa_table4", "dataset", "defense", "attack")
    assert (text["clean_gap_min"], text["clean_gap_max"]) == (0.5, 2)
    best = max(v for (d, _, a), v in table.items() if (d, a) == ("cifar10", "clean"))
    assert best - table["cifar10", "DQA", "clean"] > 2 * text["clean_gap_max"]


def test_the_figures_for_nonexpansive_networks_are_those_of_section_5_3():
    text, sections = cells("dqa_text", "key"), cells("dqa_text", "key", column="section")
    names = ("l2nnn_mnist_l2_attack", "l2nnn_cifar10_l2_attack", "l2nnn_cifar10_clean")
    assert [text[name] for name in names] == [91.7, 22, 72]
    assert {sections[name] for name in names} == {"5.3"}


def test_zoo_breaks_only_the_full_precision_model_and_clean_accuracies_are_those_of_table_2():
    table, white_box = cells("dqa_table5", "activation", "bits", "quantity"), accuracy(2)
    for activation, bits in [("relu", 32), ("dynamic", 3), ("dynamic", 2), ("dynamic", 1)]:
        clean = table[activation, bits, "clean_accuracy"]
        assert clean == white_box[activation, bits, "clean"]
        success = table[activation, bits, "attack_success"]
        assert success == (81.75 if activation == "relu" else 0)


def test_table_6_starts_from_other_clean_accuracies_than_table_2_except_at_one_bit():
    table = cells("dqa_table6", "substitute", "bits", "model", "attack")
    for substitute, bits in product(("vgg16", "alexnet"), (1, 2, 3)):
        here = table[substitute, bits, "defense", "clean"]
        assert (here == accuracy(2)["dynamic", bits, "clean"]) == (bits == 1)
        assert here == table["vgg16", bits, "defense", "clean"]


def test_transferred_attacks_hurt_the_substitute_more_and_alexnet_less_than_the_white_box():
    table = cells("dqa_table6", "substitute", "bits", "model", "attack")
    transfer = {k: v for k, v in table.items() if k[3] == "transfer"}
    for substitute, bits in product(("vgg16", "alexnet"), (1, 2, 3)):
        defended = transfer[substitute, bits, "defense", "transfer"]
        assert defended > transfer[substitute, bits, "substitute", "transfer"]
        white_box = accuracy(2)["dynamic", bits, "pgd"]
        # a black box that beats the white box is a sign of masked gradients
        assert (defended > white_box) == (substitute == "alexnet")
    assert min(v for k, v in transfer.items() if k[2] == "defense") == 49.18
    alexnet = [transfer["alexnet", bits, "defense", "transfer"] for bits in (3, 2, 1)]
    assert alexnet == [82.59, 82.11, 79.74]


# --- double quantization: what its text says, and what its tables show --------------------------


def test_matching_bit_depths_come_within_half_a_point_of_the_best_in_their_row_of_table_i():
    table = double_quantization(1)
    for train in TESTS:
        best = max(table[train, test] for test in TESTS)
        assert best - table[train, train] <= 0.005


def test_clean_accuracy_passes_90_percent_from_five_bits_and_falls_towards_one():
    table = double_quantization(1)
    for bits, dithered in TESTS:
        assert (table[(bits, dithered), (bits, dithered)] > 0.9) == (bits >= 5)
    plain = [table[(bits, False), (bits, False)] for bits in range(1, 9)]
    assert plain == sorted(plain)


def test_dithering_helps_up_to_three_bits_only():
    table = double_quantization(1)
    helped = {b for b in range(1, 8) if table[(b, True), (b, True)] > table[(b, False), (b, False)]}
    assert helped >= {1, 2, 3}
    assert helped & {4, 6, 7} == set()


def test_one_and_two_bit_tests_of_table_ii_are_as_clean_unless_only_the_test_is_dithered():
    clean, attacked = double_quantization(1), double_quantization(2)
    for train, test in product(TESTS, TESTS[:4]):
        if train[1] or not test[1]:
            assert attacked[train, test] == clean[train, test]


def test_models_of_two_to_seven_bits_without_dithering_repeat_their_undithered_columns():
    table = double_quantization(2)
    for train, bits in product(range(2, 8), range(1, 8)):
        plain = table[(train, False), (bits, False)]
        dithered = table[(train, False), (bits, True)]
        assert dithered == plain or pd.isna(dithered)


def test_the_one_bit_model_repeats_one_accuracy_in_the_dithered_columns_up_to_four_bits():
    table = double_quantization(2)
    own = table[(1, False), (1, False)]
    repeats = [bits for bits in range(1, 8) if table[(1, False), (bits, True)] == own]
    assert repeats == [1, 2, 3, 4]


def test_attacked_accuracy_exceeds_the_clean_one_only_where_training_was_undithered():
    clean, attacked = double_quantization(1), double_quantization(2)
    above = {key for key in clean if attacked[key] > clean[key]}
    expected = {((b, False), (t, True)) for b in range(1, 8) for t in (1, 2)}
    assert above == expected | {((1, False), (3, True)), ((1, False), (4, True))}


def test_undithered_tests_of_four_bits_or_more_leave_less_than_two_percent():
    table = double_quantization(2)
    for train, test in product(TESTS, TESTS[6:]):
        if train[1] or not test[1]:
            assert pd.isna(table[train, test]) or table[train, test] < 0.02


def test_accuracies_of_the_text_round_to_table_i_and_to_table_ii_where_they_reach_eps_8():
    clean, attacked = double_quantization(1), double_quantization(2)
    frame = published.load("double_quantization_text").dropna(subset="eps_255")
    assert len(frame) == 5
    for row in frame.itertuples():
        diagonal = ((row.bits, row.dithered),) * 2
        assert row.value / 100 == pytest.approx(clean[diagonal], abs=0.00051)
        holds = abs(row.value / 100 - attacked[diagonal]) < 0.00051
        assert holds == (row.eps_255 >= 8)


def test_accuracy_stays_flat_as_far_and_as_high_as_section_iv_says():
    frame = published.load("double_quantization_text").dropna(subset="eps_255")
    flat = {(row.bits, row.dithered): (row.value, row.eps_255) for row in frame.itertuples()}
    assert flat == {
        (1, False): (74.87, 32),
        (1, True): (85.28, 32),
        (2, False): (84.49, 16),
        (2, True): (87.14, 16),
        (3, True): (88.90, 4),
    }


def test_an_attack_before_dithering_leaves_4_74_percent_of_the_one_bit_dithered_model():
    frame = published.load("double_quantization_text").set_index("key")
    row = frame.loc["1bit_dithered_attack_before_dithering"]
    assert (row["value"], row["bits"], row["dithered"]) == (4.74, 1, True)
    assert pd.isna(row["eps_255"])
