"""What all attacks share: the protocol, the state of a model under attack, backward surrogates.

An attack that judges as it goes leaves an image that the model gets wrong as it is at that moment,
so the work goes to those that still stand. One that never falls comes back unperturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from reproduce.quantizers import Backward, DynamicQuantizer, FixedQuantizer, check_backward

Perturb = Callable[[Tensor, Tensor], Tensor]


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
    """Raise ValueError for a rule or a temperature that `bpda` would not take."""
    if backward is None and temperature is not None:
        raise ValueError(f"temperature is {temperature!r} without a rule; give backward as well")
    rule = "zero" if backward is None else backward
    check_backward(rule, 1.0 if temperature is None else temperature)


@contextmanager
def bpda(
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


class Attack(Protocol):
    """Settings of an attack in the l-infinity ball.

    kind: its name in records. family: what it needs of the model: "gradient", "score" (outputs),
    "decision" (the label), "noise" (nothing), or "ensemble" for several of these.
    """

    kind: ClassVar[str]
    family: ClassVar[str]
    eps_255: float

    @property
    def passes(self) -> int:
        """About how many passes, forward and mostly backward, one image takes at most."""

    def attack(self, model: nn.Module) -> Perturb:
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


class Standing:
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


def drawn_seed() -> int:
    """For attacks that seed the generators themselves: what `attacks.seeded` has put there."""
    return torch.initial_seed() % 2**31
