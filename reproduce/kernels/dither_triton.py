"""The released Floyd-Steinberg dither as one kernel on a GPU: a thread for each plane."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# One warp a program and a plane a thread, which finds in memory what it has itself written there.
_LANES = 64 if torch.version.hip else 32


def floyd_steinberg(planes: Tensor, bits: int) -> Tensor:
    """See reproduce.dither.floyd_steinberg.

    Args:    planes: (P,H,W) uint8 on a GPU, none of these 0. bits: 1..7.
    Returns: (P,H,W) uint8.
    """
    count, height, width = planes.shape
    # Lanes side by side in memory: a warp reads one pixel of its 32 planes at a time.
    image = planes.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    with torch.cuda.device_of(image):
        grid = (triton.cdiv(count, _LANES),)
        _dither[grid](image, count, height, width, bits, lanes=_LANES, num_warps=1)
    return image.permute(2, 0, 1).contiguous()


@triton.jit
def _share(error, sixteenths):
    """error * sixteenths / 16, rounded to an integer, halves to even."""
    product = error * sixteenths
    down, rest = product >> 4, product & 15
    return down + ((rest > 8) | ((rest == 8) & ((down & 1) == 1))).to(tl.int32)


@triton.jit
def _clip(value):
    return tl.minimum(tl.maximum(value, 0), 255)


@triton.jit
def _dither(image, count, height, width, bits, lanes: tl.constexpr):
    """Dither `image`, (H,W,P) uint8, in place."""
    lane = tl.program_id(0) * lanes + tl.arange(0, lanes)
    inside = lane < count
    zero = tl.full([lanes], 0, tl.int32)
    for y in range(height):
        row = image + tl.cast(y, tl.int64) * width * count + lane
        below = row + width * count
        has_below = inside & (zero + y < height - 1)
        # On their way: the shares for the next pixel and for the one below that, and what the
        # pixel below the last one has received, but for the share that comes from its upper right.
        from_left, from_above_left, waiting = zero, zero, zero
        for x in range(width):
            old = tl.load(row + x * count, inside, other=0).to(tl.int32)
            old = _clip(old + from_left)
            level = (old >> (8 - bits)) * 255 // ((1 << bits) - 1)
            tl.store(row + x * count, level.to(tl.uint8), inside)
            error = old - level
            finished = _clip(waiting + tl.where(zero + x > 1, _share(error, 3), zero))
            tl.store(below + (x - 1) * count, finished.to(tl.uint8), has_below & (zero + x > 0))
            under = tl.load(below + x * count, has_below, other=0).to(tl.int32)
            waiting = _clip(_clip(under + from_above_left) + _share(error, 5))
            from_left, from_above_left = _share(error, 7), _share(error, 1)
        tl.store(below + (width - 1) * count, waiting.to(tl.uint8), has_below)
