"""What DQA claims of C&W, ZOO, substitutes and features (Tables 3, 5, 6, Fig. 3), as comparisons.

One seed is enough for C&W and ZOO, a concession to their cost; the paper averages five runs.
"""

from __future__ import annotations

from itertools import pairwise

from reproduce import published
from reproduce.papers import dqa
from reproduce.report.claims.dqa_tables import SEEDS, relu, under_all
from reproduce.report.claims.evidence import Activations
from reproduce.report.claims.measures import accuracy, mean_norm, neighbours, success
from reproduce.report.claims.quantities import Mean
from reproduce.report.claims.rule import NOT, OWN_ONLY, TOLERANCE, Comparison

DATASET = "cifar10"
DYNAMIC = tuple(Activations(DATASET, "dynamic", bits) for bits in (3, 2, 1))
NORM_TOLERANCE = 0.25  # of the published norm
OWN_WIDTH = "zoo/1e-4"  # of ZOO's authors, which stands for the paper's own; it names none
WIDTHS = tuple(f"zoo/{h}" for h in dqa.H_255)


def printed(number: int, **where) -> list[float]:
    """The values of a table, from full precision or 3 bits downwards."""
    table = published.load(f"dqa_table{number}")
    for column, value in where.items():
        table = table[table[column] == value]
    return table["value"].tolist()


def norms() -> list[Comparison]:
    """Without adversarial training C&W needs a larger norm the fewer the bits; also by the better
    of both backward rules, image by image."""
    networks = [Activations(DATASET, "relu", None, "undefended")]
    networks += [Activations(DATASET, "fixed", bits, "undefended") for bits in (3, 2, 1)]
    own = [Mean(mean_norm, n, ("cw/own",)) for n in networks]
    best = [Mean(mean_norm, n, ("cw/own", "cw/sigmoid")) for n in networks]
    what, values = "mean norm of C&W", printed(3, quantity="l2_norm")
    size = [
        Comparison(what, norm, published=value, margin=NORM_TOLERANCE * value)
        for norm, value in zip(own, values, strict=True)
    ]
    for title, means, fails in ((what, own, NOT), ("mean norm, the better rule", best, OWN_ONLY)):
        steps = [fewer - more for more, fewer in pairwise(means)]
        size += [Comparison(title, step, above=0, fails=fails) for step in steps]
    return size


def _at_most(what: str, attacks: tuple[str, ...], values: list[float], fails: str):
    """An attack breaks each dynamic network no more often than is printed."""
    bounds = {"side": "most", "exact": True, "fails": fails}
    return [
        Comparison(what, Mean(success, n, attacks), published=value, **bounds)
        for n, value in zip(DYNAMIC, values, strict=True)
    ]


def carlini_wagner_fails() -> list[Comparison]:
    """C&W never succeeds against dynamic networks, nor through the sum of sigmoids.

    The bound on the norm that the paper has in mind is not stated, so none is set.
    """
    values = printed(3, quantity="attack_success", activation="dynamic")
    known = _at_most("success of C&W, sum of sigmoids", ("cw/sigmoid",), values, OWN_ONLY)
    return [*_at_most("success of C&W", ("cw/own",), values, NOT), *known]


def zoo_fails() -> list[Comparison]:
    """ZOO breaks full precision more than dynamic networks, and these as rarely as printed.

    It also breaks them no more often than that where its step has the width that suits it best.
    """
    full, *values = printed(5, quantity="attack_success")
    broken = Mean(success, relu(DATASET), (OWN_WIDTH,))
    own = []
    for n, value in zip(DYNAMIC, values, strict=True):
        gap, bounds = broken - Mean(success, n, (OWN_WIDTH,)), {"above": TOLERANCE}
        own.append(Comparison("success of ZOO", gap, published=full - value, **bounds))
    return [*own, *_at_most("success of ZOO, best width", WIDTHS, values, OWN_ONLY)]


def transfer(architecture: str) -> list[Comparison]:
    """What is made on a substitute leaves more of the target than of the substitute; made on VGG-16
    it costs the target some accuracy, on AlexNet no more than is printed."""
    where = {"substitute": architecture, "model": "defense"}
    clean, left = (printed(6, attack=a, **where) for a in ("clean", "transfer"))
    most = max(c - u for c, u in zip(clean, left, strict=True))
    cost = {"below": most + TOLERANCE} if architecture == "alexnet" else {"above": TOLERANCE}
    found = []
    for bits, value in zip((3, 2, 1), left, strict=True):
        of = Activations(DATASET, "dynamic", bits, architecture)
        before, after, theirs = (
            Mean(accuracy, of, ("transfer", name))
            for name in ("defense/clean", "defense/pgd", "substitute/pgd")
        )
        found += [
            Comparison("left of the target", after, published=value, seeds=SEEDS),
            Comparison("target – substitute", after - theirs, above=0, seeds=SEEDS),
            Comparison("cost", before - after, seeds=SEEDS, **cost),
        ]
    return found


def clusters() -> list[Comparison]:
    """Under PGD features keep to their classes more than with ReLU: less is lost, more is left."""
    found = []
    for n in DYNAMIC:
        left, control = (Mean(neighbours, of, ("pgd",)) for of in (n, n.control))
        found.append(Comparison("neighbours under PGD", left - control, above=0, seeds=SEEDS))
        found.append(under_all(n, n.control))
    return found
