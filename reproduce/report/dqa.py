"""DQA's tables and flags, as DataFrames of numbers: percent, counts of images, booleans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from reproduce import published
from reproduce.evaluation import paired, wilson
from reproduce.papers import dqa
from reproduce.papers.dqa import ActivationNetwork
from reproduce.report import checks, tables
from reproduce.report.results import (
    Results,
    every_seed,
    met_by_both,
    robust_accuracy,
    survivors,
    tried,
)
from reproduce.report.style import model_name

ATTACKS = {"clean": "clean", "pgd": "PGD", "fgsm": "FGSM"}
NAN = float("nan")


def name_of(network: ActivationNetwork) -> str:
    """A network as the tables call it: "ReLU", "fixed, 2 bits"."""
    return model_name(network.activation, network.bits)


def find(dataset: str, scale: str, *, mixed: bool = False) -> dict[str, Results]:
    """{name: results} of the seven networks of Table 1 or 2, first seed, those that were trained.

    Args: as papers.dqa.network.
    """
    return trained(dqa.network(dataset, *k, scale=scale, mixed=mixed) for k in dqa.ACTIVATIONS)


def trained(networks: Iterable[ActivationNetwork]) -> dict[str, Results]:
    """{name: results} of these networks, those that were trained."""
    found = {name_of(network): Results(network) for network in networks}
    return {name: results for name, results in found.items() if results.training is not None}


def find_seeds(dataset: str, scale: str, *, mixed: bool = False) -> dict[str, list[Results]]:
    """{name: results of each seed} of the seven networks, those that were trained."""
    units = [dqa.network(dataset, *kind, scale=scale, mixed=mixed) for kind in dqa.ACTIVATIONS]
    return {name_of(unit): every_seed(unit) for unit in units}


# --- Tables 1 and 2 -------------------------------------------------------------------------------


def printed(dataset: str) -> pd.DataFrame:
    """Table 1 for MNIST, else Table 2: published accuracies (%), a row a network, a column an
    attack of ATTACKS."""
    cells = published.load("dqa_table1" if dataset == "mnist" else "dqa_table2")
    bits = [None if pd.isna(b) else int(b) for b in cells["bits"]]
    names = [model_name(a, b) for a, b in zip(cells["activation"], bits, strict=True)]
    wide = cells.assign(network=names).pivot(index="network", columns="attack", values="value")
    return wide.loc[list(dict.fromkeys(names)), list(ATTACKS)]


def measured(results: Results) -> dict[str, float]:
    """{attack: accuracy (%)} on all test images of the table, NaN where it was not run."""
    suite = results.suite("table")
    return {a: suite[a].accuracy if a in suite else NAN for a in ATTACKS}


def table(networks: Mapping[str, Sequence[Results]], dataset: str) -> pd.DataFrame:
    """Published beside ours.

    Returns: a row a network and attack, in the published order: network, attack, published (%),
             ours (a tuple, % of each seed in their order), collapsed (a tuple of bool).
    """
    rows = []
    for name, said in printed(dataset).iterrows():
        runs = [r for r in networks.get(name, ()) if "clean" in r.suite("table")]
        found = [measured(r) for r in runs]
        lost = tuple(r.collapsed for r in runs)
        rows += [(name, a, said[a], tuple(f[a] for f in found), lost) for a in ATTACKS]
    return pd.DataFrame(rows, columns=["network", "attack", "published", "ours", "collapsed"])


def side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """`table` for the eye: a row a network; collapsed seeds in italics."""
    rows = {}
    for cell in frame.itertuples():
        row = rows.setdefault(cell.network, {"network": cell.network})
        row[f"{ATTACKS[cell.attack]}, published"] = f"{cell.published:.2f}"
        row[f"{ATTACKS[cell.attack]}, ours"] = tables.seeds(cell.ours, 2, cell.collapsed)
    return pd.DataFrame(list(rows.values()))


SIGNS = (("pgd", "clean"), ("fgsm", "clean"), ("pgd", "fgsm"))


def signs(runs: Iterable[Results]) -> pd.DataFrame:
    """Signs that an attack of the tables failed, or that there was nothing left to attack.

    An attack may leave an image alone, so accuracy under it cannot truly exceed clean accuracy; and
    PGD with its many steps should leave no more than FGSM with one. A sign counts where the Wilson
    intervals at 95 % do not overlap.

    Returns: a row a run: network, seed, collapsed, pgd (%), and whether each sign shows: "pgd above
             clean", "fgsm above clean", "pgd above fgsm".
    Source:  Athalye et al. 2018, section 3.1; Carlini et al. 2019.
    """
    rows = []
    for r in runs:
        suite = r.suite("table")
        if set(ATTACKS) <= suite.keys():
            interval = {a: wilson(suite[a].correct, suite[a].total) for a in ATTACKS}
            shows = [interval[one][0] > interval[other][1] for one, other in SIGNS]
            run = (name_of(r.network), r.network.seed, r.collapsed, suite["pgd"].accuracy)
            rows.append((*run, *shows))
    names = [f"{one} above {other}" for one, other in SIGNS]
    return pd.DataFrame(rows, columns=["network", "seed", "collapsed", "pgd", *names])


def each_run(runs: Iterable[Results]) -> pd.DataFrame:
    """A row a run: network, seed, accuracies with Wilson's intervals, precision, record's key."""
    rows = []
    for r in runs:
        suite = r.suite("table")
        cells = {t: tables.share(suite[a].bits, 2) for a, t in ATTACKS.items() if a in suite}
        who = {"network": name_of(r.network), "seed": r.network.seed}
        rows.append(who | cells | {"trained in": r.precision, "record": f"`{r.network.key}`"})
    columns = ["network", "seed", *ATTACKS.values(), "trained in", "record"]
    return pd.DataFrame(rows, columns=columns)


def precision(results: Results) -> str:
    """In which arithmetic a network was trained: "bfloat16" or "float32"."""
    return results.precision


# --- The trial ------------------------------------------------------------------------------------

BLIND = ("score", "decision", "noise")


def trial(networks: Mapping[str, Results]) -> pd.DataFrame:
    """What is left of each network, by what the attacker sees; all over the same images of a row.

    Returns: network, seed, images; in percent clean, fgsm, pgd (the tables' attacks, asked one
             image at a time), gradient (the worst over all attacks with gradients), blind (scores,
             decisions and noise), transfer, all, low, high (Wilson, 95 %); whether it collapsed, is
             `doubtful` or `blunt`; and key, of the network's record. NaN where nothing was run.
    """
    return trial_by_seed({name: [r] for name, r in networks.items()})


def trial_by_seed(networks: Mapping[str, Sequence[Results]]) -> pd.DataFrame:
    """`trial` of every seed."""
    rows = [_trial_row(name, r) for name, runs in networks.items() for r in runs if tried(r)]
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = [
    *("network", "seed", "images", "clean", "fgsm", "pgd", "gradient", "blind", "transfer"),
    *("all", "low", "high", "collapsed", "doubtful", "blunt", "key"),
]


def _trial_row(name: str, results: Results) -> dict:
    worst = results.worst_case()
    images, attacked = len(worst), results.attacked()
    low, high = wilson(int(worst.sum()), images)

    def under(attack: str) -> float:
        return robust_accuracy(attacked[attack][1][:images]) if attack in attacked else NAN

    def left(*families: str) -> float:
        return robust_accuracy(results.worst_case(*families)[:images])

    return {
        "network": name,
        "seed": results.network.seed,
        "images": images,
        "clean": robust_accuracy(results.clean()[:images]),
        "fgsm": under("table-fgsm"),
        "pgd": under("table-pgd"),
        "gradient": left("gradient"),
        "blind": left(*BLIND),
        "transfer": left("transfer"),
        "all": robust_accuracy(worst),
        "low": 100 * low,
        "high": 100 * high,
        "collapsed": results.collapsed,
        "doubtful": checks.doubtful(results),
        "blunt": checks.blunt(results),
        "key": results.network.key,
    }


TITLES = {
    "network": "network",
    "images": "images",
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "gradient": "gradient attacks",
    "blind": "score and decision attacks",
    "transfer": "transfer",
}


def trial_shown(frame: pd.DataFrame, *, seed: bool = False) -> pd.DataFrame:
    """`trial` for the eye: percent; † where an attack failed a check, italics where collapsed."""
    shown = frame[list(TITLES)].rename(columns=TITLES)
    names = [
        f"*{n}*" if c else n for n, c in zip(frame["network"], frame["collapsed"], strict=True)
    ]
    dagger = frame["blunt"].map({True: "\u00a0†", False: ""})
    shown = shown.assign(network=names, PGD=[f"{v:.1f}" for v in frame["pgd"]] + dagger)
    doubt = frame["doubtful"].map({True: "\u00a0†", False: ""})
    worst = [
        f"**{r.all:.1f}** ({r.low:.1f}\u2060–\u2060{r.high:.1f}){d}"
        for r, d in zip(frame.itertuples(), doubt, strict=True)
    ]
    shown = shown.assign(**{"all attacks": worst, "record": [f"`{k}`" for k in frame["key"]]})
    if seed:
        shown.insert(1, "seed", frame["seed"])
    return shown


def headline(networks: Mapping[str, Results], dataset: str) -> pd.DataFrame:
    """From the published number to what is left, a row a network that was tried.

    Returns: in the published order, in percent: network; published, same (ours) under the tables'
             PGD, on all its test images; left, low, high: the trial's worst case and its interval.
    """
    left = trial(networks).set_index("network")
    rows = [
        (n, said, measured(networks[n])["pgd"], *left.loc[n, ["all", "low", "high"]])
        for n, said in printed(dataset)["pgd"].items()
        if n in left.index
    ]
    return pd.DataFrame(rows, columns=["network", "published", "same", "left", "low", "high"])


def beside_control(networks: Mapping[str, Sequence[Results]]) -> pd.DataFrame:
    """Each quantised training that did not collapse, beside ReLU of its seed and risk.

    Returns: network, seed; all, control: what all attacks leave of the two (%); above: whether the
             first is higher and Wilson's intervals lie apart; lead, margin: by how many points it
             is higher under the attacks that both met, on the same images (95 %).
    """
    frame = trial_by_seed(networks)
    relu = frame[frame["network"] == "ReLU"].set_index("seed")
    of = {(name, r.network.seed): r for name, runs in networks.items() for r in runs}
    rows = []
    for row in frame.itertuples():
        if row.network == "ReLU" or row.collapsed or row.seed not in relu.index:
            continue
        other = relu.loc[row.seed]
        pair = of[row.network, row.seed], of["ReLU", row.seed]
        lead = (NAN, NAN) if other["collapsed"] else paired(*met_by_both([pair]))
        apart = row.low > other["high"]
        rows.append((row.network, row.seed, row.all, other["all"], apart, *lead))
    columns = ["network", "seed", "all", "control", "above", "lead", "margin"]
    return pd.DataFrame(rows, columns=columns).astype({"above": bool})


LADDER = ("clean", "FGSM", "PGD", "any backward rule", "all attacks")


def ladder(networks: Mapping[str, Results]) -> pd.DataFrame:
    """Accuracy (%) as the attacker learns more, over the images that all attacks met.

    Returns: a row a network (the index), a column for each of LADDER: clean images, the tables'
             FGSM and PGD, the worst over PGD through every backward rule, the worst over all.
    """
    rows = {}
    for name, r in networks.items():
        if not tried(r):
            continue
        worst, attacked = r.worst_case(), r.attacked()
        rules = [b for n, (_, b) in attacked.items() if n.startswith(("table-", "rule-"))]
        steps = (r.clean(), *(attacked[f"table-{a}"][1] for a in ("fgsm", "pgd")))
        members = (*steps, survivors([r.clean(), *rules]), worst)
        rows[name] = [robust_accuracy(bits[: len(worst)]) for bits in members]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(LADDER))
