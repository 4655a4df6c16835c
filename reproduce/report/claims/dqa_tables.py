"""What DQA's Tables 1, 2 and 4 are said to show, as comparisons."""

from __future__ import annotations

from itertools import pairwise

from reproduce import published
from reproduce.papers import dqa
from reproduce.report.claims.evidence import Activations
from reproduce.report.claims.quantities import Difference, Lead, Mean, Printed
from reproduce.report.claims.rule import (
    OWN_ONLY,
    UNDECIDED,
    Comparison,
)

SEEDS = 3  # at least, where the paper prints means of five runs
BITS = (1, 2, 3)
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
ATTACKS = {"clean": "clean", "pgd": "PGD", "fgsm": "FGSM"}


def printed(dataset: str) -> dict[tuple[str, str], float]:
    """{(cell, attack): percent} of Table 1 (mnist) or 2 (cifar10)."""
    rows = published.load("dqa_table1" if dataset == "mnist" else "dqa_table2")
    bits = [None if r.activation == "relu" else r.bits for r in rows.itertuples()]
    cells = [dqa.cell(r.activation, b) for r, b in zip(rows.itertuples(), bits, strict=True)]
    return dict(zip(zip(cells, rows["attack"], strict=True), rows["value"], strict=True))


def relu(dataset: str) -> Activations:
    """The control."""
    return Activations(dataset, "relu")


def quantised(dataset: str, *kinds: str) -> tuple[Activations, ...]:
    """The networks of these kinds of activation, fixed and dynamic by default, by their bits."""
    return tuple(Activations(dataset, k, b) for k in kinds or ("fixed", "dynamic") for b in BITS)


def under(attack: str, of: Activations) -> Mean:
    """Accuracy as Tables 1 and 2 have it."""
    return Mean("accuracy", of, ("table", attack))


def said(of: Activations, attack: str) -> float:
    """The number that Table 1 or 2 prints, in percent."""
    return printed(of.dataset)[dqa.cell(of.activation, of.bits), attack]


def span(values, digits: int = 2, unit: str = " %") -> str:
    """Numbers from the least to the greatest, as a table shows them."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return (low if low == high else f"{low}–{high}") + unit


# --- Kinds of comparison --------------------------------------------------------------------------


def baseline(dataset: str) -> list[Comparison]:
    """ReLU has the printed accuracies."""
    of = relu(dataset)
    return [
        Comparison(
            what=title, ours=under(a, of), published=said(of, a), exact=True, seeds=SEEDS
        )
        for a, title in ATTACKS.items()
    ]  # fmt: skip


def more(
    attack: str, one: Activations, other: Activations, *, side="both", sized=True
) -> Comparison:
    """One network keeps more accuracy under an attack than another, by as much as is printed.

    Args: sized: whether the size is asked, too.
    """
    gain = said(one, attack) - said(other, attack)
    return Comparison(
        what=ATTACKS[attack],
        ours=Difference(under(attack, one), under(attack, other)),
        above=0,
        published=gain if sized else None,
        side=side,
        seeds=SEEDS,
    )


def under_all(one: Activations, other: Activations) -> Comparison:
    """So it does under the worst of all attacks of the trial; one seed is enough for that."""
    return Comparison(what="all attacks", ours=Lead(one, other), above=0, fails=OWN_ONLY)


def gains(dataset: str, attack: str, networks=None) -> list[Comparison]:
    """Each network gains over ReLU at least as much as is printed."""
    networks, control = networks or quantised(dataset), relu(dataset)
    table = [more(attack, n, control, side="least") for n in networks]
    return [*table, *(under_all(n, control) for n in networks)]


def learnt_over_fixed(dataset: str, attack: str) -> list[Comparison]:
    """Learnt thresholds do better at each depth."""
    pairs = list(zip(quantised(dataset, "dynamic"), quantised(dataset, "fixed"), strict=True))
    worst = [] if attack == "clean" else [under_all(*pair) for pair in pairs]
    return [*(more(attack, *pair) for pair in pairs), *worst]


def best_of_all(dataset: str, one: Activations) -> list[Comparison]:
    """One network keeps the most of all seven."""
    others = [n for n in (relu(dataset), *quantised(dataset)) if n != one]
    table = [more("pgd", one, n, sized=n.activation == "relu") for n in others]
    return [*table, *(under_all(one, n) for n in others)]


def fewer_bits(dataset: str) -> list[Comparison]:
    """With fixed thresholds, each bit less raises accuracy under PGD."""
    pairs = list(pairwise(quantised(dataset, "fixed")))
    return [*(more("pgd", *pair) for pair in pairs), *(under_all(*pair) for pair in pairs)]


def clean_cost(dataset: str) -> list[Comparison]:
    """No quantised network loses more clean accuracy against ReLU than is printed."""
    control = relu(dataset)
    return [
        Comparison(
            what="clean accuracy lost",
            ours=Difference(under("clean", control), under("clean", n)),
            published=said(control, "clean") - said(n, "clean"),
            side="most",
            exact=True,
            seeds=SEEDS,
        )
        for n in quantised(dataset)
    ]


def fgsm_stronger(dataset: str) -> list[Comparison]:
    """FGSM leaves less than PGD, for each network of which the table says so."""
    networks = [n for n in quantised(dataset) if said(n, "fgsm") < said(n, "pgd")]
    return [
        Comparison(
            what="PGD – FGSM",
            ours=Difference(under("pgd", n), under("fgsm", n)),
            above=0,
            published=said(n, "pgd") - said(n, "fgsm"),
            seeds=SEEDS,
        )
        for n in networks
    ]


def keeps_more(dataset: str, what: str, families: tuple[str, ...], **options) -> list[Comparison]:
    """Of what they get right, quantised networks keep more than ReLU under some attacks."""
    control = Mean("kept under", relu(dataset), families)
    return [
        Comparison(
            what=what, ours=Difference(Mean("kept under", n, families), control), above=0, **options
        )
        for n in quantised(dataset)
    ]


def noise_suppressed(dataset: str) -> list[Comparison]:
    """Quantised networks keep more than ReLU at random points of the ball.

    One such point is where PGD without a gradient ends. ReLU has no such run, but keeps there at
    least what it keeps at the worst of many points. What lies below that refutes the claim; it is
    shown only by what lies above at the worst of many points, too.
    """
    control = Mean("kept under", relu(dataset), ("noise",))
    one = [
        Comparison(
            what="one random point – ReLU at the worst of many",
            ours=Difference(Mean("kept at", n, ("rule/zero",)), control),
            above=0,
        )
        for n in quantised(dataset)
    ]
    return [*one, *keeps_more(dataset, "the worst of many points", ("noise",), fails=UNDECIDED)]


def beats_the_others(dataset: str, attack: str) -> list[Comparison]:
    """DQA keeps more than each other defence of Table 4, and more than ReLU under all attacks."""
    table = published.load("dqa_table4")
    table = table[(table["dataset"] == dataset) & (table["attack"] == attack)]
    rivals = table.set_index("defense")["value"].dropna()
    own, value = Activations(dataset, "dynamic", 2), rivals.pop("DQA")
    ours = Comparison(
        what=f"{ATTACKS[attack]}; the best of the others: {rivals.max():.2f} %",
        ours=under(attack, own),
        above=rivals.max(),
        published=value,
        seeds=SEEDS,
    )
    return [ours, under_all(own, relu(dataset))]


def close_to_the_others() -> list[Comparison]:
    """By Table 4: DQA's clean accuracy lies at most 2 points behind each of the others."""
    table = published.load("dqa_table4")
    clean = table[table["attack"] == "clean"].set_index(["dataset", "defense"])["value"]
    most = published.load("dqa_text").set_index("key")["value"]["clean_gap_max"]
    return [
        Comparison(
            what="points behind",
            ours=Printed(f"{defense}, {TITLES[dataset]}", value - clean[dataset, "DQA"]),
            published=most,
            margin=0,
            side="most",
            exact=True,
            seeds=0,
        )
        for (dataset, defense), value in clean.items()
        if defense != "DQA"
    ]


def fewer_bits_as_printed() -> list[Comparison]:
    """By Table 2: FGSM leaves more the fewer the bits, with fixed thresholds."""
    pairs = pairwise(quantised("cifar10", "fixed"))
    return [
        Comparison(
            what="FGSM",
            ours=Printed(f"{one.name} – {two.name}", said(one, "fgsm") - said(two, "fgsm")),
            above=0,
            seeds=0,
        )
        for one, two in pairs
    ]
