"""Halftones: Floyd-Steinberg dithering as the second paper's released code does it and as the
textbook does, ordered dithering, and the error diffusion of Jarvis, Judice and Ninke.

Each variant of Floyd-Steinberg exists twice, bit for bit the same: a compiled loop for the CPU, and
for any other device a wavefront that handles all pixels of an anti-diagonal, of all images, at
once. Both hold the running values in the image that they are given and add the shares that reach a
pixel in the same order: from above left, above, above right, left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numba
import numpy as np
import torch
from torch import Tensor

Variant = Literal["released", "textbook"]

# Planes (one channel of one image) that the wavefront takes at once: bounds its memory to about
# 1 GB for 32x32 images in float64.
_PLANES = 2**15


def floyd_steinberg(images: Tensor, bits: int, variant: Variant = "released") -> Tensor:
    """Dither 8-bit images to 2**bits levels, each channel alone, in raster order.

    "released": integers. A pixel becomes floor(floor(old / 2**(8-b)) / (2**b - 1) * 255). Its
    error goes right (7/16), down-left (3/16, not from columns 0 and 1), down (5/16) and down-right
    (1/16); each share is rounded to an integer, halves to even, and each sum clipped to 0..255.
    An image that holds only these levels comes back unchanged.

    "textbook": float64. A pixel becomes the nearest of the levels 255 k / (2**b - 1), of two as
    near the one with even k. Its exact error goes to the same four neighbours, from every column;
    nothing is rounded or clipped on the way. The output is the level rounded to an integer.

    Args:    images: (N,C,H,W) uint8, any device (textbook: one with float64). bits: 1..7.
    Returns: (N,C,H,W) uint8 on the same device, the same values on every device.
    Raises:  TypeError: images not a uint8 tensor, or bits not an int.
             ValueError: images not 4-dimensional, bits outside 1..7, or an unknown variant.
    Source:  Double quantization, sections III and IV; Floyd and Steinberg, An adaptive algorithm
             for spatial greyscale, Proceedings of the SID 17(2), 1976.
    """
    _check(images, bits)
    if variant not in get_args(Variant):
        raise ValueError(f"variant is {variant!r}; give one of {', '.join(get_args(Variant))}")
    planes = images.flatten(0, 1)
    if images.device.type == "cpu":
        dithered = _dither_on_cpu(planes, bits, variant)
    else:
        dithered = _dither_by_wavefront(planes, bits, variant)
    return dithered.view(images.shape)


def bayer(images: Tensor, bits: int) -> Tensor:
    """Ordered dithering to 2**bits levels by Bayer's 8x8 thresholds: each pixel alone.

    The levels are 255 k / (2**bits - 1), rounded to whole grey values. A pixel that lies a share s
    of the way from one level to the next becomes the upper one where s > (m + 1/2) / 64, m being
    the entry 0..63 of Bayer's matrix at its place; the matrix is repeated over the image. An image
    that holds only the levels comes back unchanged. Over 8x8 pixels of one grey value the mean
    moves by 1/128 of the distance between its two levels at most.

    Args:    images: (N,C,H,W) uint8, any device. bits: 1..7.
    Returns: (N,C,H,W) uint8 on the same device.
    Raises:  TypeError, ValueError: as floyd_steinberg, for images and bits.
    Source:  Bayer, An optimum method for two-level rendition of continuous-tone pictures, IEEE
             International Conference on Communications, 1973.
    """
    _check(images, bits)
    height, width = images.shape[-2:]
    matrix = np.zeros((1, 1), np.int64)
    for _ in range(3):
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    tiled = np.tile(matrix, (-(-height // 8), -(-width // 8)))[:height, :width]
    levels = _textbook_table(bits).astype(np.int64)
    grey, m = np.arange(256)[:, None], np.arange(64)
    k = (np.searchsorted(levels, grey, side="right") - 1).clip(max=len(levels) - 2)
    lower, upper = levels[k], levels[k + 1]
    output = np.where(128 * (grey - lower) > (2 * m + 1) * (upper - lower), upper, lower)
    table = torch.from_numpy(output.astype(np.uint8)).to(images.device)
    return table[images.int(), torch.from_numpy(tiled).to(images.device)]


def jarvis_judice_ninke(images: Tensor, bits: int) -> Tensor:
    """Error diffusion to twelve neighbours: smoother than Floyd-Steinberg, with longer shadows.

    In float64 and raster order, each channel alone. A pixel becomes the nearest of the levels
    255 k / (2**bits - 1), rounded to whole grey values; of two as near, the lower. Its error, the
    difference to that whole value, goes in 48ths to the pixels

                    *  7  5
              3  5  7  5  3
              1  3  5  3  1

    and what would leave the image is lost; nothing is rounded or clipped on the way. An image that
    holds only the levels comes back unchanged.

    Args:    images: (N,C,H,W) uint8, any device; the work is done on the CPU. bits: 1..7.
    Returns: (N,C,H,W) uint8 on the same device.
    Raises:  TypeError, ValueError: as floyd_steinberg, for images and bits.
    Source:  Jarvis, Judice and Ninke, A survey of techniques for the display of continuous tone
             pictures on bilevel displays, Computer Graphics and Image Processing 5(1), 1976.
    """
    _check(images, bits)
    levels = _textbook_table(bits).astype(np.int64)
    # Entry j: the level of the values in ((j - 1) / 2, j / 2]. Twice a midpoint is whole.
    nearest = levels[np.searchsorted(levels[:-1] + levels[1:], np.arange(511))]
    kernel = _compile(_jarvis_kernel, "void(uint8[:,:,::1], uint8[::1])")
    planes = _in_threads(kernel, images.cpu().flatten(0, 1), nearest.astype(np.uint8))
    return planes.view(images.shape).to(images.device)


def _check(images: Tensor, bits: int) -> None:
    got = images.dtype if isinstance(images, Tensor) else type(images).__name__
    if got != torch.uint8:
        raise TypeError(f"images is {got}; give a torch.uint8 tensor with values 0..255")
    if images.ndim != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; give four dimensions, (N,C,H,W)")
    if not isinstance(bits, int):
        raise TypeError(f"bits is {bits!r}; give an int from 1 to 7")
    if not 1 <= bits <= 7:
        raise ValueError(f"bits is {bits}; give 1 to 7 (8-bit images have nothing to dither)")


def _released_table(bits: int) -> np.ndarray:
    """(5,256) int16: a value's level, then the shares of its error (right, d-left, d, d-right)."""
    old = np.arange(256)
    level = np.floor(np.floor(old / 2 ** (8 - bits)) / (2**bits - 1) * 255)
    shares = [np.rint((old - level) * weight / 16) for weight in (7, 3, 5, 1)]
    return np.stack([level, *shares]).astype(np.int16)


def _textbook_table(bits: int) -> np.ndarray:
    """(2**bits) uint8: the 8-bit value of each level. None lies halfway between two integers."""
    top = 2**bits - 1
    return np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8)


# ---- CPU ------------------------------------------------------------------------------------


def _dither_on_cpu(planes: Tensor, bits: int, variant: Variant) -> Tensor:
    if variant == "released":
        kernel = _compile(_released_kernel, "void(uint8[:,:,::1], int16[:,::1])")
        table = _released_table(bits)
    else:
        kernel = _compile(_textbook_kernel, "void(uint8[:,:,::1], uint8[::1])")
        table = _textbook_table(bits)
    return _in_threads(kernel, planes, table)


def _in_threads(kernel: Callable[..., None], planes: Tensor, table: np.ndarray) -> Tensor:
    """What `kernel` makes of a copy of `planes`, on as many threads as torch uses."""
    dithered = planes.clone(memory_format=torch.contiguous_format)
    # Threads of our own, not numba's: its OpenMP layer kills a process that forks afterwards, as
    # a DataLoader does, and its fallback layer one that calls it from two threads.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(kernel, part.numpy(), table) for part in dithered.chunk(threads)]
    for part in parts:
        part.result()
    return dithered


@functools.cache
def _compile(kernel: Callable[..., None], signature: str) -> Callable[..., None]:
    """Compile `kernel`, through numba's cache on disk where there is a place to write one."""
    try:
        return numba.njit(signature, nogil=True, cache=True)(kernel)
    except (RuntimeError, OSError):  # no writable directory, or a full one
        return numba.njit(signature, nogil=True)(kernel)


def _released_kernel(planes: np.ndarray, table: np.ndarray) -> None:
    """Dither `planes`, (P,H,W), in place: a clipped running value always fits its pixel."""
    _, height, width = planes.shape
    spare = np.zeros(width, np.uint8)
    for plane in planes:
        for y in range(height):
            row = plane[y]
            below = plane[y + 1] if y + 1 < height else spare
            from_left = from_above_left = 0
            for x in range(width):
                # In a register, not in the image: what comes from the left is all that each
                # pixel waits for.
                old = np.uint8(min(max(row[x] + from_left, 0), 255))
                row[x] = table[0, old]
                from_left = table[1, old]
                if x > 1:
                    below[x - 1] = min(max(below[x - 1] + table[2, old], 0), 255)
                kept = min(max(below[x] + from_above_left, 0), 255)
                below[x] = min(max(kept + table[3, old], 0), 255)
                from_above_left = table[4, old]


def _textbook_kernel(planes: np.ndarray, table: np.ndarray) -> None:
    """Dither `planes`, (P,H,W), in place.

    Values are held in units of 1/(2**b - 1) of a grey level: the levels are then the integers
    255 k, and the error of a level is exact.
    """
    count, height, width = planes.shape
    top = len(table) - 1
    # 16 planes side by side: a pixel waits for its left neighbour, its lanes for nothing. Around
    # them a border that no pixel reads: a column left and right, a row below.
    running = np.zeros((height + 1, width + 2, 16))
    for start in range(0, count, 16):
        group = planes[start : start + 16]
        for y in range(height):
            for x in range(width):
                for lane in range(len(group)):
                    running[y, x + 1, lane] = group[lane, y, x] * top
        for y in range(height):
            for x in range(width):
                here, right = running[y, x + 1], running[y, x + 2]
                down_left, down = running[y + 1, x], running[y + 1, x + 1]
                down_right = running[y + 1, x + 2]
                for lane in range(16):
                    # Half a level above white would round to a level that does not exist.
                    level = min(np.rint(here[lane] / 255), top)
                    error = here[lane] - 255 * level
                    here[lane] = level
                    right[lane] += error * (7 / 16)
                    down_left[lane] += error * (3 / 16)
                    down[lane] += error * (5 / 16)
                    down_right[lane] += error * (1 / 16)
        for y in range(height):
            for x in range(width):
                for lane in range(len(group)):
                    group[lane, y, x] = table[int(running[y, x + 1, lane])]


_JARVIS = np.array([[0, 0, 0, 7, 5], [3, 5, 7, 5, 3], [1, 3, 5, 3, 1]]) / 48


def _jarvis_kernel(planes: np.ndarray, nearest: np.ndarray) -> None:
    """Dither `planes`, (P,H,W), in place."""
    _, height, width = planes.shape
    for plane in planes:
        # A border that no pixel reads: two columns left and right, two rows below.
        running = np.zeros((height + 2, width + 4))
        running[:height, 2 : width + 2] = plane
        for y in range(height):
            for x in range(width):
                value = running[y, x + 2]
                level = nearest[min(max(int(np.ceil(2 * value)), 0), 510)]
                plane[y, x] = level
                error = value - level
                for dy in range(3):
                    for dx in range(5):
                        running[y + dy, x + dx] += error * _JARVIS[dy, dx]


# ---- any device ---------------------------------------------------------------------------------


def _dither_by_wavefront(planes: Tensor, bits: int, variant: Variant) -> Tensor:
    wavefront = _released_wavefront if variant == "released" else _textbook_wavefront
    return torch.cat([wavefront(part, bits) for part in planes.split(_PLANES)])


def _skew(planes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lay `planes`, (P,H,W), out so that pixels which do not depend on each other are contiguous.

    Pixel (y, x) waits for pixels of diagonals t-1, t-2 and t-3 where t = x + 2y, and for no other.

    Returns: (T,H+1,P), diagonal by diagonal, row y in column y; and its (H,W,P) view as an image.
             A share that falls off the image lands in a cell of the first that is none of the
             second.
    """
    count, height, width = planes.shape
    diagonals, rows = width + 2 * height + 1, height + 1
    skewed = torch.zeros((diagonals, rows, count), dtype=dtype, device=planes.device)
    strides = ((2 * rows + 1) * count, rows * count, 1)
    image = skewed.as_strided((height, width, count), strides)
    image.copy_(planes.permute(1, 2, 0))
    return skewed, image


def _rows_of(diagonal: int, height: int, width: int) -> tuple[int, int]:
    """First row that a diagonal crosses, and the one after the last."""
    return max(0, (diagonal - width + 2) // 2), min(height, diagonal // 2 + 1)


def _released_wavefront(planes: Tensor, bits: int) -> Tensor:
    _, height, width = planes.shape
    table = torch.from_numpy(_released_table(bits)).to(planes.device)
    skewed, image = _skew(planes, torch.int16)
    for t in range(width + 2 * height - 2):
        first, end = _rows_of(t, height, width)
        # From this row on x is 0 or 1: no share goes down-left from there.
        inner = t // 2
        values = skewed[t, first:end]
        level, right, down_left, down, down_right = table[:, values.int()]
        values.copy_(level)
        # Down-left before right: of two sources on a diagonal, the upper comes first in the raster.
        for share, target in (
            (down_left[: inner - first], skewed[t + 1, first + 1 : inner + 1]),
            (right, skewed[t + 1, first:end]),
            (down, skewed[t + 2, first + 1 : end + 1]),
            (down_right, skewed[t + 3, first + 1 : end + 1]),
        ):
            target.add_(share).clamp_(0, 255)
    return image.permute(2, 0, 1).to(torch.uint8, memory_format=torch.contiguous_format)


def _textbook_wavefront(planes: Tensor, bits: int) -> Tensor:
    """The arithmetic of `_textbook_kernel`, operation by operation."""
    _, height, width = planes.shape
    table = torch.from_numpy(_textbook_table(bits)).to(planes.device)
    top = len(table) - 1
    # On the device: a GPU divides by a number of the host by multiplying with its reciprocal.
    spacing = torch.tensor(255.0, dtype=torch.float64, device=planes.device)
    skewed, image = _skew(planes, torch.float64)
    image.mul_(top)
    for t in range(width + 2 * height - 2):
        first, end = _rows_of(t, height, width)
        values = skewed[t, first:end]
        level = (values / spacing).round_().clamp_(max=top)
        error = values - level * 255
        values.copy_(level)
        # Products of their own: add_ with a factor would fuse them into the sum on a GPU.
        skewed[t + 1, first + 1 : end + 1] += error * (3 / 16)
        skewed[t + 1, first:end] += error * (7 / 16)
        skewed[t + 2, first + 1 : end + 1] += error * (5 / 16)
        skewed[t + 3, first + 1 : end + 1] += error * (1 / 16)
    return table[image.permute(2, 0, 1).int()]
