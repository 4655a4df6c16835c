"""python -m reproduce list | status | run: what there is, what is done, and doing the rest."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from reproduce import __version__, names

# What needs torch is imported where a command begins: to ask for help takes no seconds.
if TYPE_CHECKING:
    from reproduce.papers.units import Network
    from reproduce.progress import Shown
    from reproduce.records import Record
    from reproduce.runner import Stop, Unit

LEFT = 75  # the exit code where work is left: a batch system may start the same command again


def seconds(text: str) -> float:
    """A duration such as "90s", "9m" or "1h30m", in seconds, up to a year."""
    match = re.fullmatch(r"(?:(\d{1,8})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s)?", text, re.ASCII)
    if not text or not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1h30m")
    h, m, s = (int(part or 0) for part in match.groups())
    total = 3600 * h + 60 * m + s
    if not 0 < total <= 366 * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 1s and 8784h")
    return total


def seed(text: str) -> int:
    """A whole number in 0..1000000."""
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII) or int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in 0..1000000")
    return int(text)


def printable(text: object) -> str:
    """A text in one line, in which nothing steers the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="python -m reproduce", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in (
        ("list", "print the networks of the book and what is measured of them"),
        ("status", "say what is done, missing or failed, and how long the rest would take"),
        ("run", "run what is missing; stop with Ctrl-C, resume by calling again"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--paper", choices=names.PAPERS)
        command.add_argument("--scale", choices=names.SCALES)
        command.add_argument("--seed", type=seed, help="this seed only")
        command.add_argument("--dataset", choices=names.DATASETS)
        command.add_argument(
            "--cell", help="only this network, such as dynamic-2bit or 1bit-dithered"
        )
        command.add_argument(
            "--suite", choices=("network", *names.SUITES), help="only this of each network"
        )
        command.add_argument(
            "--key",
            help="only the network or measurement of this key; with --suite, this of that network",
        )
        if name != "run":
            command.add_argument("--json", action="store_true", help="one object a line")
    command.add_argument(
        "--time-budget", type=seconds, metavar="9m", help="stop cleanly after this"
    )
    return top


@dataclass(frozen=True)
class Entry:
    """A unit, the suite that it belongs to ("network" for a training), and about what it costs."""

    unit: Unit
    suite: str
    network: Network

    @property
    def group(self) -> tuple[str, str, str]:
        return self.network.folder.partition("/")[0], self.network.scale, self.suite

    @property
    def cost(self) -> float:
        """About how many multiply-adds, forward and backward passes alike."""
        from reproduce.papers.units import Network

        unit = self.unit
        passes = unit.training_passes if isinstance(unit, Network) else unit.passes
        return 3 * self.network.macs * passes


def entries(networks: list[Network]) -> Iterator[Entry]:
    """What there is to run of these networks, what to run first coming first: seed by seed; the
    networks of the papers' tables before all others, the cheap ones first; each network followed by
    its suites, the dearest attacks last."""
    from reproduce.papers import registry

    order = names.SCALES.index
    worth = {
        n: (order(n.scale), n.seed, not registry.is_of_a_table(n), n.macs * n.training_passes)
        for n in networks
    }
    for network in sorted(networks, key=worth.get):
        yield Entry(network, "network", network)
        for suite in registry.suites(network):
            members = registry.measurements(network, suite)
            for one in sorted(members, key=lambda m: m.passes):
                yield Entry(one, suite, network)


def chosen(args: argparse.Namespace) -> list[Entry]:
    """What the filters leave. Raises ValueError where that is nothing."""
    from reproduce.papers import registry

    every = list(registry.networks(args.paper, args.scale, args.seed))
    networks = [
        n for n in every if args.dataset in (None, n.dataset) and args.cell in (None, n.cell)
    ]
    found = [
        e
        for e in entries(networks)
        if args.suite in (None, e.suite)
        and args.key in (None, e.unit.key, e.network.key if args.suite else None)
    ]
    if not found:
        filters = ("paper", "scale", "seed", "dataset", "cell", "suite", "key")
        asked = [f"{f}={getattr(args, f)!r}" for f in filters if getattr(args, f) is not None]
        cells = ", ".join(sorted({n.cell for n in every}))
        raise ValueError(f"nothing has {', '.join(asked)}; the cells are {cells}")
    return found


def _line(*columns: str) -> None:
    print("  ".join(f"{c:<{w}}" for c, w in zip(columns, (48, 26, 0), strict=False)).rstrip())


def show_list(args: argparse.Namespace) -> int:
    from reproduce import records, runner

    for e in chosen(args):
        if args.json:
            needs = [n.key for n in e.unit.needs()]
            trains = e.suite == "network"
            files = [str(f) for f in runner.weights_files(e.network)] if trains else []
            found = {"key": e.unit.key, "folder": e.unit.folder, "name": e.unit.name}
            found |= {"suite": e.suite, "network": e.network.key, "dataset": e.network.dataset}
            found |= {"needs": needs, "path": str(records.path(e.unit)), "weights": files}
            print(json.dumps(found | {"multiply_adds": e.cost}))
        else:
            _line(e.unit.folder, e.unit.name, e.unit.key)
    return 0


def status(args: argparse.Namespace) -> int:
    from reproduce import records, storage

    for folder in (records.root(), storage.cache()):
        storage.sweep(folder)
    failed = {(r.folder, r.key) for r in records.every() if r.error is not None}
    done: dict[tuple, list[Entry]] = {}
    missing: dict[tuple, list[Entry]] = {}
    rates: dict[tuple, list[float]] = {}
    for e in chosen(args):
        record = records.find(e.unit)
        (missing if record is None else done).setdefault(e.group, []).append(e)
        if record is not None and record.run.own_s:
            rates.setdefault(e.group, []).append(e.cost / record.run.own_s)
    if not args.json:
        _line("experiment", "suite", "done / missing / failed      time left in one process")
    for group in dict.fromkeys([*done, *missing]):
        open_ = missing.get(group, [])
        bad = sum((e.unit.folder, e.unit.key) in failed for e in open_)
        left_s = sum(e.cost for e in open_) / median(rates[group]) if group in rates else None
        counts = {"done": len(done.get(group, [])), "missing": len(open_), "failed": bad}
        if args.json:
            named = dict(zip(("experiment", "scale", "suite"), group, strict=True))
            print(json.dumps(named | counts | {"seconds_left": left_s if open_ else 0}))
            continue
        left = "-"
        if open_:
            left = "unknown: nothing of it was run yet" if left_s is None else _duration(left_s)
        counted = " / ".join(map(str, counts.values()))
        _line(f"{group[0]} {group[1]}", group[2], f"{counted:<29}{left}")
    return 0


def _duration(s: float) -> str:
    return f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"


def _said(record: Record) -> str:
    what = record.name
    if record.bits is not None:
        what += f" {record.correct} of {record.total} right"
    elif record.norms is not None:
        what += f" {int((record.norms > 0).sum())} of {len(record.norms)} norms"
    return f"{record.folder}: {what}, {_duration(record.run.wall_s)}"


def run(args: argparse.Namespace) -> int:
    import torch

    from reproduce import records, runner
    from reproduce.progress import Shown
    from reproduce.runner import Stop
    from reproduce.training import Interrupted

    found = chosen(args)
    missing = [e.unit for e in found if records.find(e.unit) is None]
    if not missing:
        print(f"nothing is missing of {len(found)}")
    threads = os.environ.get("OMP_NUM_THREADS") or str(runner.default_threads())
    if not re.fullmatch(r"[1-9]\d{0,3}", threads):
        raise ValueError(f"OMP_NUM_THREADS is {threads!r}; give a whole number in 1..9999")
    torch.set_num_threads(int(threads))
    failed, waited_for = 0, None
    try:
        with Stop(args.time_budget) as stop, contextlib.closing(Shown()) as shown:
            while missing:
                waiting: list[Unit] = []
                for unit in missing:
                    stop.check()
                    failed += _run_one(unit, stop, shown, waiting)
                if len(waiting) == len(missing):
                    if waiting[0] != waited_for:
                        said = f"waiting for another process at {waiting[0].folder}"
                        print(said, file=sys.stderr, flush=True)
                    waited_for = waiting[0]
                    with stop.anywhere():
                        time.sleep(5)
                missing = waiting
    except Interrupted:
        print("stopped with work left; call again to resume", flush=True)
        return LEFT
    return 1 if failed else 0


def _run_one(unit: Unit, stop: Stop, shown: Shown, waiting: list[Unit]) -> int:
    """Run one unit and say so; returns whether it failed. One that is locked goes to `waiting`."""
    import torch

    from reproduce import runner
    from reproduce.runner import Busy, NoWeights

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
        print(_said(record), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    import torch

    try:
        return {"list": show_list, "status": status, "run": run}[args.command](args)
    except BrokenPipeError:  # as in "list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, torch.AcceleratorError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
