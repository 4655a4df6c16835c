"""list and status: what there is, and how much of it is done."""

from __future__ import annotations

import argparse
import json

from reproduce import records, runner
from reproduce.cli.units import Entry, Group, chosen, columns, duration, rates


def show_list(args: argparse.Namespace) -> int:
    for e in chosen(args):
        if args.json:
            print(json.dumps(_described(e)))
        else:
            columns(e.unit.folder, e.unit.name, e.suite, e.unit.key)
    return 0


def _described(e: Entry) -> dict:
    files = runner.weights_files(e.network) if e.suite == "network" else ()
    return {
        "key": e.unit.key,
        "folder": e.unit.folder,
        "name": e.unit.name,
        "suite": e.suite,
        "network": e.network.key,
        "dataset": e.network.dataset,
        "needs": [n.key for n in e.unit.needs()],
        "path": str(records.path(e.unit)),
        "weights": [str(f) for f in files],
        "multiply_adds": e.cost,
    }


def status(args: argparse.Namespace) -> int:
    failed = {(r.folder, r.key) for r in records.every() if r.error is not None}
    found = [(e, records.find(e.unit)) for e in chosen(args)]
    speed = rates(found)
    groups: dict[Group, list[tuple[Entry, records.Record | None]]] = {}
    for e, record in found:
        groups.setdefault(e.group, []).append((e, record))
    if not args.json:
        titles = "done / missing / failed      time left in one process"
        columns("experiment", "suite", titles, widths=(48, 26, 0))
    for group, members in groups.items():
        missing = [e for e, record in members if record is None]
        bad = sum((e.unit.folder, e.unit.key) in failed for e in missing)
        left_s = sum(e.cost for e in missing) / speed[group] if group in speed else None
        counts = {"done": len(members) - len(missing), "missing": len(missing), "failed": bad}
        if args.json:
            named = dict(zip(("experiment", "scale", "suite"), group, strict=True))
            print(json.dumps(named | counts | {"seconds_left": left_s if missing else 0}))
            continue
        left = "-"
        if missing:
            left = "unknown: nothing of it was run yet" if left_s is None else duration(left_s)
        counted = f"{' / '.join(map(str, counts.values())):<29}{left}"
        columns(f"{group[0]} {group[1]}", group[2], counted, widths=(48, 26, 0))
    return 0
