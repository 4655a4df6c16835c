"""What an argument may be: each check gives it back as plain Python, or names what is wrong.

A value of another kind is a TypeError, one out of range a ValueError: one line each, with the
argument's name, the value, and what is allowed. NumPy's scalars are numbers; True is none.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

LAST_SEED = 2**63 - 1


def shown(value: object) -> str:
    """A value in one short line."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """A whole number from `least` to `most`, both included."""
    limits = f", at least {least}" if least is not None else ""
    limits = f" in {least}..{most}" if most is not None else limits
    says = f"{name} is {shown(value)}; it must be a whole number{limits}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(says)
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(says)
    return int(value)


def number(
    name: str, value: object, low: float = 0.0, high: float = math.inf, *, inside: bool = False
) -> float:
    """A finite number from `low` to `high`; these themselves unless it must lie `inside`."""
    if high == math.inf:
        limits = "a finite number" + (f" above {low:g}" if inside else f", at least {low:g}")
    else:
        limits = f"a number between {low:g} and {high:g}" if inside else f"in [{low:g}, {high:g}]"
    says = f"{name} is {shown(value)}; it must be {limits}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(says)
    try:
        size = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        raise ValueError(says) from None
    if not (low < size < high if inside else low <= size <= high) or math.isinf(size):
        raise ValueError(says)
    return value.item() if isinstance(value, np.generic) else value


def seed(name: str, value: object) -> int:
    """A seed of torch's generators."""
    return whole(name, value, 0, LAST_SEED)


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)


def choice(name: str, value: object, allowed: object, *, optional: bool = False) -> str | None:
    """One of the values of a Literal, or None where the choice is `optional`."""
    names = get_args(allowed)
    if (optional and value is None) or (isinstance(value, str) and value in names):
        return value
    ending = " or None" if optional else ""
    raise ValueError(f"{name} is {shown(value)}; choose one of {', '.join(names)}{ending}")


def settle(settings: object, check: Callable[..., object], *names: str, **limits: object) -> None:
    """Check these fields of a frozen dataclass, and put what the check gives into them."""
    for name in names:
        object.__setattr__(settings, name, check(name, getattr(settings, name), **limits))


def check_text(name: str, value: str) -> str:
    """A text in one line, at least one character long."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}; it must be a text")
    if not value or not value.isprintable():
        raise ValueError(f"{name} is {shown(value)}; it must be a text of one line, not empty")
    return str(value)


def of_kind(name: str, value: object, kinds: type | tuple[type, ...]) -> None:
    """Raise TypeError unless a value is of one of these classes."""
    if not isinstance(value, kinds):
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        allowed = " or ".join(k.__name__ for k in kinds)
        raise TypeError(f"{name} is {shown(value)}; give a {allowed}")


def check_fields(settings: Any) -> None:
    """Hold each field of a frozen dataclass to its annotation, and put plain Python into it.

    Whole numbers are counts here: at least 0. Of other classes no more is asked than to be one, of
    a protocol than to have its method.
    """
    for name, optional, check in _field_checks(cast(Hashable, type(settings))):
        value = getattr(settings, name)
        if value is not None or not optional:
            plain = check(name, value)
            if plain is not value:
                object.__setattr__(settings, name, plain)


@functools.cache
def _field_checks(kind: Any) -> list[tuple[str, bool, Callable[[str, object], object]]]:
    hints = get_type_hints(kind)
    found = []
    for name in (f.name for f in fields(kind)):
        union = get_origin(hints[name]) in (Union, types.UnionType)
        options = get_args(hints[name]) if union else (hints[name],)
        kinds = tuple(o for o in options if o is not types.NoneType)
        found.append((name, types.NoneType in options, _check_for(kinds)))
    return found


def _check_for(kinds: tuple) -> Callable[[str, object], object]:
    first = kinds[0]
    simple: dict[object, Callable] = {
        int: functools.partial(whole, least=0),
        float: number,
        bool: flag,
        str: check_text,
    }
    if first in simple:
        return simple[first]
    if get_origin(first) is Literal:
        return functools.partial(choice, allowed=first)
    if getattr(first, "_is_protocol", False):
        return _attack
    classes = tuple(get_origin(k) or k for k in kinds)

    def check(name: str, value: object) -> object:
        of_kind(name, value, classes)
        return value

    return check


def _attack(name: str, value: object) -> object:
    if isinstance(value, type) or not hasattr(value, "attack"):
        raise TypeError(f"{name} is {shown(value)}; give an attack, such as PGD")
    return value


def check_module(name: str, model: nn.Module) -> None:
    """Raise TypeError unless it is a network, ValueError if it is on no device that computes."""
    of_kind(name, model, nn.Module)
    if any(p.device.type == "meta" for p in model.parameters()):
        raise ValueError(f"{name} is on the device meta, which computes nothing; load it")


def check_values(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor holds its values one by one, on a device that computes."""
    if tensor.device.type == "meta" or tensor.layout != torch.strided:
        where = "the device meta" if tensor.device.type == "meta" else f"layout {tensor.layout}"
        raise ValueError(f"{name}: a tensor of {where} has no values to work on; give a dense one")


def check_uint8(images: Tensor, labels: Tensor) -> None:
    """Images as they are stored, (N, C, H, W) uint8, and a label (N,) int64 from 0 on for each."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images are {kind(images)}; they must be uint8 (N, C, H, W)")
    check_values("images", images)
    check_labels(images, labels)
    if not len(images):
        raise ValueError("0 images and 0 labels; give at least one")


def check_floats(images: Tensor, labels: Tensor) -> None:
    """Images as networks see them, (N, C, H, W) float32 in [0, 1], and a label for each."""
    check_images(images)
    if images.ndim != 4:
        raise ValueError(f"images are {kind(images)}; they must be (N, C, H, W)")
    check_labels(images, labels)
    if images.device != labels.device:
        raise ValueError(f"images are on {images.device}, labels on {labels.device}; move either")


def check_images(images: Tensor) -> None:
    """Raise TypeError unless `images` are float32, ValueError unless they lie in [0, 1]."""
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        raise TypeError(f"images are {kind(images)}; they must be float32 in [0, 1]")
    check_values("images", images)
    if images.ndim and len(images) and not images.numel():
        raise ValueError(f"images are {kind(images)}; they have no pixels")
    if images.numel():
        low, high = torch.stack(images.detach().aminmax()).tolist()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images hold values from {low} to {high}; they must lie in [0, 1]")


def check_floating(x: Tensor, limits: str = "") -> None:
    """Raise TypeError unless x is a tensor of real floating point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {kind(x)}; it must be a floating point tensor{limits}")
    check_values("x", x)


def check_labels(images: Tensor, labels: Tensor) -> None:
    """One label (N,) int64, at least 0, for each image."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels are {kind(labels)}; they must be int64 (N,)")
    check_values("labels", labels)
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{len(images)} images and labels of shape {tuple(labels.shape)}; give one label each"
        )
    if len(labels) and (least := labels.min().item()) < 0:
        raise ValueError(f"a label is {least}; labels are classes, from 0 on")


def kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}"
