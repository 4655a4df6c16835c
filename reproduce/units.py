"""Every unit of work of the book: experiments, their variants, and all trials of their networks."""

from __future__ import annotations

from collections.abc import Iterator

from reproduce import grids, hardened, norms, substitutes, trials, variants
from reproduce.grids import Experiment
from reproduce.norms import NormTrial
from reproduce.substitutes import Substitute
from reproduce.trials import Trial

Unit = Experiment | Trial


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Unit]:
    """All units, filtered as grids.grid; each trial after the experiments that it needs."""
    for kind in (grids, variants, trials, norms, substitutes, hardened):
        yield from kind.grid(paper, scale, seed)


def work(unit: Unit) -> float:
    """About what a unit costs, in a measure that is the same for all units of one name."""
    for kind, module in ((NormTrial, norms), (Substitute, substitutes), (Trial, trials)):
        if isinstance(unit, kind):
            return module.work(unit)
    return grids.work(unit)
