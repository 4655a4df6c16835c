"""What Double quantization claims, and the rules that decide it."""

from __future__ import annotations

from statistics import mean

import numpy as np

from reproduce import grids, published, results
from reproduce.claims.evidence import (
    DIRECTION,
    NOT,
    REPRODUCED,
    TOLERANCE,
    UNDECIDED,
    Claim,
    Evidence,
    Verdict,
    missing,
    near,
    points,
)
from reproduce.double import detection, published_table, words
from reproduce.evaluation import wilson
from reproduce.results import Record

LOW = ((1, False), (1, True), (2, False), (2, True))

DOUBLE = "double-quantization-cifar10"


def interval(counts: dict[str, int]) -> tuple[float, float]:
    """Wilson's, 95 %, in percent."""
    low, high = wilson(counts["correct"], counts["total"])
    return 100 * low, 100 * high


def _same_under_attack(bits: int, dithered: bool, value: float):
    """A model's accuracy is a number, and is exactly the same under PGD at 8/255."""
    kind = grids.kind_name(bits, dithered)

    def decide(evidence: Evidence) -> Verdict:
        records = evidence.records(DOUBLE, kind)
        if not records:
            return missing(f"the model of {words((bits, dithered))}")
        clean = evidence.accuracy(DOUBLE, kind, f"clean/{kind}")
        same = all(_unchanged(r, f"clean/{kind}", f"pgd/{kind}") for r in records)
        why = f"clean {', '.join(f'{c:.2f}' for c in clean)} %, published {value:.2f} %; under PGD "
        why += "every image is judged as before" if same else "some images are judged otherwise"
        if not same:
            return NOT, why
        return (REPRODUCED if near(mean(clean), value) else DIRECTION), why

    return decide


def _absent(evidence: Evidence, name: str, kinds) -> Verdict | None:
    """A claim about several models waits until each of them has a record."""
    open_ = [words(k) for k in kinds if not evidence.records(name, grids.kind_name(*k))]
    of = "the trials of " if name.endswith("-trial") else "the models of "
    return missing(of + "; ".join(open_)) if open_ else None


def _unchanged(record: Record, one: str, other: str) -> bool:
    """Whether two conditions agree on every image that both were run on."""
    a, b = results.hits(record, one), results.hits(record, other)
    n = min(len(a), len(b))
    return bool(np.array_equal(a[:n], b[:n]))


def _drops(record: Record, one: str, other: str) -> bool:
    """Whether accuracy is lower by more than TOLERANCE, on the images that both were run on."""
    a, b = results.hits(record, one), results.hits(record, other)
    n = min(len(a), len(b))
    return 100 * (a[:n].mean() - b[:n].mean()) > TOLERANCE


def _flat_to(bits: int, eps: int, dithering: tuple[bool, ...] = (False, True)):
    """No answer changes up to eps, and accuracy drops, beyond TOLERANCE, at the next of Fig. 4."""

    def decide(evidence: Evidence) -> Verdict:
        waits = _absent(evidence, f"{DOUBLE}-trial", [(bits, d) for d in dithering])
        if waits:
            return waits
        found = []
        for dithered in dithering:
            for r in evidence.records(f"{DOUBLE}-trial", grids.kind_name(bits, dithered)):
                flat = all(_unchanged(r, "clean", f"after/{e}") for e in _FIG4 if e <= eps)
                beyond = [e for e in _FIG4 if e > eps]
                found.append(flat and (not beyond or _drops(r, "clean", f"after/{beyond[0]}")))
        why = f"{sum(found)} of {len(found)} models are flat to {eps}/255"
        why += " and drop at the next ε" if eps < _FIG4[-1] else ", the largest ε tested"
        return (REPRODUCED if all(found) else NOT), why

    return decide


_FIG4 = (2, 4, 8, 16, 24, 32)


def _removed_completely(evidence: Evidence) -> Verdict:
    waits = _absent(evidence, f"{DOUBLE}-trial", LOW)
    if waits:
        return waits
    found = []
    for kind in (grids.kind_name(*k) for k in LOW):
        for r in evidence.records(f"{DOUBLE}-trial", kind):
            inside = _unchanged(r, "clean", "after/inside")
            found.append((inside, _drops(r, "clean", "after/outside")))
    inside, outside = (sum(column) for column in zip(*found, strict=True))
    why = (
        f"an attack that knows the filter changes nothing inside its radius in {inside} of "
        f"{len(found)} models, and breaks {outside} of them one grey level further"
    )
    if inside < len(found):
        return NOT, why
    # An attack that does nothing outside shows nothing inside.
    return (REPRODUCED if outside == len(found) else UNDECIDED), why


def _dithering_helps(evidence: Evidence) -> Verdict:
    gains = []
    for bits in (1, 2):
        plain, dithered = (
            evidence.accuracy(DOUBLE, k, f"clean/{k}")
            for k in (grids.kind_name(bits, d) for d in (False, True))
        )
        if not plain or not dithered:
            return missing(f"the {bits}-bit models with and without dithering")
        gains.append(mean(dithered) - mean(plain))
    said = _published_own(1)[1] - _published_own(1)[0], _published_own(2)[1] - _published_own(2)[0]
    why = f"dithered minus plain at 1 and 2 bits: {points(gains)}, published {points(said)} points"
    met = all(map(near, gains, said))
    return (REPRODUCED if met else DIRECTION if min(gains) > 0 else NOT), why


def _published_own(bits: int) -> tuple[float, float]:
    """Table I, train and test alike: without and with dithering, in percent."""
    table = published.load("double_quantization_table1")
    own = table[(table["train_bits"] == bits) & (table["test_bits"] == bits)]
    own = own[own["train_dithered"] == own["test_dithered"]].sort_values("test_dithered")
    plain, dithered = own["value"]
    return 100 * plain, 100 * dithered


def _published_left() -> dict[tuple[int, bool], float]:
    """Table II, train and test alike, 3 bits and more: {(bits, dithered): percent}."""
    table = published.load("double_quantization_table2").set_index(
        ["train_bits", "train_dithered", "test_bits", "test_dithered"]
    )["value"]
    return {(b, d): 100 * table[b, d, b, d] for b, d in grids.KINDS if b >= 3}


def _high_depth_fails(evidence: Evidence) -> Verdict:
    waits = _absent(evidence, DOUBLE, _published_left())
    if waits:
        return waits
    said = _published_left()
    left, halved, met = {}, [], []
    for bits, dithered in said:
        kind = grids.kind_name(bits, dithered)
        for r in evidence.records(DOUBLE, kind):
            attacked = results.hits(r, f"pgd/{kind}")
            kept = 100 * attacked.mean()
            left.setdefault(bits, []).append(kept)
            halved.append(
                attacked.sum() < results.hits(r, f"clean/{kind}")[: len(attacked)].sum() / 2
            )
            met.append(near(kept, said[bits, dithered]))
    why = "PGD leaves at most " + ", ".join(
        f"{max(values):.1f} % ({bits} bits)" for bits, values in left.items()
    )
    rescued = [
        a
        for d in (False, True)
        for a in evidence.accuracy(f"{DOUBLE}-trial", grids.kind_name(3, d), "after/nearest")
    ]
    if rescued:
        why += f"; with rounding to the nearest level 3 bits keep {min(rescued):.1f} %"
    return (REPRODUCED if all(met) else DIRECTION if all(halved) else NOT), why


def _before_dithering(evidence: Evidence) -> Verdict:
    kind = grids.kind_name(1, True)
    ours = evidence.accuracy(f"{DOUBLE}-trial", kind, "before/bare")
    if not ours:
        return missing(f"the trial of {words((1, True))}")
    text = published.load("double_quantization_text").set_index("key")["value"]
    value = text["1bit_dithered_attack_before_dithering"]
    clean = evidence.accuracy(f"{DOUBLE}-trial", kind, "before/clean")
    left = [r.metrics["before/bare"] for r in evidence.records(f"{DOUBLE}-trial", kind)]
    ranges = "; ".join("{:.1f}–{:.1f}".format(*interval(c)) for c in left)
    why = f"{mean(ours):.1f} % ({ranges}) of {mean(clean):.1f} % are left, published {value:.2f} %"
    if near(mean(ours), value):
        return REPRODUCED, why
    return (DIRECTION if mean(ours) < mean(clean) / 2 else NOT), why


def _depths_match(evidence: Evidence) -> Verdict:
    waits = _absent(evidence, DOUBLE, grids.KINDS)
    if waits:
        return waits
    best, count = 0, 0
    kinds = [grids.kind_name(*k) for k in grids.KINDS]
    for kind in kinds:
        for r in evidence.records(DOUBLE, kind):
            count += 1
            scores = {k: r.metrics[f"clean/{k}"]["correct"] for k in kinds}
            tie = 0.005 * r.metrics[f"clean/{kind}"]["total"]  # ties within half a point
            best += scores[kind] >= max(scores.values()) - tie
    table = published_table("I")
    strictly = sum((row >= row[kind]).sum() == 1 for kind, row in table.iterrows())
    within = sum(row.max() - row[kind] <= 0.5 for kind, row in table.iterrows())
    why = (
        f"{best} of {count} models do best on their own kind of image, to half a point; as printed "
        f"{within} of {len(table)}, strictly {strictly}"
    )
    return (REPRODUCED if best == count else DIRECTION if best > count / 2 else NOT), why


def _best_under_attack(evidence: Evidence) -> Verdict:
    waits = _absent(evidence, DOUBLE, grids.KINDS)
    if waits:
        return waits
    left = {}
    for bits, dithered in grids.KINDS:
        kind = grids.kind_name(bits, dithered)
        left[words((bits, dithered))] = mean(evidence.accuracy(DOUBLE, kind, f"pgd/{kind}"))
    first, second = sorted(left, key=left.get, reverse=True)[:2]
    why = f"first {first} with {left[first]:.2f} %, then {second} with {left[second]:.2f} %"
    return (REPRODUCED if first == words((2, True)) else NOT), why


def _eight_bit_tests_fail(evidence: Evidence) -> Verdict:
    waits = _absent(evidence, DOUBLE, [(1, False), (2, False)])
    if waits:
        return waits
    left = [
        a
        for bits in (1, 2)
        for a in evidence.accuracy(DOUBLE, grids.kind_name(bits, False), "pgd/8bit")
    ]
    why = f"on 8-bit images PGD leaves {', '.join(f'{v:.1f}' for v in left)} %"
    return (REPRODUCED if max(left) <= TOLERANCE else DIRECTION if max(left) < 20 else NOT), why


def _published_on_8_bits() -> str:
    """Table II's cells that the claim about training alone is about."""
    table = published.load("double_quantization_table2")
    cells = table[(table["test_bits"] == 8) & ~table["train_dithered"]].set_index("train_bits")
    return "; ".join(
        f"{words((bits, False))} "
        + (f"{100 * value:.1f} %" if value == value else "not legible in our copy")
        for bits, value in cells["value"].loc[[1, 2]].items()
    )


REFERENCE = 100  # images of a batch
DETECTED = 0.95  # of the attacked batches, at least
FALSE_ALARMS = 0.10  # of the clean ones, at most; the threshold aims at 0.05


def _detects(evidence: Evidence) -> Verdict:
    """A detector that knows the labels of a batch, its threshold set on other, clean images."""
    trial = f"{DOUBLE}-trial"
    waits = _absent(evidence, trial, LOW)
    if waits:
        return waits
    records = [r for k in LOW for r in evidence.records(trial, grids.kind_name(*k))]
    found = detection(records, [REFERENCE])
    unseen = sum(_unchanged(r, "clean", "after/8") for r in records)
    seen = found["detected"] >= DETECTED
    quiet = found["false_alarm"] <= FALSE_ALARMS
    why = (
        f"with {REFERENCE} labelled images at least {100 * found['detected'].min():.1f} % of the "
        "batches that were attacked before dithering raise the alarm, and at most "
        f"{100 * found['false_alarm'].max():.1f} % of clean ones; after dithering {unseen} of "
        f"{len(records)} models answer as on clean images, where nothing is to be seen"
    )
    return (REPRODUCED if (seen & quiet).all() else DIRECTION if seen.any() else NOT), why


def claims() -> list[Claim]:
    """The claims of Double quantization, in the ledger's order."""
    claims = []

    def add(key, place, text, said, decide):
        claims.append(Claim(f"double-{key}", "double-quantization", place, text, said, decide))

    text = published.load("double_quantization_text").set_index("key")["value"]
    for bits, dithered in reversed(LOW):
        value = text[f"{bits}bit" + ("_dithered" if dithered else "")]
        name = f"{bits}-bit {'dithered' if dithered else 'plain'}"
        add(
            f"{grids.kind_name(bits, dithered)}-same",
            "Table II, IV-B",
            f"The {name} model has this accuracy under PGD at 8/255, exactly as on clean images.",
            f"{value:.2f} %",
            _same_under_attack(bits, dithered, value),
        )
    add(
        "flat-1",
        "Fig. 4",
        "1-bit models keep their accuracy at all ε tested.",
        "to 32/255",
        _flat_to(1, 32),
    )
    add(
        "flat-2",
        "Fig. 4",
        "2-bit models keep it up to 16/255 and drop beyond.",
        "to 16/255",
        _flat_to(2, 16),
    )
    add(
        "flat-3",
        "IV-B, Fig. 4",
        "The 3-bit dithered model keeps it up to 4/255 and drops beyond.",
        "to 4/255",
        _flat_to(3, 4, (True,)),
    )
    add(
        "removed",
        "II-B, V",
        "The second quantisation removes adversarial noise completely.",
        "at 1 and 2 bits",
        _removed_completely,
    )
    add(
        "dithering",
        "IV-B",
        "Dithering raises the accuracy of low-depth models.",
        f"{points([b - a for a, b in map(_published_own, (1, 2))])} points",
        _dithering_helps,
    )
    add(
        "high-depth",
        "IV-B, V",
        "Models of 3 bits and more are not robust at 8/255.",
        f"{min(_published_left().values()):.1f}–{max(_published_left().values()):.1f} %",
        _high_depth_fails,
    )
    add(
        "depths",
        "IV-B",
        "A model does best on images of its own depth.",
        "Table I's diagonal",
        _depths_match,
    )
    add(
        "best",
        "IV-B, VI",
        "Under PGD at 8/255 the 2-bit dithered model is the most accurate of all 15.",
        f"{text['2bit_dithered']:.2f} %",
        _best_under_attack,
    )
    add(
        "training-alone",
        "II-B, V",
        "Training on few levels alone does not resist PGD.",
        _published_on_8_bits(),
        _eight_bit_tests_fail,
    )
    add(
        "before",
        "IV-B",
        "Noise before dithering defeats the 1-bit dithered model.",
        f"{text['1bit_dithered_attack_before_dithering']:.2f} %",
        _before_dithering,
    )
    add(
        "detects",
        "abstract, V",
        "Equal accuracy lets one detect attacks, given reference data.",
        "proposed",
        _detects,
    )
    return claims
