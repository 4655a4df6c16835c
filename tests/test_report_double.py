"""What arithmetic decides, tables from records, checks and detectors: against brute force."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom

from reproduce import data
from reproduce.attacks import perturb
from reproduce.dither import floyd_steinberg
from reproduce.evaluation import wilson
from reproduce.papers import double as paper
from reproduce.papers import originals, registry
from reproduce.papers.double import KINDS, kind_name
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import filter_radius, linear_quantize
from reproduce.report import double, double_before
from reproduce.report import originals as report_originals
from reproduce.report.results import Results
from tests.stored import put

pytestmark = pytest.mark.usefixtures("folders")
ROUNDINGS = ("floor", "nearest")
TABLE1, TABLE2 = double.published_table("I"), double.published_table("II")


def tables(bits: int, dithered: bool, seed: int = 0, scale: str = "laptop") -> Results:
    """A network whose hits are drawn by chance; the attack takes all of them from 3 bits on."""
    network = paper.network(bits, dithered, seed=seed, scale=scale)
    random = np.random.default_rng([bits, dithered, seed])
    put(network)
    suite = registry.suites(network)["table"]
    for kind in KINDS:
        clean = random.random(50) < 0.7
        put(suite[f"clean/{kind_name(*kind)}"], bits=clean)
        put(suite[f"pgd/{kind_name(*kind)}"], bits=clean[:20] & (kind[0] < 3))
    return Results(network)


def hits(results: Results, name: str) -> np.ndarray:
    return results.suite("table")[name].bits


# --- Tables ---------------------------------------------------------------------------------------


def test_a_table_has_a_row_and_a_column_for_each_kind_in_the_papers_order():
    for table in TABLE1, TABLE2, double.measured_table([], "clean"):
        assert tuple(table.index) == tuple(table.columns) == KINDS
    assert TABLE1.loc[(2, True), (2, True)] == pytest.approx(87.1)
    assert TABLE2.loc[(1, False), (3, False)] == pytest.approx(16.0)


def test_a_measured_cell_is_the_share_of_hits_and_the_others_are_missing():
    found = [tables(2, True), tables(8, False)]
    for condition in ("clean", "pgd"):
        table = double.measured_table(found, condition)
        for one, row in zip(found, ((2, True), (8, False)), strict=True):
            for kind in KINDS:
                bits = hits(one, f"{condition}/{kind_name(*kind)}")
                assert table.loc[row, kind] == pytest.approx(100 * np.mean(bits))
        assert table.notna().to_numpy().sum() == 2 * len(KINDS)


def test_seeds_are_pooled_and_only_the_first_images_count_where_asked():
    found = [tables(3, True, seed) for seed in (0, 1)]
    bits = np.concatenate([hits(one, "clean/5bit")[:7] for one in found])
    table = double.measured_table(found, "clean", first=7)
    assert table.loc[(3, True), (5, False)] == pytest.approx(100 * bits.mean())


def test_scales_and_duplicates_are_refused():
    with pytest.raises(ValueError, match="laptop, paper"):
        double.measured_table([tables(1, True), tables(2, True, scale="paper")], "clean")
    with pytest.raises(ValueError, match="one kind and seed"):
        double.measured_table([tables(4, True)] * 2, "clean")


def test_networks_of_others_are_tabled_in_the_same_way():
    network = originals.original(1, False)
    suite = registry.suites(network)["table"]
    for number, name in enumerate(("pgd/2bit", "pgd-1bit/2bit", "clean/2bit")):
        put(suite[name], bits=np.arange(10) < number)
    found = [Results(network)]
    share = {c: double.measured_table(found, c) for c in ("pgd", "pgd-1bit", "clean")}
    assert [t.loc[(1, False), (2, False)] for t in share.values()] == [0, 10, 20]
    assert all(t.notna().to_numpy().sum() == 1 for t in share.values())


def test_a_cell_that_needs_no_attack_is_the_clean_one_and_another_number_is_looked_for_in_its_row():
    network = originals.original(2, False)
    suite = registry.suites(network)["table"]
    clean = {"1bit": 5, "2bit": 6, "1bit-dithered": 2, "2bit-dithered": 1}
    for name, count in clean.items():
        put(suite[f"clean/{name}"], bits=np.arange(10) < count)
    put(suite["clean/3bit"], bits=np.arange(10) < 9)
    assert report_originals.without_an_attack([Results(network)]).empty  # without the files' say
    said = {"first": {"1bit": 5, "2bit": 6}, "released": {"1bit-dithered": 6, "2bit-dithered": 9}}
    put(suite["files"], values=said)
    found = report_originals.without_an_attack([Results(network)])
    assert found["ours"].tolist() == [clean[paper.kind_name(*k)] for k in found["column"]]
    assert dict(zip(found["column"], found["like"], strict=True)) == {
        (1, False): (1, False), (2, False): (2, False), (1, True): (2, False), (2, True): None
    }  # fmt: skip
    assert (found["printed"] == [TABLE2.loc[(2, False), k] for k in found["column"]]).all()


def test_every_trained_network_of_the_tables_is_found_and_no_variation():
    for kind, seed in (((2, True), 0), ((2, True), 1), ((8, False), 0)):
        put(paper.network(*kind, seed=seed))
    put(paper.network(1, True, halftone="jjn"))
    put(paper.hardened(2, True))
    found = [(*double.trained_on(r), r.network.seed) for r in double.find("laptop")]
    assert sorted(found) == [(2, True, 0), (2, True, 1), (8, False, 0)]
    assert double.find("paper") == []


def test_a_network_is_best_on_its_training_kind_where_no_other_is_half_a_point_better():
    table = pd.DataFrame(50.0, TABLE1.index, TABLE1.columns)
    table.loc[(2, True), (3, False)] = 50.5
    table.loc[(4, False), (3, False)] = 50.6
    table.loc[(8, False)] = np.nan
    best = double.best_on_its_training_kind(table)
    assert [kind for kind, met in best.items() if not met] == [(4, False)] and len(best) == 14
    assert double.own(TABLE1).tolist() == np.diag(TABLE1.to_numpy()).tolist()


def test_kinds_are_named_in_words():
    assert [double.words(k) for k in ((1, False), (2, True))] == ["1 bit", "2 bits, dithered"]


# --- What arithmetic decides ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_closed_form_of_the_page_is_the_radius(bits):
    top = 2**bits - 1
    assert filter_radius(bits) == Fraction(2 ** (8 - bits) - 1, top) // 1
    half = Fraction(255, 2 * top)
    assert filter_radius(bits, "nearest") == (half // 1 if half % 1 else half - 1)


def reachable(bits: int, eps: int, rounding: str) -> list[set[int]]:
    """Which levels each stored level can become, all whole moves tried."""
    top, found = 2**bits - 1, []
    for k in range(top + 1):
        exact = Fraction(255 * k, top)
        for stored in (int(exact), round(exact)):
            values = range(max(0, stored - eps), min(255, stored + eps) + 1)
            near = {round(Fraction(value * top, 255)) for value in values}
            found.append({v // 2 ** (8 - bits) for v in values} if rounding == "floor" else near)
    return found


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_stored_levels_come_back_within_the_whole_radius_and_not_all_beyond(bits, rounding):
    radius = double.whole_radius(bits, rounding)
    alone = [{k} for k in range(2**bits) for _ in range(2)]
    assert reachable(bits, radius, rounding) == alone != reachable(bits, radius + 1, rounding)


@pytest.mark.parametrize("bits", range(1, 6))
def test_steps_are_where_a_level_comes_within_reach_and_begin_behind_the_radius(bits):
    reach = [reachable(bits, eps, "floor") for eps in range(34)]
    assert double.steps(bits, 33) == [e for e in range(1, 34) if reach[e] != reach[e - 1]]
    assert double.steps(bits, 128)[0] == double.whole_radius(bits) + 1


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
    assert double.decided(0) == list(KINDS) and double.decided(128) == []


def test_verdicts_compare_the_same_images_in_decided_cells_alone():
    table = double.verdicts([tables(5, False), tables(1, True)])
    assert len(table) == 2 * 4 and table["same"].all()
    assert {test for test in table["test"]} == {k for k in KINDS if k[0] <= 2}
    assert (table["clean"] == table["attacked"]).all() and table["images"].eq(20).all()
    assert double.verdicts([]).empty


def test_one_image_with_another_verdict_is_found_although_the_counts_agree():
    network = paper.network(1, True)
    suite = registry.suites(network)["table"]
    for test in ("1bit", "2bit"):
        clean = np.arange(50) % 3 > 0
        attacked = clean[:20].copy()
        if test == "2bit":
            attacked[[0, 1]] = attacked[[1, 0]]
        put(suite[f"clean/{test}"], bits=clean)
        put(suite[f"pgd/{test}"], bits=attacked)
    table = double.verdicts([Results(network)])
    (failed,) = table[~table["same"]].itertuples()
    assert len(table) == 2 and failed.test == (2, False) and failed.clean == failed.attacked


def test_the_frontier_has_both_radii_and_the_diagonal():
    table = double.frontier(TABLE1)
    assert table["accuracy"].tolist() == np.diag(TABLE1.to_numpy()).tolist()
    assert table["floor"].tolist() == [double.whole_radius(b) for b, _ in KINDS]
    assert table["nearest"].tolist() == [double.whole_radius(b, "nearest") for b, _ in KINDS]
    best = [tuple(double.deepest(table, r, 8)[["bits", "dithered"]]) for r in ROUNDINGS]
    assert best == [(2, True), (4, True)]


def test_a_cell_is_impossible_above_its_clean_cell_and_where_a_decided_one_differs():
    clean = pd.DataFrame(50.0, TABLE1.index, TABLE1.columns)
    attacked = clean * 0 + 40.0
    attacked[[k for k in KINDS if k[0] <= 2]] = 50.0
    assert double.impossible(clean, attacked, 8) == []
    attacked.loc[(7, True), (5, False)] = 50.1
    attacked.loc[(7, True), (2, False)] = 49.9
    attacked.loc[(7, True), (1, True)] = np.nan
    found = double.impossible(clean, attacked, 8)
    assert found == [((7, True), (2, False)), ((7, True), (5, False))]


# --- The trial ------------------------------------------------------------------------------------

LEFT = {
    "clean": 80, "after/2": 80, "after/4": 80, "after/8": 60, "after/16": 20, "after/24": 10,
    "after/32": 5, "after/nearest": 79, "after/inside": 80, "after/outside": 40,
    "after/nearest-inside": 78, "after/nearest-outside": 30, "before/clean": 80, "before/bare": 20,
    "before/identity": 10, "before/averaged": 9, "before/strong": 5, "before/square": 30,
    "before/transfer": 50,
}  # fmt: skip


def tried(network=None, **arrays) -> Results:
    """A trial of 100 images, each attack of which leaves the first ones, or those of `arrays`."""
    network = network or paper.network(2, True)
    for name, m in registry.suites(network)["trial"].items():
        bits = arrays.get(name.replace("/", "__").replace("-", "_"))
        if not isinstance(bits, np.ndarray):
            bits = np.arange(100) < (LEFT[name] if bits is None else bits)
        put(m, bits=bits)
    return Results(network)


def failed(results: Results) -> list[tuple]:
    found = double_before.attack_checks(results)
    rows = found.loc[~found["passed"], ["check", "measured", "limit"]]
    return list(rows.itertuples(index=False, name=None))


def test_attacks_that_work_pass_every_check():
    assert failed(tried()) == []
    assert len(double_before.attack_checks(Results(paper.network(2, True)))) == 6


@pytest.mark.parametrize(
    ("changed", "check", "measured", "limit"),
    [
        ({"after__16": 62}, "falls as", 2, 1),
        ({"after__outside": 41}, "beyond the radius", 41, 40),
        ({"before__identity": 22}, "pipeline leaves no more than PGD on the bare", 22, 21),
        ({"before__averaged": 12}, "averaged attack leaves no more than PGD", 12, 11),
        ({"before__strong": 11}, "strong attack leaves no more than the averaged", 11, 10),
        ({"before__square": 3}, "Square or transfer alone", 2, 1),
        ({"before__transfer": 3}, "Square or transfer alone", 2, 1),
    ],
)
def test_what_went_wrong_fails_its_own_check(changed, check, measured, limit):
    ((name, *numbers),) = failed(tried(**changed))
    assert check in name and numbers == [measured, limit]


def test_a_model_of_8_bits_has_nothing_to_transfer_from():
    results = tried(paper.network(8, False))
    assert "transfer" not in double_before.before(results) and failed(results) == []
    assert np.isnan(double_before.left([results])["transfer"].item())


def test_what_was_not_run_has_not_passed():
    assert not double_before.attack_checks(Results(paper.network(1, True)))["passed"].any()


def test_the_worst_before_dithering_is_over_the_images_that_all_attacks_met():
    results = tried(before__strong=np.arange(50) < 5, before__square=np.arange(100) >= 3)
    assert double_before.worst_before(results).tolist() == [3 <= i < 5 for i in range(50)]
    row = double_before.left([results]).iloc[0]
    assert (row["images"], row["clean"], row["bare"], row["all"]) == (50, 100, 40, 4)
    assert double_before.left([Results(paper.network(1, True))]).empty


def test_images_that_all_attacks_leave_count_where_they_are_the_same():
    names = ("identity", "averaged", "strong", "square")
    same = dict.fromkeys([f"before__{n}" for n in names], np.arange(100) % 20 == 0)
    assert double_before.left_by_the_same(tried(**same)) == 5
    same["before__square"] = np.arange(100) % 20 == 1
    assert double_before.left_by_the_same(tried(paper.network(1, True), **same)) == 0


def test_against_eps_has_a_row_for_each_radius_and_compares_image_by_image():
    swapped = np.arange(100) < 81
    swapped[0] = False  # 80 are right, but not the same
    frame = double.against_eps([tried(after__4=swapped)]).set_index("eps")
    assert frame.index.tolist() == [0, 2, 4, 8, 16, 24, 32]
    assert frame["accuracy"].tolist() == [80, 80, 80, 60, 20, 10, 5]
    assert frame["same"].tolist() == [True, True, False, False, False, False, False]
    assert frame.loc[8, ["low", "high"]].tolist() == pytest.approx(
        [100 * v for v in wilson(60, 100)]
    )


def test_the_edge_is_where_the_attack_says():
    network = paper.network(2, True)
    (row,) = double.at_the_edge([tried(network)]).to_dict("records")
    trial = registry.suites(network)["trial"]
    for column, rounding, eps in (
        ("at the radius", None, 21),
        ("one beyond", None, 22),
        ("nearest, PGD at 8/255", "nearest", 8),
        ("nearest, inside", "nearest", 41),
        ("nearest, one beyond", "nearest", 43),
    ):
        (name,) = [
            n for n, m in trial.items()
            if m.attack and (m.view.rounding, m.attack.eps_255) == (rounding, eps)
        ]  # fmt: skip
        assert row[column] == LEFT[name], column
    assert (row["clean"], row["radius"], row["radius, nearest"]) == (80, 21, 42)


# --- Other halftones ------------------------------------------------------------------------------


def test_halftones_are_compared_image_by_image_with_the_first():
    shares = {None: range(90), "bayer": range(99), "jjn": range(1, 91)}
    for halftone, right in shares.items():
        network = paper.network(1, True, halftone=halftone)
        suite, own = registry.suites(network)["table"], network.cell
        bits = np.isin(np.arange(100), right)
        put(network)
        put(suite[f"clean/{own}"], bits=bits)
        put(suite[f"pgd/{own}"], bits=bits[:10] & (halftone != "bayer"))
        put(suite["clean/8bit"], bits=np.arange(100) < 40)
    found = double_before.of_each_halftone(paper.network(1, True))
    frame = double_before.halftones(found).set_index("halftone")
    assert frame["gain"].tolist() == pytest.approx([0, 9, 0])
    # 9 pairs differ one way; or one pair each way.
    sizes = [0, (0.09 - 0.09**2) ** 0.5, 0.02**0.5]
    assert frame["margin"].tolist() == pytest.approx([100 * 1.96 * s / 10 for s in sizes], rel=1e-3)
    assert frame["unchanged"].tolist() == [True, False, True]
    assert frame["same"].tolist() == pytest.approx([100, 100, 90])
    assert frame["plain"].tolist() == [40, 40, 40]
    assert double_before.halftones([]).empty


# --- Detectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 8))
def test_no_dithered_image_is_off_level_and_one_changed_value_is_enough(bits):
    generator = torch.Generator().manual_seed(bits)
    images = torch.randint(256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)
    sent = floyd_steinberg(images, bits)
    assert not double_before.off_level(sent, bits).any()
    levels = set(sent.unique().tolist()) | {255 * k // (2**bits - 1) for k in range(2**bits)}
    sent[3, 1, 2, 5] = next(v for v in range(256) if v not in levels)
    flagged = double_before.off_level(sent, bits).tolist()
    assert flagged == [False, False, False, True, False, False]


def test_every_8_bit_image_is_on_the_levels():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert not double_before.off_level(images, 8).any()


@pytest.mark.parametrize("n", [1, 10, 100])
def test_the_area_is_that_of_two_binomial_counts(n):
    clean, attacked = np.arange(40) % 20 < 18, np.arange(40) % 20 < 14
    share = [bits[1::2].mean() for bits in (clean, attacked)]
    high, low = (binom(n, p).pmf(np.arange(n + 1)) for p in share)
    exact = sum(low[i] * (high[i + 1 :].sum() + high[i] / 2) for i in range(n + 1))
    roc = double_before.detector_roc(clean, attacked, n, draws=20_000)
    assert roc.auc == pytest.approx(exact, abs=0.012)


def test_equal_hits_cannot_be_told_apart_and_opposite_ones_always():
    bits = np.random.default_rng(0).random(200) < 0.9
    same = double_before.detector_roc(bits, bits, 20)
    assert same.auc == pytest.approx(0.5) and same.chosen[0] == same.chosen[1]
    sure = double_before.detector_roc(np.ones(200, bool), np.zeros(200, bool), 20)
    assert sure.auc == 1 and sure.chosen == (0, 1)


def test_a_curve_rises_from_never_to_always_and_follows_its_seed():
    random = np.random.default_rng(1)
    clean, attacked = random.random(300) < 0.9, random.random(300) < 0.6
    roc = double_before.detector_roc(clean, attacked, 10, seed=3)
    for curve in (roc.false_alarm, roc.detected):
        assert curve[0] == 0 and curve[-1] == 1 and len(curve) == 12
        assert (np.diff(curve) >= 0).all()
    again = double_before.detector_roc(clean, attacked, 10, seed=3)
    assert np.array_equal(again.detected, roc.detected)
    assert double_before.detector_roc(clean, attacked, 10, seed=4).auc != roc.auc


def test_the_threshold_is_chosen_on_the_other_half_of_the_images():
    # Held out: all right. Measured on: half wrong, so that this threshold is far too high.
    clean = np.ones(400, bool)
    clean[1::4] = False
    roc = double_before.detector_roc(clean, clean & False, 10)
    assert roc.chosen == (roc.false_alarm[10], 1)
    fair = double_before.detector_roc(np.arange(400) % 10 > 1, np.arange(400) < 0, 50, draws=5_000)
    assert 0.02 < fair.chosen[0] < 0.08


@pytest.mark.parametrize(
    ("clean", "attacked", "n", "says"),
    [([1, 0], [1], 5, "same images"), ([1], [1], 5, ">= 2"), ([1, 0], [1, 0], 0, "n is 0")],
)
def test_bad_batches_are_named(clean, attacked, n, says):
    with pytest.raises(ValueError, match=says):
        double_before.detector_roc(np.array(clean, bool), np.array(attacked, bool), n)


def test_a_detector_sees_the_training_kind_of_image_in_either_order_of_events():
    after = double_before.seen_by_detector(tables(2, True), "after")
    suite = tables(2, True, seed=1).suite("table")
    assert [len(bits) for bits in after] == [20, 20]
    again = double_before.seen_by_detector(Results(paper.network(2, True, seed=1)), "after")
    names = ("clean/2bit-dithered", "pgd/2bit-dithered")
    assert all(map(np.array_equal, again, (suite[n].bits[:20] for n in names)))
    pair = double_before.seen_by_detector(tried(paper.network(3, True)), "before")
    assert [int(bits.sum()) for bits in pair] == [80, 20]
    assert double_before.seen_by_detector(Results(paper.network(4, True)), "before") is None


def test_detection_has_a_row_for_each_network_and_size():
    found = [tables(2, True), tables(6, False)]
    table = double_before.detection(found, "after", sizes=(5, 50))
    where = table[["bits", "dithered", "n"]].to_numpy().tolist()
    assert where == [[2, True, 5], [2, True, 50], [6, False, 5], [6, False, 50]]
    assert table["auc"].iloc[:2].tolist() == pytest.approx([0.5, 0.5])
    assert table["auc"].iloc[3] == 1
    assert double_before.detection(found, "before").empty


# --- The images of the figures --------------------------------------------------------------------


def whole_filter(images: torch.Tensor, bits: int, dithered: bool) -> torch.Tensor:
    """What the defence makes of uint8 images, by its formula; uint8, levels to the nearest."""
    sent = floyd_steinberg(images, bits) if dithered else images
    level = sent.int() // 2 ** (8 - bits)
    return (255 * level.double() / (2**bits - 1)).round().byte()


@pytest.mark.parametrize("kind", [(1, True), (2, False), (8, False)])
@pytest.mark.parametrize("name", ["stages", "stages/before"])
def test_stages_are_sent_attacked_and_received_in_their_order_of_events(kind, name):
    network, patterns = paper.network(*kind, scale="smoke"), data.load("patterns")
    x = patterns.x_test[:4]
    model = network.build().eval()
    with torch.no_grad():  # answers that differ from image to image, and near to each other
        model[-1].weight.mul_(30)
        logits = model(data.to_float(whole_filter(patterns.x_test[:40], *kind)))
        model[-1].bias.sub_(logits.mean(0))
        right = (logits - logits.mean(0))[:4].argmax(1)
    patterns = replace(patterns, y_test=right)
    measurement = registry.suites(network)["checks"][name]
    found = measurement.outcome({network: model}, patterns).arrays
    sent, attacked, received = (
        torch.from_numpy(found[f"example/{stage}"]) for stage in ("sent", "attacked", "received")
    )
    before = name.endswith("before")
    assert torch.equal(sent, x if before else whole_filter(x, *kind))
    moved = (attacked.int() - sent.int()).abs()
    assert 0 < moved.max() <= 8
    guard = DoubleQuantizer(*kind)
    known = torch.nn.Sequential(guard, model) if before else model
    expected = perturb(known, measurement.attack, data.to_float(sent), right, measurement.seed)
    agree = ((expected * 255).round().byte() == attacked).double().mean()
    # Folded batch normalisation turns a few signs.
    assert agree > 0.95, "before, the attack knows the pipeline; after, the network alone"
    again = whole_filter(attacked, kind[0], kind[1] and before)
    if kind[1] or not before:  # else the attack ends between grey values: stored, it is rounded
        assert torch.equal(again, received)
    if not before and kind[0] < 3:
        assert torch.equal(received, sent), "inside the radius the filter takes all of it away"
    with torch.no_grad():
        logits = model(data.to_float(received))
    np.testing.assert_allclose(found["confidence/received"], logits.softmax(1), atol=1e-3)
    assert found["labels"].tolist() == right.tolist()
