"""Halftones: Floyd-Steinberg dithering as the second paper's released code does it, ordered
dithering, and the error diffusion of Jarvis, Judice and Ninke.

All but the ordered one are compiled loops on the CPU, to which images on other devices come and go
back. For the first, which training waits for, GPUs have a kernel as well (kernels.dither_triton).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from reproduce.checks import check_values, whole


def floyd_steinberg(images: Tensor, bits: int) -> Tensor:
    """Dither 8-bit images to 2**bits levels, each channel alone, in raster order.

    On integers: a pixel becomes floor(floor(old / 2**(8-b)) / (2**b - 1) * 255). Its error goes
    right (7/16), down-left (3/16, not from columns 0 and 1), down (5/16) and down-right (1/16);
    each share is rounded to an integer, halves to even, and each sum clipped to 0..255. An image
    that holds only these levels comes back unchanged.

    Args:    images: (N,C,H,W) uint8, any device. bits: 1..7.
    Returns: (N,C,H,W) uint8 on the same device, the same values on every device.
    Raises:  TypeError: images not a uint8 tensor, or bits not an int.
             ValueError: images not 4-dimensional, bits outside 1..7.
    Source:  Double quantization, sections III and IV; Floyd and Steinberg, An adaptive algorithm
             for spatial greyscale, Proceedings of the SID 17(2), 1976.

    >>> floyd_steinberg(torch.full((1, 1, 2, 4), 100, dtype=torch.uint8), bits=1).tolist()
    [[[[0, 255, 0, 0], [255, 0, 255, 0]]]]
    """
    _check(images, bits)
    if not images.numel():
        return images.clone()
    planes = images.flatten(0, 1)
    kernel = _gpu_kernel() if images.is_cuda else None
    if kernel is not None:
        return kernel(planes, bits).view(images.shape)
    compiled = _compile(_floyd_steinberg_kernel, "void(uint8[:,:,::1], int16[:,::1])")
    dithered = _in_threads(compiled, planes.cpu(), _shares(bits))
    return dithered.view(images.shape).to(images.device)


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

    >>> bayer(torch.full((1, 1, 2, 4), 100, dtype=torch.uint8), bits=1).tolist()
    [[[[255, 0, 255, 0], [0, 255, 0, 255]]]]
    """
    _check(images, bits)
    height, width = images.shape[-2:]
    matrix = np.zeros((1, 1), np.int64)
    for _ in range(3):
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    tiled = np.tile(matrix, (-(-height // 8), -(-width // 8)))[:height, :width]
    levels = _levels(bits).astype(np.int64)
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

    >>> jarvis_judice_ninke(torch.full((1, 1, 2, 4), 100, dtype=torch.uint8), bits=1).tolist()
    [[[[0, 0, 0, 255], [255, 0, 255, 0]]]]
    """
    _check(images, bits)
    levels = _levels(bits).astype(np.int64)
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
    check_values("images", images)
    whole("bits", bits, 1, 7)  # 8-bit images have nothing to dither


def _shares(bits: int) -> np.ndarray:
    """(5,256) int16: a value's level, then the shares of its error (right, d-left, d, d-right)."""
    old = np.arange(256)
    level = np.floor(np.floor(old / 2 ** (8 - bits)) / (2**bits - 1) * 255)
    shares = [np.rint((old - level) * weight / 16) for weight in (7, 3, 5, 1)]
    return np.stack([level, *shares]).astype(np.int16)


def _levels(bits: int) -> np.ndarray:
    """(2**bits) uint8: the 8-bit value of each level. None lies halfway between two integers."""
    top = 2**bits - 1
    return np.rint(np.arange(top + 1) * 255 / top).astype(np.uint8)


@functools.cache
def _gpu_kernel() -> Callable[[Tensor, int], Tensor] | None:
    """What dithers planes (P,H,W) on a GPU; None, and a warning, where it does not run."""
    try:
        from reproduce.kernels import dither_triton  # PyTorch's builds for GPUs alone bring Triton

        ramp = torch.arange(1200, device="cuda").mul(7).byte().view(40, 5, 6)
        dither_triton.floyd_steinberg(ramp, 2).cpu()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton raises what it likes, as where there is no C compiler
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Triton fails here ({type(error).__name__}: {reason}); images are dithered on the CPU",
            stacklevel=3,
        )
        return None
    return dither_triton.floyd_steinberg


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
    import numba  # takes a while, and is not needed where a GPU dithers

    try:
        return numba.njit(signature, nogil=True, cache=True)(kernel)
    except (RuntimeError, OSError):  # no writable directory, or a full one
        return numba.njit(signature, nogil=True)(kernel)


def _floyd_steinberg_kernel(planes: np.ndarray, table: np.ndarray) -> None:
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
