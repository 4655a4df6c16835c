"""What a campaign counts, and how a call that met a wrong value is judged."""

from __future__ import annotations

import collections
import contextlib
import itertools
import linecache
import re
import signal
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import reproduce

PACKAGE = str(Path(reproduce.__file__).resolve().parent)
OUTCOMES = ("refused", "accepted", "unclear", "wrong", "deep", "hung")
COUNTS: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
FAULTS: dict[str, list[str]] = collections.defaultdict(list)
LIMIT_S = 30  # compiling a dither takes ten


class Hung(BaseException):
    """A call that did not come back."""


@contextlib.contextmanager
def patience(seconds: int = LIMIT_S) -> Iterator[None]:
    """Raise Hung after so many seconds."""

    def stop(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shown(value: object) -> str:
    """A value in a few words, for the names of calls."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    return " ".join(repr(value).split())[:40]


def used(result: object) -> object:
    """Do with a result what a caller does: enter a context, read the start of an iterator."""
    if hasattr(result, "__enter__") and hasattr(result, "gen"):
        with result:
            return None
    if isinstance(result, types.GeneratorType):
        return list(itertools.islice(result, 3))
    return result


def names(message: str, name: str, value: object) -> bool:
    """Whether a message says which argument is wrong, or shows its value."""
    if re.search(rf"\b{re.escape(name)}\b", message):
        return True
    text = " ".join(str(value).split())
    return bool(text) and not isinstance(value, type(None)) and text[:20] in message


def judge(call: Callable[[], object], name: str, value: object, right: bool) -> tuple[str, str]:
    """(outcome, what was said) of a call that was given a value for the argument `name`.

    right: whether the value is allowed there after all, by an oracle that is not the code's.
    """
    try:
        with patience():
            used(call())
    except Hung:
        return "hung", ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        trace = error.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        file = trace.tb_frame.f_code.co_filename
        inside = file.startswith(PACKAGE)
        own = inside and linecache.getline(file, trace.tb_lineno).strip().startswith("raise")
        short = "\n" not in str(error) and len(str(error)) < 500
        if short and (own or names(str(error), name, value)):
            return "refused", said
        return ("unclear" if inside else "deep"), said
    return ("accepted", "") if right else ("wrong", "it was taken")


def count(group: str, what: str, outcome: str, said: str = "") -> None:
    """Add a call to the figures, and to the list of faults if it is one."""
    COUNTS[group][outcome] += 1
    if outcome in ("unclear", "wrong", "deep", "hung"):
        FAULTS[group].append(f"{outcome}: {' '.join(what.split())}: {' '.join(said.split())[:150]}")
