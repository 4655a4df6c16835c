"""python -m reproduce list | status | run: the experiments, what is done, and doing the rest."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from statistics import median

import torch
from tqdm import tqdm

from reproduce import data, experiments, grids, results, units
from reproduce.experiments import Busy, NoWeights
from reproduce.grids import Experiment
from reproduce.training import Interrupted
from reproduce.trials import Trial


def seconds(text: str) -> float:
    """A duration such as "90s", "9m" or "1h30m", in seconds."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1h30m")
    h, m, s = (int(part or 0) for part in match.groups())
    return 3600 * h + 60 * m + s


def natural(text: str) -> int:
    """A whole number, at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number, at least 1."""
    if natural(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m reproduce", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in (
        ("list", "print the experiments of the book"),
        ("status", "say which are done, missing or failed, and how long the rest would take"),
        ("run", "run what is missing; stop with Ctrl-C, resume by calling again"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--paper", choices=grids.PAPERS)
        command.add_argument("--scale", choices=grids.SCALES)
        command.add_argument("--seed", type=natural, help="this seed only")
        command.add_argument("--dataset", choices=data.NAMES)
        command.add_argument(
            "--cell", help="only this model, such as dynamic-2bit or 1bit-dithered"
        )
        command.add_argument("--name", help="only this folder of results/, such as dqa-mnist-trial")
    command.add_argument(
        "--time-budget", type=seconds, metavar="9m", help="stop cleanly after this"
    )
    command.add_argument("--jobs", type=positive, default=1, help="processes side by side")
    return top


FILTERS = ("dataset", "cell", "name")


def chosen(args: argparse.Namespace) -> list[Experiment | Trial]:
    """The experiments and trials that the filters leave. Raises ValueError where that is none."""
    every = list(units.grid(args.paper, args.scale, args.seed))
    found = [e for e in every if all(getattr(args, f) in (None, getattr(e, f)) for f in FILTERS)]
    if not found:
        every_filter = {f: getattr(args, f) for f in ("paper", "scale", "seed", *FILTERS)}
        asked = ", ".join(f"{f}={v}" for f, v in every_filter.items() if v is not None)
        cells, names = ({getattr(e, f) for e in every} for f in ("cell", "name"))
        raise ValueError(
            f"no experiment has {asked}; the cells are {', '.join(sorted(cells))}; "
            f"the names are {', '.join(sorted(names))}"
        )
    return found


def _line(*columns: str) -> None:
    print("  ".join(f"{c:<{w}}" for c, w in zip(columns, (30, 38, 10, 0), strict=False)).rstrip())


def show(args: argparse.Namespace) -> None:
    for experiment in chosen(args):
        _line(experiment.name, experiment.slug, experiment.key)


def _speeds() -> dict[tuple[str, str], float]:
    """Multiply-adds a second by (experiment, scale), the median of the records at hand."""
    rates: dict[tuple[str, str], list[float]] = {}
    stored = {(r.name, r.slug, r.key): r for r in results.records()}
    for e in units.grid():
        record = stored.get((e.name, e.slug, e.key))
        if record is not None:
            rates.setdefault((e.name, e.scale), []).append(units.work(e) / record.wall_s)
    return {group: median(values) for group, values in rates.items()}


def status(args: argparse.Namespace) -> None:
    failed = {r.key for r in results.failures()}
    speeds = _speeds()
    groups: dict[tuple[str, str], list[Experiment]] = {}
    for e in chosen(args):
        groups.setdefault((e.name, e.scale), []).append(e)
    _line("experiment", "scale", "", "done / missing / failed      time left on one process")
    for group, members in groups.items():
        missing = [e for e in members if experiments.load(e) is None]
        bad = [e for e in missing if e.key in failed]
        counts = f"{len(members) - len(missing)} / {len(missing)} / {len(bad)}"
        left = "-"
        if missing:
            left = "unknown: nothing of it was run yet"
            if group in speeds:
                left = _duration(sum(map(units.work, missing)) / speeds[group])
        _line(*group, "", f"{counts:<29}{left}")


def _duration(s: float) -> str:
    return f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"


class _Stop:
    """Ends the work at a deadline or at the first Ctrl-C, at a point where it can be resumed."""

    def __init__(self, budget: float | None) -> None:
        self.deadline = None if budget is None else time.monotonic() + budget
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one ends it at once

    def __call__(self) -> None:
        if self.asked or (self.deadline is not None and time.monotonic() > self.deadline):
            raise Interrupted


def _run_one(experiment: Experiment | Trial, stop: _Stop) -> str:
    """Run one experiment with a progress bar; returns what to say of it."""
    source = experiment if hasattr(experiment, "training") else experiment.base
    n = source.train_images or len(data.load(source.dataset).x_train)
    total = n * source.training.epochs
    trained = None
    with tqdm(total=total, unit="img", desc=experiment.slug, mininterval=1, leave=False) as bar:

        def report(progress, images: int) -> None:
            nonlocal trained
            if progress is not trained:  # the first step, of this network or of one that it needs
                bar.reset()
            trained, bar.bar_format = progress, None
            bar.set_description(experiment.slug, refresh=False)
            if not bar.n:
                done_before = (progress.step - 1) * source.training.batch_size
                bar.initial = bar.n = min(total, done_before)
            bar.update(images)
            sums = progress.sums
            if sums:
                bar.set_postfix(loss=f"{sums['loss'] / sums['images']:.3f}", refresh=False)

        def announce(condition: str) -> None:
            bar.bar_format = "{desc} [{elapsed}]"
            bar.set_description(f"{experiment.slug}, {condition}")

        options = {"check_stop": stop, "report": report, "announce": announce}
        record = experiments.run(experiment, **options)
    shares = (f"{n} {c['correct'] / c['total']:.2%}" for n, c in list(record.metrics.items())[:3])
    line = f"{experiment.name} {experiment.slug}: {', '.join(shares)}, {_duration(record.wall_s)}"
    if trained is not None:  # not where only the evaluation was left
        line += (
            f", {trained.prepare_s / trained.seconds:.1%} of the training spent preparing images"
        )
    return line


def run(args: argparse.Namespace) -> int:
    missing = sorted((e for e in chosen(args) if experiments.load(e) is None), key=units.worth)
    if args.jobs > 1 and len(missing) > 1:
        return _run_side_by_side(args, min(args.jobs, len(missing)))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or experiments.default_threads(1)))
    stop = _Stop(args.time_budget)
    failed = 0
    try:
        while missing:
            waiting = []
            for experiment in missing:
                stop()
                try:
                    print(_run_one(experiment, stop), flush=True)
                except Busy as busy:
                    if busy.key != experiment.key:  # the network of a trial; its turn comes again
                        waiting.append(experiment)
                except (Interrupted, torch.AcceleratorError):
                    raise
                except Exception as error:
                    if isinstance(error, OSError) and not isinstance(error, NoWeights):
                        raise  # no data, no room: the next experiment would meet it too
                    failed += 1
                    reason = str(error).splitlines()[0] if str(error) else ""
                    what = f"{experiment.name} {experiment.slug}"
                    print(f"{what} failed: {type(error).__name__}: {reason}", file=sys.stderr)
            if len(waiting) == len(missing):
                time.sleep(1)
            missing = waiting
    except Interrupted:
        print("stopped; call again to resume", flush=True)
    return 1 if failed else 0


def _run_side_by_side(args: argparse.Namespace, jobs: int) -> int:
    """The same command in several processes: locks keep them on different experiments."""
    command = [sys.executable, "-m", "reproduce", "run"]
    for name in ("paper", "scale", "seed", *FILTERS):
        value = getattr(args, name)
        command += [] if value is None else [f"--{name}", str(value)]
    if args.time_budget is not None:
        command += ["--time-budget", f"{int(args.time_budget)}s"]
    threads = str(experiments.default_threads(jobs))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    workers = [
        subprocess.Popen(command, env={**environment, "TQDM_POSITION": str(position)})
        for position in range(jobs)
    ]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: [w.terminate() for w in workers])
    codes = [w.wait() for w in workers]
    return int(any(codes))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return {"list": show, "status": status, "run": run}[args.command](args) or 0
    except BrokenPipeError:  # as in "list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, torch.AcceleratorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
