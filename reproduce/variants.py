"""Networks of DQA beside Tables 1 and 2: without adversarial training, and under other readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reproduce import grids
from reproduce.grids import DQA

READINGS = {
    "fixed-2bit-mixed-image": "the maximum of Eq. 2 over the image, not the batch",
    "dynamic-2bit-mixed-tanh": "Eq. 8 on tanh x, not x",
    "dynamic-2bit-mixed-frozen": "thresholds learnt in the clean epochs alone",
}


def undefended(base: DQA) -> DQA:
    """The same network trained on clean images alone (Table 3, first column)."""
    return replace(base, training=replace(base.training, attack=None, clean_epochs=0))


def readings(base: DQA) -> list[DQA]:
    """The other readings of a network of Table 1, those that READINGS lists."""
    others = [
        replace(base, maximum="image"),
        replace(base, source="tanh"),
        replace(base, training=replace(base.training, thresholds="clean")),
    ]
    return [e for e in others if e.cell in READINGS]


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[DQA]:
    """All of them, for seed 0, filtered as grids.grid; the readings at smoke and laptop scale.

    The readings are of networks trained on clean and adversarial examples mixed: those trained on
    adversarial examples alone often collapse, and then no difference between readings shows.
    """
    for base in grids.grid(paper, scale, seed):
        if not isinstance(base, DQA) or base.seed or base.training.clean_weight:
            continue
        if base.scale == "workstation":
            continue
        if base.dataset in ("patterns", "cifar10"):
            if base.activation != "dynamic":
                yield undefended(base)
        elif base.scale != "paper":
            what = base.dataset, base.activation, base.bits, base.seed, base.scale
            yield from readings(grids.dqa(*what, mixed=True))
