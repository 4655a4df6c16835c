"""What is there of a network: records by suite and name, and the worst case over its attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from reproduce import attacks, records
from reproduce.evaluation import paired, wilson
from reproduce.papers import dqa, registry
from reproduce.papers.units import Measurement, Network
from reproduce.records import Record

TWICE_CHANCE = 2 / 10  # of ten classes
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

    def record(self, measurement: Measurement) -> Record | None:
        return self._records.get(measurement.key)

    def suite(self, name: str) -> dict[str, Record]:
        """{name of a measurement: its record} of a suite, those that were run, in its order."""
        members = self.suites[name]
        found = {n: self._records.get(m.key) for n, m in members.items()}
        return {n: r for n, r in found.items() if r is not None}

    def complete(self, name: str) -> bool:
        """Whether every measurement of a suite was run."""
        return len(self.suite(name)) == len(self.suites[name])

    @property
    def collapsed(self) -> bool:
        """Whether training collapsed: clean accuracy (Wilson, 95 %) below twice that of chance.

        Raises: KeyError: its table's clean images were not tried.
        """
        clean = self.suite("table")["clean"]
        return wilson(clean.correct, clean.total)[1] < TWICE_CHANCE

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

    def worst_case(
        self, families: Iterable[str] | None = None, *, names: Iterable[str] | None = None
    ) -> np.ndarray:
        """(N,) bool: which images survive every attack of these families or names, or all there is.

        Over the first images, those that all of these attacks met. Empty where there is no attack.
        """
        chosen = None if families is None else set(families)
        kept = None if names is None else {slug(n) for n in names}
        members = [
            bits
            for name, (family, bits) in self.attacked().items()
            if (chosen is None or family in chosen) and (kept is None or name in kept)
        ]
        return survivors([self.clean(), *members]) if members else np.empty(0, bool)


slug = records.slug


def warning_signs(tables: Mapping[str, Record]) -> dict[str, bool]:
    """Signs that an attack failed, or that there was nothing left to attack.

    An attack may leave an image alone, so accuracy under it cannot truly exceed clean accuracy; and
    PGD with its many steps should leave no more than FGSM with one. A sign counts where the Wilson
    intervals at 95 % do not overlap.

    Args:    tables: a suite "table", with clean, fgsm and pgd.
    Returns: {"pgd above clean", "fgsm above clean", "pgd above fgsm": whether it shows}.
    Source:  Athalye et al. 2018, section 3.1; Carlini et al. 2019.
    """
    interval = {n: wilson(tables[n].correct, tables[n].total) for n in ("clean", "fgsm", "pgd")}
    pairs = (("pgd", "clean"), ("fgsm", "clean"), ("pgd", "fgsm"))
    return {f"{one} above {other}": interval[one][0] > interval[other][1] for one, other in pairs}


def survivors(members: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) bool: which images are right in all of these, over the first that all of them hold."""
    few = min(map(len, members))
    return np.all([bits[:few] for bits in members], axis=0)


def robust_accuracy(bits: np.ndarray) -> float:
    """In percent, NaN of no images."""
    return 100 * float(bits.mean()) if len(bits) else float("nan")


def met_by_both(one: Results, other: Results) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: which images of two networks survive the attacks of the trial that both met.

    An attack is the same by its name in the trial; ReLU's one backward rule stands for the
    straight-through rule of the others.
    """
    first, second = (_by_name(r) for r in (one, other))
    names = [n for n in first if n in second]
    pair = [
        survivors([r.clean(), *(m[n] for n in names)])
        for r, m in zip((one, other), (first, second), strict=True)
    ]
    few = min(map(len, pair))
    return pair[0][:few], pair[1][:few]


def _by_name(results: Results) -> dict[str, np.ndarray]:
    same = {slug("rule/own"): slug("rule/straight_through")}
    return {same.get(name, name): bits for name, (_, bits) in results.attacked().items()}


def lead(ones: Sequence[Results], others: Sequence[Results]) -> tuple[float, float] | None:
    """By how many points one network keeps more images than another, and the margin (95 %).

    Args:    ones, others: each seed of the two networks; the seeds that both have count, all images
             together. Networks that collapsed, and seeds without a trial, are left out.
    Returns: None where nothing is left.
    """
    of = {r.network.seed: r for r in others if _tried(r)}
    pairs = [met_by_both(r, of[r.network.seed]) for r in ones if _tried(r) and r.network.seed in of]
    if not pairs:
        return None
    one, other = (np.concatenate(images) for images in zip(*pairs, strict=True))
    return paired(one, other)


def _tried(results: Results) -> bool:
    return "clean" in results.suite("trial") and bool(results.attacked()) and not results.collapsed


def every_seed(network: Network, seeds: Iterable[int] = range(5)) -> list[Results]:
    """The results of a network and of its other seeds, those that were trained, in their order."""
    found = []
    for seed in seeds:
        results = Results(replace(network, seed=seed))
        if results.training is not None:
            found.append(results)
    return found
