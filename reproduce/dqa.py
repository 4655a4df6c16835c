"""DQA: what its pages show beside `figures`: signs of failed attacks, comparisons, conclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
import pandas as pd

from reproduce import published
from reproduce.evaluation import collapsed, warning_signs
from reproduce.figures import ATTACKS, markdown_table, model_name
from reproduce.results import Record, percent

MERGED = 0.02  # of the range from -1 to 1
ADVERSARIAL, MIXED = 0.0, 0.5  # the weight of clean examples in the training risk
RISKS = {ADVERSARIAL: "adversarial examples alone", MIXED: "clean and adversarial examples mixed"}


def name_of(record: Record) -> str:
    """The network of a record as the tables call it."""
    return model_name(record.experiment["activation"], record.experiment.get("bits"))


def checks(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: risk, activation, model, seed, collapsed, pgd (percent), signs (in words)."""
    columns = ["risk", "activation", "model", "seed", "collapsed", "pgd", "signs"]
    rows = [
        (
            RISKS[r.experiment["training"]["clean_weight"]],
            r.experiment["activation"],
            name_of(r),
            r.seed,
            collapsed(r.metrics),
            percent(r, "pgd"),
            "; ".join(warning_signs(r.metrics)),
        )
        for r in records
    ]
    return pd.DataFrame(rows, columns=columns).astype({"collapsed": bool})


def flagged(runs: pd.DataFrame) -> str:
    """How many of `checks` show a sign that the attack failed, and which."""
    trained = runs[~runs["collapsed"]]
    marked = trained[trained["signs"] != ""].sort_values(["risk", "model", "seed"])
    text = f"{len(marked)} of {len(trained)} trained runs show at least one sign."
    if marked.empty:
        return text
    rows = [[r.risk, r.model, r.seed, r.signs] for r in marked.itertuples()]
    return f"{text}\n\n" + markdown_table(["training risk", "network", "seed", "signs"], rows)


def fgsm_below_pgd(table: pd.DataFrame) -> str:
    """The rows of a published table whose one-step attack does more than its many-step attack."""
    wide = table.assign(bits=table["bits"].fillna(0)).pivot(
        index=["activation", "bits"], columns="attack", values="value"
    )
    rows = [
        [model_name(activation, int(bits) or None), *(f"{row[a]:.2f}" for a in ATTACKS)]
        for (activation, bits), row in wide.iterrows()
        if row["fgsm"] < row["pgd"]
    ]
    return markdown_table(["published", *ATTACKS.values()], rows)


def each_run(measured: pd.DataFrame) -> str:
    """Every run with its accuracies and their Wilson intervals, and its record's key.

    Args: measured: results.load(...), at one scale.
    """
    if measured.empty:
        return "None yet."
    runs = []
    for (weight, seed, key), run in measured.groupby(["training.clean_weight", "seed", "key"]):
        first = run.iloc[0]
        shares = [
            f"{100 * r.accuracy:.2f} ({100 * r.low:.2f}–{100 * r.high:.2f})"
            for r in run.set_index("condition").loc[list(ATTACKS)].itertuples()
        ]
        bits = None if pd.isna(first["bits"]) else int(first["bits"])
        network = model_name(first["activation"], bits)
        runs.append([network, RISKS[weight], seed, *shares, f"`{key}`"])
    header = ["network", "risk", "seed", *ATTACKS.values(), "record"]
    return markdown_table(header, sorted(runs, key=lambda r: (r[1], r[0], r[2])))


def conclude(runs: pd.DataFrame, risk: str) -> str:
    """What `checks` say of the networks trained on one risk, as an item of a list."""
    runs = runs[runs["risk"] == risk]
    quantised = runs[runs["activation"] != "relu"]
    relu = runs[runs["activation"] == "relu"]["pgd"]
    if relu.empty or quantised.empty:
        return f"- **Trained on {risk}:** not run at this scale."
    alive = quantised[~quantised["collapsed"]]
    above = alive[alive["pgd"] > relu.max()]
    masked = above[above["signs"] != ""]
    signs = f"; {len(masked)} of these {len(above)} show a sign that the attack failed"
    return (
        f"- **Trained on {risk}:** ReLU keeps {', '.join(f'{p:.1f}' for p in relu)} % under PGD "
        f"({'each seed' if len(relu) > 1 else 'one seed'}). Of the quantised runs "
        f"({len(quantised)}), {len(quantised) - len(alive)} collapsed in training and {len(above)} "
        f"end above every ReLU run{signs if len(above) else ''}."
    )


def conclude_gain(networks: Mapping[str, Record], dataset: str) -> str:
    """Whether the published gain over ReLU appears under the table's own PGD, as an item of a list.

    Args: networks: {name: record}, "ReLU" among them. dataset: mnist or cifar10; the smoke tests'
          are compared with cifar10.
    """
    table = published.load("dqa_table1" if dataset == "mnist" else "dqa_table2")
    under = table[table["attack"] == "pgd"]
    plain = under["activation"] == "relu"
    said = under[~plain]["value"] - under[plain]["value"].item()
    others = {n: r for n, r in networks.items() if n != "ReLU" and not collapsed(r.metrics)}
    if "ReLU" not in networks or not others:
        return "- **Under the table's own PGD:** not run at this scale."
    gains = [percent(r, "pgd") - percent(networks["ReLU"], "pgd") for r in others.values()]
    text = (
        f"- **Under the table's own PGD** {sum(g > 0 for g in gains)} of {len(gains)} quantised "
        f"networks are better than ReLU (seed 0): {min(gains):+.1f} to {max(gains):+.1f} points, "
        f"where the paper prints {said.min():+.1f} to {said.max():+.1f}."
    )
    if max(gains) <= 0:
        text += (
            " So the published gain does not appear in these networks, and what stronger attacks "
            "do to them cannot explain it."
        )
    return text


def levels_used(records: Mapping[str, Record]) -> str:
    """How much of its levels a first activation layer uses on the image of Fig. 2.

    Args: records: {network: record}.
    """
    if not records:
        return "missing"
    said = []
    for name, record in records.items():
        counts, levels = record.arrays["first/counts"], np.sort(record.arrays["first/levels"])
        merged = int((np.diff(levels) < MERGED).sum())
        more = f", {merged} of its levels within {MERGED} of the next" if merged else ""
        said.append(f"{name} {100 * counts.max() / counts.sum():.1f} %{more}")
    return (
        f"Share of the outputs that take the most frequent level: {'; '.join(said)}. Uneven levels "
        "need not mean that training makes use of them: a layer that nearly always puts out the "
        "same value says little of its input."
    )


def clusters(records: Sequence[Record]) -> str:
    """How far features keep to their classes (Fig. 3), for each network; each seed in its order."""
    rows: dict[str, list[Record]] = {}
    for r in sorted(records, key=lambda r: r.seed):
        if "knn/clean" in r.arrays:
            rows.setdefault(name_of(r), []).append(r)
    if not rows:
        return "missing"
    measures = {
        f"{measure}/{condition}": f"{title}, {ATTACKS[condition]}"
        for measure, title in (
            ("knn", "neighbours of the same class"),
            ("silhouette", "silhouette"),
        )
        for condition in ("clean", "pgd")
    }
    lines = [
        [name, *("<br>".join(f"{r.arrays[m]:.3f}" for r in runs) for m in measures)]
        for name, runs in rows.items()
    ]
    return markdown_table(["network", *measures.values()], lines)


def lost_to_collapse(runs: pd.DataFrame) -> str:
    """How many of the quantised networks of `checks` collapsed in training, for each risk."""
    quantised = runs[runs["activation"] != "relu"]
    return ", ".join(
        f"{int(part['collapsed'].sum())} of {len(part)} quantised runs trained on {risk}"
        for risk, part in quantised.groupby("risk")
    )


def conclude_clusters(records: Sequence[Record]) -> str:
    """What the share of neighbours of the same class says of Fig. 3, as an item of a list."""
    found = [r for r in records if "knn/clean" in r.arrays and not collapsed(r.metrics)]
    relu = [r for r in found if r.experiment["activation"] == "relu"]
    dynamic = [r for r in found if r.experiment["activation"] == "dynamic"]
    if not relu or not dynamic:
        return "- **Fig. 3:** not run at this scale."

    def span(runs: Sequence[Record], condition: str) -> str:
        each = [100 * float(r.arrays[f"knn/{condition}"]) for r in runs]
        low, high = f"{min(each):.1f}", f"{max(each):.1f}"
        return f"{low} %" if low == high else f"{low}–{high} %"

    silhouettes = [
        float(r.arrays[f"silhouette/{a}"]) for r in (*relu, *dynamic) for a in ("clean", "pgd")
    ]
    none = (
        " All silhouettes are negative, on clean images, too: there are no clusters that an attack "
        "could dissolve, so Fig. 3 cannot be judged by these networks."
        if max(silhouettes) < 0
        else ""
    )
    return (
        "- **Fig. 3:** of an image's nearest neighbours "
        f"{span(relu, 'clean')} have its class for ReLU and {span(dynamic, 'clean')} for dynamic "
        f"activations; under PGD {span(relu, 'pgd')} and {span(dynamic, 'pgd')}.{none}"
    )


def readings(
    what: Mapping[str, str],
    literal: Mapping[str, Record | None],
    others: Mapping[str, Record | None],
    tried: Mapping[str, float],
) -> str:
    """Networks under other readings of the paper beside those under the literal one.

    Args: what: {cell: how it is read}; a cell is the literal one's and an ending. literal, others:
          {cell: record}, None where it was not run. tried: {cell: percent left by all attacks of
          its trial}, of those that were tried.
    """

    def left(cell: str) -> str:
        return f"{tried[cell]:.1f}" if cell in tried else "missing"

    def shares(record: Record | None) -> str:
        if record is None:
            return "missing"
        counts = [record.metrics[a] for a in ATTACKS]
        said = " / ".join(f"{100 * c['correct'] / c['total']:.2f}" for c in counts)
        return f"*{said}*" if collapsed(record.metrics) else said

    rows = []
    for cell, reading in what.items():
        network = cell.rsplit("-", 1)[0]
        both = literal.get(network), others.get(cell)
        plain, other = ([shares(r), left(c)] for r, c in zip(both, (network, cell), strict=True))
        rows.append([network, *plain, reading, *other])
    columns = " / ".join(ATTACKS.values())
    header = [f"literal: {columns}", "all", "other reading", columns, "all"]
    return markdown_table(["network", *header], rows)


# --- Table 4 --------------------------------------------------------------------------------------

_OURS = {"Madry": ("relu", None), "DQA": ("dynamic", 2)}


def comparison(measured: pd.DataFrame, dataset: str, tried: Mapping[str, float]) -> str:
    """Table 4 beside our networks and beside what later evaluations left of each defence.

    Our ReLU networks stand in the row of Madry, whose training they share, and those with 2-bit
    dynamic activations in that of DQA; the other defences are not re-run here.

    Args: measured: results.load(...) of the data set, at one scale and of one training risk. tried:
          {network, as model_name: percent left by all attacks of its trial}.
    """
    printed = published.load("dqa_table4")
    printed = printed[printed["dataset"] == dataset]
    later = published.load("later_findings")
    later = later[later["dataset"] == dataset]
    rows = []
    for defense in printed["defense"].unique():
        cells = printed[printed["defense"] == defense].set_index("attack")
        values = [cells.loc[a, "value"] for a in ATTACKS]
        rows.append(
            [
                f"{defense}, {cells['architecture'].iloc[0]}",
                *("not printed" if pd.isna(v) else f"{v:.2f}" for v in values),
                _our_row(measured, *_OURS[defense]) if defense in _OURS else "not re-run",
                _our_trial(tried, *_OURS[defense]) if defense in _OURS else "not re-run",
                _findings(later[later["defense"] == defense]),
            ]
        )
    ours = ["ours (clean / PGD / FGSM)", "ours, all attacks"]
    header = ["defence", *ATTACKS.values(), *ours, "later evaluations"]
    best = later[later["defense"] == "highest on RobustBench"]
    return markdown_table(header, rows) + (
        "" if best.empty else f"\n\nHighest on RobustBench: {_findings(best)}."
    )


def _our_row(measured: pd.DataFrame, activation: str, bits: int | None) -> str:
    if measured.empty:
        return "missing"
    same_bits = measured["bits"].isna() if bits is None else measured["bits"] == bits
    cell = measured[same_bits & (measured["activation"] == activation)]
    if cell.empty:
        return "missing"
    each = [cell.loc[cell["condition"] == a, "accuracy"] for a in ATTACKS]
    seeds = cell["seed"].nunique()
    shares = " / ".join(f"{100 * mean(values):.2f}" for values in each)
    return f"{model_name(activation, bits)}: {shares} ({seeds} seed{'s' if seeds > 1 else ''})"


def _our_trial(tried: Mapping[str, float], activation: str, bits: int | None) -> str:
    name = model_name(activation, bits)
    return f"{tried[name]:.1f}" if name in tried else "missing"


def _findings(rows: pd.DataFrame) -> str:
    said = [f"{r.value:g} % {r.condition} {{cite:p}}`{r.citation}`" for r in rows.itertuples()]
    return "; ".join(said) or "none known to us"
