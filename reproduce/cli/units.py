"""Which units there are, what to run first, and about what they cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from reproduce import records
from reproduce.papers import registry
from reproduce.papers.units import Network
from reproduce.runner import Unit

Group = tuple[str, str, str]  # experiment ("dqa-mnist"), scale, suite


@dataclass(frozen=True)
class Entry:
    """A unit, the suite that it belongs to ("network" for a training), and about what it costs."""

    unit: Unit
    suite: str
    network: Network

    @property
    def group(self) -> Group:
        return self.network.folder.partition("/")[0], self.network.scale, self.suite

    @property
    def cost(self) -> float:
        """About how many multiply-adds, forward and backward passes alike."""
        unit = self.unit
        passes = unit.training_passes if isinstance(unit, Network) else unit.passes
        return 3 * self.network.macs * passes


def entries(networks: Iterable[Network]) -> Iterator[Entry]:
    """What there is to run of these networks, what to run first coming first: seed by seed; the
    networks of the papers' tables before all others, the cheap ones first; each network followed by
    its suites, the dearest attacks last."""
    order = registry.SCALES.index
    worth = {
        n: (order(n.scale), n.seed, not registry.is_of_a_table(n), n.macs * n.training_passes)
        for n in networks
    }
    for network in sorted(worth, key=worth.get):
        yield Entry(network, "network", network)
        for suite in registry.suites(network):
            members = registry.measurements(network, suite)
            for one in sorted(members, key=lambda m: m.passes):
                yield Entry(one, suite, network)


def chosen(args: argparse.Namespace) -> list[Entry]:
    """What the filters leave; a key may be given by its first digits.

    Raises: ValueError: they leave nothing, or several units have keys that begin so.
    """
    every = list(registry.networks(args.paper, args.scale, args.seed))
    networks = [
        n for n in every if args.dataset in (None, n.dataset) and args.cell in (None, n.cell)
    ]
    found = [e for e in entries(networks) if args.suite in (None, e.suite)]
    if args.key is not None:
        found = _of_key(args.key, found, of_networks=args.suite is not None)
    if not found:
        filters = ("paper", "scale", "seed", "dataset", "cell", "suite", "key")
        asked = [f"{f}={getattr(args, f)!r}" for f in filters if getattr(args, f) is not None]
        hint = ""
        if args.cell is not None and not networks:
            hint = f"; the cells are {', '.join(sorted({n.cell for n in every}))}"
        elif args.key is not None:
            hint = "; the last column of `python -m reproduce list` has the keys"
        raise ValueError(f"nothing has {', '.join(asked)}{hint}")
    return found


def _of_key(start: str, found: list[Entry], *, of_networks: bool) -> list[Entry]:
    """Those of one key, or those of the network that has it."""
    keys = [{e.unit.key, e.network.key} if of_networks else {e.unit.key} for e in found]
    begun = {k for own in keys for k in own if k.startswith(start)}
    key = the_key(start, begun) if begun else start
    return [e for e, own in zip(found, keys, strict=True) if key in own]


def the_key(start: str, keys: Iterable[str]) -> str:
    """The one key that begins so. Raises ValueError where it is none, or several."""
    found = sorted({k for k in keys if k.startswith(start)})
    if not found:
        raise ValueError(f"no unit has the key {start!r}; see: python -m reproduce list")
    if len(found) > 1:
        shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise ValueError(f"{len(found)} keys begin with {start!r}: {shown}; give more digits")
    return found[0]


def rates(found: Iterable[tuple[Entry, records.Record | None]]) -> dict[Group, float]:
    """Multiply-adds a second of each group, by the median of what was run.

    Args: found: entries and their records.
    """
    each: dict[Group, list[float]] = {}
    for entry, record in found:
        if record is not None and record.run.own_s:
            each.setdefault(entry.group, []).append(entry.cost / record.run.own_s)
    return {group: median(values) for group, values in each.items()}


def duration(s: float) -> str:
    """Seconds, for the eye.

    >>> duration(90), duration(600), duration(36_000)
    ('90 s', '10 min', '10.0 h')
    """
    return f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"


def columns(*texts: str, widths: tuple[int, ...] = (48, 26, 9, 0)) -> None:
    """Print texts as the columns of a line."""
    print("  ".join(f"{t:<{w}}" for t, w in zip(texts, widths, strict=False)).rstrip())
