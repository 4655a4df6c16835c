"""Values that somebody may give in the place of a right one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch


class Thing:
    """An object of no kind that anything asks for."""

    def __repr__(self) -> str:
        return "Thing()"


PLAIN: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "digit": lambda: "3",
    "word": lambda: "no such\nthing",
    "escape": lambda: "\x1b[31m",
    "up": lambda: "../../x",
    "true": lambda: True,
    "false": lambda: False,
    "zero": lambda: 0,
    "minus": lambda: -1,
    "one": lambda: 1,
    "nine": lambda: 9,
    "huge": lambda: 10**30,
    "half": lambda: 1.5,
    "whole float": lambda: 2.0,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "minus inf": lambda: -math.inf,
    "complex": lambda: 3j,
    "bytes": lambda: b"3",
    "list": lambda: [],
    "list of one": lambda: [3],
    "tuple": lambda: (2, True),
    "dict": lambda: {},
    "set": lambda: {1},
    "numpy int": lambda: np.int64(2),
    "numpy float": lambda: np.float32(0.5),
    "numpy nan": lambda: np.float64("nan"),
    "numpy bool": lambda: np.True_,
    "numpy str": lambda: np.str_("3"),
    "array": lambda: np.array(3),
    "array 2d": lambda: np.zeros((2, 2)),
    "tensor": lambda: torch.tensor(3),
    "tensor 2d": lambda: torch.zeros(2, 2),
    "generator": lambda: (i for i in range(2)),
    "object": Thing,
    "class": lambda: Thing,
    "function": lambda: lambda x: x,
}
OBJECTS = {
    n: PLAIN[n]
    for n in ("none", "digit", "one", "nan", "true", "list", "list of one", "dict", "tensor 2d",
              "array 2d", "generator", "object", "class", "function")
}  # fmt: skip


def _images(dtype=torch.float32, shape=(4, 1, 28, 28), value=0.5) -> Callable[[], torch.Tensor]:
    return lambda: torch.full(shape, value).to(dtype)


TENSORS = OBJECTS | {
    "half": _images(torch.float16),
    "bfloat16": _images(torch.bfloat16),
    "double": _images(torch.float64),
    "int64": _images(torch.int64),
    "int32": _images(torch.int32),
    "uint8": _images(torch.uint8),
    "bool": _images(torch.bool),
    "complex": _images(torch.complex64),
    "nan": _images(value=math.nan),
    "inf": _images(value=math.inf),
    "above": _images(value=1.5),
    "below": _images(value=-0.1),
    "none of it": _images(shape=(0, 1, 28, 28)),
    "no pixels": _images(shape=(4, 1, 0, 28)),
    "one dimension": _images(shape=(4,)),
    "three dimensions": _images(shape=(1, 28, 28)),
    "five dimensions": _images(shape=(4, 1, 28, 28, 1)),
    "scalar": _images(shape=()),
    "meta": lambda: torch.zeros(4, 1, 28, 28, device="meta"),
    "sparse": lambda: torch.zeros(4, 1, 28, 28).to_sparse(),
    "array": lambda: np.zeros((4, 1, 28, 28), np.float32),
    "labels float": lambda: torch.zeros(4),
    "labels int32": lambda: torch.zeros(4, dtype=torch.int32),
    "labels column": lambda: torch.zeros(4, 1, dtype=torch.int64),
    "labels too many": lambda: torch.zeros(5, dtype=torch.int64),
    "labels too few": lambda: torch.zeros(0, dtype=torch.int64),
    "labels minus": lambda: torch.full((4,), -1),
    "labels ten": lambda: torch.full((4,), 10),
    "labels huge": lambda: torch.full((4,), 2**62),
    "labels meta": lambda: torch.zeros(4, dtype=torch.int64, device="meta"),
    "labels bool": lambda: torch.zeros(4, dtype=torch.bool),
    "labels": lambda: torch.zeros(4, dtype=torch.int64),
}
ARRAYS = OBJECTS | {
    "empty": lambda: np.zeros(0),
    "empty bool": lambda: np.zeros(0, bool),
    "scalar": lambda: np.array(1.0),
    "ints": lambda: np.arange(4),
    "floats": lambda: np.linspace(0, 1, 4),
    "nan": lambda: np.full((20, 3), np.nan),
    "two dimensions": lambda: np.zeros((4, 2), bool),
    "longer": lambda: np.zeros(5, bool),
    "objects": lambda: np.array([None, "a", 1, 2], object),
    "text": lambda: np.array(["a", "b", "c", "d"]),
    "complex": lambda: np.zeros(4, complex),
    "tensor": lambda: torch.zeros(4, dtype=torch.bool),
    "bools": lambda: np.ones(4, bool),
}
OWN = {n: OBJECTS[n] for n in ("none", "digit", "one", "object", "array 2d")}
GRIDS = {"own": OWN, "plain": PLAIN, "objects": OBJECTS, "tensors": TENSORS, "arrays": ARRAYS}
