"""Did an attack work? What is measured beside it, and the limit that it must keep.

Counts may differ by 1 % of the images where two random attacks are compared.

Source: Carlini et al. 2019, On evaluating adversarial robustness; Zimmermann et al. 2022.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from reproduce.records import Record
from reproduce.report.results import Results

Suite = Mapping[str, Record]
MOST, LEAST = "at most", "at least"
FOUND = 0.95  # of the planted examples that random points miss


class Found(NamedTuple):
    """What a check measured: a number, and the limit that it must keep."""

    measured: float
    bound: str
    limit: float


class Check(NamedTuple):
    """Args: name: what should be so. needs: the records that it reads. measure: from a suite."""

    name: str
    needs: tuple[str, ...]
    measure: Callable[[Suite], Found]


RADII = ("eps/0", "eps/0.25", "eps/0.5", "main", "eps/2", "eps/unbounded")


def _slack(record: Record) -> float:
    return record.total / 100


def _idle(suite: Suite) -> Found:
    moved = int((suite["eps/0"].bits != suite["clean"].bits).sum())
    return Found(moved, MOST, 0)


def _climb(suite: Suite) -> Found:
    left = [suite[name].correct for name in RADII]
    climb = max(after - before for before, after in itertools.pairwise(left))
    return Found(max(climb, 0), MOST, _slack(suite["main"]))


def _random(suite: Suite) -> Found:
    """Noise may have met fewer images: the first ones."""
    noise = suite["noise"]
    directed = int(suite["main"].bits[: noise.total].sum())
    return Found(directed, MOST, noise.correct + _slack(noise))


def _longer(suite: Suite) -> Found:
    change = abs(suite["main"].correct - suite["steps/twice"].correct)
    return Found(change, MOST, _slack(suite["main"]))


def _rise(suite: Suite) -> Found:
    """The last tenth of the steps must lie a tenth above the start, and near the highest."""
    curve = np.array(suite["diagnostics"].values["loss"]["main"])
    start, late = curve[0], curve[-len(curve) // 10 :].mean()
    return Found(late - start, LEAST, max(0.1 * abs(start), 0.9 * (curve.max() - start)))


def _planted(suite: Suite, attack: str) -> Found:
    """Of none, the limit is 1: then nothing is shown."""
    hits = {n: np.array(b, bool) for n, b in suite["diagnostics"].values["binarization"].items()}
    hard = hits["valid"] & ~hits["random"]
    return Found(int(hits[attack][hard].sum()), LEAST, max(FOUND * int(hard.sum()), 1))


MAIN = (
    Check("ε = 0 changes nothing: answers that differ", ("eps/0", "clean"), _idle),
    Check("accuracy falls as ε grows: images regained", RADII, _climb),
    Check(
        "twice the radius leaves half of what a quarter leaves",
        ("eps/2", "eps/0.25"),
        lambda s: Found(s["eps/2"].correct, MOST, s["eps/0.25"].correct / 2),
    ),
    Check(
        "unbounded ε leaves nothing",
        ("eps/unbounded",),
        lambda s: Found(s["eps/unbounded"].correct, MOST, 0),
    ),
    Check("no more left than by random points", ("main", "noise"), _random),
    Check("twice the steps change little", ("main", "steps/twice"), _longer),
    Check(
        "gradients do not vanish: share of images",
        ("diagnostics",),
        lambda s: Found(s["diagnostics"].values["zero_gradients"]["main"]["images"], MOST, 0),
    ),
    Check("the loss rises with the steps, and stays up", ("diagnostics",), _rise),
    Check("planted examples are found", ("diagnostics",), lambda s: _planted(s, "main")),
)


def _no_more_than_one_step(attack: str) -> Callable[[Suite], Found]:
    def measure(suite: Suite) -> Found:
        one = suite["table/fgsm"]
        return Found(suite[attack].correct, MOST, one.correct + _slack(one))

    return measure


STEPS = Check(
    "no more left than by one step", ("main", "table/fgsm"), _no_more_than_one_step("main")
)
TABLE = (
    Check(
        "no more left than by one step",
        ("table/pgd", "table/fgsm"),
        _no_more_than_one_step("table/pgd"),
    ),
    Check("planted examples are found", ("diagnostics",), lambda s: _planted(s, "own")),
)
BLIND = {"queries": {"score", "noise"}, "decisions": {"decision"}, "transfer": {"transfer"}}


def _rows(attack: str, checks: tuple[Check, ...], suite: Suite) -> list[tuple]:
    return [
        (c.name, attack, *(c.measure(suite) if suite.keys() >= set(c.needs) else _NOT_RUN))
        for c in checks
    ]


_NOT_RUN = (float("nan"), MOST, float("nan"))
_COLUMNS = ["check", "attack", "measured", "bound", "limit"]


def _frame(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    most = frame["bound"] == MOST
    low, high = (
        np.where(most, frame[a], frame[b])
        for a, b in (("measured", "limit"), ("limit", "measured"))
    )
    return frame.assign(passed=low <= high)


def main_checks(suite: Suite) -> pd.DataFrame:
    """Whether the main attack worked, by its variations and by what is stored beside them.

    Args:    suite: with clean, main, eps/0, eps/0.25, eps/0.5, eps/2, eps/unbounded, steps/twice,
             noise and diagnostics: a trial of DQA, or the checks of Double quantization.
    Returns: a row a check: check, attack ("main"), measured, bound ("at most" or "at least"),
             limit, passed. What was not run is NaN and has not passed.
    """
    return judge("main", MAIN, suite)


def judge(attack: str, chosen: tuple[Check, ...], suite: Suite) -> pd.DataFrame:
    """These checks of an attack. Returns: as `main_checks`."""
    return _frame(_rows(attack, chosen, suite))


def checks(results: Results) -> pd.DataFrame:
    """Whether the attacks of a trial of DQA worked.

    Beside `main_checks`: whether images fall to attacks without gradients that no gradient broke,
    and, as attack "table", whether PGD as in the paper's tables worked.
    """
    suite = results.suite("trial")
    blind = [
        (f"images lost to {words} alone", "main", *_blind(results, families))
        for words, families in BLIND.items()
    ]
    main = _rows("main", (*MAIN, STEPS), suite)
    return _frame([*main, *blind, *_rows("table", TABLE, suite)])


def _blind(results: Results, families: set[str]) -> tuple[float, str, float]:
    """How many images fall to these attacks and to no gradient.

    AutoAttack counts for neither side: it ends in Square, which sees no gradient. Nothing falls to
    transfer of the network that the examples are made on.
    """
    members = results.attacked().values()
    blind = [bits for family, bits in members if family in families]
    if not blind:
        return _NOT_RUN if families != {"transfer"} or results.network.control else (0, MOST, 0)
    met = min(map(len, blind))
    standing = results.clean()[:met].copy()
    for family, bits in members:
        if family == "gradient":
            standing[: len(bits)] &= bits[:met]
    alone = standing & ~np.all([bits[:met] for bits in blind], axis=0)
    return int(alone.sum()), MOST, met / 100


def doubtful(results: Results) -> bool:
    """Whether less may be left than the trial says: something is, and its main attack fails a
    check, or part of the trial was not run.

    A network that collapsed in training has nothing to attack.
    """
    if results.collapsed or not results.worst_case().any():
        return False
    found = checks(results)
    return not results.complete("trial") or not found.loc[found["attack"] == "main", "passed"].all()


def blunt(results: Results) -> bool:
    """Whether the tables' PGD fails a check and leaves something: it may be less then."""
    if results.collapsed:
        return False
    found = checks(results)
    failed = not found.loc[found["attack"] == "table", "passed"].all()
    return failed and bool(results.suite("trial")["table/pgd"].correct)


def flagged(suite: Suite) -> dict[str, bool]:
    """AutoAttack's flags: {"randomised": answers change from call to call, "softmax": they end in
    one}."""
    return suite["diagnostics"].values["flags"]


def summary(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How many networks pass each check, and what was measured where one failed.

    Args:    frames: {network: its checks}, the same ones for all.
    Returns: check, attack, passed, networks, failed: "ReLU: 7, at most 0", a line each.
    """
    every = pd.concat(
        [f.assign(network=name) for name, f in frames.items()] or [_frame([]).assign(network="")]
    )
    rows = []
    for (check, attack), part in every.groupby(["check", "attack"], sort=False):
        failed = [
            f"{r.network}: {_short(r.measured)}, {r.bound} {_short(r.limit)}"
            for r in part[~part["passed"]].itertuples()
        ]
        rows.append((check, attack, int(part["passed"].sum()), len(part), "<br>".join(failed)))
    return pd.DataFrame(rows, columns=["check", "attack", "passed", "networks", "failed"])


def _short(value: float) -> str:
    return "not run" if np.isnan(value) else f"{value:.4g}"
