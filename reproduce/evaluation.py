"""Accuracy of a model on clean and attacked images, and how sure one can be of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import NormalDist

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from reproduce.attacks import Attack, full_float32, perturb
from reproduce.attacks.base import answers_watched, check_model, eval_mode
from reproduce.checks import check_floats, check_module, check_uint8, of_kind, shown, whole
from reproduce.checks import number as check_number
from reproduce.checks import seed as check_seed
from reproduce.data import to_float

Seeded = Callable[[Tensor, Tensor, int], Tensor]  # (images, labels, seed) -> adversarial images


def batch_seed(seed: int, number: int) -> int:
    """The attack's seed for batch 0, 1, ... of an evaluation."""
    seed, number = check_seed("seed", seed), whole("number", number, 0)
    return (seed * 1_000_003 + number) % 2**63


def correct(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack | None = None,
    *,
    batch_size: int,
    seed: int = 0,
    source_model: nn.Module | None = None,
) -> Tensor:
    """Which images the model classifies correctly, in float32 and eval mode.

    The attack sees `source_model`, by default the model itself, which judges what it made. A filter
    that the attack does not know of is a model nn.Sequential(filter, source_model).

    Args:    images: (N, C, H, W) uint8, or float32 in [0, 1]. labels: (N,) int64. attack: None for
             clean images. batch_size: images are taken in this many at a time, in their order.
             seed: of the attack's random starts.
    Returns: (N,) bool on the CPU.
    Raises:  TypeError, ValueError: images and labels that are none, or not one each, labels that
             are no classes of the model, a bad batch_size or seed, an attack that left its ball, or
             [0, 1]. FloatingPointError: a logit is NaN or infinite. After any of these, or an
             interruption, the model is as it was.
    """
    as_floats = isinstance(images, Tensor) and images.is_floating_point()
    if as_floats and (not images.ndim or len(images)):
        check_floats(images, labels)
    else:
        check_uint8(images, labels)
    batch_size, seed = whole("batch_size", batch_size, 1), check_seed("seed", seed)
    check_module("model", model)
    device = next((p.device for p in model.parameters()), images.device)
    check_model(model, device)
    source_model = model if source_model is None else source_model
    check_module("source_model", source_model)
    reach = min(1.0, getattr(attack, "eps_255", 255) / 255)

    def run(x: Tensor, y: Tensor, drawn: int) -> Tensor:
        return x if attack is None else perturb(source_model, attack, x, y, drawn)

    def prepared(x: Tensor) -> Tensor:
        return x.to(device) if as_floats else to_float(x.to(device))

    hits = []
    with eval_mode(model), full_float32():
        parts = (
            (prepared(x), y.to(device), s) for x, y, s in batches(images, labels, batch_size, seed)
        )
        for x, y in adversarial(str(attack), run, parts, reach):
            with torch.no_grad(), answers_watched(model, y):
                hits.append((model(x).argmax(1) == y).cpu())
    return torch.cat(hits)


def adversarial(
    name: str, run: Seeded, parts: Iterable[tuple[Tensor, Tensor, int]], eps: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """What an attack makes of each batch: the one loop of `correct` and `audit`.

    Args:   run: (images in [0, 1], labels, seed) to images. parts: as of `batches`. eps: in [0, 1]
            units.
    Returns: of each batch (adversarial images, labels), made when it is asked for.
    Raises: TypeError, ValueError: arguments of another kind, an attack that left the
            ball of radius `eps`, or [0, 1].
    """
    of_kind("name", name, str)
    if not callable(run):
        raise TypeError(f"run is {shown(run)}; give a function of images, labels and a seed")
    eps = check_number("eps", eps, 0, 1)
    return ((_checked(name, run(x, y, drawn), x, eps), y) for x, y, drawn in parts)


def batches(
    images: Tensor, labels: Tensor, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Images and labels, so many at a time and in their order, and the attack's seed for them."""
    size = min(batch_size, max(1, len(images)))  # torch takes no size beyond 64 bits
    parts = zip(images.split(size), labels.split(size), strict=True)
    for number, (x, y) in enumerate(parts):
        yield x, y, batch_seed(seed, number)


def _checked(name: str, made: Tensor, clean: Tensor, eps: float) -> Tensor:
    """What an attack made of images (N, C, H, W) in [0, 1]. Raises: ValueError: it is no such
    images, or left the ball of radius `eps`, or [0, 1]."""
    if not isinstance(made, Tensor) or made.shape != clean.shape or made.dtype != clean.dtype:
        shape = f"float32 of shape {tuple(clean.shape)}"
        got = (
            f"{made.dtype} of shape {tuple(made.shape)}"
            if isinstance(made, Tensor)
            else shown(made)
        )
        raise ValueError(f"{name} made {got}; it must be {shape}")
    made = made.detach().to(clean.device)
    far, low, high = (made - clean).abs().max().item(), made.min().item(), made.max().item()
    if not (far <= eps + 1e-5 and low >= 0 and high <= 1):  # nor NaN
        raise ValueError(
            f"{name} went {255 * far:.4g}/255 from the images, to values in "
            f"[{low:g}, {high:g}]; allowed are {255 * eps:.4g}/255 and [0, 1]"
        )
    return made


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Args:    correct: 0..total. total: at least 1. confidence: strictly between 0 and 1.
    Returns: (low, high), both in [0, 1].
    Raises:  TypeError: counts that are no whole numbers. ValueError: outside these ranges.
    Source:  Wilson 1927.
    """
    total = whole("total", whole("total", total, 1), 1, 2**53)
    correct = whole("correct", correct, 0, total)
    check_number("confidence", confidence, 0, 1, inside=True)
    interval = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """By how many points one share exceeds another on the same images, and the margin (95 %).

    Args:    one, other: (N,) bool, at least one image.
    Returns: (difference, margin) in percentage points; the margin is normal, from the variance of
             the paired differences.
    Raises:  TypeError: no bools. ValueError: as many of both not given, or none.
    Source:  McNemar 1947 (the difference hangs on the discordant pairs alone).
    """
    for name, bits in (("one", one), ("other", other)):
        if not isinstance(bits, np.ndarray) or bits.dtype != bool or bits.ndim != 1:
            raise TypeError(f"{name} is {shown(bits)}; give bool, one an image, in an array")
    if one.shape != other.shape or not len(one):
        raise ValueError(f"{len(one)} and {len(other)} images; give the same ones, at least 1")
    gained = one.astype(float) - other
    z = NormalDist().inv_cdf(0.975)
    return 100 * float(gained.mean()), 100 * z * float(gained.std()) / len(gained) ** 0.5
