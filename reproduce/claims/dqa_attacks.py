"""The rules for what DQA claims of C&W, ZOO, substitutes and features (Tables 3, 5, 6 and Fig. 3).

- C&W's norms hold in direction if they grow as bits get fewer, and are reproduced if each is within
  NORM_TOLERANCE of the published one. They must also grow for the smaller norm of both backward
  rules, image by image, else they hold only under the network's own rule.
- A success rate of 0 is met up to TOLERANCE points. Networks that collapsed decide nothing.
- ZOO at its authors' width stands for the paper's own attack, which names none.
- Of a transferred attack the paper compares the target with the substitute, and calls the cost of
  VGG-16 some and that of AlexNet little.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from reproduce import norms, published
from reproduce.claims.evidence import (
    DIRECTION,
    NOT,
    OWN_ONLY,
    REPRODUCED,
    TOLERANCE,
    Evidence,
    Verdict,
    missing,
    points,
    under_all,
)
from reproduce.evaluation import collapsed
from reproduce.other_attacks import broken, outcome, smallest
from reproduce.results import Record, percent

NAME = "dqa-cifar10"
BITS = (3, 2, 1)
DYNAMIC = tuple(f"dynamic-{b}bit" for b in BITS)
SEEDS = 3
NORM_TOLERANCE = 0.25  # of the published norm
OWN_WIDTH = "1e-4"  # ZOO's authors'


def _norm_trials(evidence: Evidence, cells: Sequence[str]) -> list[Record]:
    """Seed 0's, of the cells that have one and whose training did not collapse: the answer of a
    network that says one class for all images cannot be changed, and proves nothing."""
    found = []
    for cell in cells:
        network = evidence.records(NAME, cell)
        trial = evidence.records(f"{NAME}-norms", cell)
        if network and trial and not collapsed(network[0].metrics):
            found.append(trial[0])
    return found


def cw_norms(evidence: Evidence) -> Verdict:
    """Without adversarial training, C&W needs a larger norm the fewer the bits."""
    cells = ["relu-clean", *(f"fixed-{b}bit-clean" for b in BITS)]
    records = _norm_trials(evidence, cells)
    if len(records) < len(cells):
        return missing("C&W on the networks trained on clean images")
    own = [broken(r, "cw/own") for r in records]
    table = published.load("dqa_table3")
    said = table[table["quantity"] == "l2_norm"]["value"].tolist()
    ours = [b.mean for b in own]
    why = (
        f"mean norm at 32, 3, 2, 1 bits: {_norms(ours)}, published {_norms(said)}; "
        f"success {', '.join(f'{b.rate:.0f}' for b in own)} %"
    )
    if not all(a < b for a, b in pairwise(ours)):
        return NOT, why
    known = [outcome(smallest(r, "cw")).mean for r in records]
    why = f"{why}; by the better of both rules {_norms(known)}"
    if not all(a < b for a, b in pairwise(known)):
        return OWN_ONLY, why
    near = all(abs(o - s) <= NORM_TOLERANCE * s for o, s in zip(ours, said, strict=True))
    return (REPRODUCED if near else DIRECTION), why


def _norms(values) -> str:
    return ", ".join(f"{v:.2f}" for v in values)


def cw_fails(evidence: Evidence) -> Verdict:
    """C&W never succeeds against dynamic networks that were trained on adversarial examples.

    The paper's bound on the norm is not stated, so none is set; the norms are given.
    """
    records = _norm_trials(evidence, DYNAMIC)
    if len(records) < len(DYNAMIC):
        return missing("C&W on the dynamic networks")
    found = {rule: [broken(r, f"cw/{rule}") for r in records] for rule in norms.RULES}
    rates = {rule: [b.rate for b in outcomes] for rule, outcomes in found.items()}
    said = {
        rule: f"{', '.join(f'{b.rate:.0f}' for b in outcomes)} % (median norm "
        f"{', '.join(f'{b.median:.2f}' for b in outcomes)})"
        for rule, outcomes in found.items()
    }
    why = (
        f"success at 3, 2, 1 bits: {said['own']} by the network's own rule, "
        f"{said['sigmoid']} through the sigmoid"
    )
    if not all(r <= TOLERANCE for r in rates["own"]):  # a rate that is no number is no zero
        return NOT, why
    return (REPRODUCED if all(r <= TOLERANCE for r in rates["sigmoid"]) else OWN_ONLY), why


def zoo_fails(evidence: Evidence) -> Verdict:
    """ZOO breaks full precision and never dynamic networks."""
    records = _norm_trials(evidence, ("relu", *DYNAMIC))
    if len(records) < 1 + len(DYNAMIC):
        return missing("ZOO on ReLU and the dynamic networks")
    rates = [[broken(r, f"zoo/{h}").rate for h in norms.H_255] for r in records]
    at = list(norms.H_255).index(OWN_WIDTH)
    own, best = [r[at] for r in rates], [max(r) for r in rates]
    table = published.load("dqa_table5")
    said = table[table["quantity"] == "attack_success"]["value"].tolist()
    gains = [best[0] - b for b in best[1:]]
    why = (
        f"success on ReLU and at 3, 2, 1 bits: {', '.join(f'{r:.0f}' for r in own)} % at h = "
        f"{OWN_WIDTH}, {', '.join(f'{r:.0f}' for r in best)} % at the best h"
    )
    if not all(own[0] - r > TOLERANCE for r in own[1:]):
        return NOT, why
    if not all(g > 0 for g in gains):
        return OWN_ONLY, why
    met = all(abs(o - s) <= TOLERANCE for o, s in zip(own, said, strict=True))
    return (REPRODUCED if met else DIRECTION), why


def transfer(network: str):
    """What attacks made on a substitute leave of the target."""
    table = published.load("dqa_table6")
    table = table[(table["substitute"] == network) & (table["model"] == "defense")]
    clean, under = (table[table["attack"] == a]["value"].tolist() for a in ("clean", "transfer"))
    most = max(c - u for c, u in zip(clean, under, strict=True))

    def decide(evidence: Evidence) -> Verdict:
        name, cells = f"{NAME}-substitutes", [f"{c}-{network}" for c in DYNAMIC]
        lost = [
            {r.seed for r in evidence.records(NAME, c) if collapsed(r.metrics)} for c in DYNAMIC
        ]
        tried = [
            [r for r in evidence.records(name, c) if r.seed not in seeds]
            for c, seeds in zip(cells, lost, strict=True)
        ]
        each = {
            what: [[percent(r, what) for r in runs] for runs in tried]
            for what in ("defense/clean", "defense/pgd", "substitute/pgd")
        }
        if min(len(seeds) for found in each.values() for seeds in found) < SEEDS:
            return missing(f"{SEEDS} seeds of {network} substitutes")
        before, after, theirs = ([mean(seeds) for seeds in found] for found in each.values())
        costs = [b - a for b, a in zip(before, after, strict=True)]
        why = (
            f"defence under PGD at 3, 2, 1 bits {', '.join(f'{a:.1f}' for a in after)} %, "
            f"at a cost of {points(costs)} points; the substitute itself keeps "
            f"{', '.join(f'{t:.1f}' for t in theirs)} %"
        )
        if all(abs(a - u) <= TOLERANCE for a, u in zip(after, under, strict=True)):
            return REPRODUCED, why
        better = all(a > t for a, t in zip(after, theirs, strict=True))
        if network == "vgg16":
            as_said = all(c > TOLERANCE for c in costs)
        else:
            as_said = all(c <= most + TOLERANCE for c in costs)
        return (DIRECTION if better and as_said else NOT), why

    return decide


def clusters(evidence: Evidence) -> Verdict:
    """Under PGD, features keep to their classes in dynamic networks more than with ReLU."""
    cells = ("relu", *DYNAMIC)
    records = [[r for r in evidence.records(NAME, c) if "knn/pgd" in r.arrays] for c in cells]
    if min(map(len, records)) < SEEDS:
        return missing(f"{SEEDS} seeds with features of ReLU and the dynamic networks")
    before, after = (
        [100 * mean(float(r.arrays[f"knn/{a}"]) for r in runs) for runs in records]
        for a in ("clean", "pgd")
    )
    why = (
        "neighbours of the same class under PGD, ReLU and 3, 2, 1 bits: "
        f"{', '.join(f'{a:.0f}' for a in after)} %; clean {', '.join(f'{b:.0f}' for b in before)} %"
    )
    lost = [b - a for b, a in zip(before, after, strict=True)]
    # A collapsed network has nothing to lose; it must also keep more.
    if not all(x < lost[0] for x in lost[1:]) or not all(a > after[0] for a in after[1:]):
        return NOT, why
    return under_all(evidence, NAME, [(c, "relu") for c in DYNAMIC], (DIRECTION, why))
