"""One table of DQA at two scales: what changes where the networks are trained longer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from reproduce import trial_records
from reproduce.claims.dqa import QUANTISED, WORDS, printed
from reproduce.claims.evidence import Evidence
from reproduce.evaluation import collapsed
from reproduce.figures import ATTACKS, markdown_table
from reproduce.results import Record, percent


def by_scale(evidence: Sequence[Evidence], dataset: str, ending: str) -> str:
    """Each network as printed, and below it a row for each scale that has runs of it, in Markdown.

    Every seed is listed, in italics if its training collapsed. The last column is what all attacks
    of its trial leave, with Wilson's interval and, in brackets, the number of images.

    Args: ending: of the cells, as in RISKS.
    """
    name, said = f"dqa-{dataset}", printed(dataset)
    rows = []
    for cell in ("relu", *QUANTISED):
        shares = (f"{said[cell, a]:.2f}" for a in ATTACKS)
        rows.append([WORDS[cell], "published", *shares, "–"])
        for e in evidence:
            runs = e.records(name, cell + ending)
            if runs:
                shown = ("<br>".join(_share(r, a) for r in runs) for a in ATTACKS)
                tried = map(_left, e.records(f"{name}-trial", cell + ending))
                rows.append(["", f"ours, {e.scale} scale", *shown, "<br>".join(tried) or "missing"])
    return markdown_table(["network", "run", *ATTACKS.values(), "all attacks"], rows)


def _share(record: Record, attack: str) -> str:
    value = f"{percent(record, attack):.2f}"
    return f"*{value}*" if collapsed(record.metrics) else value


def _left(trial: Record) -> str:
    share, images = trial_records.interval(trial), trial_records.sizes(trial)[0]
    return trial_records.marked(f"{share}<br>({images})", trial)


def compare_scales(shorter: Evidence, longer: Evidence, dataset: str, ending: str) -> str:
    """What the longer training changes under PGD, and what all attacks make of it; items of a list.

    Of networks whose training did not collapse at either scale.
    """
    name, said = f"dqa-{dataset}", printed(dataset)
    before, after = (
        {c: e.accuracy(name, c + ending, "pgd", trained=True) for c in ("relu", *QUANTISED)}
        for e in (shorter, longer)
    )
    both = [c for c in QUANTISED if before[c] and after[c]]
    if not (before["relu"] and after["relu"] and both):
        return "- **Under the table's PGD:** too few networks have been run at both scales."
    end = {c: mean(after[c]) for c in ("relu", *both)}
    above = sum(end[c] > max(before[c]) for c in both)
    below = sum(end[c] < min(before[c]) for c in both)
    lost = sum(collapsed(r.metrics) for c in QUANTISED for r in longer.records(name, c + ending))
    few = min(len(after[c]) for c in ("relu", *both))
    runs = f"{few} seed each" if few == 1 else f"at least {few} seeds each"
    pairs = {c: longer.lead(name, c + ending, "relu" + ending) for c in both}
    leads = [f"{WORDS[c]}: {p[0]:+.1f} ±{p[1]:.1f}" for c, p in pairs.items() if p is not None]
    return (
        f"- **Under the table's PGD** ({runs}) ReLU ends at {end['relu']:.1f} %, printed are "
        f"{said['relu', 'pgd']:.1f} %; seeds after the shorter training: "
        f"{min(before['relu']):.1f}–{max(before['relu']):.1f} %. Of the quantised networks "
        f"({len(both)} run at both scales) {above} end above every seed of their shorter training, "
        f"{below} below every one{f', {lost} collapsed' if lost else ''}. Over ReLU they gain "
        f"{_signed([end[c] - end['relu'] for c in both])} points; printed are "
        f"{_signed([said[c, 'pgd'] - said['relu', 'pgd'] for c in both])} for the same ones.\n"
        "- **Under all attacks that both met**, difference from ReLU in points: "
        f"{'; '.join(leads) if leads else 'not tried yet'}."
    )


def _signed(values: Sequence[float]) -> str:
    low, high = f"{min(values):+.1f}", f"{max(values):+.1f}"
    return low if low == high else f"{low} to {high}"
