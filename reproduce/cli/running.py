"""run: doing what is missing, or saying what that would be."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable

import torch

from reproduce import records, runner, storage
from reproduce.cli.arguments import printable
from reproduce.cli.units import Entry, Group, chosen, columns, duration, entries, rates
from reproduce.papers import registry
from reproduce.papers.units import Network
from reproduce.progress import Shown
from reproduce.records import Record
from reproduce.runner import Busy, NoWeights, Stop, Unit
from reproduce.training import Interrupted

LEFT = 75  # the exit code where work is left: a batch system may start the same command again


def run(args: argparse.Namespace) -> int:
    found = chosen(args)
    missing = [e for e in found if records.find(e.unit) is None]
    if not missing and not args.quiet:
        print(f"nothing is missing of {len(found)}")
    if args.dry_run:
        _plan(missing)
        return 0
    if args.key is None:  # a batch system's job does not search a shared file system
        for folder in (records.root(), storage.cache()):
            storage.sweep(folder)
    _set_threads()
    try:
        with Stop(args.time_budget) as stop, contextlib.closing(Shown(quiet=args.quiet)) as shown:
            failed = _run_all([e.unit for e in missing], stop, shown, quiet=args.quiet)
    except Interrupted:
        if not args.quiet:
            print("stopped with work left; call again to resume", flush=True)
        return LEFT
    return 1 if failed else 0


def _set_threads() -> None:
    threads = os.environ.get("OMP_NUM_THREADS") or str(runner.default_threads())
    if not re.fullmatch(r"[1-9]\d{0,3}", threads):
        raise ValueError(f"OMP_NUM_THREADS is {threads!r}; give a whole number in 1..9999")
    torch.set_num_threads(int(threads))


def _run_all(missing: list[Unit], stop: Stop, shown: Shown, *, quiet: bool) -> int:
    """Run units, those last that other processes are at; returns how many failed."""
    failed, waited_for = 0, None
    while missing:
        waiting: list[Unit] = []
        for unit in missing:
            stop.check()
            failed += _run_one(unit, stop, shown, waiting, quiet)
        if len(waiting) == len(missing):
            if waiting[0] != waited_for and not quiet:
                said = f"waiting for another process at {waiting[0].folder}"
                print(said, file=sys.stderr, flush=True)
            waited_for = waiting[0]
            with stop.anywhere():
                time.sleep(5)
        missing = waiting
    return failed


def _run_one(unit: Unit, stop: Stop, shown: Shown, waiting: list[Unit], quiet: bool) -> int:
    """Run one unit and say so; returns whether it failed. One that is locked goes to `waiting`."""
    try:
        record = runner.run(unit, stop, shown)
    except Busy:
        waiting.append(unit)
    except torch.AcceleratorError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, NoWeights):
            raise  # no data, no room: the next unit would meet it too
        shown.close()
        reason = printable(str(error).partition("\n")[0])
        what = f"{unit.folder} {unit.name} failed: {type(error).__name__}: {reason}"
        print(what, file=sys.stderr, flush=True)
        return 1
    else:
        shown.close()
        if not quiet:
            print(_said(record), flush=True)
    return 0


def _said(record: Record) -> str:
    what = record.name
    if record.counted is not None:
        counted, true = record.counted
        what += f" {int(true.sum())} of {len(true)} {counted}"
    return f"{record.folder}: {what}, {duration(record.run.wall_s)}"


# --- What would be run ----------------------------------------------------------------------------


def _plan(missing: list[Entry]) -> None:
    """Print what `run` would do, with the trainings that it needs, and about how long it takes."""
    planned: dict[str, Entry] = {}
    for e in missing:
        for network in _first(e.unit):
            if records.find(network) is None:
                planned.setdefault(network.key, Entry(network, "network", network))
        planned.setdefault(e.unit.key, e)
    speed = _speeds(planned.values())
    known, unknown = 0.0, 0
    for e in planned.values():
        takes = e.cost / speed[e.group] if e.group in speed else None
        known, unknown = known + (takes or 0), unknown + (takes is None)
        about = "not known" if takes is None else f"about {duration(takes)}"
        columns(e.unit.folder, e.unit.name, e.unit.key, about)
    if planned:
        rest = f", and {unknown} of which nothing like them was run" if unknown else ""
        print(f"{len(planned)} to run: about {duration(known)} in one process{rest}")


def _first(unit: Unit) -> list[Network]:
    """The networks that must be trained before a unit, in their order."""
    return [one for network in unit.needs() for one in (*_first(network), network)]


def _speeds(planned: Iterable[Entry]) -> dict[Group, float]:
    """Multiply-adds a second, by everything that was run of the same experiments and scales."""
    wanted = {e.group[:2] for e in planned}
    networks = [
        n
        for scale in {scale for _, scale in wanted}
        for n in registry.networks(None, scale)
        if (n.folder.partition("/")[0], scale) in wanted and (records.root() / n.folder).is_dir()
    ]
    return rates((e, records.find(e.unit)) for e in entries(networks))
