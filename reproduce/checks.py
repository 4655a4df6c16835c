"""What an argument may be: each check gives it back as plain Python, or names what is wrong.

A value of another kind is a TypeError, one out of range a ValueError: one line each, with the
argument's name, the value, and what is allowed. NumPy's scalars are numbers; True is none.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from torch import Tensor

LAST_SEED = 2**63 - 1


def shown(value: object) -> str:
    """A value in one short line."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(name: str, value: int, least: int | None = None, most: int | None = None) -> int:
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
    name: str, value: float, low: float = 0.0, high: float = math.inf, *, inside: bool = False
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


def seed(name: str, value: int) -> int:
    """A seed of torch's generators."""
    return whole(name, value, 0, LAST_SEED)


def flag(name: str, value: bool) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)


def choice(name: str, value: str, allowed: object) -> str:
    """One of the values of a Literal."""
    names = get_args(allowed)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} is {shown(value)}; choose one of {', '.join(names)}")
    return value


def settle(settings: object, check, *names: str, **limits) -> None:
    """Check these fields of a frozen dataclass, and put what the check gives into them."""
    for name in names:
        object.__setattr__(settings, name, check(name, getattr(settings, name), **limits))
