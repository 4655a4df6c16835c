"""What both papers are quoted for: printed, reproduced, and under an informed attacker."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from reproduce import grids, published, trial_records
from reproduce.claims.double import DOUBLE, LOW, worst_before
from reproduce.claims.dqa import printed
from reproduce.claims.evidence import Evidence
from reproduce.double import words
from reproduce.figures import model_name

NETWORKS = (("relu", None), ("fixed", 1), ("dynamic", 2))
MISSING = "missing"


def headlines(evidence: Sequence[Evidence]) -> list[list[str]]:
    """Rows of the front page's table.

    Args:    evidence: of each scale, the one that counts most first; a row takes the first that has
             a run and its trial, else the first that has a run. DQA on MNIST is shown as trained on
             clean and adversarial examples mixed.
    Returns: [what, published, reproduced, under attacks that know the defence, scale], percentages
             of the mean over seeds, or "missing"; with the number of images of a trial.
    """
    rows = []
    for dataset, title, ending in (("mnist", "MNIST", "-mixed"), ("cifar10", "CIFAR-10", "")):
        for activation, bits in NETWORKS:
            cell = grids.dqa_cell(activation, bits)
            name, of = f"dqa-{dataset}", cell + ending
            e = _first(evidence, name, of)
            met = {len(trial_records.union(r, common=True)) for r in e.records(f"{name}-trial", of)}
            rows.append(
                [
                    f"DQA, {title}, {model_name(activation, bits)}, PGD",
                    f"{printed(dataset)[cell, 'pgd']:.2f}",
                    _seeds(e.accuracy(name, of, "pgd")),
                    _seeds(e.worst(name, of), met),
                    e.scale,
                ]
            )
    text = published.load("double_quantization_text").set_index("key")["value"]
    for bits, dithered in (k for k in LOW if k[1]):
        cell = grids.kind_name(bits, dithered)
        e = _first(evidence, DOUBLE, cell)
        tried = e.records(f"{DOUBLE}-trial", cell)
        inside = [
            100 * float(trial_records.union(r, ("after/8", "after/inside")).mean()) for r in tried
        ]
        before = [worst_before(r) for r in tried]
        bare = e.accuracy(f"{DOUBLE}-trial", cell, "before/bare")
        said = text.get(f"{bits}bit_dithered_attack_before_dithering")
        name = f"Double quantization, {words((bits, dithered))}, PGD"
        rows.append(
            [
                f"{name} after dithering",
                f"{text[f'{bits}bit_dithered']:.2f}",
                _seeds(e.accuracy(DOUBLE, cell, f"pgd/{cell}")),
                _seeds(inside, _images(e, DOUBLE, cell, "after/inside")),
                e.scale,
            ]
        )
        rows.append(
            [
                f"{name} before dithering",
                "" if said is None else f"{said:.2f}",
                _seeds(bare),
                _seeds(before, _images(e, DOUBLE, cell, "before/strong")),
                e.scale,
            ]
        )
    return rows


def _first(evidence: Sequence[Evidence], name: str, cell: str) -> Evidence:
    run = [e for e in evidence if e.records(name, cell)]
    tried = [e for e in run if e.records(f"{name}-trial", cell)]
    return (*tried, *run, evidence[-1])[0]


def _images(evidence: Evidence, name: str, cell: str, condition: str) -> list[int]:
    """How many images the worst case of each trial is over."""
    found = evidence.records(f"{name}-trial", cell)
    return sorted({r.metrics[condition]["total"] for r in found})


def _seeds(values: Sequence[float], images: Sequence[int] = ()) -> str:
    if not values:
        return MISSING
    parts = [f"mean of {len(values)}"] if len(values) > 1 else []
    parts += [f"{n:,} images" for n in images]
    return f"{mean(values):.1f}" + (f" ({', '.join(parts)})" if parts else "")
