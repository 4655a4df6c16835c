"""Records as a run leaves them, of units that were never run."""

from __future__ import annotations

import numpy as np

from reproduce import records
from reproduce.papers.units import Network
from reproduce.records import Record, Run
from reproduce.runner import Unit


def put(unit: Unit, *, device: str = "a device", **content) -> None:
    """Write a unit's record. Args: content: bits, norms, values or arrays of it."""
    base = unit if isinstance(unit, Network) else unit.network
    run = Run(wall_s=1.0, device=device, versions={}, commit=None, dirty=None, created="2026-01-01")
    record = Record(
        folder=unit.folder,
        name=unit.name,
        configuration=records.configuration(unit),
        dataset={"name": base.dataset, "sha256": "0"},
        run=run,
        **content,
    )
    records.write(record)


def right(count: int, total: int = 100) -> np.ndarray:
    """(total,) bool, the first `count` of them True."""
    return np.arange(total) < count
