"""What DQA's Tables 1, 2 and 4 are said to show, as comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from reproduce import published
from reproduce.report.claims.evidence import Activations
from reproduce.report.claims.measures import accuracy, kept_at, kept_under
from reproduce.report.claims.quantities import Lead, Mean, Printed
from reproduce.report.claims.rule import OWN_ONLY, UNDECIDED, Comparison
from reproduce.report.dqa import ATTACKS, printed

SEEDS = 3  # at least, where the paper prints means of five runs
BITS = (1, 2, 3)
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def relu(dataset: str) -> Activations:
    """The control."""
    return Activations(dataset, "relu")


def quantised(dataset: str, *kinds: str) -> tuple[Activations, ...]:
    """The networks of these kinds of activation, fixed and dynamic by default, by their bits."""
    return tuple(Activations(dataset, k, b) for k in kinds or ("fixed", "dynamic") for b in BITS)


def under(attack: str, of: Activations) -> Mean:
    """Accuracy as Tables 1 and 2 have it."""
    return Mean(accuracy, of, ("table", attack))


@cache
def said(of: Activations, attack: str) -> float:
    """The number that Table 1 or 2 prints, in percent."""
    return float(printed(of.dataset).loc[of.name, attack])


def span(values, digits: int = 2, unit: str = " %") -> str:
    """Numbers from the least to the greatest, as a table shows them."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return (low if low == high else f"{low}–{high}") + unit


# --- Kinds of comparison --------------------------------------------------------------------------


def baseline(dataset: str) -> list[Comparison]:
    """ReLU has the printed accuracies."""
    of, exactly = relu(dataset), {"exact": True, "seeds": SEEDS}
    return [
        Comparison(title, under(a, of), published=said(of, a), **exactly)
        for a, title in ATTACKS.items()
    ]


def more(
    attack: str, one: Activations, other: Activations, *, side="both", sized=True
) -> Comparison:
    """One network keeps more accuracy under an attack than another, by as much as is printed.

    Args: sized: whether the size is asked, too.
    """
    gain = said(one, attack) - said(other, attack) if sized else None
    ours = under(attack, one) - under(attack, other)
    return Comparison(ATTACKS[attack], ours, above=0, published=gain, side=side, seeds=SEEDS)


def under_all(one: Activations, other: Activations) -> Comparison:
    """So it does under the worst of all attacks of the trial; one seed is enough for that."""
    return Comparison("all attacks", Lead(one, other), above=0, fails=OWN_ONLY)


def gains(attack: str, networks: Sequence[Activations]) -> list[Comparison]:
    """Each network gains over ReLU at least as much as is printed."""
    table = [more(attack, n, n.control, side="least") for n in networks]
    return [*table, *(under_all(n, n.control) for n in networks)]


def learnt_over_fixed(dataset: str, attack: str) -> list[Comparison]:
    """Learnt thresholds do better at each depth."""
    pairs = list(zip(quantised(dataset, "dynamic"), quantised(dataset, "fixed"), strict=True))
    worst = [] if attack == "clean" else [under_all(*pair) for pair in pairs]
    return [*(more(attack, *pair) for pair in pairs), *worst]


def best_of_all(one: Activations) -> list[Comparison]:
    """One network keeps the most of all seven."""
    others = [n for n in (one.control, *quantised(one.dataset)) if n != one]
    table = [more("pgd", one, n, sized=n == one.control) for n in others]
    return [*table, *(under_all(one, n) for n in others)]


def fewer_bits(dataset: str) -> list[Comparison]:
    """With fixed thresholds, each bit less raises accuracy under PGD."""
    pairs = list(pairwise(quantised(dataset, "fixed")))
    return [*(more("pgd", *pair) for pair in pairs), *(under_all(*pair) for pair in pairs)]


def clean_cost(dataset: str) -> list[Comparison]:
    """No quantised network loses more clean accuracy against ReLU than is printed."""
    control, at_most = relu(dataset), {"side": "most", "exact": True, "seeds": SEEDS}
    found = []
    for n in quantised(dataset):
        lost = under("clean", control) - under("clean", n)
        loss = said(control, "clean") - said(n, "clean")
        found.append(Comparison("clean accuracy lost", lost, published=loss, **at_most))
    return found


def fgsm_stronger(dataset: str) -> list[Comparison]:
    """FGSM leaves less than PGD, for each network of which the table says so."""
    found = []
    for n in quantised(dataset):
        gap = said(n, "pgd") - said(n, "fgsm")
        if gap > 0:
            ours = under("pgd", n) - under("fgsm", n)
            found.append(Comparison("PGD – FGSM", ours, above=0, published=gap, seeds=SEEDS))
    return found


def keeps_more(dataset: str, what: str, families: tuple[str, ...], **options) -> list[Comparison]:
    """Of what they get right, quantised networks keep more than ReLU under some attacks."""
    control = Mean(kept_under, relu(dataset), families)
    kept = [Mean(kept_under, n, families) for n in quantised(dataset)]
    return [Comparison(what, share - control, above=0, **options) for share in kept]


def noise_suppressed(dataset: str) -> list[Comparison]:
    """Quantised networks keep more than ReLU at random points of the ball.

    One such point is where PGD without a gradient ends. ReLU has no such run, but keeps there at
    least what it keeps at the worst of many points. What lies below that refutes the claim; it is
    shown only by what lies above at the worst of many points, too.
    """
    what = "one random point – ReLU at the worst of many"
    control = Mean(kept_under, relu(dataset), ("noise",))
    kept = [Mean(kept_at, n, ("rule/zero",)) for n in quantised(dataset)]
    one = [Comparison(what, share - control, above=0) for share in kept]
    return [*one, *keeps_more(dataset, "the worst of many points", ("noise",), fails=UNDECIDED)]


def beats_the_others(own: Activations, attack: str) -> list[Comparison]:
    """DQA keeps more than each other defence of Table 4, and more than ReLU under all attacks."""
    table = published.load("dqa_table4")
    table = table[(table["dataset"] == own.dataset) & (table["attack"] == attack)]
    rivals = table.set_index("defense")["value"].dropna()
    value = rivals.pop("DQA")
    what = f"{ATTACKS[attack]}; the best of the others: {rivals.max():.2f} %"
    bounds = {"above": rivals.max(), "published": value, "seeds": SEEDS}
    return [Comparison(what, under(attack, own), **bounds), under_all(own, own.control)]


def close_to_the_others() -> list[Comparison]:
    """By Table 4: DQA's clean accuracy lies at most 2 points behind each of the others."""
    table = published.load("dqa_table4")
    clean = table[table["attack"] == "clean"].set_index(["dataset", "defense"])["value"]
    most = published.load("dqa_text").set_index("key")["value"]["clean_gap_max"]
    bounds = {"published": most, "margin": 0, "side": "most", "exact": True, "seeds": 0}
    found = []
    for (dataset, defense), value in clean.items():
        if defense != "DQA":
            behind = Printed(f"{defense}, {TITLES[dataset]}", value - clean[dataset, "DQA"])
            found.append(Comparison("points behind", behind, **bounds))
    return found


def fewer_bits_as_printed() -> list[Comparison]:
    """By Table 2: FGSM leaves more the fewer the bits, with fixed thresholds."""
    found = []
    for one, two in pairwise(quantised("cifar10", "fixed")):
        gain = Printed(f"{one.name} – {two.name}", said(one, "fgsm") - said(two, "fgsm"))
        found.append(Comparison("FGSM", gain, above=0, seeds=0))
    return found
