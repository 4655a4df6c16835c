"""Elementwise functions in one pass over memory, compiled where it pays and a compiler is there."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch._dynamo
from torch import Tensor

# A process may meet each function at 3 depths, in 2 dtypes, under 4 rules; beyond the default of 8
# variants PyTorch goes back to single operations without a word. The configuration is each
# thread's own where torch.compile takes the limit itself, and a GPU's backward pass has its own.
_LIMIT: dict[str, Any] = {"recompile_limit": 64}
if "recompile_limit" not in inspect.signature(torch.compile).parameters:
    torch._dynamo.config.recompile_limit = _LIMIT.pop("recompile_limit")

Out = TypeVar("Out")  # a Tensor, or several
LARGE = 2**15  # elements; below, compiling takes longer than it saves, but on a GPU launches count


_eager: set[str] = set()  # devices on which compiling has failed


def _give_up(device: str, error: Exception) -> None:
    """Compile no more for a device, and say so."""
    _eager.add(device)
    reason = str(error).strip().partition("\n")[0]
    warnings.warn(
        f"torch.compile fails on {device} ({type(error).__name__}: {reason}); "
        "quantised activations and the pooling of LeNet run several times slower",
        stacklevel=4,
    )


@functools.cache
def _compiles(device: str) -> bool:
    """Whether torch.compile works here for a device; if not, say so once."""
    try:
        torch.compile(lambda x: x + 1, dynamic=True)(torch.zeros(2, device=device))
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # of this moment, not of this machine
        raise
    except Exception as error:  # the back ends raise what they like: no C++ compiler, no Triton
        _give_up(device, error)
        return False
    return True


def fused(function: Callable[..., Out]) -> Callable[..., Out]:
    """`function`, compiled for large float32 and half-precision tensors, and for all on a GPU.

    Both ways give the same up to rounding. PyTorch otherwise goes through memory once for every
    operation, of which a staircase of 8 levels has more than 50.

    Args: function: of a Tensor, whose size and dtype decide, and whatever else; differentiation is
          up to the caller.
    """
    compiled = functools.cache(lambda: torch.compile(function, dynamic=True, **_LIMIT))

    @functools.wraps(function)
    def call(x: Tensor, *args: object) -> Out:
        kind = x.device.type
        small = x.numel() < LARGE and kind != "cuda"
        if small or x.dtype == torch.float64 or kind in _eager or not _compiles(kind):
            return function(x, *args)
        try:
            with torch.autocast(kind, enabled=False):  # else compiled once more within it
                return compiled()(x, *args)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # the disk is full by now, or the compiler gone
            result = function(x, *args)  # raises what is the arguments' own fault
            _give_up(kind, error)
            return result

    return call
