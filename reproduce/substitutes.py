"""Black-box attacks through a substitute that learns from the target's answers (DQA, Table 6)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from reproduce import data, grids, models
from reproduce.attacks import full_float32
from reproduce.evaluation import correct
from reproduce.grids import DQA
from reproduce.training import Settings, derived_seed
from reproduce.trials import Condition, Trial

NETWORKS = ("vgg16", "alexnet")


@dataclass(frozen=True, kw_only=True)
class Substitute(Trial):
    """A network with ReLU that learns the labels which the target gives to the training images.

    The attacks work on the substitute and know the true labels; what they make is shown to both.
    The augmented copies of an image keep the label that the target gives to the image itself.

    Args:   network: vgg16 or alexnet. width: of it. training: how. conditions: {"clean", "fgsm",
            "pgd"}. batch: images evaluated at a time, as the target's own evaluation takes them.
    Source: Papernot et al. 2017; DQA, section 6.
    """

    base: DQA
    network: Literal["vgg16", "alexnet"]
    width: int
    training: Settings

    @property
    def name(self) -> str:
        return f"{self.base.name}-substitutes"

    @property
    def cell(self) -> str:
        return f"{self.base.cell}-{self.network}"

    @property
    def train_images(self) -> int | None:
        return self.base.train_images

    def model(self) -> nn.Module:
        """The untrained substitute, initialised from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "substitute"))
            return getattr(models, self.network)(width=self.width)

    def prepare(self, images: Tensor) -> Tensor:
        return data.to_float(images)

    @staticmethod
    def answers(target: nn.Module, images: Tensor) -> Tensor:
        """(N,) int64 on the CPU: the classes that the target names for (N, C, H, W) uint8."""
        device = next(target.parameters()).device
        target.eval()
        with torch.no_grad():
            parts = [target(data.to_float(x.to(device))).argmax(1) for x in images.split(500)]
        return torch.cat(parts).cpu()

    def evaluations(self, model, twin, dataset, check_stop):
        """{condition: job}; `model` is the target, `twin` the trained substitute.

        "agreement" counts the test images for which both name the same class.
        """
        options = {"batch_size": self.batch, "seed": self.seed}
        jobs = {}
        for name, c in self.conditions.items():
            x, y = dataset.x_test[: c.images], dataset.y_test[: c.images]
            for who, judge in (("substitute", twin), ("defense", model)):
                jobs[f"{who}/{name}"] = functools.partial(
                    correct, judge, x, y, c.attack, source_model=twin, **options
                )

        def agreement() -> Tensor:
            with full_float32():
                return self.answers(model, x) == self.answers(twin, x)

        return jobs | {"agreement": agreement}


# AlexNet has no batch normalisation and diverges at the other's rate.
_LR = {"vgg16": 0.1, "alexnet": 0.01}
_EPOCHS = {"smoke": 1, "laptop": 15, "paper": 30}


def substitute(base: DQA, network: str) -> Substitute:
    """A substitute for one target, as wide for its kind as the target is, at its scale."""
    images = base.test_images or 10_000
    return Substitute(
        base=base,
        network=network,
        width=base.width,
        training=Settings(
            epochs=_EPOCHS[base.scale],
            optimizer="sgd",
            lr=_LR[network],
            weight_decay=5e-4,
            schedule="one_cycle",
            augment=True,
            autocast=True,
        ),
        conditions={n: Condition(attack=a, images=images) for n, a in base.attacks.items()},
        batch=base.eval_batch,
    )


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Substitute]:
    """Two substitutes for every dynamic network of Table 2, filtered as grids.grid."""
    for base in grids.grid(paper, scale, seed):
        resnet = base.dataset in ("patterns", "cifar10") and base.scale in _EPOCHS
        if resnet and getattr(base, "activation", "") == "dynamic":
            for network in NETWORKS:
                yield substitute(base, network)


def work(trial: Substitute) -> float:
    """About how many multiply-adds a substitute takes, forward and backward passes alike."""
    macs = {"vgg16": 313e6, "alexnet": 40e6}[trial.network] * (trial.width / 64) ** 2
    train = (trial.train_images or 50_000) * trial.training.epochs
    passes = sum(2 * c.images * getattr(c.attack, "steps", 1) for c in trial.conditions.values())
    return 3 * macs * (train + passes)
