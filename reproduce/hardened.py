"""Both defences trained against an attacker who knows them: is anything of them left then?

Double quantization: ResNet-20 behind the filter, trained on images that PGD changed before the
filter saw them, with the straight-through gradient; the control is the same training without
dithering, at 8 bits. DQA: the quantised networks of Table 1, trained on what PGD finds through the
backward rule of the trial's main attack; the control is ReLU as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from reproduce import data, grids, models, trials
from reproduce.attacks import PGD
from reproduce.evaluation import correct
from reproduce.grids import DQA, DoubleQuantization
from reproduce.pipeline import DoubleQuantizer
from reproduce.trials import DoubleTrial, Trial

KINDS = ((2, True), (8, False))
_TRAIN_IMAGES = {"smoke": 200, "laptop": 10_000, "paper": None}
_EPOCHS = {"smoke": 1, "laptop": 15, "paper": 60}


@dataclass(frozen=True, kw_only=True)
class Hardened(DoubleQuantization):
    """The whole pipeline as one network; images go in as they are, and are attacked so.

    Source: the training of Madry et al. 2018, with the filter of Double quantization in the loop.
    """

    @property
    def cell(self) -> str:
        return f"{super().cell}-hardened"

    def model(self) -> nn.Module:
        return nn.Sequential(DoubleQuantizer(self.bits, self.dithered), super().model())

    def prepare(self, images: Tensor) -> Tensor:
        return data.to_float(images)

    @property
    def tests(self):
        kind = self.bits, self.dithered
        return [("clean", kind, None), ("pgd", kind, self.attack)]

    def evaluations(self, model, dataset, check_stop):
        fast = models.folded(model)
        options = {"batch_size": self.eval_batch, "seed": self.seed}
        jobs = {}
        for name, _, attack in self.tests:
            count = self.test_images if attack is None else self.attacked_images
            x, y = dataset.x_test[:count], dataset.y_test[:count]
            jobs[name] = functools.partial(correct, fast, x, y, attack, **options)
        return jobs


@dataclass(frozen=True, kw_only=True)
class HardenedTrial(DoubleTrial):
    """The trial of such a network: every attack before dithering, but the transferred one."""

    base: Hardened

    def twin(self) -> None:
        return None

    def _hits(self, condition, model, twin, dataset, check_stop):
        whole = models.folded(model)
        return correct(
            whole,
            dataset.x_test[: condition.images],
            dataset.y_test[: condition.images],
            condition.attack,
            source_model=whole[1] if condition.sees == "bare" else None,
            batch_size=self.batch,
            seed=self.seed,
        )


def hardened(bits: int, dithered: bool, seed: int = 0, scale: str = "laptop") -> Hardened:
    """A network that sees the filter's output in adversarial training, at one of its three scales.

    Args:   as grids.double_quantization. Raises: ValueError: as there.
    """
    plain = grids.double_quantization(bits, dithered, seed, scale)
    fields = {name: value for name, value in vars(plain).items() if name != "training"}
    fields["train_images"] = _TRAIN_IMAGES[scale]
    training = replace(
        plain.training,
        epochs=_EPOCHS[scale],
        schedule="one_cycle",
        attack=PGD(8, 2, 7),
        clean_epochs=min(1, _EPOCHS[scale] - 1),
    )
    return Hardened(training=training, **fields)


def trial(base: Hardened) -> HardenedTrial:
    """Those conditions of a model's trial in which noise comes before dithering."""
    all_of_them = trials.double_trial(base).conditions
    conditions = {n: c for n, c in all_of_them.items() if c.noise == "before" and c.sees != "twin"}
    return HardenedTrial(base=base, conditions=conditions, batch=100)


def informed(
    activation: str, bits: int, seed: int = 0, scale: str = "laptop", dataset: str = "mnist"
) -> DQA:
    """A quantised network of Table 1 whose training attack takes the trial's main rule.

    It is trained on clean and adversarial examples mixed, the reading in which fewer collapse.

    Raises: ValueError, TypeError: as grids.dqa. ValueError: relu, which has nothing to know.
    """
    if activation == "relu":
        raise ValueError("activation is 'relu'; choose fixed or dynamic")
    plain = grids.dqa(dataset, activation, bits, seed, scale, mixed=True)
    attack = replace(plain.training.attack, **trials.MAIN_RULE)
    return replace(plain, training=replace(plain.training, attack=attack))


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Hardened | DQA | Trial]:
    """All of these networks and their trials, for seed 0, filtered as grids.grid."""
    if seed not in (None, 0):
        return
    for chosen in _EPOCHS if scale is None else _EPOCHS.keys() & {scale}:
        if paper in (None, "dqa"):
            for kind in grids.DQA_CELLS[1:]:
                base = informed(*kind, 0, chosen, "digits" if chosen == "smoke" else "mnist")
                yield base
                yield trials.dqa_trial(base)
        if paper in (None, "double-quantization"):
            for kind in KINDS:
                base = hardened(*kind, 0, chosen)
                yield base
                yield trial(base)
