"""Which networks a claim is about, and what of them was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from reproduce.papers import double, dqa, originals
from reproduce.papers.units import Network
from reproduce.records import Record
from reproduce.report import style
from reproduce.report.results import Results

SEEDS = 5  # at most, of any network of the book
WORDS = {"": "", "undefended": ", clean training", "vgg16": ", VGG-16", "alexnet": ", AlexNet"}


@dataclass(frozen=True)
class Activations:
    """One of DQA's networks, whatever its scale, seed and training risk.

    Args: activation: relu, fixed or dynamic. bits: 1..3, None for relu. role: that network itself,
          the same trained on clean images alone, or a substitute for it.
    """

    dataset: str
    activation: str
    bits: int | None = None
    role: Literal["", "undefended", "vgg16", "alexnet"] = ""

    @property
    def name(self) -> str:
        return style.model_name(self.activation, self.bits) + WORDS[self.role]

    @property
    def control(self) -> Activations:
        """ReLU, trained in the same way."""
        return replace(self, activation="relu", bits=None)

    def at(self, scale: str, seed: int, *, mixed: bool) -> Network:
        """The network. Args: mixed: trained on clean and adversarial examples in equal parts."""
        what = self.dataset, self.activation, self.bits
        network = dqa.network(*what, seed=seed, scale=scale, mixed=mixed)
        if self.role == "undefended":
            return dqa.undefended(network)
        return dqa.substitute(network, self.role) if self.role else network


@dataclass(frozen=True)
class Images:
    """One of Double quantization's networks, whatever its scale and seed.

    Args: bits, dithered: the kind of image that it is trained on.
    """

    bits: int
    dithered: bool

    @property
    def name(self) -> str:
        ending = "s" if self.bits > 1 else ""
        return f"{self.bits} bit{ending}" + (", dithered" if self.dithered else "")

    @property
    def kind(self) -> str:
        return double.kind_name(self.bits, self.dithered)

    @property
    def control(self) -> Images:
        """The network of 8-bit images."""
        return Images(8, False)

    def at(self, scale: str, seed: int, *, mixed: bool) -> Network | None:
        """The network; None for another seed of the authors' own. Args: mixed: means nothing."""
        if scale == "original":
            return None if seed else originals.original(self.bits, self.dithered)
        return double.network(self.bits, self.dithered, seed=seed, scale=scale)


Subject = Activations | Images


class Evidence:
    """The records below results/, those of each network read once."""

    def __init__(self) -> None:
        self._results: dict[str, Results] = {}
        self._trained: dict[tuple[Subject, str, bool], list[Network]] = {}

    def of(self, network: Network) -> Results:
        """The results of a network. Raises Damaged."""
        if network.folder not in self._results:
            self._results[network.folder] = Results(network)
        return self._results[network.folder]

    def record(self, network: Network, suite: str, name: str) -> Record | None:
        """A measurement of a suite, None where it was not run."""
        measurement = self.of(network).suites.get(suite, {}).get(name)
        if measurement is None:
            return None
        return self.of(measurement.network).record(measurement)

    def complete(self, network: Network, suite: str) -> bool:
        """Whether all of a suite was run."""
        members = self.of(network).suites.get(suite, {})
        return bool(members) and all(self.record(network, suite, n) is not None for n in members)

    def collapsed(self, network: Network) -> bool:
        """Whether the training of a network, or of a substitute's target, collapsed.

        Of Double quantization's networks no training does; a network whose clean images were not
        tried has not collapsed yet.
        """
        network = getattr(network, "target", network)
        return self.record(network, "table", "clean") is not None and self.of(network).collapsed

    def networks(self, subject: Subject, scale: str, *, mixed: bool) -> list[Network]:
        """Each seed that was trained and whose training did not collapse, in their order."""
        what = subject, scale, mixed
        if what not in self._trained:
            every = (subject.at(scale, seed, mixed=mixed) for seed in range(SEEDS))
            trained = [n for n in every if n is not None and self.of(n).training is not None]
            self._trained[what] = [n for n in trained if not self.collapsed(n)]
        return self._trained[what]


def without_bfloat16(results: Results) -> bool:
    """Whether a network that asks for bfloat16 was trained in float32 throughout."""
    return results.training.run.device.endswith(", no bfloat16")
