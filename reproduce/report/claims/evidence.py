"""Which networks a claim is about, and what of them was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from reproduce.checks import check_fields, choice
from reproduce.papers import double, dqa, originals
from reproduce.papers.units import Network
from reproduce.report import style
from reproduce.report.double import words
from reproduce.report.results import SEEDS, Results

ROLES = {"": "", "undefended": ", clean training", "vgg16": ", VGG-16", "alexnet": ", AlexNet"}


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

    def __post_init__(self) -> None:
        check_fields(self)
        choice("dataset", self.dataset, Literal["mnist", "cifar10", "digits", "patterns"])
        dqa.cell(self.activation, self.bits)

    @property
    def name(self) -> str:
        return style.model_name(self.activation, self.bits) + ROLES[self.role]

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

    def __post_init__(self) -> None:
        double.kind_name(self.bits, self.dithered)

    @property
    def name(self) -> str:
        return words((self.bits, self.dithered))

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
        self._found: dict[tuple[Subject, str, bool], list[Results]] = {}

    def of(self, subject: Subject, scale: str, *, mixed: bool) -> list[Results]:
        """Each seed that was trained, in their order; none whose training, or that of the network
        for which it is a substitute, collapsed. Raises Damaged."""
        what = subject, scale, mixed
        if what not in self._found:
            networks = (subject.at(scale, seed, mixed=mixed) for seed in range(SEEDS))
            every = [Results(n) for n in networks if n is not None]
            self._found[what] = [r for r in every if r.training is not None and not _collapsed(r)]
        return self._found[what]

    def pairs(
        self, one: Subject, other: Subject, scale: str, *, mixed: bool
    ) -> list[tuple[Results, Results]]:
        """Two networks of each seed in which the trials of both are complete."""
        first, second = (
            {r.network.seed: r for r in self.of(s, scale, mixed=mixed) if r.complete("trial")}
            for s in (one, other)
        )
        return [(r, second[seed]) for seed, r in first.items() if seed in second]


def _collapsed(results: Results) -> bool:
    target = getattr(results.network, "target", None)
    return results.collapsed if target is None else Results(target).collapsed


def one_precision(results: list[Results]) -> bool:
    """Whether networks were trained with bfloat16 all of them, or none."""
    return len({r.precision for r in results}) < 2
