"""Tables say what the records say; figures can be drawn, and are shown once."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reproduce import figures, published, trial_figures
from reproduce.evaluation import collapsed, wilson


def measured(*rows: tuple) -> pd.DataFrame:
    columns = ["activation", "bits", "seed", "condition", "accuracy"]
    table = pd.DataFrame(rows, columns=columns)
    high = [wilson(round(1000 * a), 1000)[1] for a in table["accuracy"]]
    return table.assign(scale="laptop", high=high)


ROWS = [
    (activation, bits, seed, condition, share + seed / 100)
    for activation, bits, share in (("relu", None, 0.9), ("fixed", 1, 0.1))
    for seed in (1, 0)
    for condition in ("clean", "pgd", "fgsm")
]
TABLE1 = published.load("dqa_table1")


def test_a_summary_lists_each_seed_in_order_beside_the_published_value():
    table = figures.summary(measured(*ROWS), TABLE1)
    cell = table.query("activation == 'relu' and attack == 'pgd'").iloc[0]
    assert cell["published"] == 94.04 and cell["each"] == pytest.approx([90, 91])
    assert table.query("activation == 'dynamic'")["each"].map(len).eq(0).all()
    assert len(table) == len(TABLE1)


def test_a_summary_of_nothing_has_no_seeds():
    assert figures.summary(measured(), TABLE1)["each"].map(len).eq(0).all()


def test_scales_are_never_mixed():
    both = pd.concat([measured(*ROWS), measured(*ROWS).assign(scale="paper", seed=7)])
    with pytest.raises(ValueError, match="laptop, paper"):
        figures.summary(both, TABLE1)


def test_two_records_of_one_cell_and_seed_are_refused():
    with pytest.raises(ValueError, match="one cell and seed"):
        figures.summary(measured(*ROWS, ROWS[0]), TABLE1)


def test_the_table_shows_missing_cells_as_missing_and_collapsed_seeds_in_italics():
    lines = figures.side_by_side(figures.summary(measured(*ROWS), TABLE1)).splitlines()
    assert len(lines) == 2 + 7
    assert lines[2].startswith("| ReLU | 99.24 | 90.00<br>91.00 | 94.04 |")
    assert "*10.00*<br>*11.00*" in lines[3] and lines[3].startswith("| fixed, 1 bit ")
    assert lines[-1].count("missing") == 3


@pytest.mark.parametrize("share", [0.17, 0.19, 0.21])
def test_italics_are_for_what_the_rules_call_collapsed(share):
    rows = [("fixed", 1, 0, condition, share) for condition in ("clean", "pgd", "fgsm")]
    text = figures.side_by_side(figures.summary(measured(*rows), TABLE1))
    counts = {"clean": {"correct": round(1000 * share), "total": 1000}}
    assert (f"*{100 * share:.2f}*" in text) == collapsed(counts)


def test_columns_of_numbers_are_aligned_right_and_others_left():
    text = figures.markdown_table(["a", "b", "c"], [["x", 1, "1.5"], ["2y", -2, "missing"]])
    assert text.splitlines() == [
        "| a | b | c |",
        "| --- | ---: | ---: |",
        "| x | 1 | 1.5 |",
        "| 2y | -2 | missing |",
    ]


SHOWN = SimpleNamespace(
    arrays={
        "first/levels": np.array([-1.0, 1.0]),
        "first/counts": np.array([3, 1]),
        "features/labels": np.arange(4),
        "tsne/clean": np.zeros((4, 2)),
        "tsne/pgd": np.ones((4, 2)),
    }
)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.published_and_measured(figures.summary(measured(*ROWS), TABLE1)),
        lambda: figures.staircases(3),
        lambda: figures.first_layer({"one": SHOWN, "two": SHOWN}),
        lambda: figures.feature_maps({"one": SHOWN, "two": SHOWN}),
        lambda: figures.image_grid(
            {"grey": np.zeros((2, 1, 4, 4), np.uint8), "rgb": np.zeros((2, 3, 4, 4), np.uint8)},
            {"grey": [1, 2], "rgb": "ab"},
        ),
    ],
)
def test_a_figure_is_returned_and_no_longer_pyplots(draw):
    figure = draw()
    assert isinstance(figure, Figure) and plt.get_fignums() == []


def test_images_that_were_never_broken_keep_the_curve_below_one():
    figure = trial_figures.broken_within(
        {"ReLU": {"own": np.array([0.1, 0.5, np.inf, np.inf])}}, {"ReLU": 0.12}
    )
    curve = figure.axes[0].lines[0].get_xydata()
    assert curve[curve[:, 0] < np.inf][-1].tolist() == [0.5, 0.5]


def test_success_by_width_draws_each_network_at_each_width():
    found = {"ReLU": [(80, 70, 90), (90, 85, 95)], "fixed": [(0, 0, 4), (50, 40, 60)]}
    ax = trial_figures.success_by_width(["1e-4", "1/255"], found).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[80, 90], [0, 50]]


def test_published_levels_and_kinks_stand_beside_the_curves():
    figure = trial_figures.against_eps(
        [0, 8], {"2 bits": [80, 79]}, "1/255", 8, {"2 bits": (16, 84.5)}, {"radius": 21}
    )
    curve, said, mark, kink = (line.get_xydata().tolist() for line in figure.axes[0].lines)
    assert curve == [[0, 80], [8, 79]] and said == [[0, 84.5], [16, 84.5]]
    assert (mark[0][0], kink[0][0]) == (8, 21)


def test_a_network_of_dqa_looks_the_same_in_every_line_plot_and_like_no_other():
    cells = [("relu", None), *((kind, b) for kind in ("fixed", "dynamic") for b in (1, 2, 3))]
    names = [figures.model_name(*cell) for cell in cells]
    percentages = {name: [90, 50] for name in names}
    backwards = dict(reversed(percentages.items()))
    drawn = []
    for figure in (
        trial_figures.ladder({"": percentages}, ["clean", "all"]),
        trial_figures.against_eps([0, 8], backwards, "1/255", 8),
        figures.training_curves({name: CURVES for name in names[::-1]}),
    ):
        lines = [line for line in figure.axes[0].lines if line.get_label() in names]
        looks = {
            line.get_label(): (line.get_color(), line.get_linestyle(), line.get_marker())
            for line in lines
        }
        assert len(set(looks.values())) == len(looks) == 7
        drawn.append(looks)
    assert drawn[0] == drawn[1] == drawn[2]


CURVES = SimpleNamespace(curves={"loss": [2, 1], "accuracy": [0.1, 0.9], "eps_255": [0, 8]})
