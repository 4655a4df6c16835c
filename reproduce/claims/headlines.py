"""What both papers are quoted for: printed, reproduced, and under all attacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from statistics import mean

import numpy as np

from reproduce import grids, published, trial_records
from reproduce.claims.double import DOUBLE, LOW
from reproduce.claims.dqa import QUANTISED, TITLES, WORDS, printed
from reproduce.claims.evidence import Evidence
from reproduce.double import words, worst_before
from reproduce.evaluation import collapsed, wilson
from reproduce.figures import model_name
from reproduce.results import Record, hits

NETWORKS = (("relu", None), ("fixed", 1), ("dynamic", 2))
RISKS = {"mnist": "-mixed", "cifar10": ""}  # the endings of the cells that the front page shows
OTHERS = {  # trained otherwise, and the endings of these cells
    "on adversarial examples alone": "",
    "against an attack that knows the quantisers": "-mixed-informed",
}
HEADER = (
    "accuracy under attack (%)",
    "published",
    "ours",
    "ours, no attack",
    "the paper's attack, same images",
    "all attacks, same images",
    "scale",
)
MISSING = "missing"


def headlines(evidence: Sequence[Evidence]) -> list[list[str]]:
    """Rows of the front page's table, under HEADER.

    Args:    evidence: of each scale, the one that counts most first. All networks of DQA on a data
             set are of one scale, the `fullest`, so that ReLU is their control; a row of Double
             quantization takes the first that has a run and its trial, else the first that has a
             run. DQA on MNIST is shown as trained on clean and adversarial examples mixed.
    Returns: [what, published, ours, ours without an attack, and of the trial's images: left by the
             paper's attack, left by all attacks of the trial, scale]; percentages with their number
             of images, Wilson's interval of a single run or the range over seeds, or "missing";
             with a dagger where the attack in question fails a check.
    """
    rows = []
    for dataset, ending in RISKS.items():
        e = fullest(evidence, dataset, ending)
        for activation, bits in NETWORKS:
            cell = grids.dqa_cell(activation, bits)
            tried = e.records(f"dqa-{dataset}-trial", cell + ending)
            row = _row(
                f"DQA, {TITLES[dataset]}, {model_name(activation, bits)}, PGD",
                printed(dataset)[cell, "pgd"],
                e.records(f"dqa-{dataset}", cell + ending),
                "pgd",
                "clean",
                tried,
                "table/pgd",
                lambda r: trial_records.union(r, common=True),
                e.scale,
            )
            for column, doubt in (
                ("the paper's attack, same images", trial_records.blunt),
                ("all attacks, same images", trial_records.doubtful),
            ):
                if any(map(doubt, tried)):
                    row[HEADER.index(column)] += " †"
            rows.append(row)
    text = published.load("double_quantization_text").set_index("key")["value"]
    for bits, dithered in (k for k in LOW if k[1]):
        cell = grids.kind_name(bits, dithered)
        e = _first(evidence, DOUBLE, cell)
        tried = e.records(f"{DOUBLE}-trial", cell)
        name = f"Double quantization, {words((bits, dithered))}, PGD"
        rows.append(
            _row(
                f"{name} after dithering",
                text[f"{bits}bit_dithered"],
                e.records(DOUBLE, cell),
                f"pgd/{cell}",
                f"clean/{cell}",
                tried,
                "after/8",
                lambda r: trial_records.union(r, ("after/8", "after/inside")),
                e.scale,
            )
        )
        rows.append(
            _row(
                f"{name} before dithering",
                text.get(f"{bits}bit_dithered_attack_before_dithering"),
                tried,
                "before/bare",
                "before/clean",
                tried,
                "before/bare",
                worst_before,
                e.scale,
            )
        )
    return rows


def _row(name, said, runs, condition, clean, tried, same, worst, scale) -> list[str]:
    """Args: worst: from a trial's record to which of its first images survive, (N,) bool."""
    left = [worst(r) for r in tried]
    own = [hits(r, same)[: len(bits)] for r, bits in zip(tried, left, strict=True)]
    return [
        name,
        "" if said is None else f"{said:.2f}",
        _shown([hits(r, condition) for r in runs]),
        _shown([hits(r, clean)[: len(hits(r, condition))] for r in runs]),
        _shown(own),
        _shown(left),
        scale,
    ]


def _first(evidence: Sequence[Evidence], name: str, cell: str) -> Evidence:
    run = [e for e in evidence if e.records(name, cell)]
    tried = [e for e in run if e.records(f"{name}-trial", cell)]
    return (*tried, *run, evidence[-1])[0]


def _shown(seeds: Sequence[np.ndarray]) -> str:
    """Accuracy from which images were right, (N,) bool for each seed."""
    if not seeds:
        return MISSING
    shares = [100 * float(bits.mean()) for bits in seeds]
    low, high = (100 * x for x in wilson(int(seeds[0].sum()), len(seeds[0])))
    of = ""
    if len(seeds) > 1:
        low, high, of = min(shares), max(shares), f"{len(seeds)} seeds; "
    return f"{mean(shares):.1f}<br>({low:.1f}–{high:.1f}; {of}{len(seeds[0]):,} images)"


def in_short(evidence: Sequence[Evidence]) -> list[str]:
    """The answer of the trials that have been run, an item a data set or scenario, in Markdown."""
    lines = []
    for dataset, ending in RISKS.items():
        name = f"dqa-{dataset}"
        e = fullest(evidence, dataset, ending)
        relu = e.records(f"{name}-trial", "relu" + ending)
        network = e.records(name, "relu" + ending)
        if not relu or not network or not _tried(e, name, ending):
            lines.append(f"**DQA on {TITLES[dataset]}** has not been put to trial yet.")
            continue
        lines.append(_answer(e, evidence, dataset, ending, relu[0]))
    low = [(k, _first(evidence, DOUBLE, grids.kind_name(*k))) for k in LOW]
    trials = [r for k, e in low for r in e.records(f"{DOUBLE}-trial", grids.kind_name(*k))[:1]]
    if not trials:
        return [*lines, "**Double quantization** has not been put to trial yet."]
    same = sum(np.array_equal(hits(r, "clean"), hits(r, "after/8")) for r in trials)
    before = [100 * float(worst_before(r).mean()) for r in trials]
    few = " or ".join(map(str, sorted({len(worst_before(r)) for r in trials})))
    lines.append(
        "**Double quantization:** noise that is added after dithering is removed exactly, by "
        f"arithmetic, up to a radius that follows from the bits alone ({same} of {len(trials)} "
        "networks of 1 and 2 bits judge every image as before). Noise that is added earlier, to "
        "the image that is then dithered or quantised, leaves "
        f"{min(before):.0f}–{max(before):.0f} % (the first {few} images)."
    )
    return lines


def _tried(e: Evidence, name: str, ending: str) -> dict[str, Record]:
    """The first trial of each quantised network that has both records and did not collapse."""
    return {
        c: r
        for c in QUANTISED
        for r in e.records(f"{name}-trial", c + ending)[:1]
        if e.records(name, c + ending) and not collapsed(r.metrics)
    }


def fullest(evidence: Sequence[Evidence], dataset: str, ending: str) -> Evidence:
    """That in which most quantised networks of DQA's table have been tried beside ReLU, of equals
    the one with more networks run, then the first.

    Args: ending: of the cells, as in RISKS.
    """
    name, control = f"dqa-{dataset}", "relu" + ending

    def count(e: Evidence) -> tuple[int, int]:
        beside = e.records(name, control) and e.records(f"{name}-trial", control)
        runs = sum(bool(e.records(name, c + ending)) for c in ("relu", *QUANTISED))
        return len(_tried(e, name, ending)) if beside else 0, runs

    return max(evidence, key=count)


def _answer(
    e: Evidence, evidence: Sequence[Evidence], dataset: str, ending: str, relu: Record
) -> str:
    """What the tables and trials of DQA on one data set come to, in sentences."""
    name = f"dqa-{dataset}"
    tried = _tried(e, name, ending)
    few = trial_records.sizes(relu)[0]
    ours = {
        a: [mean(e.accuracy(name, c + ending, a)) for c in ("relu", *tried)]
        for a in ("clean", "pgd")
    }
    said = printed(dataset)
    under, clean = ([said[c, a] for c in QUANTISED] for a in ("pgd", "clean"))
    fair = [trial_records.left_beside(r, relu) for r in tried.values()]
    left = [trial_records.left(r) for r in (relu, *tried.values())]
    seeds = sorted({len(e.records(name, c + ending)) for c in ("relu", *tried)})
    runs = f"the mean of {'at least ' if len(seeds) > 1 else ''}{seeds[0]} seeds"
    square = [100 * float(hits(r, "square").mean()) for r in (relu, *tried.values())]

    def each(of: Sequence[float]) -> str:
        return f"{_span(of[1:])} (ReLU {of[0]:.0f} %)"

    none = (
        " Already under that PGD none of them beats ReLU"
        f"{', in one seed each' if seeds == [1] else ''}: so far there is no gain to explain."
    )
    above = sum(pgd > clean for pgd, clean in zip(ours["pgd"][1:], ours["clean"][1:], strict=True))
    each_left = zip(tried, left[1:], strict=True)
    points = [
        "After all attacks together, each: "
        f"{'; '.join(f'{WORDS[c]}: {share:.0f} %' for c, share in each_left)}.",
        f"Without an attack: {each(ours['clean'])}; published {_span(clean)}.",
        *_other_scales([other for other in evidence if other is not e], name, ending),
        "Square alone, which sees only outputs and knows nothing of quantisers, leaves "
        f"{each(square)}; the attacks that were run on ReLU, too, leave {each([left[0], *fair])}.",
        *_other_readings(evidence, dataset, ending),
        f"The trial's attacks are on the first {few} test images and one training each, each image "
        "judged alone; the numbers under PGD and without an attack are over all images of the "
        f"table, {'one seed' if seeds == [1] else runs}. Where no scale "
        f"is named, it is *{e.scale}*.",
    ]
    said_first = (
        f"**DQA on {TITLES[dataset]}:** the paper prints {_span(under)} under PGD, and "
        f"{said['relu', 'pgd']:.0f} % for ReLU. Our quantised networks{_unless_all(tried)} "
        f"keep {each(ours['pgd'])} under PGD as we reconstruct it{_more(above)}, and "
        f"**{_span(left[1:])}** (**ReLU {left[0]:.0f} %**) after all attacks together."
        f"{none if max(ours['pgd'][1:]) <= ours['pgd'][0] else ''}"
    )
    return "\n  - ".join([said_first, *points])


def _unless_all(tried: Sized) -> str:
    whole = len(tried) == len(QUANTISED)
    return "" if whole else f" ({len(tried)} of {len(QUANTISED)} tried and not collapsed)"


def _more(networks: int) -> str:
    """Of how many networks PGD leaves more than no attack does."""
    which = "one of them" if networks == 1 else f"{networks} of them"
    return f" (for {which} more than without an attack, so that it failed)" if networks else ""


def _span(shares: Iterable[float]) -> str:
    low, high = f"{min(shares := list(shares)):.0f}", f"{max(shares):.0f}"
    return f"{low} %" if low == high else f"{low}–{high} %"


def _other_readings(evidence: Sequence[Evidence], dataset: str, ending: str) -> list[str]:
    """What is left where the networks were trained otherwise, a sentence each."""
    name = f"dqa-{dataset}"
    said = []
    for how, other in OTHERS.items():
        e = fullest(evidence, dataset, other)
        tried = _tried(e, name, other) if other != ending else {}
        relu = e.records(f"{name}-trial", "relu" + other)[:1]
        if tried:
            control = f" (ReLU {trial_records.left(relu[0]):.0f} %)" if relu else ""
            span = _span(map(trial_records.left, tried.values()))
            said.append(
                f"Trained {how}, at {e.scale} scale: {span}{control} after all attacks together"
                f"{_unless_all(tried)}."
            )
    return said


def _other_scales(others: Sequence[Evidence], name: str, ending: str) -> list[str]:
    """What networks trained at another scale keep, so far as they were, a sentence each."""
    said = []
    for e in others:
        cells = [c for c in QUANTISED if e.records(name, c + ending)]
        keep = {c: e.accuracy(name, c + ending, "pgd", trained=True) for c in ("relu", *cells)}
        relu = keep.pop("relu")
        kept = [mean(each) for each in keep.values() if each]
        if not relu or not kept:
            continue
        clean = [mean(e.accuracy(name, c + ending, "clean", trained=True)) for c in keep if keep[c]]
        above = sum(pgd > without for pgd, without in zip(kept, clean, strict=True))
        lost = len(cells) - len(kept)
        text = (
            f"Trained at {e.scale} scale ({len(cells)} of {len(QUANTISED)} quantised networks"
            f"{f', of which {lost} collapsed' if lost else ''}): {_span(kept)} (ReLU "
            f"{mean(relu):.0f} %) under the same PGD{_more(above)}"
        )
        tried = _tried(e, name, ending)
        control = e.records(f"{name}-trial", "relu" + ending)[:1]
        if tried and control:
            fair = [trial_records.left_beside(r, control[0]) for r in tried.values()]
            text += (
                f"; {_span(fair)} (ReLU {trial_records.left(control[0]):.0f} %) after all attacks "
                f"that ReLU met, too ({len(tried)} tried, on the first "
                f"{trial_records.sizes(control[0])[0]} images)"
            )
        said.append(f"{text}.")
    return said
