"""What is there of a network: records by suite and name, and the worst case over its attacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np

from reproduce import attacks, records
from reproduce.evaluation import wilson
from reproduce.papers import dqa, registry
from reproduce.papers.dqa import ActivationNetwork
from reproduce.papers.units import Measurement, Network
from reproduce.records import Record

TWICE_CHANCE = 2 / 10  # of ten classes
SEEDS = 5  # at most, of any network of the book
BEFORE = "before/"  # how attacks are named that add their noise before dithering
FAMILIES = {kind.kind: kind.family for kind in attacks.KINDS}


class Results:
    """The records of one network, read once.

    Args:   network: whose. Raises: Damaged: a record that is not what was written.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._records = {r.key: r for r in records.of(network) if r.error is None}

    @cached_property
    def suites(self) -> dict[str, dict[str, Measurement]]:
        """registry.suites of the network."""
        return registry.suites(self.network)

    @property
    def training(self) -> Record | None:
        """The record of its training, None where it was not trained."""
        return self._records.get(self.network.key)

    def suite(self, name: str) -> dict[str, Record]:
        """{name of a measurement: its record} of a suite, those that were run, in its order.

        A substitute's suite holds measurements of its target, whose records stand in that folder.
        """
        found = {}
        for title, measurement in self.suites.get(name, {}).items():
            own = measurement.folder == self.network.folder
            record = self._records.get(measurement.key) if own else records.find(measurement)
            if record is not None:
                found[title] = record
        return found

    def complete(self, name: str) -> bool:
        """Whether there is such a suite, and every measurement of it was run."""
        return 0 < len(self.suites.get(name, {})) == len(self.suite(name))

    @property
    def precision(self) -> str:
        """In which arithmetic it was trained: "bfloat16" or "float32"."""
        had = not self.training.run.device.endswith(", no bfloat16")
        return "bfloat16" if self.network.asks_for_bfloat16 and had else "float32"

    @property
    def collapsed(self) -> bool:
        """Whether training collapsed: clean accuracy (Wilson, 95 %) below twice that of chance.

        No, where DQA's clean images were not tried, as they are for none of Double quantization.
        """
        clean = self.suite("table").get("clean")
        return clean is not None and wilson(clean.correct, clean.total)[1] < TWICE_CHANCE

    # --- The worst case over all attacks ----------------------------------------------------------

    def attacked(self) -> dict[str, tuple[str, np.ndarray]]:
        """{name: (family, (N,) bool, which images survive)}: every attack on DQA's network that is
        there, at the full radius of its tables, the network asked one image at a time.

        Perturbations that C&W or ZOO found count where their l2 norm is within the radius: then no
        pixel has moved by more. PGD made on a substitute counts for a network without a maximum
        over the batch, whose answers to one image and to many are the same.
        """
        radius = records.plain_number(dqa.table_attacks(self.network)["pgd"].eps_255)
        alone = {"kind": "one-by-one"}
        found = {}
        own = {m.key for members in self.suites.values() for m in members.values()}
        for r in self._records.values():
            # What is in none of the suites, as with an earlier budget, may bear the name of one.
            name = r.name if r.key in own else f"{r.name}-{r.key}"
            asked = r.configuration
            attack, view = asked.get("attack"), asked.get("view")
            if attack is None or view is None:
                continue
            if r.norms is not None and view == alone:
                found[name] = FAMILIES[attack["kind"]], r.norms > radius / 255
            elif r.bits is not None and attack.get("eps_255") == radius:
                moved = asked.get("source") is not None
                same = moved and self.network.activation == "dynamic"
                if view == alone or same:
                    found[name] = ("transfer" if moved else FAMILIES[attack["kind"]]), r.bits
        return dict(sorted(found.items()))

    def clean(self) -> np.ndarray:
        """(N,) bool: which images the trial's network judges rightly as they are."""
        return self.suite("trial")["clean"].bits

    def met(self) -> dict[str, np.ndarray]:
        """{name: (N,) bool, which images are right}: "clean", and all that the worst case is over.

        For DQA's networks that is `attacked`; for Double quantization's, the attacks of the trial
        that add their noise before dithering. ReLU's one backward rule bears the name of the
        straight-through rule of the others, so that an attack is the same by its name.
        """
        if isinstance(self.network, ActivationNetwork):
            same = {"rule-own": "rule-straight-through"}
            attacked = {same.get(n, n): bits for n, (_, bits) in self.attacked().items()}
            return {"clean": self.clean(), **attacked}
        trial = self.suite("trial").items()
        return {n.removeprefix(BEFORE): r.bits for n, r in trial if n.startswith(BEFORE)}

    def worst_case(self, *families: str) -> np.ndarray:
        """(N,) bool: which images survive every attack of these families, or all there is, of
        DQA's trial.

        Over the first images, those that all of these attacks met. Empty where there is no attack.
        """
        attacked = self.attacked().values()
        members = [bits for family, bits in attacked if not families or family in families]
        return survivors([self.clean(), *members]) if members else np.empty(0, bool)


def tried(results: Results) -> bool:
    """Whether any attack of DQA's trial was run."""
    return "clean" in results.suite("trial") and bool(results.attacked())


def survivors(members: Collection[np.ndarray]) -> np.ndarray:
    """(N,) bool: which images are right in all of these, over the first that all of them hold."""
    few = min(map(len, members))
    return np.all([bits[:few] for bits in members], axis=0)


def robust_accuracy(bits: np.ndarray) -> float:
    """In percent, NaN of no images."""
    return 100 * float(bits.mean()) if len(bits) else float("nan")


def met_by_both(pairs: Iterable[tuple[Results, Results]]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: which images two networks keep, under the attacks that both met.

    Args: pairs: of a seed each, at least one; their images are taken together.
    """
    kept = []
    for pair in pairs:
        one, other = (r.met() for r in pair)
        shared = [n for n in one if n in other]
        both = [survivors([bits[n] for n in shared]) for bits in (one, other)]
        few = min(map(len, both))
        kept.append([bits[:few] for bits in both])
    one, other = (np.concatenate(bits) for bits in zip(*kept, strict=True))
    return one, other


def every_seed(network: Network) -> list[Results]:
    """The results of a network and of its other seeds, those that were trained, in their order."""
    found = [Results(replace(network, seed=seed)) for seed in range(SEEDS)]
    return [results for results in found if results.training is not None]
