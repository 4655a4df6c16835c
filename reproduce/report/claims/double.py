"""What decides the claims of Double quantization, by their keys in claims.csv."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reproduce import published
from reproduce.papers import double
from reproduce.quantizers import filter_radius
from reproduce.report.claims.dqa_tables import span
from reproduce.report.claims.evidence import Images
from reproduce.report.claims.quantities import Difference, Mean, Printed
from reproduce.report.claims.rule import (
    TOLERANCE,
    UNDECIDED,
    Comparison,
)

SCALES = ("original", "paper", "laptop")  # the first are the authors' own networks
LOW = tuple(Images(bits, dithered) for bits in (1, 2) for dithered in (False, True))
EVERY = tuple(Images(*kind) for kind in double.KINDS)
EPS = 8  # of Table II, in grey levels
HALF = 50.0  # percent of the images that were right: what keeps fewer is broken
TIE = 0.5 + 1e-6  # points between kinds of image that count as none, this included
DETECTED, FALSE_ALARMS = 95.0, 10.0  # percent of batches; the detector aims at 5 false alarms
NONE_CHANGED = {"published": 0, "margin": 0, "exact": True}


def _printed(numeral: str) -> pd.DataFrame:
    """Table "I" (clean) or "II" (PGD), in percent: a row a kind of training image, a column a kind
    of test image, NaN where our copy is not legible."""
    cells = published.load(f"double_quantization_table{len(numeral)}")
    rows, columns = ["train_bits", "train_dithered"], ["test_bits", "test_dithered"]
    return 100 * cells.pivot(index=rows, columns=columns, values="value").astype(float)


def own(of: Images, condition: str = "pgd") -> Mean:
    """Accuracy on the kind of image that a network is trained on, "clean" or under "pgd"."""
    return Mean("accuracy", of, ("table", f"{condition}/{of.kind}"))


# --- Kinds of comparison --------------------------------------------------------------------------


def same_under_attack(of: Images, value: float) -> list[Comparison]:
    """No image is judged otherwise under PGD, and accuracy is the printed one."""
    both = ("table", f"clean/{of.kind}", f"pgd/{of.kind}")
    return [
        Comparison(what="images changed by PGD", ours=Mean("changed", of, both), **NONE_CHANGED),
        Comparison(what="accuracy", ours=own(of, "clean"), published=value),
    ]


def flat_to(eps: int, networks: Sequence[Images]) -> list[Comparison]:
    """No answer changes up to eps, and accuracy drops at the next one of Fig. 4."""
    inside = [f"after/{e}" for e in double.FIG4 if e <= eps]
    beyond = [f"after/{e}" for e in double.FIG4 if e > eps][:1]
    found = []
    for of in networks:
        changed = Mean("changed", of, ("trial", "clean", *inside))
        found.append(Comparison(what=f"images changed up to {eps}", ours=changed, **NONE_CHANGED))
        for name in beyond:
            lost = Mean("drop", of, ("trial", "clean", name))
            found.append(Comparison(what=f"points lost at {name[6:]}", ours=lost, above=TOLERANCE))
    return found


def removed() -> list[Comparison]:
    """What knows the filter changes nothing inside its radius. An attack that does nothing outside
    shows nothing inside."""
    found = []
    for of in LOW:
        radius = filter_radius(of.bits, "floor")
        changed = Mean("changed", of, ("trial", "clean", "after/inside"))
        lost = Mean("drop", of, ("trial", "clean", "after/outside"))
        found += [
            Comparison(what=f"images changed at {radius:g}", ours=changed, **NONE_CHANGED),
            Comparison(
                what=f"points lost at {radius + 1:g}", ours=lost, above=TOLERANCE, fails=UNDECIDED
            ),
        ]
    return found


def _gain_of_dithering(bits: int) -> float:
    table = _printed("I")
    return table.loc[(bits, True), (bits, True)] - table.loc[(bits, False), (bits, False)]


def dithering_helps() -> list[Comparison]:
    """At 1 and 2 bits, as much as is printed."""
    return [
        Comparison(
            what="clean accuracy",
            ours=Difference(own(Images(b, True), "clean"), own(Images(b, False), "clean")),
            above=0,
            published=_gain_of_dithering(b),
        )
        for b in (1, 2)
    ]


def _left_as_printed() -> dict[Images, float]:
    table = _printed("II")
    return {n: table.loc[key, key] for n in EVERY if (key := (n.bits, n.dithered)) and n.bits >= 3}


def many_bits_fail() -> list[Comparison]:
    """Of each network of 3 bits and more PGD leaves what is printed, and less than half."""
    found = []
    for of, value in _left_as_printed().items():
        kept = Mean("kept", of, ("table", f"clean/{of.kind}", f"pgd/{of.kind}"))
        printed = None if pd.isna(value) else value
        found += [
            Comparison(what="PGD", ours=own(of), published=printed),
            Comparison(what="share kept under PGD", ours=kept, below=HALF),
        ]
    return found


def best_on_own_kind() -> list[Comparison]:
    """Each network, to within half a point."""
    return [
        Comparison(
            what="own kind – best other kind", ours=Mean("ahead on own kind", of), above=-TIE
        )
        for of in EVERY
    ]


def best_under_attack(of: Images) -> list[Comparison]:
    """More is left of one network under PGD than of each other, each on its own kind of image."""
    return [
        Comparison(what="PGD", ours=Difference(own(of), own(n)), above=0) for n in EVERY if n != of
    ]


def eight_bits_fail() -> list[Comparison]:
    """Networks of few levels, tested on 8-bit images, keep nothing under PGD."""
    table, found = _printed("II"), []
    for of in (Images(1, False), Images(2, False)):
        value = table.loc[(of.bits, False), (8, False)]
        left = Mean("accuracy", of, ("table", "pgd/8bit"))
        kept = Mean("kept", of, ("table", "clean/8bit", "pgd/8bit"))
        found += [
            # Where our copy is not legible, nothing is what the claim says.
            Comparison(
                what="PGD, 8-bit images", ours=left, published=0 if pd.isna(value) else value
            ),
            Comparison(what="share kept under PGD", ours=kept, below=HALF),
        ]
    return found


def noise_before(of: Images, value: float) -> list[Comparison]:
    """Noise that is dithered, too, leaves what is printed, and less than half."""
    left = Mean("accuracy", of, ("trial", "before/bare"))
    kept = Mean("kept", of, ("trial", "before/clean", "before/bare"))
    return [
        Comparison(what="PGD before dithering", ours=left, published=value),
        Comparison(what="share kept", ours=kept, below=HALF),
    ]


def detects() -> list[Comparison]:
    """A detector that knows the labels of a batch finds attacks, and few where there are none."""
    found = []
    for of in LOW:
        found += [
            Comparison(what="detected", ours=Mean("detected", of), above=DETECTED),
            Comparison(what="false alarms", ours=Mean("false alarms", of), below=FALSE_ALARMS),
        ]
    return found


def contradictions(*, decided: bool) -> list[Comparison]:
    """Cells of Table II against the same cells of Table I, both as printed.

    Args: decided: those on which PGD at 8/255 can change nothing, by arithmetic: test images of so
          few bits that the filter's radius reaches as far. They must be equal. The others may not
          be higher.
    """
    clean, attacked = _printed("I"), _printed("II")
    found = []
    for train in clean.index:
        for test in clean.columns:
            difference = round(attacked.loc[train, test] - clean.loc[train, test], 6)
            if pd.isna(difference) or (filter_radius(test[0], "floor") >= EPS) != decided:
                continue
            name = f"{Images(*train).name} → {Images(*test).name}"
            bounds = {"side": "both" if decided else "most", "margin": 0, "exact": True}
            ours = Printed(name, difference)
            found.append(
                Comparison(what="Table II – Table I", ours=ours, published=0, seeds=0, **bounds)
            )
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
    table, best = _printed("II"), Images(2, True)
    value = text["1bit_dithered_attack_before_dithering"]
    gains = ", ".join(f"{_gain_of_dithering(b):+.1f}" for b in (1, 2))
    left, on_8_bits = (
        span([v for v in values if not pd.isna(v)], 1)
        for values in (
            _left_as_printed().values(),
            [table.loc[(bits, False), (8, False)] for bits in (1, 2)],
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
