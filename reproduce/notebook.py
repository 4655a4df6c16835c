"""What the run notebooks share: parameters that are checked, and running with patience."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from traitlets.log import get_logger

from reproduce.checks import check_text, number, shown, whole
from reproduce.names import PAPERS
from reproduce.papers import double, dqa, registry
from reproduce.papers.units import Network, check_where
from reproduce.progress import Shown
from reproduce.records import Record
from reproduce.report import tables
from reproduce.report.smallest import broken
from reproduce.runner import Busy, Stop, Unit
from reproduce.runner import run as run_unit
from reproduce.training import Interrupted


def check_parameters(namespace: Mapping) -> None:
    """Compare what was given with what the notebook declares.

    Args:   namespace: the notebook's globals(). The first cell declares the parameters, each with
            its type and default ("bits: int = 2"); papermill's cell after it assigns others.
    Raises: TypeError, in one line: a name that is not declared, or a value of another type.
    """
    declared = namespace["__annotations__"]
    cells = [ast.parse(source) for source in namespace["In"][:-1] if not source.startswith("%")]
    nodes = [node for cell in cells for node in ast.walk(cell) if isinstance(node, ast.Assign)]
    given = [t.id for node in nodes for t in node.targets if isinstance(t, ast.Name)]
    for name in given:
        if name not in declared:
            raise TypeError(f"no parameter {name!r}; there are: {', '.join(declared)}")
    for name, kind in declared.items():
        kind = {"str": str, "int": int, "bool": bool}.get(kind, kind)
        if type(namespace[name]) is not kind:
            raise TypeError(f"{name} is {shown(namespace[name])}; it must be {_NAMES[kind]}")


_NAMES = {str: "a text (papermill -r)", int: "a whole number", bool: "True or False"}


def network(paper: str, dataset: str, *, bits: int, scale: str, seed: int, **options) -> Network:
    """The network that a notebook's parameters name.

    Args:   options: activation and mixed for DQA (bits 0 for relu), dithered and halftone ("" for
            Floyd-Steinberg's) for Double quantization, whose scale decides the data set.
    Raises: ValueError, TypeError: there is no such network.
    """
    if not isinstance(paper, str) or paper not in PAPERS:
        raise ValueError(f"paper is {shown(paper)}; choose {' or '.join(PAPERS)}")
    check_text("dataset", dataset)
    whole("bits", bits, 0, 8)
    check_where(scale, seed)
    where = {"scale": scale, "seed": seed}
    if paper == "dqa":
        what = dataset, options["activation"], bits or None
        return dqa.network(*what, mixed=options["mixed"], **where)
    return double.network(bits, options["dithered"], halftone=options["halftone"] or None, **where)


def by_key(key: str) -> Unit:
    """The network or measurement of a key, as `python -m reproduce list` prints it.

    Raises: ValueError: there is none.
    """
    if not isinstance(key, str) or not re.fullmatch("[0-9a-f]{8}", key):
        raise ValueError(f"key is {shown(key)}; it must be 8 of 0..9 and a..f, as a text")
    for one in registry.networks():
        if one.key == key:
            return one
        for unit in registry.measurements(one):
            if unit.key == key:
                return unit
    raise ValueError(f"no unit has the key {key!r}; see: python -m reproduce list")


def run(units: Iterable[Unit], wait_s: float = 5.0) -> dict[str, Record]:
    """Run units, or find their records; {name: Record}.

    A unit that another process is at is waited for.

    Raises: KeyboardInterrupt: after an interrupt of the kernel, or the end of what started it, such
            as papermill. What a training has done is saved; the same cell goes on from there.
            Whatever else runner.run raises.
    """
    number("wait_s", wait_s)
    found: dict[str, Record] = {}
    try:
        with Stop() as stop, _watchdog_held(), contextlib.closing(Shown(bar=True)) as shown:
            for unit in units:
                found[unit.name] = _patiently(unit, stop, shown, wait_s)
    except Interrupted:
        raise KeyboardInterrupt("stopped; run the cell again to go on") from None
    return found


@contextlib.contextmanager
def _watchdog_held() -> Iterator[None]:
    """Where the kernel's parent has gone, SIGTERM comes first, and the kernel ends after this.

    ipykernel's watchdog is a thread that ends the kernel on the spot where process 1 has adopted
    it, but logs a warning before: it is held there. Others may adopt it, too.
    """
    done, parent = threading.Event(), os.getppid()

    def watch() -> None:
        while not done.wait(0.5):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def hold(_record) -> bool:
        if type(threading.current_thread()).__name__.startswith("ParentPoller"):
            done.wait()
        return True

    log = get_logger()
    threading.Thread(target=watch, daemon=True).start()
    log.addFilter(hold)
    try:
        yield
    finally:
        log.removeFilter(hold)
        done.set()


def _patiently(unit: Unit, stop: Stop, shown: Shown, wait_s: float) -> Record:
    told = None
    while True:
        try:
            return run_unit(unit, stop, shown)
        except Busy as busy:
            if busy.unit != told:
                print(f"waiting for another process at {busy.unit.folder}", flush=True)
            told = busy.unit
        with stop.anywhere():
            time.sleep(wait_s)


def outcomes(records: Mapping[str, Record]) -> pd.DataFrame:
    """A row for each record of which images are counted, under its name.

    Columns: images; what is counted (records.Record.counted); of how many it is true, in percent
    with its interval; median norm of the images that were broken; key.
    """
    rows = []
    for name, r in records.items():
        if r.counted is not None:
            what, true = r.counted
            median = None if r.norms is None else broken(r.norms).median
            row = {"": name, "images": len(true), "counted": what, "%": tables.share(true)}
            rows.append(row | {"median norm": median, "key": f"`{r.key}`"})
    return pd.DataFrame(rows)


def curves(record: Record) -> pd.DataFrame:
    """A row for each epoch of a training: loss, accuracy in percent, learning rate, radius."""
    values = {n: record.values[n] for n in ("loss", "accuracy", "lr", "eps_255")}
    frame = pd.DataFrame(values, index=pd.RangeIndex(1, len(values["loss"]) + 1, name="epoch"))
    frame["accuracy"] *= 100
    return frame.rename(columns={"accuracy": "accuracy %", "eps_255": "ε in 1/255"})
