"""Attack settings, run by torchattacks, and the backward surrogates that they may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torchattacks
from torch import Tensor, nn

from reproduce.quantizers import Backward, DynamicQuantizer, FixedQuantizer, check_backward


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which torchattacks and dropout use, and put them back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def weights_fixed(model: nn.Module) -> Iterator[None]:
    """No gradient is computed for the weights: a third of each attack step's work."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32: its 11 bits move an image over a step, and swallow the differences of queries."""
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = False
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def check_rule(backward: Backward | None, temperature: float | None) -> None:
    """Raise ValueError for a rule or a temperature that `surrogate` would not take."""
    if backward is None and temperature is not None:
        raise ValueError(f"temperature is {temperature!r} without a rule; give backward as well")
    rule = "zero" if backward is None else backward
    check_backward(rule, 1.0 if temperature is None else temperature)


@contextmanager
def surrogate(
    model: nn.Module, backward: Backward | None, temperature: float | None = None
) -> Iterator[None]:
    """Give every activation quantiser of `model` another backward rule for a while.

    The forward pass stays the hard quantiser: this is the BPDA of Athalye et al. 2018.

    Args:   backward, temperature: see reproduce.quantizers; without a rule the model keeps its own.
    Raises: ValueError: an unknown rule, a temperature that is not a positive number or has no rule.
    """
    check_rule(backward, temperature)
    kinds = FixedQuantizer | DynamicQuantizer
    layers = [m for m in model.modules() if backward is not None and isinstance(m, kinds)]
    before = [(m, m.backward, m.temperature) for m in layers]
    try:
        for m in layers:
            m.set_backward(backward, 1.0 if temperature is None else temperature)
        yield
    finally:
        for m, *rule in before:
            m.set_backward(*rule)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit less the right one, (N,): above 0 where the model errs.

    Source: Carlini and Wagner 2017, f_6.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - right


def check_sizes(**values: float) -> None:
    """Raise ValueError unless each is a finite number, at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value!r}; it must be a finite number, at least 0")


def check_counts(least: int = 1, **values: int) -> None:
    """Raise ValueError unless each is a whole number, at least `least`."""
    for name, value in values.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")


@dataclass(frozen=True)
class FGSM:
    """One step of size eps along the sign of the gradient.

    Args:   eps_255: l-infinity radius in grey levels (1/255).
    Raises: ValueError: a negative or infinite radius.
    Source: Goodfellow et al. 2015; Double quantization, Eq. 1.
    """

    eps_255: float

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255)

    def attack(self, model: nn.Module) -> torchattacks.attack.Attack:
        return torchattacks.FGSM(model, eps=self.eps_255 / 255)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in the l-infinity ball, on the cross-entropy.

    Args:   eps_255, step_255: radius and step size in grey levels (1/255). steps: at least 1.
            random_start: start at a uniform point of the ball. backward, temperature: what it takes
            for the quantisers' derivative (see surrogate); None for the network's own rule.
    Raises: ValueError: a negative or infinite radius or step, steps below 1, an unknown rule.
    Source: Madry et al. 2018; DQA, section 3.2; Double quantization, Eq. 2.
    """

    eps_255: float
    step_255: float
    steps: int
    random_start: bool = True
    backward: Backward | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_sizes(eps_255=self.eps_255, step_255=self.step_255)
        check_counts(steps=self.steps)
        check_rule(self.backward, self.temperature)

    def attack(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        pgd = torchattacks.PGD(
            model,
            eps=self.eps_255 / 255,
            alpha=self.step_255 / 255,
            steps=self.steps,
            random_start=self.random_start,
        )

        def run(images: Tensor, labels: Tensor) -> Tensor:
            with surrogate(model, self.backward, self.temperature):
                return pgd(images, labels)

        return run


class Attack(Protocol):
    """Settings of an attack, here or in reproduce.adaptive."""

    eps_255: float

    def attack(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """From images (N, C, H, W) in [0, 1] and labels (N,) to adversarial examples."""


def check_images(images: Tensor) -> None:
    """Raise TypeError unless `images` are float32, ValueError unless they lie in [0, 1]."""
    if images.dtype != torch.float32:
        raise TypeError(f"images are {images.dtype}; attacks take float32 in [0, 1]")
    if images.numel():
        low, high = (v.item() for v in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images hold values from {low} to {high}; they must lie in [0, 1]")


def perturb(model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Adversarial examples for `images`, with `model` in eval mode while they are made.

    Args:    images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64. seed: of the random start.
    Returns: (N, C, H, W) float32 in [0, 1], within eps of `images`.
    Raises:  TypeError: images are not float32. ValueError: a value outside [0, 1] or NaN.
    """
    check_images(images)
    was_training = model.training
    model.eval()
    try:
        with (
            weights_fixed(model),
            seeded(seed, images.device),
            full_float32(),
            torch.enable_grad(),
        ):
            return attack.attack(model)(images, labels)
    finally:
        model.train(was_training)
