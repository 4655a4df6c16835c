from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce import data
from reproduce.papers.double import KINDS, kind_name, quantised
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import filter_radius

every_kind = pytest.mark.parametrize(("bits", "dithered"), KINDS, ids=lambda v: str(v))


def patterns(n: int = 6) -> torch.Tensor:
    return data.load("patterns").x_test[:n]


def levels(bits: int) -> torch.Tensor:
    """An image of every level, as it is sent: at the level itself, in float32."""
    return (torch.arange(2**bits) / (2**bits - 1)).view(1, 1, 1, -1)


@every_kind
def test_on_8_bit_images_it_does_what_the_model_was_trained_on(bits, dithered):
    x = patterns()
    sent = data.to_float(x)
    assert torch.equal(DoubleQuantizer(bits, dithered)(sent), quantised(x, bits, dithered))


@every_kind
@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_it_gives_levels_and_passes_the_gradient_on_as_it_is(bits, dithered, rounding):
    x = data.to_float(patterns(2)).requires_grad_()
    out = DoubleQuantizer(bits, dithered, rounding)(x)
    assert out.dtype == torch.float32 and out.shape == x.shape
    k = out.detach() * (2**bits - 1)
    assert torch.allclose(k, k.round(), atol=1e-4) and out.min() >= 0 and out.max() <= 1
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    assert torch.equal(grad, weights)


def test_dithering_reads_the_image_as_8_bits():
    x = patterns(2)
    sent = data.to_float(x)
    nudge = (torch.rand(sent.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98 / 255
    moved = (sent + nudge).clamp(0, 1)
    assert torch.equal(DoubleQuantizer(2, True)(moved), quantised(x, 2, True))


@every_kind
def test_nearest_takes_each_value_to_the_closest_level(bits, dithered):
    if dithered:
        return
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(bits))
    out = DoubleQuantizer(bits, False, "nearest")(x)
    every = levels(bits).flatten()
    closest = every[(x.unsqueeze(-1) - every).abs().argmin(-1)]
    assert torch.allclose(out, closest, atol=1e-6)


# --- The filter radius ----------------------------------------------------------------------------

whole = pytest.mark.parametrize("rounding", ["floor", "nearest"])


@whole
@settings(max_examples=60)
@given(
    bits=st.integers(1, 8),
    data=st.data(),
    seed=st.integers(0, 2**62),
)
def test_noise_inside_the_filter_radius_changes_nothing(rounding, bits, data, seed):
    radius = filter_radius(bits, rounding)
    size = data.draw(st.floats(0, radius) | st.just(float(radius)))
    x = levels(bits).repeat(1, 3, 4, 1)
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(x.shape, generator=generator) - 1
    if seed % 2:
        noise = noise.sign()
    moved = (x + size / 255 * noise).clamp(0, 1)
    guard = DoubleQuantizer(bits, False, rounding)
    assert torch.equal(guard(moved), guard(x))
    assert torch.allclose(guard(x), x, atol=1e-6)


@whole
@pytest.mark.parametrize("bits", range(1, 9))
def test_one_grey_level_outside_the_radius_something_can_change(rounding, bits):
    size = (filter_radius(bits, rounding) + 1) / 255
    x, guard = levels(bits), DoubleQuantizer(bits, False, rounding)
    changed = [not torch.equal(guard((x + s * size).clamp(0, 1)), guard(x)) for s in (-1, 1)]
    assert any(changed)


def test_noise_before_dithering_changes_the_image_long_before_the_radius():
    x = data.to_float(patterns(2))
    guard = DoubleQuantizer(1, True)
    noise = 8 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()
    changed = (guard((x + noise).clamp(0, 1)) != guard(x)).float().mean()
    assert filter_radius(1) == 127 and changed > 0.1


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((0, False), "bits is 0"),
        ((9, False), "bits is 9"),
        ((8, True), "bits"),
        ((2.0, False), "bits is 2.0"),
        ((2, False, "up"), "rounding is 'up'"),
        ((2, True, "up"), "rounding is 'up'"),
    ],
)
def test_an_impossible_filter_is_refused_in_one_line(arguments, names):
    with pytest.raises((ValueError, TypeError), match=names) as caught:
        DoubleQuantizer(*arguments)
    assert "\n" not in str(caught.value)


def test_its_settings_can_be_read():
    assert repr(DoubleQuantizer(2, True)) == (
        "DoubleQuantizer(bits=2, dithered=True, rounding='floor')"
    )
    assert kind_name(2, True) == "2bit-dithered"
