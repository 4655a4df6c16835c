"""Did an attack work? What is measured beside it, and the limit that it must keep.

Counts may differ by 1 % of the images where two random attacks are compared.

Source: Carlini et al. 2019, On evaluating adversarial robustness; Zimmermann et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from reproduce.records import Record
from reproduce.report.results import Results, survivors

Suite = Mapping[str, Record]
MOST, LEAST = "at most", "at least"
NOT_RUN = float("nan"), float("nan")
FOUND = 0.95  # of the planted examples that random points miss


class Check(NamedTuple):
    """Args: name: what should be so. needs: the records that it reads. measure: from a suite, a
    number and the limit that it must keep. bound: whether that is the most or the least."""

    name: str
    needs: tuple[str, ...]
    measure: Callable[[Suite], tuple[float, float]]
    bound: str = MOST


def falls(*radii: str) -> Check:
    """Of attacks by growing radius, none leaves more than the one before it."""

    def measure(suite: Suite) -> tuple[float, float]:
        left = [suite[name].correct for name in radii]
        climb = max(after - before for before, after in pairwise(left))
        return max(climb, 0), suite[radii[0]].total / 100

    return Check("accuracy falls as ε grows: images regained", radii, measure)


def no_more(name: str, stronger: str, weaker: str) -> Check:
    """One attack leaves no more than another, of the first images that both met."""

    def measure(suite: Suite) -> tuple[float, float]:
        few = min(suite[attack].total for attack in (stronger, weaker))
        left = [int(suite[attack].bits[:few].sum()) for attack in (stronger, weaker)]
        return left[0], left[1] + few / 100

    return Check(name, (stronger, weaker), measure)


def _idle(suite: Suite) -> tuple[float, float]:
    return int((suite["eps/0"].bits != suite["clean"].bits).sum()), 0


def _longer(suite: Suite) -> tuple[float, float]:
    change = abs(suite["main"].correct - suite["steps/twice"].correct)
    return change, suite["main"].total / 100


def _rise(suite: Suite) -> tuple[float, float]:
    """The last tenth of the steps must lie a tenth above the start, and near the highest."""
    curve = np.array(suite["diagnostics"].values["loss"]["main"])
    start, late = curve[0], curve[-len(curve) // 10 :].mean()
    return late - start, max(0.1 * abs(start), 0.9 * (curve.max() - start))


def planted(attack: str) -> Check:
    """Of none, the limit is 1: then nothing is shown. Args: attack: main, or the table's own."""

    def measure(suite: Suite) -> tuple[float, float]:
        values = suite["diagnostics"].values["binarization"]
        hits = {name: np.array(bits, bool) for name, bits in values.items()}
        hard = hits["valid"] & ~hits["random"]
        return int(hits[attack][hard].sum()), max(FOUND * int(hard.sum()), 1)

    return Check("planted examples are found", ("diagnostics",), measure, LEAST)


ONE_STEP = "no more left than by one step"
MAIN = (
    Check("ε = 0 changes nothing: answers that differ", ("eps/0", "clean"), _idle),
    falls("eps/0", "eps/0.25", "eps/0.5", "main", "eps/2", "eps/unbounded"),
    Check(
        "twice the radius leaves half of what a quarter leaves",
        ("eps/2", "eps/0.25"),
        lambda s: (s["eps/2"].correct, s["eps/0.25"].correct / 2),
    ),
    Check(
        "unbounded ε leaves nothing",
        ("eps/unbounded",),
        lambda s: (s["eps/unbounded"].correct, 0),
    ),
    no_more("no more left than by random points", "main", "noise"),
    Check("twice the steps change little", ("main", "steps/twice"), _longer),
    Check(
        "gradients do not vanish: share of images",
        ("diagnostics",),
        lambda s: (s["diagnostics"].values["zero_gradients"]["main"]["images"], 0),
    ),
    Check("the loss rises with the steps, and stays up", ("diagnostics",), _rise, LEAST),
    planted("main"),
)
TABLE = (no_more(ONE_STEP, "table/pgd", "table/fgsm"), planted("own"))
BLIND = {"queries": ("score", "noise"), "decisions": ("decision",), "transfer": ("transfer",)}


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
    rows = []
    for check in chosen:
        run = suite.keys() >= set(check.needs)
        measured, limit = check.measure(suite) if run else NOT_RUN
        rows.append((check.name, attack, measured, check.bound, limit))
    return _frame(rows)


def _frame(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["check", "attack", "measured", "bound", "limit"])
    most, least = frame["measured"] <= frame["limit"], frame["measured"] >= frame["limit"]
    return frame.assign(passed=most.where(frame["bound"] == MOST, least))


def checks(results: Results) -> pd.DataFrame:
    """Whether the attacks of a trial of DQA worked.

    Beside `main_checks`: whether images fall to attacks without gradients that no gradient broke,
    and, as attack "table", whether PGD as in the paper's tables worked.
    """
    suite = results.suite("trial")
    blind = []
    for words, families in BLIND.items():
        measured, limit = _blind(results, families)
        blind.append((f"images lost to {words} alone", "main", measured, MOST, limit))
    main = judge("main", (*MAIN, no_more(ONE_STEP, "main", "table/fgsm")), suite)
    return pd.concat([main, _frame(blind), judge("table", TABLE, suite)], ignore_index=True)


def _blind(results: Results, families: tuple[str, ...]) -> tuple[float, float]:
    """How many images fall to these attacks and to no gradient.

    AutoAttack counts for neither side: it ends in Square, which sees no gradient. Nothing falls to
    transfer of the network that the examples are made on.
    """
    members = results.attacked().values()
    blind = [bits for family, bits in members if family in families]
    if not blind:
        return NOT_RUN if families != ("transfer",) or results.network.control else (0, 0)
    left = survivors(blind)
    standing = results.clean()[: len(left)].copy()
    for family, bits in members:
        if family == "gradient":
            standing[: len(bits)] &= bits[: len(left)]
    return int((standing & ~left).sum()), len(left) / 100


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
