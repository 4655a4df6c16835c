"""Laws of the released dither, against a loop that follows its description pixel by pixel."""

from __future__ import annotations

import importlib.util
import math
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reproduce import dither
from reproduce.dither import floyd_steinberg

BITS = range(1, 8)
SIZES = ((1, 1), (1, 2), (1, 9), (9, 1), (2, 1), (2, 2), (3, 2), (2, 3), (6, 9), (9, 5))

each_bits = pytest.mark.parametrize("bits", BITS)


def random_images(*shape: int, seed: int = 0, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def images_of_size(height: int, width: int) -> Tensor:
    """Two random images, constant ones (black, white, and between levels), and a ramp."""
    constants = torch.tensor([0, 1, 63, 100, 127, 128, 254, 255], dtype=torch.uint8)
    constants = constants.view(-1, 1, 1, 1).expand(-1, 1, height, width)
    ramp = torch.linspace(0, 255, height * width).round().to(torch.uint8)
    random = random_images(2, 1, height, width, seed=height * 100 + width)
    return torch.cat([random, constants, ramp.view(1, 1, height, width)])


def released_oracle(image: list[list[int]], bits: int) -> list[list[int]]:
    height, width = len(image), len(image[0])
    image = [list(row) for row in image]
    for y in range(height):
        for x in range(width):
            old = image[y][x]
            new = math.floor(math.floor(old / 2 ** (8 - bits)) / (2**bits - 1) * 255)
            image[y][x] = new
            for dy, dx, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if not (0 <= x + dx < width and y + dy < height):
                    continue
                if dx == -1 and not x > 1:
                    continue
                share = round(Fraction((old - new) * weight, 16))  # halves to even
                image[y + dy][x + dx] = sorted((0, image[y + dy][x + dx] + share, 255))[1]
    return image


def oracle(images: Tensor, bits: int) -> Tensor:
    planes = [released_oracle(plane.tolist(), bits) for plane in images.flatten(0, 1)]
    return torch.tensor(planes, dtype=torch.uint8).view(images.shape)


@each_bits
def test_it_follows_the_description_pixel_by_pixel(bits):
    for size in SIZES:
        images = images_of_size(*size)
        got = floyd_steinberg(images, bits)
        assert got.dtype == torch.uint8
        assert torch.equal(got, oracle(images, bits)), size


@given(
    shape=st.tuples(*(st.integers(1, bound) for bound in (3, 3, 8, 8))),
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_every_channel_of_every_image_is_dithered_alone(shape, bits, seed):
    images = random_images(*shape, seed=seed)
    assert torch.equal(floyd_steinberg(images, bits), oracle(images, bits))


def test_a_batch_is_dithered_alike_however_it_is_cut_up(monkeypatch):
    images = random_images(7, 3, 5, 6)
    expected = oracle(images, 2)
    for threads in (1, 2, 5, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(floyd_steinberg(images, 2), expected)


def test_column_1_passes_no_share_down_left():
    # Worked by hand. The error 100 at row 0, column 1 would lift 110 below it to the left by 19,
    # over the threshold 128.
    image = torch.tensor([[[[0, 100, 0], [110, 100, 120]]]], dtype=torch.uint8)
    assert floyd_steinberg(image, 1).tolist() == [[[[0, 0, 0], [0, 255, 0]]]]


@each_bits
def test_a_dithered_image_holds_only_the_levels_and_a_ramp_holds_all_of_them(bits):
    top = 2**bits - 1
    levels = {255 * k // top for k in range(top + 1)}
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 1, 16, 256)
    assert set(floyd_steinberg(ramp, bits).flatten().tolist()) == levels
    noise = floyd_steinberg(random_images(4, 3, 32, 32), bits)
    assert set(noise.flatten().tolist()) <= levels


def test_at_7_bits_no_share_of_an_error_reaches_a_whole_grey_value():
    images = torch.randint(256, (3, 3, 20, 20), generator=torch.Generator().manual_seed(0)).byte()
    levels = (images.int() >> 1) * 255 // 127
    assert torch.equal(floyd_steinberg(images, 7).int(), levels)
    levels = (images.int() >> 2) * 255 // 63
    assert not torch.equal(floyd_steinberg(images, 6).int(), levels)


@each_bits
def test_an_image_at_the_released_levels_is_a_fixed_point(bits):
    top = 2**bits - 1
    levels = torch.tensor([255 * k // top for k in range(top + 1)], dtype=torch.uint8)
    images = levels[random_images(4, 3, 20, 20, high=top + 1).long()]
    assert torch.equal(floyd_steinberg(images, bits), images)


def test_memory_layout_does_not_matter_and_the_input_is_left_alone():
    plain = random_images(4, 3, 8, 10)
    expected = oracle(plain, 3)
    by_columns = plain.mT.contiguous().mT
    every_other = torch.stack([plain, plain.flip(3)], dim=1).flatten(0, 1)[::2]
    for images in (plain, plain.to(memory_format=torch.channels_last), by_columns, every_other):
        assert torch.equal(floyd_steinberg(images, 3), expected)
        assert torch.equal(images, plain)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_no_pixels_in_give_no_pixels_out(shape):
    images = torch.empty(shape, dtype=torch.uint8)
    assert floyd_steinberg(images, 2).shape == shape


def test_a_failure_in_a_thread_is_not_lost(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(dither, "_compile", lambda *_: fail)
    with pytest.raises(MemoryError):
        floyd_steinberg(random_images(2, 3, 5, 4), 2)


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def interpreted(monkeypatch) -> types.ModuleType:
    """The GPU's kernel, run by Triton's interpreter on tensors of the CPU."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = Path(dither.__file__).with_name("kernels") / "dither_triton.py"
    spec = importlib.util.spec_from_file_location("interpreted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_bits
def test_the_gpu_kernel_gives_what_the_loop_gives(interpreted, bits):
    for height, width in ((1, 1), (1, 9), (9, 1), (2, 2), (3, 2), (2, 3), (5, 6)):
        images = images_of_size(height, width)
        got = interpreted.floyd_steinberg(images.flatten(0, 1), bits)
        assert torch.equal(got.view(images.shape), oracle(images, bits))
    planes = random_images(35, 6, 6, seed=bits)  # more than one warp
    planes = torch.where(planes % 3 == 0, planes, 255 * (planes % 2))  # sums that must be clipped
    before = planes.clone()
    got = interpreted.floyd_steinberg(planes, bits)
    assert torch.equal(got, floyd_steinberg(planes[:, None], bits)[:, 0])
    assert got.is_contiguous() and torch.equal(planes, before)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # there is no float in it
@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("known", [{}, {"bits": 1}], ids=["any", "1 bit"])  # as it is specialised
def test_the_gpu_kernel_compiles_where_there_is_no_gpu(capability, known):
    triton = pytest.importorskip("triton")
    from reproduce.kernels import dither_triton

    known = {"lanes": 32, **known}
    kinds = {"image": "*u8", **dict.fromkeys(("count", "height", "width", "bits"), "i32")}
    kinds |= dict.fromkeys(known, "constexpr")
    source = triton.compiler.ASTSource(dither_triton._dither, kinds, known)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 1})
    assert compiled.asm["cubin"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_the_gpu_kernel_does_not_run_this_is_said_and_the_cpu_takes_over():
    dither._gpu_kernel.cache_clear()
    with pytest.warns(UserWarning, match="Triton fails here .*dithered on the CPU"):
        assert dither._gpu_kernel() is None
    dither._gpu_kernel.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@each_bits
def test_a_gpu_gives_what_the_cpu_gives(bits):
    images = random_images(400, 3, 32, 32, seed=bits)
    on_gpu = floyd_steinberg(images.cuda(), bits)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), floyd_steinberg(images, bits))


FILL = "void(uint8[:,:,::1], uint8[::1])"
PLANES = np.zeros((1, 2, 2), np.uint8)


def test_a_kernel_is_compiled_where_numba_finds_no_place_for_its_cache():
    namespace: dict[str, Callable] = {}
    exec("def fill(planes, table):\n    planes[:] = table[0]", namespace)  # of no file
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(namespace["fill"])
    planes = PLANES.copy()
    dither._compile(namespace["fill"], FILL)(planes, np.array([7], np.uint8))
    assert (planes == 7).all()


def test_a_kernel_is_compiled_where_the_disk_is_full(monkeypatch):
    def njit(*args, cache=False, real=numba.njit, **options):
        if cache:
            raise OSError("No space left on device")
        return real(*args, **options)

    def fill(planes, table):
        planes[:] = table[0]

    monkeypatch.setattr(numba, "njit", njit)
    planes = PLANES.copy()
    dither._compile(fill, FILL)(planes, np.array([7], np.uint8))
    assert (planes == 7).all()


@pytest.mark.parametrize(
    ("images", "bits", "error", "says"),
    [
        (torch.zeros(1, 3, 4, 4), 2, TypeError, "torch.float32"),
        (np.zeros((1, 3, 4, 4), np.uint8), 2, TypeError, "ndarray"),
        (random_images(3, 4, 4), 2, ValueError, r"\(3, 4, 4\)"),
        (random_images(1, 1, 3, 4, 4), 2, ValueError, r"\(1, 1, 3, 4, 4\)"),
        (random_images(1, 3, 4, 4), 2.0, TypeError, "2.0"),
        (random_images(1, 3, 4, 4), True, TypeError, "bits is True"),
        (random_images(1, 3, 4, 4), "2", TypeError, "bits is '2'"),
        (random_images(1, 3, 4, 4), 0, ValueError, "bits is 0"),
        (
            random_images(1, 3, 4, 4),
            8,
            ValueError,
            r"bits is 8; it must be a whole number in 1\.\.7",
        ),
        (random_images(0, 3, 4, 4), 8, ValueError, "bits is 8"),
    ],
)
def test_bad_input_is_named_in_one_line(images, bits, error, says):
    with pytest.raises(error, match=says) as caught:
        floyd_steinberg(images, bits)
    assert "\n" not in str(caught.value)
