"""What arithmetic decides, and what two detectors can see, against brute force and closed forms."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom

from reproduce import double, figures
from reproduce.dither import floyd_steinberg
from reproduce.grids import KINDS, kind_name, quantised
from reproduce.quantizers import filter_radius, linear_quantize

ROUNDINGS = ("floor", "nearest")
TABLE1, TABLE2 = double.published_table("I"), double.published_table("II")
TOTALS = {"clean": 50, "pgd": 20}


def record(bits: int, dithered: bool, seed: int = 0, scale: str = "laptop", **options):
    """A stand-in for a Record: chance decides its hits, and the attack changes them from 3 bits."""
    random = np.random.default_rng([bits, dithered, seed])
    metrics, arrays = {}, {}
    for kind in KINDS:
        clean = random.random(TOTALS["clean"]) < 0.7
        attacked = clean[: TOTALS["pgd"]] & (kind[0] < 3)
        for wanted, hits in (("clean", clean), ("pgd", attacked)):
            name = f"{wanted}/{kind_name(*kind)}"
            metrics[name] = {"correct": int(hits.sum()), "total": len(hits)}
            arrays[f"correct/{name}"] = np.packbits(hits)
    experiment = {"bits": bits, "dithered": dithered, "attack": {"eps_255": 8.0}}
    return SimpleNamespace(
        experiment=experiment, seed=seed, scale=scale, metrics=metrics, arrays=arrays, **options
    )


# --- Did the attacks work? ------------------------------------------------------------------------

LEFT = {
    "clean": 80, "after/2": 80, "after/4": 80, "after/8": 60, "after/16": 20, "after/24": 10,
    "after/32": 5, "after/outside": 40, "before/clean": 80, "before/bare": 20,
    "before/identity": 10, "before/averaged": 9, "before/strong": 5, "before/square": 30,
    "before/transfer": 50,
}  # fmt: skip


def attacked(**left: int) -> SimpleNamespace:
    """A trial of 100 images, each attack of which leaves the first ones."""
    of = LEFT | {n.replace("__", "/"): count for n, count in left.items()}
    return SimpleNamespace(
        metrics={n: {"correct": count, "total": 100} for n, count in of.items()},
        arrays={f"correct/{n}": np.packbits(np.arange(100) < count) for n, count in of.items()},
    )


def failed(trial: SimpleNamespace) -> dict[str, str]:
    return {n: said for n, (passed, said) in double.attack_checks(trial).items() if not passed}


def test_attacks_that_work_pass_every_check():
    assert failed(attacked()) == {}


@pytest.mark.parametrize(
    ("changed", "check", "says"),
    [
        ({"after__16": 62}, "accuracy falls", "at most 2 more"),
        ({"after__outside": 41}, "beyond the radius", "41 of 80 left"),
        ({"before__identity": 22}, "knows the pipeline", "22 left, 20 by"),
        ({"before__averaged": 12}, "averaging", "12 left, 10 by"),
        ({"before__strong": 11}, "restarts", "11 left, 9 by"),
        ({"before__square": 3}, "white box", "2 of 100 fall to square alone"),
        ({"before__transfer": 3}, "white box", "2 of 100 fall to transfer alone"),
    ],
)
def test_what_went_wrong_fails_its_own_check(changed, check, says):
    ((name, said),) = failed(attacked(**changed)).items()
    assert check in name and says in said


def test_a_model_of_8_bits_has_no_twin_to_transfer_from():
    trial = attacked()
    del trial.metrics["before/transfer"]
    assert failed(trial) == {}


def test_the_worst_before_dithering_is_over_the_images_that_all_attacks_saw():
    trial = attacked()
    trial.metrics["before/strong"]["total"] = 50
    trial.arrays["correct/before/square"] = np.packbits(np.arange(100) >= 3)
    assert double.worst_before(trial).tolist() == [3 <= i < 5 for i in range(50)]


# --- Tables ---------------------------------------------------------------------------------------


def test_a_table_has_a_row_and_a_column_for_each_kind_in_the_order_of_the_grid():
    for table in TABLE1, TABLE2, double.measured_table([], "clean"):
        assert tuple(table.index) == tuple(table.columns) == KINDS
    assert TABLE1.loc[(2, True), (2, True)] == pytest.approx(87.1)
    assert TABLE2.loc[(1, False), (3, False)] == pytest.approx(16.0)


def test_a_measured_cell_is_the_share_of_hits_and_the_others_are_missing():
    records = [record(2, True), record(8, False)]
    for wanted in TOTALS:
        table = double.measured_table(records, wanted)
        for r in records:
            for kind in KINDS:
                counts = r.metrics[f"{wanted}/{kind_name(*kind)}"]
                share = 100 * counts["correct"] / counts["total"]
                assert table.loc[double.trained_on(r), kind] == pytest.approx(share)
        assert table.notna().to_numpy().sum() == 2 * len(KINDS)


def test_seeds_are_pooled_and_only_the_first_images_count_where_asked():
    records = [record(3, True, seed) for seed in (0, 1)]
    hits = np.concatenate([double.hits(r, "clean/5bit")[:7] for r in records])
    table = double.measured_table(records, "clean", first=7)
    assert table.loc[(3, True), (5, False)] == pytest.approx(100 * hits.mean())


def test_scales_and_duplicates_are_refused():
    with pytest.raises(ValueError, match="laptop, paper"):
        double.measured_table([record(1, True), record(2, True, scale="paper")], "clean")
    with pytest.raises(ValueError, match="one network and seed"):
        double.measured_table([record(1, True), record(1, True)], "clean")


def test_own_is_the_diagonal():
    assert np.array_equal(double.own(TABLE1).to_numpy(), np.diag(TABLE1.to_numpy()))


def test_a_share_without_a_record_is_missing():
    r = record(2, True)
    counts = r.metrics["clean/8bit"]
    assert double.share(r, "clean/8bit") == pytest.approx(100 * counts["correct"] / counts["total"])
    first = double.hits(r, "clean/8bit")[:3]
    assert double.share(r, "clean/8bit", 3) == pytest.approx(100 * first.mean())
    assert np.isnan(double.share(None, "clean/8bit"))


def test_kinds_are_named_in_words():
    assert [double.words(k) for k in ((1, False), (2, True))] == ["1 bit", "2 bits, dithered"]


# --- What arithmetic decides ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_closed_form_of_the_page_is_the_radius(bits):
    top = 2**bits - 1
    assert filter_radius(bits) == Fraction(2 ** (8 - bits) - 1, top) // 1
    half = Fraction(255, 2 * top)
    assert filter_radius(bits, "nearest") == (half // 1 if half % 1 else half - 1)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_stored_levels_come_back_within_the_whole_radius_and_not_all_beyond(bits, rounding):
    top, radius = 2**bits - 1, double.whole_radius(bits, rounding)

    def survives(reach: int) -> bool:
        for k in range(top + 1):
            exact = Fraction(255 * k, top)
            for stored in {int(exact), round(exact)}:
                ends = range(max(0, stored - reach), min(255, stored + reach) + 1)
                for value in ends:
                    down, near = value // 2 ** (8 - bits), round(Fraction(value * top, 255))
                    if k != (down if rounding == "floor" else near):
                        return False
        return True

    assert survives(radius) and not survives(radius + 1)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", range(1, 8))
def test_no_perturbation_inside_the_whole_radius_changes_a_dithered_image(bits, rounding):
    generator = torch.Generator().manual_seed(bits)
    images = torch.randint(256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    sent = floyd_steinberg(images, bits).double()
    radius = double.whole_radius(bits, rounding)
    noise = radius * (2 * torch.rand(sent.shape, generator=generator, dtype=torch.float64) - 1)
    corners = radius * (2 * torch.randint(2, sent.shape, generator=generator) - 1)
    clean = linear_quantize(sent / 255, bits, rounding)
    for change in (noise, corners):
        received = (sent + change).clamp(0, 255) / 255
        assert torch.equal(linear_quantize(received, bits, rounding), clean)


def test_the_decided_kinds_are_those_of_few_bits():
    assert double.decided(8) == [k for k in KINDS if k[0] <= 2]
    assert double.decided(8, "nearest") == [k for k in KINDS if k[0] <= 4]
    assert double.decided(0) == list(KINDS) and double.decided(128) == []


def test_verdicts_compare_the_same_images_in_decided_cells_alone():
    table = double.verdicts([record(5, False), record(1, True)])
    assert len(table) == 2 * 4 and table["same"].all()
    assert (table["clean"] == table["attacked"]).all() and table["images"].eq(20).all()
    assert double.verdicts([]).empty


def test_one_image_with_another_verdict_is_found_although_the_counts_agree():
    r = record(1, True)
    hits = double.hits(r, "pgd/2bit")
    right, wrong = np.flatnonzero(hits)[0], np.flatnonzero(~hits)[0]
    hits[[right, wrong]] = hits[[wrong, right]]
    r.arrays["correct/pgd/2bit"] = np.packbits(hits)
    table = double.verdicts([r])
    (failed,) = table[~table["same"]].itertuples()
    assert failed.test == (2, False) and failed.clean == failed.attacked


def test_the_frontier_has_both_radii_and_the_diagonal():
    table = double.frontier(TABLE1)
    assert table["accuracy"].tolist() == double.own(TABLE1).tolist()
    assert table["floor"].tolist() == [double.whole_radius(b) for b, _ in KINDS]
    assert table["nearest"].tolist() == [double.whole_radius(b, "nearest") for b, _ in KINDS]
    assert [tuple(double.deepest(table, r, 8)[["bits", "dithered"]]) for r in ROUNDINGS] == [
        (2, True),
        (4, True),
    ]


def test_a_cell_is_impossible_above_its_clean_cell_and_where_a_decided_one_differs():
    clean = pd.DataFrame(50.0, TABLE1.index, TABLE1.columns)
    attacked = clean * 0 + 40.0
    attacked[[k for k in KINDS if k[0] <= 2]] = 50.0
    assert double.impossible(clean, attacked, 8) == []
    attacked.loc[(7, True), (5, False)] = 50.1
    attacked.loc[(7, True), (2, False)] = 49.9
    attacked.loc[(7, True), (1, True)] = np.nan
    assert double.impossible(clean, attacked, 8) == [
        ((7, True), (2, False)),
        ((7, True), (5, False)),
    ]


# --- Detectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 8))
def test_no_dithered_image_is_off_level_and_one_changed_value_is_enough(bits):
    generator = torch.Generator().manual_seed(bits)
    images = torch.randint(256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)
    sent = floyd_steinberg(images, bits)
    assert not double.off_level(sent, bits).any()
    levels = set(sent.unique().tolist()) | {255 * k // (2**bits - 1) for k in range(2**bits)}
    sent[3, 1, 2, 5] = next(v for v in range(256) if v not in levels)
    assert double.off_level(sent, bits).tolist() == [False, False, False, True, False, False]


def test_every_8_bit_image_is_on_the_levels():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert not double.off_level(images, 8).any()
    assert torch.equal((quantised(images, 8, False) * 255).round().byte(), images)


@pytest.mark.parametrize("n", [1, 10, 100])
def test_the_area_is_that_of_two_binomial_counts(n):
    clean, attacked = np.arange(40) % 20 < 18, np.arange(40) % 20 < 14
    share = [hits[1::2].mean() for hits in (clean, attacked)]
    high, low = (binom(n, p).pmf(np.arange(n + 1)) for p in share)
    exact = sum(low[i] * (high[i + 1 :].sum() + high[i] / 2) for i in range(n + 1))
    roc = double.detector_roc(clean, attacked, n, draws=20_000)
    assert roc.auc == pytest.approx(exact, abs=0.012)


def test_equal_hits_cannot_be_told_apart_and_opposite_ones_always():
    hits = np.random.default_rng(0).random(200) < 0.9
    same = double.detector_roc(hits, hits, 20)
    assert same.auc == pytest.approx(0.5) and same.chosen[0] == same.chosen[1]
    sure = double.detector_roc(np.ones(200, bool), np.zeros(200, bool), 20)
    assert sure.auc == 1 and sure.chosen == (0, 1)


def test_a_curve_rises_from_never_to_always_and_follows_its_seed():
    random = np.random.default_rng(1)
    clean, attacked = random.random(300) < 0.9, random.random(300) < 0.6
    roc = double.detector_roc(clean, attacked, 10, seed=3)
    for curve in (roc.false_alarm, roc.detected):
        assert curve[0] == 0 and curve[-1] == 1 and len(curve) == 12
        assert (np.diff(curve) >= 0).all()
    again = double.detector_roc(clean, attacked, 10, seed=3)
    assert np.array_equal(again.detected, roc.detected)
    assert double.detector_roc(clean, attacked, 10, seed=4).auc != roc.auc


def test_the_threshold_is_chosen_on_the_other_half_of_the_images():
    # Held out: all right. Measured on: half wrong, so that this threshold is far too high.
    clean = np.ones(400, bool)
    clean[1::4] = False
    roc = double.detector_roc(clean, clean & False, 10)
    assert roc.chosen == (roc.false_alarm[10], 1)
    fair = double.detector_roc(np.arange(400) % 10 > 1, np.arange(400) < 0, 50, draws=5_000)
    assert 0.02 < fair.chosen[0] < 0.08


@pytest.mark.parametrize(
    ("clean", "attacked", "n", "says"),
    [([1, 0], [1], 5, "same images"), ([1], [1], 5, ">= 2"), ([1, 0], [1, 0], 0, "n is 0")],
)
def test_bad_batches_are_named(clean, attacked, n, says):
    with pytest.raises(ValueError, match=says):
        double.detector_roc(np.array(clean, bool), np.array(attacked, bool), n)


def test_detection_uses_each_networks_own_kind():
    table = double.detection([record(2, True), record(6, False)], sizes=(5, 50))
    assert table[["bits", "dithered", "n"]].to_numpy().tolist() == [
        [2, True, 5],
        [2, True, 50],
        [6, False, 5],
        [6, False, 50],
    ]
    assert table["auc"].iloc[:2].tolist() == pytest.approx([0.5, 0.5])
    assert table["auc"].iloc[3] == 1
    assert double.detection([]).empty


# --- Figures --------------------------------------------------------------------------------------


def test_the_figures_can_be_drawn_with_all_some_and_none_of_the_records():
    some = double.measured_table([record(2, True)], "pgd")
    for table in (TABLE1, some, some * np.nan):
        assert len(figures.heatmaps(table, TABLE2, 4).axes) == 6
        panels = {"one": double.frontier(table), "other": double.frontier(TABLE1)}
        assert len(figures.certified_frontier(panels, 8).axes) == 2
        figures.detectability(pd.DataFrame({10: double.own(table) / 100}))


# --- Halftones ------------------------------------------------------------------------------------


def test_halftones_are_compared_image_by_image_and_chance_is_said():
    def network(images: range) -> SimpleNamespace:
        right = np.isin(np.arange(100), images)
        counts = {"correct": int(right.sum()), "total": 100}
        arrays = {"correct/own": np.packbits(right)}
        return SimpleNamespace(metrics={"own": counts}, arrays=arrays)

    networks = {"a": network(range(90)), "b": network(range(99)), "c": network(range(1, 91))}
    own = dict.fromkeys(networks, "own")
    text = double.compare_halftones(networks, own)
    assert text.startswith("against a (90.0 %): b +9.0 points (±5.6); c +0.0 points (±2.8, which")
    assert "not all" in double.compare_halftones(networks | {"b": None}, own)
