"""What all attacks share: the protocol, the state of a model under attack, backward surrogates.

An attack that judges as it goes leaves an image that the model gets wrong as it is at that moment,
so the work goes to those that still stand. One that never falls comes back unperturbed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from reproduce.checks import check_floats, check_module, kind, of_kind, shown
from reproduce.checks import seed as check_seed
from reproduce.quantizers import Backward, DynamicQuantizer, FixedQuantizer, check_backward

Perturb = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which torchattacks and dropout use, and put them back."""
    seed = check_seed("seed", seed)
    of_kind("device", device, torch.device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def afterwards(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore` at the end, and again: an interruption may come in the middle of the first."""
    try:
        try:
            yield
        finally:
            restore()
    finally:
        restore()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """All of `model` in eval mode; afterwards each module is in its own mode again."""
    before = [(m, m.training) for m in model.modules()]

    def restore() -> None:
        for m, mode in before:
            m.training = mode

    with afterwards(restore):
        model.eval()
        yield


@contextmanager
def weights_fixed(model: nn.Module) -> Iterator[None]:
    """No gradient is computed for the weights: a third of each attack step's work."""
    trainable = [p for p in model.parameters() if p.requires_grad]

    def restore() -> None:
        for p in trainable:
            p.requires_grad_(True)

    with afterwards(restore):
        for p in trainable:
            p.requires_grad_(False)
        yield


def _precisions() -> list[tuple[object, str, object]]:
    """Every switch of float32's precision, with its value for all 24 bits."""
    b = torch.backends
    if hasattr(b.cuda.matmul, "fp32_precision"):  # PyTorch refuses a mixture with the old ones
        parts = {b.cuda: ["matmul"], b.cudnn: ["conv", "rnn"], b.mkldnn: ["matmul", "conv"]}
        owned = [getattr(owner, name) for owner, names in parts.items() for name in names]
        return [(part, "fp32_precision", "ieee") for part in owned]
    return [(part, "allow_tf32", False) for part in (b.cudnn, b.cuda.matmul)]


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32: its 11 bits move an image over a step, and swallow the differences of queries."""
    switches = _precisions()
    before = [(part, name, getattr(part, name)) for part, name, _ in switches]

    def restore() -> None:
        for switch in before:
            setattr(*switch)

    with afterwards(restore):
        for switch in switches:
            setattr(*switch)
        yield


@contextmanager
def answers_watched(model: nn.Module, labels: Tensor) -> Iterator[None]:
    """Whatever asks `model` meanwhile, its answers must be finite and know every label.

    Raises: FloatingPointError: a logit is NaN or infinite. ValueError: a label that is no class of
            the model, or answers that are not (N, at least 2).
    """
    most = labels.max().item() if len(labels) else 0
    finite = torch.ones((), dtype=torch.bool, device=labels.device)

    def look(_module: nn.Module, _args: object, logits: Tensor) -> None:
        nonlocal finite
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"the model gives {tuple(logits.shape)}; it must be (N, 2 or more)")
        if most >= logits.shape[1]:
            raise ValueError(f"a label is {most}; the model knows 0..{logits.shape[1] - 1}")
        finite = finite & logits.detach().isfinite().all()
        if logits.device.type == "cpu":  # a GPU is not waited for until the end
            check()

    def check() -> None:
        if not finite:
            raise FloatingPointError("the model's logits are NaN or infinite; it judges nothing")

    def forget() -> None:  # needs no handle, which an interruption might keep from being stored
        for key in [k for k, hook in model._forward_hooks.items() if hook is look]:
            del model._forward_hooks[key]

    with afterwards(forget):
        model.register_forward_hook(look)
        try:
            yield
        except (RuntimeError, ValueError, IndexError):  # in a library perhaps, that met a NaN
            check()
            raise
        check()


def check_model(model: nn.Module, device: torch.device) -> None:
    """Raise TypeError unless the weights are float32, ValueError unless they are on `device`."""
    check_module("model", model)
    for p in model.parameters():
        if p.is_floating_point() and p.dtype != torch.float32:
            raise TypeError(f"the model's weights are {p.dtype}; give model.float()")
        if p.device != device:
            raise ValueError(f"images are on {device}, the model on {p.device}; move either")
        if p.is_inference():
            raise ValueError("the model was made in inference_mode and has no gradient")


@contextmanager
def under_attack(
    model: nn.Module, images: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """`model` as attacks see it, whatever its own state and the caller's; all is put back.

    In eval mode and full float32, its weights fixed, its answers watched, gradients on.

    Args:   images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64, classes of the model.
    Yields: both without a history.
    Raises: TypeError, ValueError: images, labels or weights that are none of this.
            FloatingPointError: see answers_watched.
    """
    check_floats(images, labels)
    check_model(model, images.device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which turns gradients on
        if images.is_inference() or labels.is_inference():
            images, labels = images.clone(), labels.clone()
        for state in (eval_mode(model), weights_fixed(model), full_float32()):
            stack.enter_context(state)
        stack.enter_context(answers_watched(model, labels))
        yield images.detach(), labels


def check_rule(backward: Backward | None, temperature: float | None) -> None:
    """Raise ValueError for a rule or a temperature that `bpda` would not take."""
    if backward is None and temperature is not None:
        raise ValueError(
            f"temperature is {shown(temperature)} without a rule; give backward as well"
        )
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

    >>> from reproduce.quantizers import FixedQuantizer
    >>> layer = FixedQuantizer(bits=1)
    >>> with bpda(layer, "sigmoid", temperature=5):
    ...     print(layer)
    FixedQuantizer(bits=1, backward='sigmoid')
    >>> layer
    FixedQuantizer(bits=1, backward='straight_through')
    """
    check_rule(backward, temperature)
    if backward is None:
        yield
        return
    layers = [m for m in model.modules() if isinstance(m, FixedQuantizer | DynamicQuantizer)]
    before = [(m, m.backward, m.temperature) for m in layers]

    def restore() -> None:
        for m, own, at in before:
            m.set_backward(own, at)

    with afterwards(restore):
        for m in layers:
            m.set_backward(backward, 1.0 if temperature is None else temperature)
        yield


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit less the right one, (N,): above 0 where the model errs.

    Source: Carlini and Wagner 2017, f_6.

    >>> margin(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0])).tolist()
    [-2.0, 2.0]
    """
    for name, tensor, dimensions in (("logits", logits, 2), ("labels", labels, 1)):
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions:
            raise TypeError(f"{name} are {kind(tensor)}; give logits (N, K) and labels (N,)")
    if logits.device != labels.device or len(logits) != len(labels) or labels.dtype != torch.int64:
        raise ValueError(f"labels are {kind(labels)}; give int64, one for each of {len(logits)}")
    right = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - right


class Attack(Protocol):
    """Settings of an attack in the l-infinity ball.

    kind: its name in records. family: what it needs of the model: "gradient", "score" (outputs),
    "decision" (the label), "noise" (nothing), or "ensemble" for several of these.
    """

    kind: ClassVar[str]
    family: ClassVar[str]

    @property
    def eps_255(self) -> float:
        """Its radius, in grey levels of 255."""

    @property
    def passes(self) -> int:
        """About how many passes, forward and mostly backward, one image takes at most."""

    def attack(self, model: nn.Module) -> Perturb:
        """From images (N, C, H, W) in [0, 1] and labels (N,) to adversarial examples."""


def perturb(model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Adversarial examples for `images`, with `model` in eval mode while they are made.

    Args:    images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64. seed: of the random start.
    Returns: (N, C, H, W) float32 in [0, 1], within eps of `images`, without a graph.
    Raises:  TypeError, ValueError, FloatingPointError: as under_attack; a seed that torch does not
             take.

    >>> from reproduce.attacks import PGD
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])
    >>> adversarial = perturb(model, PGD(eps_255=8, step_255=2, steps=7), images, labels, seed=0)
    >>> round(255 * (adversarial - images).abs().max().item(), 3)
    8.0
    """
    seed = check_seed("seed", seed)
    if isinstance(attack, type) or not hasattr(attack, "attack"):
        raise TypeError(f"attack is {shown(attack)}; give one of reproduce.attacks.KINDS")
    with under_attack(model, images, labels) as (images, labels):
        with seeded(seed, images.device):
            return attack.attack(model)(images, labels).detach()


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
