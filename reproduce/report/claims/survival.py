"""Does the defence survive? What all attacks leave of a claim's networks, beside their control."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pandas as pd

from reproduce.evaluation import paired
from reproduce.papers.units import Network
from reproduce.report.claims.evidence import Activations, Evidence, Subject
from reproduce.report.claims.quantities import one_precision
from reproduce.report.claims.rule import Claim
from reproduce.report.results import met_by_both, robust_accuracy, survivors

_MEASURED = "network left clean control lead margin images seeds survives".split()
COLUMNS = [*_MEASURED, "scale", "mixed", "same_precision"]


def survival(claim: Claim, evidence: Evidence) -> pd.DataFrame:
    """A row a network that the claim defends, at the first scale where each has a complete trial.

    Of DQA's networks all attacks of the trial; of Double quantization's, all that add noise before
    dithering. A network survives if half of the images that it judges rightly do, and more than of
    its control by more than chance, over the attacks and images that both met. Where the risk of
    training has two readings, the one counts in which more networks survive.

    Returns: network; left, clean, control (percent: after all attacks, without any, the control
             after all attacks; means over seeds); lead, margin (points over the control, 95 %);
             images (all seeds together); seeds; survives; scale; mixed; same_precision. No row
             where no scale that may decide has all trials.
    """
    for scale in claim.scales:
        found = [_at(claim, evidence, scale, mixed=m) for m in claim.mixed]
        found = [f for f in found if len(f)]
        if found:
            return max(found, key=lambda f: (f["survives"].sum(), f["left"].mean()))
    return pd.DataFrame(columns=COLUMNS)


def _at(claim: Claim, evidence: Evidence, scale: str, *, mixed: bool) -> pd.DataFrame:
    rows = []
    for subject in claim.defended:
        row = _row(subject, evidence, scale, mixed=mixed)
        if row is None:
            return pd.DataFrame(columns=COLUMNS)
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(subject: Subject, evidence: Evidence, scale: str, *, mixed: bool) -> dict | None:
    ones, others = (
        {n.seed: n for n in evidence.networks(s, scale, mixed=mixed)}
        for s in (subject, subject.control)
    )
    pairs = [(ones[seed], others[seed]) for seed in ones if seed in others]
    pairs = [p for p in pairs if all(evidence.complete(n, "trial") for n in p)]
    if not pairs:
        return None
    alone = _of_dqa if isinstance(subject, Activations) else _of_double
    found = [alone(evidence, *pair) for pair in pairs]
    one, other = (np.concatenate([f["both"][i] for f in found]) for i in (0, 1))
    gain, margin = paired(one, other)
    left, clean, control = (mean(f[what] for f in found) for what in ("left", "clean", "control"))
    return {
        "network": subject.name,
        "left": left,
        "clean": clean,
        "control": control,
        "lead": gain,
        "margin": margin,
        "images": len(one),
        "seeds": len(pairs),
        "survives": left >= clean / 2 and gain > margin,
        "scale": scale,
        "mixed": mixed,
        "same_precision": one_precision(evidence, [n for pair in pairs for n in pair]),
    }


def _of_dqa(evidence: Evidence, network: Network, control: Network) -> dict:
    one, other = evidence.of(network), evidence.of(control)
    left = one.worst_case()
    return {
        "both": met_by_both(one, other),
        "left": robust_accuracy(left),
        "clean": robust_accuracy(one.clean()[: len(left)]),
        "control": robust_accuracy(other.worst_case()),
    }


def _of_double(evidence: Evidence, network: Network, control: Network) -> dict:
    one, other = (_before(evidence, n) for n in (network, control))
    left, shared = survivors(list(one.values())), [n for n in one if n in other]
    both = [survivors([bits[n] for n in shared]) for bits in (one, other)]
    few = min(map(len, both))
    return {
        "both": (both[0][:few], both[1][:few]),
        "left": robust_accuracy(left),
        "clean": robust_accuracy(one["before/clean"][: len(left)]),
        "control": robust_accuracy(survivors(list(other.values()))),
    }


def _before(evidence: Evidence, network: Network) -> dict[str, np.ndarray]:
    trial = evidence.of(network).suite("trial")
    return {name: r.bits for name, r in trial.items() if name.startswith("before/")}
