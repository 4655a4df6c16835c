"""Attacks that follow a gradient: FGSM, PGD, PGD for an attacker who knows the defence, AutoAttack.

Each is a frozen dataclass with `attack(model)`, which gives a function of (images, labels); see
reproduce.attacks.base.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.attacks.base import (
    Perturb,
    Standing,
    bpda,
    check_rule,
    drawn_seed,
    margin,
)
from reproduce.checks import choice, flag, number, settle, whole
from reproduce.quantizers import Backward

Loss = Literal["cross_entropy", "margin", "dlr"]
File = Literal["uint8"]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin over the distance of the largest to the third largest logit, (N,).

    Raises: ValueError: fewer than 3 classes.
    Source: Croce and Hein 2020, Eq. 6 (the difference of logits ratio, here to be maximised).
    """
    if logits.shape[1] < 3:
        raise ValueError(f"dlr takes 3 classes or more; the model has {logits.shape[1]}")
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


@dataclass(frozen=True)
class FGSM:
    """One step of size eps along the sign of the gradient.

    Args:   eps_255: l-infinity radius in grey levels (1/255).
    Raises: ValueError: a negative or infinite radius.
    Source: Goodfellow et al. 2015; Double quantization, Eq. 1.
    """

    kind: ClassVar[str] = "fgsm"
    family: ClassVar[str] = "gradient"

    eps_255: float

    def __post_init__(self) -> None:
        settle(self, number, "eps_255")

    @property
    def passes(self) -> int:
        return 1

    def attack(self, model: nn.Module) -> torchattacks.attack.Attack:
        return torchattacks.FGSM(model, eps=self.eps_255 / 255)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in the l-infinity ball, on the cross-entropy.

    Args:   eps_255, step_255: radius and step size in grey levels (1/255). steps: at least 1.
            random_start: start at a uniform point of the ball. backward, temperature: what it takes
            for the quantisers' derivative (see bpda); None for the network's own rule.
    Raises: ValueError: a negative or infinite radius or step, steps below 1, an unknown rule.
    Source: Madry et al. 2018; DQA, section 3.2; Double quantization, Eq. 2.
    """

    kind: ClassVar[str] = "pgd"
    family: ClassVar[str] = "gradient"

    eps_255: float
    step_255: float
    steps: int
    random_start: bool = True
    backward: Backward | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        settle(self, number, "eps_255", "step_255")
        settle(self, whole, "steps", least=1)
        settle(self, flag, "random_start")
        check_rule(self.backward, self.temperature)

    @property
    def passes(self) -> int:
        return self.steps

    def attack(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        pgd = torchattacks.PGD(
            model,
            eps=self.eps_255 / 255,
            alpha=self.step_255 / 255,
            steps=self.steps,
            random_start=self.random_start,
        )

        def run(images: Tensor, labels: Tensor) -> Tensor:
            with bpda(model, self.backward, self.temperature):
                return pgd(images, labels)

        return run


@dataclass(frozen=True, kw_only=True)
class AdaptivePGD:
    """PGD from random starts, with the attacker's own backward rule, loss and averaging.

    Args:   eps_255, step_255: l-infinity radius and step size in grey levels (1/255). steps,
            restarts: at least 1. loss: cross_entropy, margin or dlr. backward, temperature: rule of
            the model's activation quantisers (reproduce.quantizers); None for the model's own.
            scaled: multiply the logits by `logit_scale` (PGD++). samples, noise_255: average the
            gradient over so many copies with uniform noise of this size. file: "uint8" for images
            that a file can hold: the model is asked about whole grey values in every step, and they
            are what comes back; the images attacked must be such values, too.
    Raises: ValueError: a number outside its range, an unknown loss or rule.
    Source: Athalye et al. 2018 (backward rules, averaging); Carlini et al. 2019.

    >>> AdaptivePGD(eps_255=8, step_255=2, steps=20, restarts=5).passes >= 100
    True
    """

    kind: ClassVar[str] = "adaptive-pgd"
    family: ClassVar[str] = "gradient"

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
    file: File | None = None

    def __post_init__(self) -> None:
        settle(self, number, "eps_255", "step_255", "noise_255")
        settle(self, whole, "steps", "restarts", "samples", least=1)
        settle(self, choice, "loss", allowed=Loss)
        settle(self, flag, "scaled")
        settle(self, choice, "file", allowed=File, optional=True)
        check_rule(self.backward, self.temperature)

    @property
    def passes(self) -> int:
        return self.steps * self.restarts * self.samples

    def attack(self, model: nn.Module) -> Perturb:
        return functools.partial(self._run, model)

    def rule(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """The model with this attack's backward rule."""
        return bpda(model, self.backward, self.temperature)

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
        step = self.step_255 / 255
        standing = Standing(model, images, labels)
        low, high = self.ball(images)
        with self.rule(model):
            for _ in range(self.restarts):
                start = low + (high - low) * torch.rand_like(images)
                x = start[standing.index]
                for _ in range(self.steps):
                    if not len(x):
                        return standing.found
                    index, sent = standing.index, self.sent(x)
                    logits, grad = self.gradient(model, sent, labels[index])
                    keep = standing.drop(sent, logits)
                    index, x, grad = index[keep], x[keep], grad[keep]
                    x = (x + step * grad.sign()).clamp(low[index], high[index])
                standing.judge(model, self.sent(x))
        return standing.found

    def ball(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value of each pixel, as far as a file can hold them."""
        eps_255 = self.eps_255
        if self.file is not None:
            eps_255 = math.floor(eps_255)
            off = (255 * images - (255 * images).round()).abs().max().item() if len(images) else 0
            if off > 1e-3:
                raise ValueError(
                    f"images are up to {off:g} grey levels off whole ones; "
                    'with file="uint8" they must be such as a file can hold'
                )
        return (images - eps_255 / 255).clamp(0, 1), (images + eps_255 / 255).clamp(0, 1)

    def sent(self, x: Tensor) -> Tensor:
        """What the model gets of x: itself, or what a file would hold of it.

        The walk goes on from x: a step of less than half a grey level would never leave its value.
        """
        return x if self.file is None else (255 * x).round() / 255


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

    kind: ClassVar[str] = "autoattack"
    family: ClassVar[str] = "ensemble"

    eps_255: float
    backward: Backward | None = None
    temperature: float | None = None
    classes: int = 10
    steps: int = 100
    queries: int = 5_000

    def __post_init__(self) -> None:
        settle(self, number, "eps_255")
        settle(self, whole, "classes", least=4)
        settle(self, whole, "steps", "queries", least=1)
        check_rule(self.backward, self.temperature)

    @property
    def passes(self) -> int:
        return 4 * self.classes * self.steps + self.queries  # two members try every class

    def attack(self, model: nn.Module) -> Perturb:
        def run(images: Tensor, labels: Tensor) -> Tensor:
            options = {"norm": "Linf", "eps": self.eps_255 / 255, "seed": drawn_seed()}
            steps = options | {"steps": self.steps}
            targets = steps | {"n_classes": self.classes}
            with torch.no_grad():
                classes = model(images[:1]).shape[1]
            if classes < self.classes:
                raise ValueError(f"classes is {self.classes}; the model has {classes}")
            with bpda(model, self.backward, self.temperature):
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
