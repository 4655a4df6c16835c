"""What decides the claims of Double quantization, by their keys in claims.csv."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pandas as pd

from reproduce import published
from reproduce.papers.double import FIG4, KINDS
from reproduce.quantizers import filter_radius
from reproduce.report.claims import measures
from reproduce.report.claims.dqa_tables import span
from reproduce.report.claims.evidence import Images
from reproduce.report.claims.quantities import Mean, Printed
from reproduce.report.claims.rule import TOLERANCE, UNDECIDED, Comparison
from reproduce.report.double import published_table

SCALES = ("original", "paper", "laptop")  # the first are the authors' own networks
LOW = tuple(Images(bits, dithered) for bits in (1, 2) for dithered in (False, True))
EVERY = tuple(Images(*kind) for kind in KINDS)
EPS = 8  # of Table II, in grey levels
HALF = 50.0  # percent of the images that were right: what keeps fewer is broken
TIE = 0.5 + 1e-6  # points between kinds of image that count as none, this included
DETECTED, FALSE_ALARMS = 95.0, 10.0  # percent of batches; the detector aims at 5 false alarms


def own(of: Images, condition: str = "pgd") -> Mean:
    """Accuracy on the kind of image that a network is trained on, "clean" or under "pgd"."""
    return Mean(measures.accuracy, of, ("table", f"{condition}/{of.kind}"))


_table = cache(published_table)


def cell(numeral: str, train: Images, test: Images) -> float:
    """Of Table "I" or "II", in percent; NaN where our copy is not legible."""
    kinds = (train.bits, train.dithered), (test.bits, test.dithered)
    return _table(numeral).loc[kinds]


# --- Kinds of comparison --------------------------------------------------------------------------


def unchanged(what: str, of: Images, suite: str, *names: str) -> Comparison:
    """No image is judged otherwise under these conditions than under the first."""
    changed = Mean(measures.changed, of, (suite, *names))
    return Comparison(what, changed, published=0, margin=0, exact=True)


def less_than_half(what: str, of: Images, suite: str, *names: str) -> Comparison:
    """Of the images right under the first condition, few are under the second."""
    return Comparison(what, Mean(measures.kept, of, (suite, *names)), below=HALF)


def same_under_attack(of: Images, value: float) -> list[Comparison]:
    """No image is judged otherwise under PGD, and accuracy is the printed one."""
    names = f"clean/{of.kind}", f"pgd/{of.kind}"
    return [
        unchanged("images changed by PGD", of, "table", *names),
        Comparison("accuracy", own(of, "clean"), published=value),
    ]


def flat_to(eps: int, networks: Sequence[Images]) -> list[Comparison]:
    """No answer changes up to eps, and accuracy drops at the next one of Fig. 4."""
    inside = [f"after/{e}" for e in FIG4 if e <= eps]
    beyond = [e for e in FIG4 if e > eps][:1]
    found = []
    for of in networks:
        found.append(unchanged(f"images changed up to {eps}", of, "trial", "clean", *inside))
        for e in beyond:
            lost = Mean(measures.drop, of, ("trial", "clean", f"after/{e}"))
            found.append(Comparison(f"points lost at {e}", lost, above=TOLERANCE))
    return found


def removed() -> list[Comparison]:
    """What knows the filter changes nothing inside its radius. An attack that does nothing outside
    shows nothing inside."""
    found = []
    for of in LOW:
        radius = filter_radius(of.bits, "floor")
        lost = Mean(measures.drop, of, ("trial", "clean", "after/outside"))
        bounds = {"above": TOLERANCE, "fails": UNDECIDED}
        found += [
            unchanged(f"images changed at {radius:g}", of, "trial", "clean", "after/inside"),
            Comparison(f"points lost at {radius + 1:g}", lost, **bounds),
        ]
    return found


def _gain_of_dithering(bits: int) -> float:
    dithered, plain = Images(bits, True), Images(bits, False)
    return cell("I", dithered, dithered) - cell("I", plain, plain)


def dithering_helps() -> list[Comparison]:
    """At 1 and 2 bits, as much as is printed."""
    found = []
    for bits in (1, 2):
        gain = own(Images(bits, True), "clean") - own(Images(bits, False), "clean")
        printed = _gain_of_dithering(bits)
        found.append(Comparison("clean accuracy", gain, above=0, published=printed))
    return found


def _left_as_printed() -> dict[Images, float]:
    return {of: cell("II", of, of) for of in EVERY if of.bits >= 3}


def many_bits_fail() -> list[Comparison]:
    """Of each network of 3 bits and more PGD leaves what is printed, and less than half."""
    found = []
    for of, value in _left_as_printed().items():
        names = f"clean/{of.kind}", f"pgd/{of.kind}"
        found += [
            Comparison("PGD", own(of), published=None if pd.isna(value) else value),
            less_than_half("share kept under PGD", of, "table", *names),
        ]
    return found


def best_on_own_kind() -> list[Comparison]:
    """Each network, to within half a point."""
    ahead = [Mean(measures.ahead_on_own_kind, of) for of in EVERY]
    return [Comparison("own kind – best other kind", points, above=-TIE) for points in ahead]


def best_under_attack(of: Images) -> list[Comparison]:
    """More is left of one network under PGD than of each other, each on its own kind of image."""
    return [Comparison("PGD", own(of) - own(n), above=0) for n in EVERY if n != of]


def eight_bits_fail() -> list[Comparison]:
    """Networks of few levels, tested on 8-bit images, keep nothing under PGD."""
    found = []
    for of in (Images(1, False), Images(2, False)):
        value = cell("II", of, of.control)
        left = Mean(measures.accuracy, of, ("table", "pgd/8bit"))
        # Where our copy is not legible, nothing is what the claim says.
        found += [
            Comparison("PGD, 8-bit images", left, published=0 if pd.isna(value) else value),
            less_than_half("share kept under PGD", of, "table", "clean/8bit", "pgd/8bit"),
        ]
    return found


def noise_before(of: Images, value: float) -> list[Comparison]:
    """Noise that is dithered, too, leaves what is printed, and less than half."""
    left = Mean(measures.accuracy, of, ("trial", "before/bare"))
    return [
        Comparison("PGD before dithering", left, published=value),
        less_than_half("share kept", of, "trial", "before/clean", "before/bare"),
    ]


def detects() -> list[Comparison]:
    """A detector that knows the labels of a batch finds attacks, and few where there are none."""
    found = []
    for of in LOW:
        found += [
            Comparison("detected", Mean(measures.detected, of), above=DETECTED),
            Comparison("false alarms", Mean(measures.false_alarms, of), below=FALSE_ALARMS),
        ]
    return found


def contradictions(*, decided: bool) -> list[Comparison]:
    """Cells of Table II against the same cells of Table I, both as printed.

    Args: decided: those on which PGD at 8/255 can change nothing, by arithmetic: test images of so
          few bits that the filter's radius reaches as far. They must be equal. The others may not
          be higher.
    """
    bounds = {"published": 0, "margin": 0, "exact": True, "seeds": 0}
    bounds["side"] = "both" if decided else "most"
    found = []
    for train in EVERY:
        for test in EVERY:
            difference = round(cell("II", train, test) - cell("I", train, test), 6)
            if pd.isna(difference) or (filter_radius(test.bits, "floor") >= EPS) != decided:
                continue
            ours = Printed(f"{train.name} → {test.name}", difference)
            found.append(Comparison("Table II – Table I", ours, **bounds))
    return found


# --- The claims -----------------------------------------------------------------------------------


def _after_dithering(text: pd.Series) -> dict[str, dict]:
    found = {}
    for of in LOW:
        value = text[f"{of.bits}bit" + ("_dithered" if of.dithered else "")]
        found[f"{of.kind}-same"] = {
            "comparisons": same_under_attack(of, value),
            "said": f"{value:.2f} %",
            "defended": (of,),
        }
    for eps, networks in ((32, LOW[:2]), (16, LOW[2:]), (4, (Images(3, True),))):
        flat = {"comparisons": flat_to(eps, networks), "defended": networks}
        found[f"flat-{networks[0].bits}"] = flat
    return found | {"removed": {"comparisons": removed(), "defended": LOW}}


def _of_models(text: pd.Series) -> dict[str, dict]:
    best, eight = Images(2, True), Images(8, False)
    value = text["1bit_dithered_attack_before_dithering"]
    gains = ", ".join(f"{_gain_of_dithering(b):+.1f}" for b in (1, 2))
    left, on_8_bits = (
        span([v for v in values if not pd.isna(v)], 1)
        for values in (
            _left_as_printed().values(),
            [cell("II", Images(bits, False), eight) for bits in (1, 2)],
        )
    )
    return {
        "dithering": {"comparisons": dithering_helps(), "said": f"{gains} points"},
        "high-depth": {"comparisons": many_bits_fail(), "said": left},
        "depths": {"comparisons": best_on_own_kind(), "in_part": True},
        "best": {
            "comparisons": best_under_attack(best),
            "said": f"{text['2bit_dithered']:.2f} %",
            "defended": (best,),
        },
        "training-alone": {"comparisons": eight_bits_fail(), "said": on_8_bits},
        "before": {
            "comparisons": noise_before(Images(1, True), value),
            "said": f"{value:.2f} %",
        },
        "detects": {"comparisons": detects(), "in_part": True},
    }


def rules() -> dict[str, dict]:
    """{key: the fields of rule.Claim that claims.csv does not hold}."""
    text = published.load("double_quantization_text").set_index("key")["value"]
    runs = _after_dithering(text) | _of_models(text)
    found = {key: {"scales": SCALES} | rule for key, rule in runs.items()}
    for key, decided in (("tables-equal", True), ("tables-lower", False)):
        found[key] = {"comparisons": contradictions(decided=decided)}
    return {f"double-{key}": rule for key, rule in found.items()}
