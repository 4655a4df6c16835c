"""C&W, DDN and ZOO against DQA on CIFAR-10: how far images must be moved (Tables 3 and 5).

An image that is misjudged as it stands needs no moving: it counts neither as broken nor as
attacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reproduce import published
from reproduce.evaluation import wilson
from reproduce.papers import dqa, registry
from reproduce.records import Record
from reproduce.report import style, tables
from reproduce.report.results import Results

# By less than this no pixel changes its grey level where an image is rounded to 8 bits.
HALF_A_LEVEL = 0.499 / 255


class Broken(NamedTuple):
    """What an attack that looks for the smallest perturbation did.

    bits: (N,) bool, of the images that were right as they stood: whether it changed the answer.
    mean, median: l2 norms of those it changed, in [0, 1] units; NaN where there are none.
    """

    bits: np.ndarray
    mean: float
    median: float


def broken(norms: np.ndarray) -> Broken:
    """Args: norms: (N,), 0 where an image was wrong as it stood, inf where it never broke."""
    moved = norms[norms > 0].astype(np.float64)
    found = moved[np.isfinite(moved)]
    both = (found.mean(), np.median(found)) if len(found) else (np.nan, np.nan)
    return Broken(np.isfinite(moved), *map(float, both))


def tried(dataset: str, scale: str) -> list[Results]:
    """The networks that one of them has met: ReLU first, then by falling bits."""
    networks = [n for n in registry.networks("dqa", scale, 0) if n.dataset == dataset]
    found = [Results(n) for n in networks if "norms" in registry.suites(n)]
    return sorted((r for r in found if r.suite("norms")), key=lambda r: -(r.network.bits or 9))


NAMES = {"cw": "C&W", "ddn": "DDN", "zoo": "ZOO"}
GRADIENT = ("cw", "ddn")  # each is the check of the other: the smaller norm counts


def best(results: Results, attacks: Sequence[str]) -> np.ndarray:
    """(N,): each image's norm under whichever attack, rule or width did best.

    Args: attacks: of NAMES, those that count; at least one was run.
    """
    found = [r.norms for attack in attacks for r in _under(results, attack).values()]
    few = min(map(len, found))
    return np.min([norms[:few] for norms in found], axis=0)


def _under(results: Results, attack: str) -> dict[str, Record]:
    """{rule or width: record} of an attack of NAMES."""
    parts = ((name.split("/", 1), r) for name, r in results.suite("norms").items())
    return {how: record for (kind, how), record in parts if kind == attack}


def _name(results: Results) -> str:
    return style.model_name(results.network.activation, results.network.bits)


def _defended(results: Results) -> bool:
    return results.network.training.attack is not None


def outcomes(runs: Sequence[Results]) -> pd.DataFrame:
    """Every search for the smallest perturbations, one row each.

    Args:    runs: `tried`.
    Returns: network, bits (NA for ReLU), defended (whether it was trained on adversarial examples),
             collapsed, attack (of NAMES), how (own, sigmoid; or the width of ZOO's difference),
             images (right as they stood), broken, rate, low, high (percent, Wilson's 95 %), mean,
             median (l2), key (of the record).
    """
    rows = []
    for results in runs:
        known = _name(results), results.network.bits, _defended(results), results.collapsed
        for attack in NAMES:
            for how, record in _under(results, attack).items():
                bits, mean, median = broken(record.norms)
                total, moved = len(bits), int(bits.sum())
                shares = (moved / total, *wilson(moved, total)) if total else [np.nan] * 3
                rate, low, high = (100 * share for share in shares)
                where = (*known, attack, how, total, moved)
                rows.append((*where, rate, low, high, mean, median, record.key))
    columns = [
        *("network", "bits", "defended", "collapsed", "attack", "how", "images", "broken"),
        *("rate", "low", "high", "mean", "median", "key"),
    ]
    types = {"bits": "Int64", "defended": bool, "collapsed": bool}
    return pd.DataFrame(rows, columns=columns).astype(types)


def _printed(table: str, bits: int | None, **where) -> float:
    frame = published.load(table)
    same = frame["bits"].isna() if pd.isna(bits) else frame["bits"] == bits
    for column, value in where.items():
        same &= frame[column] == value
    return frame[same]["value"].item()


def _marked(row) -> str:
    return f"*{row.network}*" if row.collapsed else row.network


def _rate(row) -> str:
    if not row.images:
        return tables.NONE
    # Without a point: of some 50 images. The cell is not to be broken.
    return f"{row.rate:.0f}\N{NO-BREAK SPACE}({row.low:.0f}–\N{WORD JOINER}{row.high:.0f})"


RULES = {"own": "as trained", "sigmoid": "sigmoids"}


def table3(found: pd.DataFrame, *, defended: bool) -> pd.DataFrame:
    """One column of Table 3 beside ours, a row a network, attack and backward rule.

    Args:    found: `outcomes`. defended: the column with adversarial training, which prints the
             success rate in percent; else that without, which prints the mean norm.
    Returns: strings and numbers to be shown; networks that collapsed are in italics.
    """
    printed = "printed: success (%)" if defended else "printed: mean norm"
    chosen = found[found["attack"].isin(GRADIENT) & (found["defended"] == defended)]
    rows = []
    for row in chosen.itertuples():
        said = _printed("dqa_table3", row.bits, adversarial_training=defended)
        rule = "its own" if pd.isna(row.bits) else RULES[row.how]
        ours = (row.images, _rate(row), row.mean, row.median, f"`{row.key}`")
        rows.append((_marked(row), f"{said:g}", NAMES[row.attack], rule, *ours))
    ours = ["images", "broken (%)", "mean norm", "median norm", "record"]
    return pd.DataFrame(rows, columns=["network", printed, "attack", "derivative", *ours])


def widest(found: pd.DataFrame) -> pd.DataFrame:
    """ZOO's best width on each network, of equals the smallest: `outcomes`' rows, and the rate that
    the paper prints as `printed`."""
    zoo = found[found["attack"] == "zoo"]
    rates = zoo["rate"].fillna(-1)  # where no image was right, any width will do
    top = zoo.loc[rates.groupby(zoo["network"], sort=False).idxmax()]
    said = [_printed("dqa_table5", bits, quantity="attack_success") for bits in top["bits"]]
    return top.assign(printed=said)


def table5(found: pd.DataFrame) -> pd.DataFrame:
    """Table 5 beside ours: ZOO at the width of its authors and at its best, to be shown."""
    zoo = found[(found["attack"] == "zoo") & (found["how"] == "1e-4")].set_index("network")
    rows = [
        (
            _marked(row),
            f"{row.printed:g}",
            row.images,
            _rate(zoo.loc[row.network]) if row.network in zoo.index else tables.NONE,
            _rate(row),
            row.how,
            row.median,
        )
        for row in widest(found).itertuples()
    ]
    ours = ["images", "h = 1e-4: broken (%)", "best h: broken (%)", "best h", "median norm there"]
    return pd.DataFrame(rows, columns=["network", "printed (%)", *ours])


def every_width(found: pd.DataFrame) -> pd.DataFrame:
    """ZOO at every width: percent broken, and the median norm behind it, to be shown."""
    zoo = found[found["attack"] == "zoo"]
    cells = [f"{r.rate:.1f} · {r.median:.2f}" if r.broken else "0.0" for r in zoo.itertuples()]
    wide = zoo.assign(cell=cells).pivot(index="network", columns="how", values="cell")
    wide = wide.reindex(index=zoo["network"].unique(), columns=list(dqa.H_255))
    return wide.rename(columns="h = {}".format).rename_axis(columns=None).reset_index()


def inside_the_ball(runs: Sequence[Results]) -> pd.DataFrame:
    """What C&W and DDN break within the radius of Table 2's PGD, of what this PGD leaves right.

    An l2 norm of r moves no pixel by more than r: norms up to the radius lie in PGD's ball. There
    may be more. Networks that collapsed, or were trained without PGD, are left out.

    Returns: network, activation, images, right (after PGD), wrong (of these, as they stand), within
             (broken, with a norm up to the radius), tiny (of these, by a norm that rounding to
             8 bits would undo).
    """
    rows = []
    for r in runs:
        pgd = r.suite("table").get("pgd")
        if not _defended(r) or pgd is None or not _under(r, "cw") or r.collapsed:
            continue
        norms = best(r, GRADIENT)
        right = pgd.bits[: len(norms)]
        radius = dqa.table_attacks(r.network)["pgd"].eps_255 / 255
        wrong = int((right & (norms == 0)).sum())
        near = [int((right & (norms > 0) & (norms <= e)).sum()) for e in (radius, HALF_A_LEVEL)]
        known = _name(r), r.network.activation, len(norms)
        rows.append((*known, int(right.sum()), wrong, *near))
    columns = ["network", "activation", "images", "right", "wrong", "within", "tiny"]
    return pd.DataFrame(rows, columns=columns)


def left_by_zoo(runs: Sequence[Results]) -> pd.DataFrame:
    """What C&W and DDN do to the images that ZOO breaks at no width; without collapsed networks.

    Returns: network, activation, standing (broken at no width), broken (of these, by either).
    """
    rows = []
    for r in runs:
        if _under(r, "zoo") and _under(r, "cw") and not r.collapsed:
            zoo, cw = best(r, ["zoo"]), best(r, GRADIENT)
            few = min(len(zoo), len(cw))
            standing = np.isinf(zoo[:few])
            both = standing & np.isfinite(cw[:few])
            rows.append((_name(r), r.network.activation, int(standing.sum()), int(both.sum())))
    return pd.DataFrame(rows, columns=["network", "activation", "standing", "broken"])


# --- Figures --------------------------------------------------------------------------------------


def undefended_figure(runs: Sequence[Results]) -> Figure:
    """The share of images that C&W breaks within each l2 norm, and the mean norm that the paper
    prints; a panel a network trained on clean images alone."""
    shown = [r for r in runs if not _defended(r) and _under(r, "cw")]
    figure, grid = style.panels(len(shown), height=2.5, below=0.6)
    for ax, results in zip(grid.flat, shown, strict=False):
        for number, (rule, record) in enumerate(_under(results, "cw").items()):
            line = {"color": f"C{number}", "ls": "-" if number else "--", "label": RULES[rule]}
            ax.ecdf(record.norms[record.norms > 0], **line)
        mean = _printed("dqa_table3", results.network.bits, adversarial_training=False)
        ax.axvline(mean, color="0.3", ls=":", label="printed mean norm")
        ax.set(title=_name(results))
        _norms_axes(ax)
    for ax in grid[:-1].flat:
        ax.set_xlabel("")
    for ax in grid[:, 1:].flat:
        ax.set_ylabel("")
    handles = {h.get_label(): h for ax in grid.flat for h in ax.get_legend_handles_labels()[0]}
    style.legend_below(figure, list(handles.values()), columns=3)
    return style.close(figure)


def defended_figure(runs: Sequence[Results]) -> Figure:
    """The share of images that the better of C&W and DDN, by the better rule, breaks within each l2
    norm, in networks trained on adversarial examples, and the radius of PGD."""
    shown = [r for r in runs if _defended(r) and _under(r, "cw")]
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    for number, results in enumerate(shown):
        norms, line = best(results, GRADIENT), style.look(_name(results), number)
        ax.ecdf(norms[norms > 0], **{n: v for n, v in line.items() if n not in ("marker", "mfc")})
    eps_255 = dqa.table_attacks(shown[0].network)["pgd"].eps_255
    ax.axvline(eps_255 / 255, color="0.3", ls=":", label=f"PGD's ε = {eps_255:g}/255")
    _norms_axes(ax)
    style.legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    return style.close(figure)


def _norms_axes(ax: Axes) -> None:
    ax.set(xlabel="$\\ell_2$ norm", ylabel="images broken", xscale="log")
    ax.set(xlim=(3e-4, 10), ylim=(-0.03, 1.03))
    ax.yaxis.set_major_formatter(PercentFormatter(1))


def widths_figure(found: pd.DataFrame) -> Figure:
    """ZOO's success against the width of its difference, with Wilson's intervals."""
    zoo = found[found["attack"] == "zoo"]
    widths = list(dqa.H_255)
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    for number, (name, each) in enumerate(zoo.groupby("network", sort=False)):
        each = each.set_index("how").reindex(widths)
        line = style.look(name, number)
        ax.plot(range(len(widths)), each["rate"], ms=6, **line)
        band = {"color": line["color"], "alpha": 0.12, "lw": 0}
        ax.fill_between(range(len(widths)), each["low"], each["high"], **band)
    ax.set(xlabel="width h of the finite difference ([0, 1] units)", ylabel="images broken (%)")
    ax.set(ylim=(-3, 103))
    ax.set_xticks(range(len(widths)), widths)
    style.legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    return style.close(figure)
