"""Laws of the quantisers, against transcriptions of the papers' equations in float64."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reproduce.quantizers import (
    DynamicQuantizer,
    FixedQuantizer,
    activation,
    filter_radius,
    linear_quantize,
)

each_bits = pytest.mark.parametrize("bits", (1, 2, 3))
each_depth = pytest.mark.parametrize("bits", range(1, 9))
each_rounding = pytest.mark.parametrize("rounding", ("floor", "nearest"))
each_kind = pytest.mark.parametrize("kind", (FixedQuantizer, DynamicQuantizer))
each_rule = pytest.mark.parametrize(
    ("rule", "temperature"),
    [
        ("zero", 1),
        ("straight_through", 1),
        ("tanh", 1),
        ("tanh", 5),  # has no temperature: the same as at 1
        ("sigmoid", 1),
        ("sigmoid", 5),
        ("sigmoid", 10),
    ],
)
# Neither at their initial values nor evenly spaced nor symmetric.
THRESHOLDS = {
    1: [0.3125],
    2: [-0.75, 0.125, 0.375],
    3: [-0.875, -0.5, -0.3125, 0.0625, 0.25, 0.5625, 0.625],
}
RADII = {"floor": [127, 21, 4, 1, 0, 0, 0, 0], "nearest": [127, 42, 18, 8, 4, 2, 1, 0]}

float32s = st.floats(-20, 20, width=32)


def random_values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def dynamic(thresholds: list[float], **options) -> DynamicQuantizer:
    quantizer = DynamicQuantizer((len(thresholds) + 1).bit_length() - 1, **options)
    with torch.no_grad():
        quantizer.thresholds.copy_(torch.tensor(thresholds))
    return quantizer


def exact(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def eq_1_to_3(x: Tensor, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The output, and how far the argument of round() is from a tie."""
    y = np.sinh(exact(x)) / np.cosh(exact(x))
    y_shifted = y / (2 * np.abs(y).max()) + 1 / 2
    scaled = (2**bits - 1) * y_shifted
    return 2 * (1 / (2**bits - 1) * np.round(scaled)) - 1, np.abs(scaled % 1 - 0.5)


def eq_8(x: Tensor, thresholds: list[float]) -> np.ndarray:
    """Term by term. The first sum counts i down from m-1 to m/2+1, the second from m/2 to 2."""
    v, sgn, m = exact(x), np.sign, len(thresholds) + 1
    t = [math.nan, *thresholds]  # numbered from 1, as in the paper
    total = sgn(v - t[m - 1])
    for i in range(m - 1, m // 2, -1):
        total = total + t[i] * (sgn(t[i] - v) + sgn(v - t[i - 1]))
    for i in range(m // 2, 1, -1):
        total = total + t[i - 1] * (sgn(t[i] - v) + sgn(v - t[i - 1]))
    return 0.5 * (total - sgn(t[1] - v))


def slope_of_a_step(u: np.ndarray, rule: str, temperature: float) -> np.ndarray:
    """What stands in for sgn'(u). 2 sigmoid(Tu) - 1 is tanh(Tu / 2)."""
    if rule == "zero":
        return np.zeros_like(u)
    if rule == "straight_through":
        return np.where(np.abs(u) <= 1, 1.0, 0.0)
    scale = 1 if rule == "tanh" else temperature / 2
    return scale / np.cosh(scale * u) ** 2


# --- The forward pass of the fixed quantiser ------------------------------------------------------


@each_bits
@pytest.mark.parametrize(("dtype", "margin"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_fixed_quantizer_is_equations_1_to_3(bits, dtype, margin):
    for scale in (0.01, 1, 10):
        x = scale * random_values(8, 3, 20, 20, dtype=dtype)
        expected, distance = eq_1_to_3(x, bits)
        clear = distance > margin
        assert clear.mean() > 0.999
        got = FixedQuantizer(bits)(x)
        assert (got.dtype, got.shape) == (dtype, x.shape)
        np.testing.assert_allclose(exact(got)[clear], expected[clear], rtol=0, atol=2e-7)


@given(values=st.lists(float32s, min_size=1, max_size=30), bits=st.integers(1, 3))
@settings(deadline=None)
def test_the_fixed_quantizer_is_equations_1_to_3_on_any_input(values, bits):
    x = torch.tensor(values)
    assume(x.abs().max() > 1e-30)
    expected, distance = eq_1_to_3(x, bits)
    clear = distance > 1e-5
    got = exact(FixedQuantizer(bits)(x))
    np.testing.assert_allclose(got[clear], expected[clear], rtol=0, atol=2e-7)
    assert np.abs(got - expected).max() <= 2 / (2**bits - 1) + 1e-6  # at a tie, one level off


def test_the_fixed_levels_for_two_bits_are_those_the_paper_lists():
    x = torch.linspace(-3, 3, 1001)
    levels = FixedQuantizer(2)(x).unique()
    assert levels.tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1], abs=1e-7)


@each_bits
def test_the_staircases_have_two_to_the_bits_levels_which_no_rule_blurs(bits):
    x = random_values(20, 1000, dtype=torch.float32)
    for make in (lambda **o: FixedQuantizer(bits, **o), lambda **o: dynamic(THRESHOLDS[bits], **o)):
        hard = make(backward="zero")(x)
        assert len(hard.unique()) == 2**bits
        for rule in ("straight_through", "tanh", "sigmoid"):
            assert torch.equal(make(backward=rule)(x), hard)


def test_maximum_image_gives_what_each_image_alone_gives():
    x = random_values(5, 3, 8, 8) * torch.tensor([0.1, 0.3, 1, 2, 4]).view(-1, 1, 1, 1)
    for shape in (x.shape, (5, 192)):
        batch = x.view(shape)
        alone = torch.cat([FixedQuantizer(3)(image[None]) for image in batch])
        assert torch.equal(FixedQuantizer(3, maximum="image")(batch), alone)


def test_maximum_batch_couples_an_image_to_the_rest_of_its_batch():
    faint, strong = torch.tensor([[0.1, -0.02]]), torch.tensor([[5.0, 5.0]])
    batch = torch.cat([faint, strong])
    third = 1 / 3
    assert FixedQuantizer(2)(faint)[0].tolist() == pytest.approx([1, -third], abs=1e-6)
    assert FixedQuantizer(2)(batch)[0].tolist() == pytest.approx([third, -third], abs=1e-6)
    by_image = FixedQuantizer(2, maximum="image")
    assert torch.equal(by_image(batch)[:1], by_image(faint))


@each_bits
@pytest.mark.parametrize("maximum", ("batch", "image"))
def test_an_all_zero_input_gives_one_level_and_no_nan(bits, maximum):
    got = FixedQuantizer(bits, maximum=maximum)(torch.zeros(2, 3)).unique()
    assert len(got) == 1
    assert got.abs().item() == pytest.approx(1 / (2**bits - 1))  # a tie of the two middle levels


# --- The forward pass of the dynamic quantiser ----------------------------------------------------


@each_bits
def test_the_dynamic_quantizer_is_equation_8(bits):
    x = random_values(8, 3, 20, 20, dtype=torch.float32)
    initial = DynamicQuantizer(bits)
    np.testing.assert_allclose(
        exact(initial(x)), eq_8(x, initial.thresholds.tolist()), rtol=0, atol=1e-6
    )
    on_steps = torch.cat([x.flatten(), torch.tensor(THRESHOLDS[bits])])  # where sgn(0) = 0
    for thresholds in (THRESHOLDS[bits], THRESHOLDS[bits][::-1]):
        got = dynamic(thresholds)(on_steps)
        np.testing.assert_allclose(exact(got), eq_8(on_steps, thresholds), rtol=0, atol=1e-6)
        through_tanh = dynamic(thresholds, source="tanh")(x)
        expected = eq_8(torch.tanh(x), thresholds)
        np.testing.assert_allclose(exact(through_tanh), expected, rtol=0, atol=1e-6)


@given(data=st.data(), bits=st.integers(1, 3))
@settings(deadline=None)
def test_the_dynamic_quantizer_is_equation_8_for_any_thresholds_in_any_order(data, bits):
    count = 2**bits - 1
    in_range = st.floats(-1.5, 1.5, width=32)
    thresholds = data.draw(st.lists(in_range, min_size=count, max_size=count))
    values = data.draw(st.lists(float32s | st.sampled_from(thresholds), min_size=1, max_size=30))
    x = torch.tensor(values)
    got = exact(dynamic(thresholds)(x))
    np.testing.assert_allclose(got, eq_8(x, thresholds), rtol=0, atol=3e-6)


@given(x=float32s, t=st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3, unique=True))
@settings(deadline=None)
def test_one_and_two_bits_are_the_cases_of_equation_9(x, t):
    t1, t2, t3 = sorted(t)
    assume(x not in t)
    one_bit = -1 if x < t1 else 1
    two_bits = -1 if x < t1 else t1 if x < t2 else t3 if x < t3 else 1
    assert dynamic([t1])(torch.tensor([x])).item() == one_bit
    assert dynamic([t1, t2, t3])(torch.tensor([x])).item() == pytest.approx(two_bits, abs=1e-6)


def test_three_bits_give_every_threshold_but_the_middle_one_as_a_level():
    t1, t2, t3, t4, t5, t6, t7 = t = THRESHOLDS[3]
    between = torch.tensor([-2.0, *((low + high) / 2 for low, high in pairwise(t)), 2.0])
    expected = [-1, t1, t2, t3, t5, t6, t7, 1]
    assert dynamic(t)(between).tolist() == pytest.approx(expected, abs=1e-6)
    assert dynamic(t).levels().tolist() == expected
    on_the_steps = dynamic(t)(torch.tensor([t1, t4, t7])).tolist()
    halfway = [(-1 + t1) / 2, (t3 + t5) / 2, (t7 + 1) / 2]
    assert on_the_steps == pytest.approx(halfway, abs=1e-6)


@each_bits
def test_the_thresholds_start_where_the_fixed_quantizer_steps(bits):
    y = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    steps = FixedQuantizer(bits)(torch.atanh(y * 0.999)).diff().nonzero()[:, 0]
    expected = ((y[steps] + y[steps + 1]) / 2).tolist()
    thresholds = DynamicQuantizer(bits).thresholds
    assert (thresholds.dtype, thresholds.requires_grad) == (torch.float32, True)
    assert thresholds.tolist() == pytest.approx(expected, abs=2e-4)


@each_kind
def test_half_precision_in_gives_half_precision_out_and_the_same_levels(kind):
    x = random_values(4, 50).bfloat16()
    quantizer = kind(2)
    got = quantizer(x.requires_grad_())
    got.float().sum().backward()
    assert (got.dtype, x.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    if kind is DynamicQuantizer:
        expected = eq_8(x, quantizer.thresholds.tolist())
        np.testing.assert_allclose(exact(got), expected, rtol=0, atol=0.01)
        assert quantizer.thresholds.grad.dtype == torch.float32
    else:
        expected, distance = eq_1_to_3(x, 2)
        clear = distance > 0.03
        np.testing.assert_allclose(exact(got)[clear], expected[clear], rtol=0, atol=0.01)


# --- Gradients ------------------------------------------------------------------------------------


@each_bits
@each_rule
@pytest.mark.parametrize("maximum", ("batch", "image"))
def test_the_gradient_of_the_fixed_quantizer_is_its_closed_form(bits, rule, temperature, maximum):
    x = random_values(4, 50).requires_grad_()
    weights = random_values(4, 50, seed=1)
    quantizer = FixedQuantizer(bits, rule, temperature, maximum)
    (weights * quantizer(x)).sum().backward()

    v, top = exact(x), 2**bits - 1
    y = np.tanh(v)
    largest = np.abs(y).max(axis=None if maximum == "batch" else 1, keepdims=True)
    if rule == "straight_through":
        expected = 1 / np.cosh(v) ** 2 / largest
    else:  # a step of height 2 / top where top y' = k - 1/2
        steps = [np.arctanh(2 * largest * ((k - 0.5) / top - 0.5)) for k in range(1, top + 1)]
        expected = sum(slope_of_a_step(v - t, rule, temperature) for t in steps) / top
    np.testing.assert_allclose(exact(x.grad), exact(weights) * expected, rtol=1e-6, atol=1e-7)


@each_bits
@each_rule
@pytest.mark.parametrize("source", ("x", "tanh"))
def test_the_gradients_of_the_dynamic_quantizer_are_their_closed_forms(
    bits, rule, temperature, source
):
    t = THRESHOLDS[bits]
    quantizer = dynamic(t, backward=rule, temperature=temperature, source=source).double()
    x = random_values(4, 50).requires_grad_()
    weights = random_values(4, 50, seed=1)
    (weights * quantizer(x)).sum().backward()

    w = exact(weights)
    v = exact(x) if source == "x" else np.tanh(exact(x))
    inner = 1 if source == "x" else 1 / np.cosh(exact(x)) ** 2
    middle = 2 ** (bits - 1) - 1
    levels = [-1, *t[:middle], *t[middle + 1 :], 1]
    heights = np.diff(levels)
    slopes = [slope_of_a_step(v - step, rule, temperature) for step in t]
    for_x = w * inner * sum(h * s for h, s in zip(heights, slopes, strict=True)) / 2
    np.testing.assert_allclose(exact(x.grad), for_x, rtol=1e-6, atol=1e-9)

    signs = [np.sign(v - step) for step in t]
    for_thresholds = []
    for j in range(len(t)):
        as_step = -(w * heights[j] * slopes[j]).sum() / 2
        if j == middle:
            as_level = 0
        elif j < middle:  # the level between t_j and the next threshold
            as_level = (w * (signs[j] - signs[j + 1])).sum() / 2
        else:  # the level between the threshold before and t_j
            as_level = (w * (signs[j - 1] - signs[j])).sum() / 2
        for_thresholds.append(as_level + as_step)
    got = quantizer.thresholds.grad.tolist()
    assert got == pytest.approx(for_thresholds, rel=1e-4, abs=1e-5)


@each_bits
def test_without_a_surrogate_the_threshold_gradient_is_the_difference_quotient(bits):
    x, weights, h = random_values(300), random_values(300, seed=1), 1e-6
    x = x[np.abs(exact(x)[:, None] - THRESHOLDS[bits]).min(axis=1) > 1e-3]  # none crosses a step
    weights = weights[: len(x)]
    quantizer = dynamic(THRESHOLDS[bits], backward="zero").double()
    (weights * quantizer(x)).sum().backward()
    for j, gradient in enumerate(quantizer.thresholds.grad.tolist()):
        ends = []
        for shift in (-h, h):
            moved = dynamic(THRESHOLDS[bits]).double()
            moved.thresholds.data[j] += shift
            ends.append((weights * moved(x)).sum().item())
        assert gradient == pytest.approx((ends[1] - ends[0]) / (2 * h), abs=1e-4)


@each_bits
@each_kind
def test_nothing_flows_back_to_the_input_under_the_zero_rule(bits, kind):
    x = random_values(4, 20).requires_grad_()
    kind(bits, backward="zero")(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_the_straight_through_sign_is_clipped_at_distance_1_inclusive():
    x = torch.tensor([-1.01, -1, 0, 1, 1.01], requires_grad=True)
    quantizer = DynamicQuantizer(1)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert quantizer.thresholds.grad.tolist() == [-3]


def test_frozen_thresholds_get_no_gradient_and_leave_that_of_the_input_as_it_is():
    grads = []
    for learnt in (True, False):
        quantizer = dynamic(THRESHOLDS[3]).requires_grad_(learnt)
        x = random_values(50, dtype=torch.float32).requires_grad_()
        quantizer(x).sum().backward()
        assert (quantizer.thresholds.grad is not None) is learnt
        grads.append(x.grad)
    assert torch.equal(*grads)


@each_kind
def test_set_backward_changes_the_gradient_and_not_the_output(kind):
    x = random_values(50, dtype=torch.float32).requires_grad_()
    switched = kind(2)
    hard = switched(x)
    (got,), (expected,) = (
        torch.autograd.grad(q(x).sum(), x) for q in (switched, kind(2, "straight_through"))
    )
    assert torch.equal(got, expected)  # the default
    switched.set_backward("sigmoid", 5)
    fresh = kind(2, "sigmoid", 5)
    assert torch.equal(switched(x), hard)
    (got,), (expected,) = (torch.autograd.grad(q(x).sum(), x) for q in (switched, fresh))
    assert torch.equal(got, expected)
    switched.set_backward("sigmoid")  # the temperature goes back to 1
    (got,) = torch.autograd.grad(switched(x).sum(), x)
    (expected,) = torch.autograd.grad(kind(2, "sigmoid")(x).sum(), x)
    assert torch.equal(got, expected)


# --- Learning -------------------------------------------------------------------------------------


@each_bits
@pytest.mark.parametrize("rule", ("straight_through", "tanh", "sigmoid"))
def test_every_threshold_learns_and_the_staircase_keeps_rising_from_minus_1_to_1(bits, rule):
    wanted = {1: [0.5], 2: [-0.9, -0.5, 0.2], 3: [-0.95, -0.85, -0.7, -0.5, -0.2, 0.1, 0.4]}
    x = random_values(2000, dtype=torch.float32).sort().values
    target = dynamic(wanted[bits])(x).detach()
    quantizer = DynamicQuantizer(bits, rule)
    start = quantizer.thresholds.detach().clone()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        output = quantizer(x)
        assert output.diff().min() > -1e-6
        assert output[[0, -1]].tolist() == pytest.approx([-1, 1], abs=1e-6)
        loss = (output - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        quantizer.project()
        losses.append(loss.item())
        t = quantizer.thresholds.detach()
        assert (t.diff() >= 0).all() and t.abs().max() <= 1
    assert ((t - start).abs() > 0.05).all()
    # The surrogates are biased, and the more so the more steps they share their width with.
    assert min(losses) < {1: 0.1, 2: 0.1, 3: 0.9}[bits] * losses[0]


@given(values=st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=7))
@settings(deadline=None)
def test_project_clips_and_sorts_in_place_and_twice_is_once(values):
    quantizer = dynamic(values)
    parameter = quantizer.thresholds
    quantizer.project()
    once = quantizer.thresholds.tolist()
    assert once == sorted(min(max(v, -1), 1) for v in values)
    quantizer.project()
    assert quantizer.thresholds.tolist() == once
    assert quantizer.thresholds is parameter and parameter.requires_grad


# --- Images ---------------------------------------------------------------------------------------


def bin_of(grey: Fraction, bits: int, rounding: str) -> Fraction:
    """Where `grey`, in 0..255, lies on the scale on which a whole number starts a bin."""
    if rounding == "floor":
        return grey / 2 ** (8 - bits)
    return grey * (2**bits - 1) / 255 + Fraction(1, 2)


@each_depth
@each_rounding
def test_every_grey_value_goes_to_the_level_that_exact_arithmetic_gives(bits, rounding):
    greys = torch.arange(256)
    bins = [bin_of(Fraction(g), bits, rounding) for g in range(256)]
    assert rounding == "floor" or not any(b.denominator == 1 for b in bins)  # no ties
    expected = torch.tensor([math.floor(b) for b in bins]) / (2**bits - 1)
    for dtype in (torch.float32, torch.float64):
        x = greys.to(dtype) / 255
        got = linear_quantize(x.view(2, 128), bits, rounding)
        assert (got.dtype, got.shape) == (dtype, (2, 128))
        torch.testing.assert_close(got.view(-1).float(), expected, rtol=0, atol=1e-7)
    assert len(got.unique()) == 2**bits


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50),
    bits=st.integers(1, 8),
    rounding=st.sampled_from(("floor", "nearest")),
)
@settings(deadline=None)
def test_any_real_value_goes_to_the_level_that_exact_arithmetic_gives_and_stays(
    values, bits, rounding
):
    levels = linear_quantize(torch.tensor(values), bits, rounding)
    for value, level in zip(values, levels.tolist(), strict=True):
        place = bin_of(255 * Fraction(value), bits, rounding)
        highest = 2**bits - 1
        # A hair below an edge, where float32 cannot tell, the bin above is right as well.
        allowed = {min(math.floor(place + hair), highest) for hair in (0, Fraction(2, 1000))}
        assert round(level * highest) in allowed
        assert level == pytest.approx(round(level * highest) / highest, abs=1e-7)
    assert torch.equal(linear_quantize(levels, bits, rounding), levels)


@each_depth
def test_a_floor_edge_missed_by_float32_rounding_counts_as_inside_and_no_more(bits):
    edges = torch.arange(1, 2**bits, dtype=torch.float64) * 2 ** (8 - bits)
    above = torch.arange(1, 2**bits) / (2**bits - 1)
    rounded_down = torch.nextafter((edges / 255).float(), torch.tensor(0.0))
    assert torch.equal(linear_quantize(rounded_down, bits), above)
    below = torch.arange(2**bits - 1) / (2**bits - 1)
    assert torch.equal(linear_quantize(((edges - 0.01) / 255).float(), bits), below)


def test_floor_is_the_default():
    x = torch.linspace(0, 1, 256)
    assert torch.equal(linear_quantize(x, 3), linear_quantize(x, 3, "floor"))
    assert not torch.equal(linear_quantize(x, 3), linear_quantize(x, 3, "nearest"))
    assert filter_radius(3) == filter_radius(3, "floor") != filter_radius(3, "nearest")


@each_rounding
def test_an_image_without_pixels_stays_so_and_the_gradient_of_one_with_is_zero(rounding):
    assert linear_quantize(torch.empty(0, 3), 2, rounding).shape == (0, 3)
    x = torch.rand(10, requires_grad=True)
    linear_quantize(x, 2, rounding).sum().backward()
    assert torch.equal(x.grad, torch.zeros(10))


@each_depth
@each_rounding
def test_the_filter_radius_is_what_brute_force_over_whole_grey_levels_finds(bits, rounding):
    top = 2**bits - 1

    def survives(radius: int) -> bool:
        for k in range(top + 1):
            for offset in range(-radius, radius + 1):
                grey = min(max(Fraction(255 * k, top) + offset, Fraction(0)), Fraction(255))
                place = bin_of(grey, bits, rounding)
                tied = rounding == "nearest" and place.denominator == 1
                if tied or math.floor(place) != k:
                    return False
        return True

    radius = next(r for r in range(256) if not survives(r + 1))
    assert filter_radius(bits, rounding) == radius == RADII[rounding][bits - 1]


@each_depth
@each_rounding
def test_no_perturbation_inside_the_filter_radius_changes_a_level_and_one_beyond_does(
    bits, rounding
):
    radius = filter_radius(bits, rounding)
    levels = torch.arange(2**bits) / (2**bits - 1)
    offsets = torch.arange(-radius, radius + 1).view(-1, 1)
    moved = (levels + offsets / 255).clamp(0, 1)
    assert torch.equal(linear_quantize(moved, bits, rounding), levels.expand_as(moved))

    generator = torch.Generator().manual_seed(bits)
    noise = (2 * torch.rand(1000, len(levels), generator=generator) - 1) * radius / 255
    noisy = (levels + noise).clamp(0, 1)
    assert torch.equal(linear_quantize(noisy, bits, rounding), levels.expand_as(noisy))

    beyond = [(levels + side * (radius + 1) / 255).clamp(0, 1) for side in (-1, 1)]
    assert any((linear_quantize(x, bits, rounding) != levels).any() for x in beyond)


@each_depth
@each_rounding
@pytest.mark.parametrize("direction", (-1, 1))
def test_steps_of_an_attack_up_to_exactly_the_radius_change_no_level(bits, rounding, direction):
    images = (torch.arange(2**bits) / (2**bits - 1)).view(1, 1, 1, -1)
    eps = filter_radius(bits, rounding) / 255
    attacked = images.clone()
    for _ in range(12):  # as projected gradient descent computes it, in float32
        attacked = attacked + direction * eps / 5
        delta = torch.clamp(attacked - images, min=-eps, max=eps)
        attacked = torch.clamp(images + delta, min=0, max=1)
    assert torch.equal(linear_quantize(attacked, bits, rounding), images)


# --- The factory, and bad input -------------------------------------------------------------------


def test_the_factory_makes_a_new_layer_at_each_call_with_the_options_given():
    assert isinstance(activation("relu")(), nn.ReLU)
    fixed = activation("fixed", 3, maximum="image", backward="tanh")
    assert isinstance(fixed(), FixedQuantizer) and fixed() is not fixed()
    assert (fixed().bits, fixed().maximum, fixed().backward) == (3, "image", "tanh")
    learnt = activation("dynamic", 2, source="tanh", backward="sigmoid", temperature=5)
    first, second = learnt(), learnt()
    assert isinstance(first, DynamicQuantizer) and first.thresholds is not second.thresholds
    assert (first.bits, first.source, first.temperature) == (2, "tanh", 5)
    assert repr(first) == "DynamicQuantizer(bits=2, backward='sigmoid')"


BAD_BITS = [
    (0, ValueError, "bits is 0"),
    (-1, ValueError, "bits is -1"),
    (9, ValueError, "bits is 9"),
    (True, TypeError, "bits is True"),
    (2.0, TypeError, "bits is 2.0"),
    ("2", TypeError, "bits is '2'"),
    (None, TypeError, "bits is None"),
]


@pytest.mark.parametrize(("bits", "error", "says"), [*BAD_BITS, (4, ValueError, "bits is 4")])
def test_a_bad_depth_of_an_activation_is_named_in_one_line(bits, error, says):
    makers = (
        FixedQuantizer,
        DynamicQuantizer,
        lambda b: activation("fixed", b),
        lambda b: activation("dynamic", b),
    )
    for make in makers:
        with pytest.raises(error, match=rf"^{says}; it must be .*1\.\.3$"):
            make(bits)


@pytest.mark.parametrize(("bits", "error", "says"), BAD_BITS)
def test_a_bad_depth_of_an_image_is_named_in_one_line(bits, error, says):
    for use in (lambda b: linear_quantize(torch.zeros(2), b), filter_radius):
        with pytest.raises(error, match=rf"^{says}; it must be .*1\.\.8$"):
            use(bits)


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: linear_quantize(torch.tensor([0.5, NAN]), 2), ValueError, r"nan.*in \[0, 1\]"),
        (lambda: linear_quantize(torch.tensor([0.5, -0.25]), 2), ValueError, r"-0.25.*\[0, 1\]"),
        (lambda: linear_quantize(torch.tensor([1.5, 0.5]), 2), ValueError, r"1.5.*\[0, 1\]"),
        (lambda: linear_quantize(torch.tensor([math.inf]), 2), ValueError, r"inf.*\[0, 1\]"),
        (lambda: linear_quantize(torch.zeros(2).byte(), 2), TypeError, r"uint8.*\[0, 1\]"),
        (lambda: linear_quantize(torch.zeros(2), 2, "up"), ValueError, "'up'.*floor, nearest"),
        (lambda: filter_radius(2, "up"), ValueError, "'up'.*floor, nearest"),
        (lambda: FixedQuantizer(2, maximum="all"), ValueError, "'all'.*batch, image"),
        (lambda: DynamicQuantizer(2, source="y"), ValueError, "'y'.*x, tanh"),
        (lambda: FixedQuantizer(2, "ste"), ValueError, "'ste'.*zero, straight_through, tanh, sig"),
        (lambda: DynamicQuantizer(2).set_backward("ste"), ValueError, "'ste'.*straight_through"),
        (lambda: activation("gelu", 2), ValueError, "'gelu'.*relu, fixed, dynamic"),
        (lambda: activation("relu", 2), ValueError, "relu takes neither bits.*bits=2"),
        (lambda: activation("relu", source="x"), ValueError, "relu takes neither.*'source': 'x'"),
        (lambda: activation("fixed", 2, maximum="all"), ValueError, "'all'.*batch, image"),
        (lambda: activation("dynamic"), TypeError, "bits is None.*1..3"),
    ],
)
def test_bad_input_is_named_with_what_is_allowed_in_one_line(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


@each_kind
@pytest.mark.parametrize("temperature", (0, -1.0, NAN, math.inf, "1", None, True))
def test_a_bad_temperature_is_refused_and_named(kind, temperature):
    quantizer = kind(2)
    message = f"^temperature is {temperature!r}; it must be a finite number above 0$"
    with pytest.raises((ValueError, TypeError), match=message):
        quantizer.set_backward("sigmoid", temperature)
    with pytest.raises((ValueError, TypeError), match=message):
        kind(2, "sigmoid", temperature)


# --- What must not be hidden or blown up ----------------------------------------------------------


@pytest.mark.parametrize("kind", [FixedQuantizer, DynamicQuantizer])
def test_a_nan_comes_out_as_a_nan(kind):
    out = kind(2)(torch.tensor([[0.3, float("nan")]]))
    assert out[0, 1].isnan()


@pytest.mark.parametrize("backward", ["zero", "straight_through", "tanh", "sigmoid"])
def test_an_infinite_input_gives_an_end_level_under_every_rule(backward):
    out = FixedQuantizer(2, backward)(torch.tensor([[-float("inf"), 0.5, float("inf")]]))
    assert out[0, 0] == -1 and out[0, 2] == 1


def test_an_all_zero_input_has_a_gradient_of_one():
    x = torch.zeros(1, 4, requires_grad=True)
    FixedQuantizer(2)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(1, 4))


@each_kind
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_the_output_can_be_changed_in_place_and_has_the_layout_of_the_input(kind, layout):
    x = random_values(2, 3, 4, 5, dtype=torch.float32).contiguous(memory_format=layout)
    x.requires_grad_()
    out = kind(2)(x)
    assert out.shape == x.shape and out.stride() == x.stride()
    expected = out.detach() + 1
    out += 1
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.stride() == x.stride()


@each_kind
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_what_is_no_real_number_is_no_activation(kind, dtype):
    with pytest.raises(TypeError, match=f"x is {dtype} .*floating point"):
        kind(2)(torch.ones(2, 3).to(dtype))


@each_kind
def test_no_image_gives_no_output(kind):
    assert kind(2)(torch.zeros(0, 3)).shape == (0, 3)
