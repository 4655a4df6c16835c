"""What DQA claims, and the rules that decide it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import mean

from reproduce import grids, published, trial_records
from reproduce.claims import dqa_attacks
from reproduce.claims.evidence import (
    DIRECTION,
    NOT,
    REPRODUCED,
    UNDECIDED,
    Claim,
    Evidence,
    Verdict,
    kinder,
    missing,
    near,
    points,
    under_all,
)
from reproduce.figures import model_name

SEEDS = 3  # at least, where the paper prints means of five runs
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
BITS = (1, 2, 3)
QUANTISED = tuple(f"{kind}-{b}bit" for kind in ("fixed", "dynamic") for b in BITS)


def printed(dataset: str) -> dict[tuple[str, str], float]:
    """{(cell, attack): published percent} of Table 1 (mnist) or 2 (cifar10)."""
    rows = published.load("dqa_table1" if dataset == "mnist" else "dqa_table2")
    return {
        (
            grids.dqa_cell(r.activation, None if r.activation == "relu" else r.bits),
            r.attack,
        ): r.value
        for r in rows.itertuples()
    }


WORDS = {grids.dqa_cell(*network): model_name(*network) for network in grids.DQA_CELLS}


def _names(cells: Sequence[str]) -> str:
    if tuple(cells) == QUANTISED:
        return "the six quantised networks"
    return " and ".join(WORDS[cell] for cell in cells)


def _each(cells: Sequence[str], values: Sequence[float]) -> str:
    """The values in points, by network where there are several."""
    if tuple(cells) != QUANTISED:
        return points(values)
    n = len(BITS)
    return f"fixed 1–3 bits {points(values[:n])}; dynamic 1–3 bits {points(values[n:])}"


Rule = Callable[[Evidence, str, str], Verdict]


def _readings(dataset: str, rule: Rule) -> Callable[[Evidence], Verdict]:
    """The rule under each reading of the training risk that the grid has, the kinder one counts."""
    endings = {"clean and adversarial examples": "-mixed", "adversarial examples alone": ""}
    if dataset != "mnist":
        endings = {"adversarial examples alone": ""}

    def decide(evidence: Evidence) -> Verdict:
        found = []
        for reading, ending in endings.items():
            status, why = rule(evidence, f"dqa-{dataset}", ending)
            found.append((status, f"*Trained on {reading}:* {why}" if len(endings) > 1 else why))
        return kinder(found)

    return decide


def _means(
    evidence: Evidence, name: str, cells: Sequence[str], condition: str, trained: bool = False
) -> list[float]:
    """Mean over seeds for each cell, or over those whose training did not collapse; empty where a
    cell has too few of them."""
    each = [evidence.accuracy(name, cell, condition, trained) for cell in cells]
    return [] if min(map(len, each)) < SEEDS else [mean(seeds) for seeds in each]


def _scatter(evidence: Evidence, name: str, cells: Sequence[str], condition: str) -> str:
    """How far apart the seeds of one network lie, at most."""
    each = [evidence.accuracy(name, cell, condition) for cell in cells]
    return f"seeds of one network lie up to {max(max(e) - min(e) for e in each):.0f} points apart"


def _numbers(dataset: str, cells: Sequence[str], attacks: Sequence[str]):
    """Published accuracies, each to be met."""
    table = printed(dataset)

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        off = []
        for attack in attacks:
            ours = _means(evidence, name, [c + ending for c in cells], attack)
            if not ours:
                return missing(f"{SEEDS} seeds of {_names(cells)} on {TITLES[dataset]}")
            off += [o - table[c, attack] for c, o in zip(cells, ours, strict=True)]
        why = f"ours minus published: {points(off)} points ({', '.join(attacks)})"
        return (REPRODUCED if all(near(d, 0) for d in off) else NOT), why

    return _readings(dataset, rule)


def _little_clean_cost(dataset: str):
    """No quantised network loses more clean accuracy against ReLU than is printed."""
    table = printed(dataset)

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        cells = ["relu" + ending, *(c + ending for c in QUANTISED)]
        ours = _means(evidence, name, cells, "clean")
        if not ours:
            return missing(f"{SEEDS} seeds of all seven networks on {TITLES[dataset]}")
        lost = [ours[0] - o for o in ours[1:]]
        said = [table["relu", "clean"] - table[c, "clean"] for c in QUANTISED]
        why = f"clean accuracy lost against ReLU: {_each(QUANTISED, lost)} points, published "
        why += _each(QUANTISED, said)
        met = all(o < s or near(o, s) for o, s in zip(lost, said, strict=True))
        return (REPRODUCED if met else NOT), why

    return _readings(dataset, rule)


def _best_of_all(dataset: str, cell: str):
    """One network keeps the most accuracy under PGD, of all seven."""

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        others = [c for c in ("relu", *QUANTISED) if c != cell]
        table = printed(dataset)
        cells = [c + ending for c in (cell, *others)]
        ours = _means(evidence, name, cells, "pgd")
        if not ours:
            return missing(f"{SEEDS} seeds of all seven networks on {TITLES[dataset]}")
        lead = ours[0] - max(ours[1:])
        why = f"{ours[0]:.1f} %, {lead:+.1f} points against the best of the others"
        if lead <= 0:
            return NOT, why
        gain, said = ours[0] - ours[1], table[cell, "pgd"] - table["relu", "pgd"]
        status = REPRODUCED if near(gain, said) else DIRECTION
        pairs = [(cells[0], c) for c in cells[1:]]
        return under_all(evidence, name, pairs, (status, f"{why}; over ReLU {gain:+.1f}"))

    return _readings(dataset, rule)


def _gain(dataset: str, attack: str, networks: Sequence[str] = QUANTISED):
    """Each of these networks keeps more accuracy under an attack than ReLU does."""
    table = printed(dataset)

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        cells = [c + ending for c in networks]
        ours = _means(evidence, name, ["relu" + ending, *cells], attack)
        if not ours:
            return missing(f"{SEEDS} seeds of ReLU and {_names(networks)} on {TITLES[dataset]}")
        gains = [o - ours[0] for o in ours[1:]]
        said = [table[c, attack] - table["relu", attack] for c in networks]
        why = (
            f"gains over ReLU: {_each(networks, gains)} points, published "
            f"{_each(networks, said)}; {_scatter(evidence, name, cells, attack)}"
        )
        if all(g > 0 for g in gains):
            full = all(g > s or near(g, s) for g, s in zip(gains, said, strict=True))
            status = REPRODUCED if full else DIRECTION
            pairs = [(c, "relu" + ending) for c in cells]
            return under_all(evidence, name, pairs, (status, why), lambda x: _each(networks, x))
        return NOT, why

    return _readings(dataset, rule)


def _dynamic_over_fixed(dataset: str, attack: str):
    """Learnt thresholds do at least as well as fixed ones at each depth."""

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        both = [
            _means(evidence, name, [f"{kind}-{b}bit{ending}" for b in BITS], attack)
            for kind in ("fixed", "dynamic")
        ]
        if not all(both):
            return missing(f"{SEEDS} seeds of the quantised networks on {TITLES[dataset]}")
        gains = [d - f for f, d in zip(*both, strict=True)]
        table = printed(dataset)
        said = [table[f"dynamic-{b}bit", attack] - table[f"fixed-{b}bit", attack] for b in BITS]
        cells = [c + ending for c in QUANTISED]
        why = (
            f"dynamic minus fixed at 1, 2, 3 bits: {points(gains)}, published {points(said)}; "
            f"{_scatter(evidence, name, cells, attack)}"
        )
        if not all(g > 0 for g in gains):
            return NOT, why
        status = REPRODUCED if all(map(near, gains, said)) else DIRECTION
        if attack == "clean":
            return status, why
        pairs = [(f"dynamic-{b}bit{ending}", f"fixed-{b}bit{ending}") for b in BITS]
        return under_all(evidence, name, pairs, (status, why))

    return _readings(dataset, rule)


def _fewer_bits(dataset: str):
    """Fixed quantisation: the fewer bits, the more accuracy under PGD."""

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        cells = [f"fixed-{b}bit{ending}" for b in BITS]
        ours = _means(evidence, name, cells, "pgd")
        if not ours:
            return missing(f"{SEEDS} seeds of fixed, 1 to 3 bits, on {TITLES[dataset]}")
        why = f"PGD at 1, 2, 3 bits: {', '.join(f'{o:.1f}' for o in ours)} %; "
        why += _scatter(evidence, name, cells, "pgd")
        if not ours[0] > ours[1] > ours[2]:
            return NOT, why
        said = [printed(dataset)[f"fixed-{b}bit", "pgd"] for b in BITS]
        status = REPRODUCED if all(map(near, ours, said)) else DIRECTION
        return under_all(evidence, name, list(pairwise(cells)), (status, why))

    return _readings(dataset, rule)


def _fgsm_stronger(dataset: str):
    """FGSM leaves less than PGD does, for each network of which the table says so.

    Trainings that collapsed have one answer for everything, and are left out.
    """
    table = printed(dataset)
    printed_so = [c for c in QUANTISED if table[c, "fgsm"] < table[c, "pgd"]]

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        cells = [c + ending for c in printed_so]
        pgd, fgsm = (_means(evidence, name, cells, a, trained=True) for a in ("pgd", "fgsm"))
        if not pgd or not fgsm:
            return missing(f"{SEEDS} trained seeds of {_names(printed_so)} on {TITLES[dataset]}")
        gaps = [p - f for p, f in zip(pgd, fgsm, strict=True)]
        said = [table[c, "pgd"] - table[c, "fgsm"] for c in printed_so]
        why = (
            f"PGD minus FGSM for {_names(printed_so)}: {points(gaps)} points, published "
            f"{points(said)}; above 0, PGD has failed where FGSM has not"
        )
        if not all(g > 0 for g in gaps):
            return NOT, why
        return (REPRODUCED if all(map(near, gaps, said)) else DIRECTION), why

    return _readings(dataset, rule)


def _trial_gain(dataset: str, families: Sequence[str], what: str):
    """Of what they get right, quantised networks keep more than ReLU does under some attacks."""

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        relu = evidence.kept(name, "relu" + ending, families)
        tried = {c: evidence.records(f"{name}-trial", c + ending) for c in QUANTISED}
        if not relu or not all(tried.values()):
            return missing(f"the trial of all seven networks on {TITLES[dataset]}")
        kept = {c: evidence.kept(name, c + ending, families) for c in QUANTISED}
        shares = [f"{mean(k):.1f}" if k else "collapsed" for k in kept.values()]
        why = (
            f"{what}: of the images judged correctly without an attack, ReLU keeps "
            f"{mean(relu):.1f} %; fixed 1–3 bits {', '.join(shares[:3])}; dynamic "
            f"{', '.join(shares[3:])}"
        )
        return (REPRODUCED if all(k and mean(k) > mean(relu) for k in kept.values()) else NOT), why

    return _readings(dataset, rule)


def _noise_suppressed(dataset: str):
    """Of what they get right, quantised networks keep more under random noise than ReLU does.

    One random point of the ball is what PGD without a gradient ends at. ReLU, which has no such
    condition, keeps under one point at least what it keeps under the worst of many.
    """

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        relu = evidence.kept(name, "relu" + ending, ["noise"])
        tried = {c: evidence.records(f"{name}-trial", c + ending) for c in QUANTISED}
        if not relu or not all(tried.values()):
            return missing(f"the trial of all seven networks on {TITLES[dataset]}")
        one, many = (
            {c: evidence.kept(name, c + ending, [of]) for c in QUANTISED}
            for of in ("rule/zero", "noise")
        )
        shares = [f"{mean(k):.1f}" if k else "collapsed" for k in one.values()]
        why = (
            f"rightly judged images kept at one random point of the ball: fixed 1–3 bits "
            f"{', '.join(shares[:3])} %; dynamic {', '.join(shares[3:])} %; ReLU keeps "
            f"{mean(relu):.1f} % even at the worst of many points"
        )
        if any(not k or mean(k) < mean(relu) for k in one.values()):
            return NOT, why
        met = all(mean(k) > mean(relu) for k in many.values())
        return (REPRODUCED if met else UNDECIDED), why

    return _readings(dataset, rule)


def _fewer_bits_fgsm(evidence: Evidence) -> Verdict:
    """By the paper's own Table 2: FGSM leaves more the fewer the bits, with fixed thresholds."""
    said = [printed("cifar10")[f"fixed-{b}bit", "fgsm"] for b in BITS]
    why = f"FGSM at 1, 2, 3 bits, as printed: {', '.join(f'{s:.2f}' for s in said)} %"
    return (REPRODUCED if said[0] > said[1] > said[2] else NOT), why


def _clean_gap(evidence: Evidence) -> Verdict:
    """By the paper's own Table 4: clean accuracy against each of the other defences."""
    table = published.load("dqa_table4")
    clean = table[table["attack"] == "clean"].set_index(["dataset", "defense"])["value"]
    behind = {
        (defense, dataset): value - clean[dataset, "DQA"]
        for (dataset, defense), value in clean.items()
        if defense != "DQA"
    }
    said = ", ".join(f"{d} {gap:.2f} ({TITLES[s]})" for (d, s), gap in behind.items() if gap > 0)
    why = f"points behind the others of Table 4: {said or 'none'}"
    close = [gap <= 2 for gap in behind.values()]
    return (REPRODUCED if all(close) else DIRECTION if any(close) else NOT), why


def _best_defence(dataset: str, attack: str):
    """DQA keeps more under an attack than each other defence of Table 4, and under the worst of all
    attacks more than the same training without it; what others found of it is told."""
    table = published.load("dqa_table4")
    table = table[(table["dataset"] == dataset) & (table["attack"] == attack)]
    said = table.set_index("defense")["value"]
    rivals = said.drop("DQA").dropna()
    later = published.load("later_findings").set_index(["dataset", "defense"])["value"]
    known = later[dataset, "Madry"]
    bits = int(table.set_index("defense")["bits"]["DQA"])

    def rule(evidence: Evidence, name: str, ending: str) -> Verdict:
        cell = grids.dqa_cell("dynamic", bits) + ending
        ours = _means(evidence, name, [cell], attack)
        if not ours:
            return missing(f"{SEEDS} seeds of dynamic, {bits} bits on {TITLES[dataset]}")
        why = (
            f"{ours[0]:.1f} %, published {said['DQA']:.2f} %; {rivals.idxmax()} "
            f"{rivals.max():.2f} %, as printed; {_scatter(evidence, name, [cell], attack)}"
        )
        if ours[0] <= rivals.max():
            return NOT, why
        why += f"; AutoAttack leaves {known:.2f} % to Madry's own network, as others found"
        status = REPRODUCED if near(ours[0], said["DQA"]) else DIRECTION
        return under_all(evidence, name, [(cell, "relu" + ending)], (status, why))

    return _readings(dataset, rule)


def claims() -> list[Claim]:
    """The claims of DQA, in the ledger's order."""
    claims = []

    def add(key, place, text, said, decide, **options):
        claims.append(Claim(f"dqa-{key}", "dqa", place, text, said, decide, **options))

    mnist, cifar = printed("mnist"), printed("cifar10")

    def span(table, attack, cells=QUANTISED):
        values = [table[c, attack] for c in cells]
        return f"{min(values):.2f}–{max(values):.2f} %"

    def triple(table):
        return ", ".join(f"{a} {table['relu', a]:.2f}" for a in ("clean", "pgd", "fgsm")) + " %"

    three = ("clean", "pgd", "fgsm")
    add(
        "mnist-relu",
        "Table 1",
        "Adversarial training alone, on MNIST, gives this baseline.",
        triple(mnist),
        _numbers("mnist", ["relu"], three),
    )
    add(
        "mnist-clean",
        "Table 1",
        "Quantised activations cost little clean accuracy on MNIST.",
        span(mnist, "clean"),
        _little_clean_cost("mnist"),
    )
    add(
        "mnist-pgd",
        "Table 1, 5.1",
        "Quantised activations raise accuracy under PGD on MNIST.",
        span(mnist, "pgd"),
        _gain("mnist", "pgd"),
    )
    add(
        "mnist-fixed-1bit",
        "5.1",
        "On MNIST, 1-bit fixed activations raise accuracy under PGD.",
        f"{mnist['relu', 'pgd']:.2f} to {mnist['fixed-1bit', 'pgd']:.2f} %",
        _gain("mnist", "pgd", ["fixed-1bit"]),
    )
    add(
        "mnist-fgsm",
        "Table 1, 5.1",
        "Quantised activations raise accuracy under FGSM on MNIST.",
        span(mnist, "fgsm"),
        _gain("mnist", "fgsm"),
    )
    add(
        "mnist-dynamic",
        "5.1",
        "Learnt thresholds do better than fixed ones under PGD on MNIST.",
        "slightly, at every depth",
        _dynamic_over_fixed("mnist", "pgd"),
    )
    add(
        "cifar-relu",
        "Table 2",
        "Adversarial training alone, on CIFAR-10, gives this baseline.",
        triple(cifar),
        _numbers("cifar10", ["relu"], three),
    )
    add(
        "cifar-clean",
        "5.2",
        "Learnt thresholds win back clean accuracy on CIFAR-10.",
        span(cifar, "clean"),
        _dynamic_over_fixed("cifar10", "clean"),
    )
    add(
        "cifar-pgd",
        "Table 2, 5.2",
        "Quantised activations raise accuracy under PGD on CIFAR-10.",
        span(cifar, "pgd"),
        _gain("cifar10", "pgd"),
    )
    add(
        "cifar-dynamic-2bit",
        "5.2, 5.3",
        "On CIFAR-10, 2-bit dynamic activations keep the most accuracy under PGD.",
        f"{cifar['relu', 'pgd']:.2f} to {cifar['dynamic-2bit', 'pgd']:.2f} %",
        _best_of_all("cifar10", "dynamic-2bit"),
    )
    add(
        "cifar-fgsm",
        "Table 2, 5.2",
        "Quantised activations raise accuracy under FGSM on CIFAR-10.",
        span(cifar, "fgsm"),
        _gain("cifar10", "fgsm"),
    )
    add(
        "cifar-dynamic",
        "5.2",
        "On CIFAR-10, learnt thresholds beat fixed ones under PGD.",
        "at every depth",
        _dynamic_over_fixed("cifar10", "pgd"),
    )
    add(
        "cifar-bits",
        "5.2",
        "On CIFAR-10, with fixed thresholds, fewer bits are more robust.",
        ", ".join(f"{cifar[f'fixed-{b}bit', 'pgd']:.2f}" for b in BITS) + " %",
        _fewer_bits("cifar10"),
    )
    add(
        "cifar-bits-fgsm",
        "5.2",
        "On CIFAR-10, with fixed thresholds, fewer bits are more robust under FGSM, too.",
        "observed",
        _fewer_bits_fgsm,
        needs_runs=False,
    )
    add(
        "cifar-dynamic-fgsm",
        "5.2",
        "On CIFAR-10, learnt thresholds beat fixed ones under FGSM.",
        "at every depth",
        _dynamic_over_fixed("cifar10", "fgsm"),
    )
    add(
        "cifar-fgsm-stronger",
        "5.2",
        "FGSM is the stronger attack, on CIFAR-10.",
        "observed for DQA",
        _fgsm_stronger("cifar10"),
    )
    add(
        "mnist-fgsm-stronger",
        "5.1, 5.2",
        "FGSM is the stronger attack, on MNIST.",
        "observed for DQA",
        _fgsm_stronger("mnist"),
    )
    add(
        "noise",
        "1, 3.1",
        "Quantised activations suppress noise (by answers at random points, on MNIST).",
        "the explanation offered",
        _noise_suppressed("mnist"),
    )
    add(
        "black-box",
        "6 (CIFAR-10), 7",
        "Quantised activations resist attacks that see no gradient (decided on MNIST).",
        "the conclusion drawn",
        _trial_gain("mnist", trial_records.QUERIES, "black-box attacks"),
    )
    add(
        "white-box",
        "7",
        "Quantised activations resist strong attacks that see everything (decided on MNIST).",
        "the conclusion drawn",
        _trial_gain("mnist", trial_records.WHITE_BOX, "white-box attacks"),
    )
    add(
        "clean-gap",
        "5.3",
        "Clean accuracy is close to that of other recent defences.",
        "within 0.5–2 %",
        _clean_gap,
        needs_runs=False,
    )
    for dataset, attack in (("mnist", "pgd"), ("mnist", "fgsm"), ("cifar10", "pgd")):
        add(
            f"best-{dataset}-{attack}",
            "5.3, 7",
            f"Under {attack.upper()}, DQA does better than all other defences compared, on "
            f"{TITLES[dataset]}.",
            f"{printed(dataset)['dynamic-2bit', attack]:.2f} %",
            _best_defence(dataset, attack),
        )

    def between(number, digits, **where):
        table = published.load(f"dqa_table{number}")
        for column, value in where.items():
            table = table[table[column] == value]
        low, high = f"{table['value'].min():.{digits}f}", f"{table['value'].max():.{digits}f}"
        return low if low == high else f"{low}–{high}"

    success = {n: between(n, 0, quantity="attack_success", activation="dynamic") for n in (3, 5)}
    without = between(5, 2, quantity="attack_success", activation="relu")
    left = {
        network: between(6, 0, substitute=network, model="defense", attack="transfer")
        for network in ("vgg16", "alexnet")
    }
    for key, place, text, said, rule in (
        ("cw-norm", "Table 3", "C&W needs a larger L2 norm the fewer the bits.",
         between(3, 2, quantity="l2_norm"), dqa_attacks.cw_norms),
        ("cw-zero", "Table 3, 5.2",
         "C&W fails on adversarially trained DQA, at a reasonable L2 norm and in reasonable time.",
         f"{success[3]} % success", dqa_attacks.cw_fails),
        ("zoo", "Table 5", "ZOO fails on DQA, and not on full precision.",
         f"{success[5]} and {without} %", dqa_attacks.zoo_fails),
        ("vgg16", "Table 6", "Attacks transferred from VGG-16 cost some accuracy.",
         f"{left['vgg16']} % left", dqa_attacks.transfer("vgg16")),
        ("alexnet", "Table 6", "Attacks transferred from AlexNet hardly work.",
         f"{left['alexnet']} % left", dqa_attacks.transfer("alexnet")),
        ("tsne", "Fig. 3", "Under attack, DQA's features stay clustered by class.", "t-SNE",
         dqa_attacks.clusters),
    ):  # fmt: skip
        add(key, place, text, said, rule)
    return claims
