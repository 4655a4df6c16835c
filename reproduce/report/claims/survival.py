"""Does the defence survive? What all attacks leave of a claim's networks, beside their control."""

from __future__ import annotations

from statistics import mean

import pandas as pd

from reproduce.evaluation import paired
from reproduce.report.claims.evidence import Evidence, Subject, one_precision
from reproduce.report.claims.rule import Claim
from reproduce.report.results import Results, met_by_both, robust_accuracy, survivors

COLUMNS = (
    "network left clean control lead margin images seeds survives scale mixed same_precision"
).split()


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
        readings = []
        for mixed in claim.mixed:
            where = {"scale": scale, "mixed": mixed}
            tried = [(s, evidence.pairs(s, s.control, **where)) for s in claim.defended]
            if tried and all(pairs for _, pairs in tried):
                rows = [_row(subject, pairs) | where for subject, pairs in tried]
                readings.append(pd.DataFrame(rows, columns=COLUMNS))
        if readings:
            return max(readings, key=lambda f: (f["survives"].sum(), f["left"].mean()))
    return pd.DataFrame(columns=COLUMNS)


def _row(subject: Subject, pairs: list[tuple[Results, Results]]) -> dict:
    left, clean, control = [], [], []
    for one, other in pairs:
        worst = survivors(one.met().values())
        left.append(robust_accuracy(worst))
        clean.append(robust_accuracy(one.met()["clean"][: len(worst)]))
        control.append(robust_accuracy(survivors(other.met().values())))
    both = met_by_both(pairs)
    lead, margin = paired(*both)
    return {
        "network": subject.name,
        "left": mean(left),
        "clean": mean(clean),
        "control": mean(control),
        "lead": lead,
        "margin": margin,
        "images": len(both[0]),
        "seeds": len(pairs),
        "survives": mean(left) >= mean(clean) / 2 and lead > margin,
        "same_precision": one_precision([r for pair in pairs for r in pair]),
    }
