"""show and compare: what came out of one unit, and of two on the same images."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass

import numpy as np

from reproduce import records
from reproduce.cli.units import columns, duration, the_key
from reproduce.evaluation import paired, wilson
from reproduce.papers import registry
from reproduce.papers.dqa import ActivationNetwork
from reproduce.papers.units import Network
from reproduce.records import Record
from reproduce.report.results import Results, met_by_both
from reproduce.runner import Unit


@dataclass(frozen=True)
class Named:
    """What a key names: a unit of the book (None of an earlier configuration), and what came out
    (None where it was not run). failed: the errors of runs that failed."""

    key: str
    unit: Unit | None
    record: Record | None
    failed: tuple[str, ...] = ()


def named(start: str) -> Named:
    """The unit of the book, or the record, whose key begins so.

    Raises: ValueError: there is none, or several. Damaged: its record.
    """
    units = _units(start)
    files: dict[str, list] = {}
    for file in sorted(records.root().glob("*/*/*.json")):
        own = file.parent.name[-8:] if file.stem.startswith("network") else _key_of(file.stem)
        if own is not None and own.startswith(start):
            files.setdefault(own, []).append(file)
    key = the_key(start, {*units, *files})
    found = [records.read(file) for file in files.get(key, ())]
    done = next((r for r in found if r.error is None), None)
    return Named(key, units.get(key), done, tuple(r.error for r in found if r.error is not None))


def _units(start: str) -> dict[str, Unit]:
    found = {}
    for network in registry.networks():
        for unit in (network, *registry.measurements(network)):
            if unit.key.startswith(start):
                found[unit.key] = unit
    return found


def _key_of(stem: str) -> str | None:
    match = re.fullmatch(r".+?-([0-9a-f]{8})(-failed-\S+)?", stem)
    return match and match[1]


# --- show -----------------------------------------------------------------------------------------


def show(args: argparse.Namespace) -> int:
    one = named(args.key)
    said = {"key": one.key} | _asked(one)
    if one.record is None:
        said["result"] = "not run"
    else:
        said |= _came_out(one.record) | _cost(one.record)
    if one.failed:
        said["failed"] = [error.partition("\n")[0] for error in one.failed]
    _print(said, as_json=args.json)
    return 0


def _asked(one: Named) -> dict:
    thing = one.unit or one.record
    asked = records.configuration(one.unit) if one.record is None else one.record.configuration
    said = {"experiment": thing.folder, "name": thing.name}
    if one.unit is not None and not isinstance(one.unit, Network):
        suites = registry.suites(one.unit.network).items()
        said["suite"] = [s for s, ms in suites if one.key in {m.key for m in ms.values()}]
    return said | {"asked": asked}


def _came_out(record: Record) -> dict:
    """Counts and percent with Wilson's interval (95 %); the last value of each curve."""
    said: dict = {}
    if record.counted is not None:
        what, true = record.counted
        said[what] = _share(true)
    if record.norms is not None:
        broken = record.norms[(record.norms > 0) & np.isfinite(record.norms)]
        said["median norm"] = float(np.median(broken)) if len(broken) else None
    if record.values:
        kind = "last epoch" if record.name == "network" else "values"
        said[kind] = {n: v[-1] if _is_curve(record, v) else v for n, v in record.values.items()}
    if record.arrays:
        said["arrays"] = {name: list(a.shape) for name, a in record.arrays.items()}
    return said


def _is_curve(record: Record, value: object) -> bool:
    return record.name == "network" and isinstance(value, list) and bool(value)


def _share(bits: np.ndarray) -> dict:
    low, high = wilson(int(bits.sum()), len(bits))
    percent = {"percent": 100 * float(bits.mean()), "low": 100 * low, "high": 100 * high}
    return {"images": len(bits), "count": int(bits.sum())} | percent


def _cost(record: Record) -> dict:
    run = record.run
    cost = {"seconds": run.own_s, "took": duration(run.own_s), "device": run.device}
    when = {"created": run.created, "commit": run.commit, "torch": run.versions.get("torch")}
    return {"cost": cost | when, "file": str(record.path)}


def _print(said: dict, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(said))
        return
    for name, value in _flat(said):
        columns(name, value, widths=(28, 0))


def _flat(said: dict, above: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    lines = []
    for name, value in said.items():
        if isinstance(value, dict) and "percent" in value:
            interval = "{percent:.1f} % ({low:.1f}–{high:.1f})".format(**value)
            lines.append((f"{above}{name}", f"{value['count']} of {value['images']}: {interval}"))
        elif isinstance(value, dict):
            lines += _flat(value, f"{above}{name}.")
        elif value is not None:
            text = f"{value:.6g}" if isinstance(value, float) else value
            text = ", ".join(map(str, text)) if isinstance(text, list) else text
            lines.append((f"{above}{name}", str(text)))
    return lines


# --- compare --------------------------------------------------------------------------------------


def compare(args: argparse.Namespace) -> int:
    one, other = named(args.one), named(args.other)
    for each in (one, other):
        if each.record is None:
            raise ValueError(f"{each.key} was not run; python -m reproduce run --key {each.key}")
    if one.record.dataset != other.record.dataset:
        sets = " and ".join(each.record.dataset["name"] for each in (one, other))
        raise ValueError(f"{one.key} and {other.key} are of other images: {sets}")
    first, second = _same_images(one, other)
    difference, margin = paired(first, second)
    said = {each.key: f"{each.record.folder} {each.record.name}" for each in (one, other)}
    said |= {"images": len(first)}
    what = "right" if one.record.counted is None else one.record.counted[0]  # networks' trials
    said |= {what: {each.key: _share(b) for each, b in ((one, first), (other, second))}}
    alone = {one.key: int((first & ~second).sum()), other.key: int((second & ~first).sum())}
    points = {"points": difference, "low": difference - margin, "high": difference + margin}
    said |= {f"{what} alone": alone, "difference": points}
    _print(said, as_json=args.json)
    return 0


def _same_images(one: Named, other: Named) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: which of the images that both met are right."""
    pair = one, other
    if all(isinstance(each.unit, ActivationNetwork) for each in pair):
        of = [Results(each.unit) for each in pair]
        for results in of:
            if "clean" not in results.suite("trial"):
                raise ValueError(f"{results.network.key} has no trial yet")
        return met_by_both([tuple(of)])
    for each in pair:
        if each.record.bits is None:
            raise ValueError(
                f"{each.key} ({each.record.name}) has no bits; compare two measurements that have, "
                "or two networks of DQA"
            )
    kinds = {each.record.configuration["kind"] for each in pair}
    if len(kinds) > 1 and "agreement" in kinds:
        raise ValueError(f"only one of {one.key} and {other.key} asks whether two networks agree")
    few = min(each.record.total for each in pair)
    return one.record.bits[:few], other.record.bits[:few]
