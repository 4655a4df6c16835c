"""How a unit at work shows where it stands: a bar, or a line from time to time."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from reproduce.checks import flag
from reproduce.records import Unit
from reproduce.training import Progress


class Shown:
    """Called as the runner's report. Without a bar: a line at the start, and one every minute.

    Args: bar: whether to draw one; None for only on a terminal. quiet: show neither.
    """

    EVERY_S = 60.0

    def __init__(self, bar: bool | None = None, *, quiet: bool = False) -> None:
        bar = None if bar is None else flag("bar", bar)
        self._quiet = flag("quiet", quiet)
        self._disable = True if quiet else None if bar is None else not bar
        self._bar: tqdm | None = None
        self._said = 0.0

    def __call__(self, unit: Unit, progress: Progress | None) -> None:
        name = f"{unit.folder} {unit.name}"
        if progress is None or self._bar is None:
            self.close()
            options = {"mininterval": 1, "leave": False, "disable": self._disable}
            # A bar has little room: there without the experiment.
            self._bar = tqdm(desc=name.partition("/")[2], unit="step", **options)
            self._line(self._bar, name, "begun")
            return
        bar = self._bar
        loss = "-"
        if progress.sums:
            loss = f"{progress.sums['loss'] / progress.sums['images']:.3f}"
        if bar.disable:
            if time.monotonic() - self._said >= self.EVERY_S:
                self._line(bar, name, f"step {progress.step} of {progress.total}, loss {loss}")
            return
        if bar.total is None:
            bar.reset(progress.total)
            bar.initial = bar.n = progress.step - 1
        bar.set_postfix(loss=loss, refresh=False)
        bar.update(progress.step - bar.n)

    def _line(self, bar: tqdm, name: str, what: str) -> None:
        self._said = time.monotonic()
        if bar.disable and not self._quiet:
            print(f"{name}: {what}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
