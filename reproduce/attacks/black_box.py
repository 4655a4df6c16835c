"""Attacks that see the model's outputs alone: their values, or nothing but the label.

Each is a frozen dataclass with `attack(model)`, which gives a function of (images, labels); see
reproduce.attacks.base.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torchattacks
from torch import Tensor, nn

from reproduce.attacks.base import (
    Perturb,
    Standing,
    drawn_seed,
    margin,
)
from reproduce.checks import number, settle, whole


@dataclass(frozen=True, kw_only=True)
class NES:
    """PGD on a gradient estimated from queries: antithetic Gaussian differences of the margin.

    Args:   eps_255, step_255, sigma_255: radius, step and spread of the queries in grey levels.
            steps: at least 1. samples: queries a step, even.
    Raises: ValueError: a number outside its range.
    Source: Ilyas et al. 2018, with the margin as its loss.
    """

    kind: ClassVar[str] = "nes"
    family: ClassVar[str] = "score"

    eps_255: float
    step_255: float
    steps: int
    samples: int
    sigma_255: float

    def __post_init__(self) -> None:
        settle(self, number, "eps_255", "step_255", "sigma_255")
        settle(self, whole, "steps", least=1)
        settle(self, whole, "samples", least=2)
        if self.samples % 2:
            raise ValueError(f"samples is {self.samples!r}; it must be even")

    @property
    def passes(self) -> int:
        return self.steps * self.samples

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    @torch.no_grad()
    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        eps, step, sigma = self.eps_255 / 255, self.step_255 / 255, self.sigma_255 / 255
        standing = Standing(model, images, labels)
        low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
        x = images[standing.index]
        for _ in range(self.steps):
            if not len(x):
                break
            y = labels[standing.index]
            grad = torch.zeros_like(x)
            for _ in range(self.samples // 2):
                u = torch.randn_like(x)
                up, down = ((x + s * sigma * u).clamp(0, 1) for s in (1, -1))
                change = margin(model(up), y) - margin(model(down), y)
                grad += change.view(-1, 1, 1, 1) * u
            index = standing.index
            x = (x + step * grad.sign()).clamp(low[index], high[index])
            x = x[standing.judge(model, x)]
        return standing.found


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Uniform random noise, the first draw that the model gets wrong.

    Args:   eps_255: radius in grey levels. draws: at least 1.
    Raises: ValueError: a number outside its range.
    """

    kind: ClassVar[str] = "noise"
    family: ClassVar[str] = "noise"

    eps_255: float
    draws: int

    def __post_init__(self) -> None:
        settle(self, number, "eps_255")
        settle(self, whole, "draws", least=1)

    @property
    def passes(self) -> int:
        return self.draws

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    @torch.no_grad()
    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        standing = Standing(model, images, labels)
        for _ in range(self.draws):
            x = images[standing.index]
            noise = (2 * torch.rand_like(x) - 1) * (self.eps_255 / 255)
            standing.judge(model, (x + noise).clamp(0, 1))
        return standing.found


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search with square patches, by torchattacks.

    Args:   eps_255: radius in grey levels. queries: at least 1.
    Raises: ValueError: a number outside its range.
    Source: Andriushchenko et al. 2020.
    """

    kind: ClassVar[str] = "square"
    family: ClassVar[str] = "score"

    eps_255: float
    queries: int

    def __post_init__(self) -> None:
        settle(self, number, "eps_255")
        settle(self, whole, "queries", least=1)

    @property
    def passes(self) -> int:
        return self.queries

    def attack(self, model: nn.Module) -> Perturb:
        options = {"eps": self.eps_255 / 255, "n_queries": self.queries, "seed": drawn_seed()}
        return torchattacks.Square(model, norm="Linf", **options)


_WALKERS = 100  # images at a time: foolbox holds hundreds of copies of each


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """A walk along the decision boundary that sees nothing but labels, by foolbox.

    Each image starts from another image of the batch that the model takes for another class.

    Args:   eps_255: radius in grey levels; what ends outside it counts as no success. steps: at
            least 1.
    Raises: ValueError: a number outside its range.
    Source: Chen et al. 2020.
    """

    kind: ClassVar[str] = "hopskipjump"
    family: ClassVar[str] = "decision"

    eps_255: float
    steps: int

    def __post_init__(self) -> None:
        settle(self, number, "eps_255")
        settle(self, whole, "steps", least=1)

    @property
    def passes(self) -> int:
        return round(sum(100 * (step + 1) ** 0.5 for step in range(self.steps)))  # its estimates

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        standing = Standing(model, images, labels)
        with torch.no_grad():
            says = model(images).argmax(1)
        other = says[None] != labels[standing.index][:, None]
        can = other.any(1)  # a model that gives one answer to every image has no boundary
        if not can.any():
            return standing.found
        starts = other.int().argmax(1)
        with quiet_foolbox() as foolbox:
            walk = foolbox.attacks.HopSkipJumpAttack(steps=self.steps, constraint="linf")
            target = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
            for part in can.nonzero().squeeze(1).split(_WALKERS):
                index, start = standing.index[part], images[starts[part]]
                with torch.no_grad():  # rounding in a smaller batch may have tipped an answer
                    still = model(start).argmax(1) != labels[index]
                if still.any():
                    index, start = index[still], start[still]
                    x = walk.run(target, images[index], labels[index], starting_points=start)
                    near = (x - images[index]).abs().flatten(1).amax(1) <= self.eps_255 / 255
                    with torch.no_grad():
                        wrong = near & (model(x).argmax(1) != labels[index])
                    standing.found[index[wrong]] = x[wrong]
        return standing.found


@contextlib.contextmanager
def quiet_foolbox() -> Iterator:
    """The library foolbox, imported without its complaints."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # it wants a git program at once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports scipy by an old name
        import foolbox

        yield foolbox
