"""Laws of ordered dithering and of Jarvis, Judice and Ninke's error diffusion."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from reproduce import dither
from reproduce.dither import bayer, jarvis_judice_ninke

BITS = range(1, 8)
each_halftone = pytest.mark.parametrize("halftone", [bayer, jarvis_judice_ninke])
each_bits = pytest.mark.parametrize("bits", BITS)

# Where the error goes, in 48ths, by (row, column) from the pixel.
SHARES = {
    (0, 1): 7, (0, 2): 5,
    (1, -2): 3, (1, -1): 5, (1, 0): 7, (1, 1): 5, (1, 2): 3,
    (2, -2): 1, (2, -1): 3, (2, 0): 5, (2, 1): 3, (2, 2): 1,
}  # fmt: skip


def levels(bits: int) -> list[int]:
    return [round(Fraction(255 * k, 2**bits - 1)) for k in range(2**bits)]


def random_images(*shape: int, seed: int = 0, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def threshold(y: int, x: int) -> Fraction:
    """From the bits of the coordinates: the lowest pair decides most."""
    m = 0
    for bit in range(3):
        a, b = x >> bit & 1, y >> bit & 1
        m += (2 * (a ^ b) + b) * 4 ** (2 - bit)
    return Fraction(2 * m + 1, 128)


def ordered(plane: list[list[int]], bits: int) -> list[list[int]]:
    output = []
    for y, row in enumerate(plane):
        output.append([])
        for x, value in enumerate(row):
            lower = max(v for v in levels(bits) if v <= value)
            upper = min(v for v in levels(bits) if v >= value)
            up = upper > lower and Fraction(value - lower, upper - lower) > threshold(y, x)
            output[-1].append(upper if up else lower)
    return output


def diffused(plane: list[list[int]], bits: int) -> list[list[int]]:
    """In exact fractions, so that no order of additions can matter."""
    running = [[Fraction(value) for value in row] for row in plane]
    for y, row in enumerate(running):
        for x, value in enumerate(row):
            row[x] = Fraction(min(levels(bits), key=lambda v: (abs(v - value), v)))
            for (dy, dx), weight in SHARES.items():
                if y + dy < len(running) and 0 <= x + dx < len(row):
                    running[y + dy][x + dx] += (value - row[x]) * weight / 48
    return [[int(value) for value in row] for row in running]


def by_hand(oracle, images: Tensor, bits: int) -> Tensor:
    planes = [oracle(plane.tolist(), bits) for plane in images.flatten(0, 1)]
    return torch.tensor(planes, dtype=torch.uint8).view(images.shape)


@each_bits
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 17), (6, 3), (1, 12)])
def test_bayer_follows_its_definition_pixel_by_pixel(bits, size):
    images = random_images(2, 2, *size, seed=bits)
    assert torch.equal(bayer(images, bits), by_hand(ordered, images, bits))


@each_bits
def test_bayer_moves_the_mean_of_a_tile_of_one_grey_by_1_128_of_the_spacing_at_most(bits):
    values = levels(bits)
    grey = torch.arange(256, dtype=torch.uint8)
    means = bayer(grey.view(-1, 1, 1, 1).expand(-1, 1, 8, 8), bits).double().mean((1, 2, 3))
    for value, mean in enumerate(means.tolist()):
        lower = max(v for v in values if v <= value)
        upper = min(v for v in values if v >= value)
        assert abs(mean - value) <= (upper - lower) / 128


@each_bits
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 6), (9, 8)])
def test_jarvis_follows_its_definition_pixel_by_pixel(bits, size):
    images = random_images(3, 1, *size, seed=10 * bits + size[1])
    assert torch.equal(jarvis_judice_ninke(images, bits), by_hand(diffused, images, bits))


@each_bits
@pytest.mark.parametrize("grey", [(96, 160), (127, 128), (128, 129)])
def test_jarvis_keeps_mean_brightness_but_for_what_leaves_the_image(bits, grey):
    side = 128
    images = random_images(1, 3, side, side, low=grey[0], high=grey[1])
    values = levels(bits)
    largest_error = max(b - a for a, b in pairwise(values)) / 2
    # What leaves from the last two rows, the last two columns and the first two columns.
    lost = sum(w * (dy + abs(dx)) for (dy, dx), w in SHARES.items()) / 48
    change = jarvis_judice_ninke(images, bits).double().mean((2, 3)) - images.double().mean((2, 3))
    assert change.abs().max() <= largest_error * lost / side


def test_a_tie_between_two_levels_goes_to_the_lower_one():
    halfway = next((a + b) // 2 for a, b in pairwise(levels(3)) if (a + b) % 2 == 0)
    image = torch.full((1, 1, 1, 1), halfway, dtype=torch.uint8)
    assert jarvis_judice_ninke(image, 3).item() == max(v for v in levels(3) if v < halfway)


@each_halftone
@each_bits
def test_only_levels_come_out_and_a_ramp_has_all_of_them(halftone, bits):
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 1, 16, 256)
    assert set(halftone(ramp, bits).flatten().tolist()) == set(levels(bits))
    assert set(halftone(random_images(4, 3, 32, 32), bits).unique().tolist()) <= set(levels(bits))


@each_halftone
@each_bits
def test_an_image_on_the_levels_comes_back_unchanged(halftone, bits):
    values = torch.tensor(levels(bits), dtype=torch.uint8)
    images = values[random_images(4, 3, 20, 20, high=2**bits).long()]
    assert torch.equal(halftone(images, bits), images)


@each_halftone
def test_memory_layout_and_threads_do_not_matter_and_the_input_is_left_alone(halftone, monkeypatch):
    images = random_images(5, 3, 8, 10)
    expected = halftone(images.clone(), 2)
    for same in (images.to(memory_format=torch.channels_last), images.mT.contiguous().mT):
        assert torch.equal(halftone(same, 2), expected)
    for threads in (1, 2, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(halftone(images, 2), expected)
    assert torch.equal(images, random_images(5, 3, 8, 10))
    assert expected.dtype == torch.uint8


@each_halftone
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_no_pixels_in_give_no_pixels_out(halftone, shape):
    assert halftone(torch.empty(shape, dtype=torch.uint8), 2).shape == shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@each_halftone
@each_bits
def test_a_gpu_gives_what_the_cpu_gives(halftone, bits):
    images = random_images(40, 3, 32, 32, seed=bits)
    on_gpu = halftone(images.cuda(), bits)
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), halftone(images, bits))


def test_the_shares_of_an_error_add_up_to_it():
    assert dither._JARVIS.sum() == pytest.approx(1)
    assert sum(SHARES.values()) == 48


@each_halftone
@pytest.mark.parametrize(
    ("images", "bits", "error", "says"),
    [
        (torch.zeros(1, 3, 4, 4), 2, TypeError, "torch.float32"),
        (np.zeros((1, 3, 4, 4), np.uint8), 2, TypeError, "ndarray"),
        (random_images(3, 4, 4), 2, ValueError, r"\(3, 4, 4\)"),
        (random_images(1, 3, 4, 4), 2.0, TypeError, "2.0"),
        (random_images(1, 3, 4, 4), 8, ValueError, "bits is 8"),
    ],
)
def test_bad_input_is_named_in_one_line(halftone, images, bits, error, says):
    with pytest.raises(error, match=says) as caught:
        halftone(images, bits)
    assert "\n" not in str(caught.value)
