"""Attacks for an attacker who knows the defence, and those that need no gradient.

Each is a frozen dataclass with `attack(model)`, which gives a function of (images, labels), like
those of reproduce.attacks; `perturb` and `evaluation.correct` take either. An image that the model
gets wrong is left as it is at that moment, so the work goes to those that still stand. One that
never falls comes back unperturbed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.attacks import check_counts, check_rule, check_sizes, margin, surrogate
from reproduce.quantizers import Backward

Loss = Literal["cross_entropy", "margin", "dlr"]
Perturb = Callable[[Tensor, Tensor], Tensor]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin over the distance of the largest to the third largest logit, (N,).

    Source: Croce and Hein 2020, Eq. 6 (the difference of logits ratio, here to be maximised).
    """
    ordered = logits.sort(1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2]).clamp(min=1e-12)


def logit_scale(logits: Tensor) -> Tensor:
    """The factor b on the logits, (N,), at which the cross-entropy bends most.

    The gradient of the cross-entropy vanishes where the softmax is saturated. Its Hessian in the
    logits, b^2 (diag p - p p^T) with p = softmax(b logits), is 0 for b = 0 and for b to infinity;
    in between lies the b at which its Frobenius norm is largest, found on a grid of 121 values from
    1e-4 to 100.

    Source: Gupta and Ajanthan 2022, Hessian norm scaling.
    """
    b = torch.logspace(-4, 2, 121, device=logits.device).view(-1, 1, 1)
    p = F.softmax(b * (logits - logits.max(1, keepdim=True).values), dim=2)
    square = p.square()
    norm = square.sum(2) - 2 * (square * p).sum(2) + square.sum(2).square()
    return b.flatten()[(b.squeeze(2).pow(4) * norm).argmax(0)]


@dataclass(frozen=True, kw_only=True)
class AdaptivePGD:
    """PGD from random starts, with the attacker's own backward rule, loss and averaging.

    Args:   eps_255, step_255: l-infinity radius and step size in grey levels (1/255). steps,
            restarts: at least 1. loss: cross_entropy, margin or dlr. backward, temperature: rule of
            the model's activation quantisers (reproduce.quantizers); None for the model's own.
            scaled: multiply the logits by `logit_scale` (PGD++). samples, noise_255: average the
            gradient over so many copies with uniform noise of this size.
    Raises: ValueError: a number outside its range, an unknown loss or rule.
    Source: Athalye et al. 2018 (backward rules, averaging); Carlini et al. 2019.
    """

    eps_255: float
    step_255: float
    steps: int
    restarts: int = 1
    loss: Loss = "cross_entropy"
    backward: Backward | None = None
    temperature: float | None = None
    scaled: bool = False
    samples: int = 1
    noise_255: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255, step_255=self.step_255, noise_255=self.noise_255)
        check_counts(steps=self.steps, restarts=self.restarts, samples=self.samples)
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss is {self.loss!r}; choose one of {', '.join(get_args(Loss))}")
        check_rule(self.backward, self.temperature)

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    def rule(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """The model with this attack's backward rule."""
        return surrogate(model, self.backward, self.temperature)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the attack maximises, (N,)."""
        if self.scaled:
            logits = logits * logit_scale(logits.detach())[:, None]
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        return {"margin": margin, "dlr": dlr}[self.loss](logits, labels)

    def gradient(self, model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The model's answer to x, (N, classes), and the gradient of the objective there."""
        grad = torch.zeros_like(x)
        for _ in range(self.samples if self.noise_255 else 1):
            near = x
            if self.noise_255:
                noise = (2 * torch.rand_like(x) - 1) * (self.noise_255 / 255)
                near = (x + noise).clamp(0, 1)
            near = near.detach().requires_grad_(True)
            logits = model(near)
            grad += torch.autograd.grad(self.objective(logits, labels).sum(), near)[0]
        if self.noise_255:
            with torch.no_grad():
                logits = model(x)
        return logits.detach(), grad

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        eps, step = self.eps_255 / 255, self.step_255 / 255
        standing = _Standing(model, images, labels)
        low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
        with self.rule(model):
            for _ in range(self.restarts):
                start = low + (high - low) * torch.rand_like(images)
                x = start[standing.index]
                for _ in range(self.steps):
                    if not len(x):
                        return standing.found
                    index = standing.index
                    logits, grad = self.gradient(model, x, labels[index])
                    keep = standing.drop(x, logits)
                    index, x, grad = index[keep], x[keep], grad[keep]
                    x = (x + step * grad.sign()).clamp(low[index], high[index])
                standing.judge(model, x)
        return standing.found


class _Standing:
    """Which images the model still gets right, and what broke the others."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.found, self.labels = images.clone(), labels
        self.index = torch.arange(len(images), device=images.device)
        if len(images):
            self.judge(model, images)

    def drop(self, x: Tensor, logits: Tensor) -> Tensor:
        """Take out those of the standing images that x breaks; (n,) bool, which stay."""
        keep = logits.argmax(1) == self.labels[self.index]
        self.found[self.index[~keep]] = x[~keep]
        self.index = self.index[keep]
        return keep

    def judge(self, model: nn.Module, x: Tensor) -> Tensor:
        if not len(x):
            return torch.ones(0, dtype=torch.bool, device=x.device)
        with torch.no_grad():
            return self.drop(x, model(x))


@dataclass(frozen=True, kw_only=True)
class NES:
    """PGD on a gradient estimated from queries: antithetic Gaussian differences of the margin.

    Args:   eps_255, step_255, sigma_255: radius, step and spread of the queries in grey levels.
            steps: at least 1. samples: queries a step, even.
    Raises: ValueError: a number outside its range.
    Source: Ilyas et al. 2018, with the margin as its loss.
    """

    eps_255: float
    step_255: float
    steps: int
    samples: int
    sigma_255: float

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255, step_255=self.step_255, sigma_255=self.sigma_255)
        check_counts(steps=self.steps)
        check_counts(2, samples=self.samples)
        if self.samples % 2:
            raise ValueError(f"samples is {self.samples!r}; it must be even")

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    @torch.no_grad()
    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        eps, step, sigma = self.eps_255 / 255, self.step_255 / 255, self.sigma_255 / 255
        standing = _Standing(model, images, labels)
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

    eps_255: float
    draws: int

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255)
        check_counts(draws=self.draws)

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    @torch.no_grad()
    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        standing = _Standing(model, images, labels)
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

    eps_255: float
    queries: int

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255)
        check_counts(queries=self.queries)

    def attack(self, model: nn.Module) -> Perturb:
        options = {"eps": self.eps_255 / 255, "n_queries": self.queries, "seed": _seed()}
        return torchattacks.Square(model, norm="Linf", **options)


def _seed() -> int:
    """For attacks that seed the generators themselves: what `attacks.seeded` has put there."""
    return torch.initial_seed() % 2**31


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The standard ensemble, by torchattacks: APGD-CE, targeted APGD-DLR and targeted FAB of 100
    steps each, and Square of 5,000 queries.

    torchattacks.AutoAttack itself gives the three that follow gradients 10 steps, and Square
    another schedule.

    Args:   eps_255: radius in grey levels. backward, temperature: as in AdaptivePGD. classes: of
            the model. steps, queries: at least 1; the standard's by default.
    Raises: ValueError: a number outside its range, an unknown rule.
    Source: Croce and Hein 2020.
    """

    eps_255: float
    backward: Backward | None = None
    temperature: float | None = None
    classes: int = 10
    steps: int = 100
    queries: int = 5_000

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255)
        check_counts(4, classes=self.classes)
        check_counts(steps=self.steps, queries=self.queries)
        check_rule(self.backward, self.temperature)

    def attack(self, model: nn.Module) -> Perturb:
        def run(images: Tensor, labels: Tensor) -> Tensor:
            options = {"norm": "Linf", "eps": self.eps_255 / 255, "seed": _seed()}
            steps = options | {"steps": self.steps}
            targets = steps | {"n_classes": self.classes}
            with surrogate(model, self.backward, self.temperature):
                members = [
                    torchattacks.APGD(model, loss="ce", **steps),
                    torchattacks.APGDT(model, **targets),
                    torchattacks.FAB(model, multi_targeted=True, **targets),
                    torchattacks.Square(
                        model, n_queries=self.queries, resc_schedule=False, **options
                    ),
                ]
                ensemble = torchattacks.MultiAttack(members)
                return ensemble(images, labels).detach()  # FAB leaves its graph on them

        return run


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

    eps_255: float
    steps: int

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255)
        check_counts(steps=self.steps)

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    def _run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        standing = _Standing(model, images, labels)
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
