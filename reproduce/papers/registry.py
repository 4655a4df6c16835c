"""All networks and measurements of the book, by paper, scale, seed and suite."""

from __future__ import annotations

from collections.abc import Iterator

from reproduce.checks import of_kind, shown
from reproduce.names import PAPERS, SCALES, SUITES
from reproduce.papers import double, dqa, originals
from reproduce.papers.double import HardenedNetwork, ImageNetwork
from reproduce.papers.dqa import ActivationNetwork, Substitute
from reproduce.papers.originals import OriginalNetwork
from reproduce.papers.units import Measurement, Network, check_seed


def networks(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Network]:
    """Every network of the book, filtered; each after those that it needs.

    Raises: ValueError: an unknown paper or scale, a bad seed.
    """
    for name, value, allowed in (("paper", paper, PAPERS), ("scale", scale, SCALES)):
        if value is not None and not (isinstance(value, str) and value in allowed):
            raise ValueError(f"{name} is {shown(value)}; choose one of {', '.join(allowed)}")
    if seed is not None:
        check_seed(seed)
    for at in SCALES if scale is None else (scale,):
        if paper in (None, "dqa"):
            for number in range(dqa.SEEDS.get(at, 0)) if seed is None else (seed,):
                yield from _dqa_networks(at, number)
        if paper in (None, "double-quantization"):
            for number in range(double.SEEDS.get(at, 0)) if seed is None else (seed,):
                yield from double.networks(at, number)
                yield from double.halftone_networks(at, number)
                yield from double.hardened_networks(at, number)
            if at == "original" and not seed:
                yield from originals.networks()


def _dqa_networks(scale: str, seed: int) -> Iterator[Network]:
    tables = list(dqa.networks(scale, seed))
    yield from tables
    yield from dqa.other_networks(scale, seed)
    for target in tables:
        if target.activation == "dynamic" and target.width is not None and scale != "workstation":
            for architecture in dqa.ARCHITECTURES:
                yield dqa.substitute(target, architecture)
    yield from dqa.informed_networks(scale, seed)


def suites(network: Network) -> dict[str, dict[str, Measurement]]:
    """{suite: {name: measurement}} of what the book says of a network."""
    of_kind("network", network, Network)
    if isinstance(network, Substitute):
        return {"transfer": dqa.transfer(network)}
    if isinstance(network, ActivationNetwork):
        found = {"table": dqa.table(network)}
        if network.training.attack is not None:
            found["trial"] = dqa.trial(network)
            found["file"] = dqa.file(network)
            if network.width is None:
                found["shown"] = dqa.shown(network)
        resnet = network.width is not None and network.scale in dqa.NORM_ATTACKS
        bare = network.training.attack is None or network.activation != "fixed"
        if resnet and bare and not network.seed:
            found["norms"] = dqa.norms(network)
        return found
    is_original = isinstance(network, OriginalNetwork)
    found = {"table": originals.table(network) if is_original else double.table(network)}
    if network.halftone is None:
        found["trial"] = double.trial(network)
        if not isinstance(network, HardenedNetwork) and not network.seed:
            found["checks"] = double.checks(network)
    return found


def measurements(network: Network, suite: str | None = None) -> list[Measurement]:
    """Those of a network, or of one of its suites; each once."""
    if suite is not None and not (isinstance(suite, str) and suite in SUITES):
        raise ValueError(f"suite is {shown(suite)}; choose one of {', '.join(SUITES)}")
    unique: dict[tuple[str, str], Measurement] = {}
    for name, members in suites(network).items():
        if suite in (None, name):
            for one in members.values():
                unique.setdefault((one.folder, one.key), one)
    return list(unique.values())


def is_of_a_table(network: Network) -> bool:
    """Whether a network stands in a table of a paper; the others are variations."""
    of_kind("network", network, Network)
    if isinstance(network, ActivationNetwork):
        plain = {dqa.cell(*kind) + risk for kind in dqa.ACTIVATIONS for risk in ("", "-mixed")}
        return network.cell in plain
    return type(network) in (ImageNetwork, OriginalNetwork) and network.halftone is None
