"""Every unit of work of the book: experiments, their variants, and all trials of their networks."""

from __future__ import annotations

from collections.abc import Iterator

from reproduce import grids, hardened, norms, pipeline_checks, substitutes, trials, variants
from reproduce.grids import Experiment
from reproduce.norms import NormTrial
from reproduce.pipeline_checks import PipelineChecks
from reproduce.substitutes import Substitute
from reproduce.trials import Trial

Unit = Experiment | Trial

# The networks of the papers' own tables.
_TABLES = {grids.kind_name(*kind) for kind in grids.KINDS} | {
    grids.dqa_cell(*cell) + risk for cell in grids.DQA_CELLS for risk in ("", "-mixed")
}


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Unit]:
    """All units, filtered as grids.grid; each trial after the experiments that it needs."""
    for kind in (grids, variants, trials, pipeline_checks, norms, substitutes, hardened):
        yield from kind.grid(paper, scale, seed)
    for network in variants.grid(paper, scale, seed):
        if network.cell in variants.READINGS:
            yield trials.trial(network)


def worth(unit: Unit) -> tuple:
    """A key to sort units by, what to run first coming first.

    Seed by seed; of a seed the networks of the papers' tables, the cheapest first and each followed
    by its trial; then everything else, the cheapest first.
    """
    network = unit.base if isinstance(unit, Trial) else unit
    extra = isinstance(unit, NormTrial | PipelineChecks | Substitute) or network.cell not in _TABLES
    lead = (grids.SCALES.index(unit.scale), unit.seed, extra)
    if extra:
        return *lead, work(unit)
    return *lead, work(network), network.key, work(unit) if unit is not network else 0.0


def work(unit: Unit) -> float:
    """About what a unit costs, in a measure that is the same for all units of one name."""
    for kind, module in ((NormTrial, norms), (Substitute, substitutes), (Trial, trials)):
        if isinstance(unit, kind):
            return module.work(unit)
    return grids.work(unit)
