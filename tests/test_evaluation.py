from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import nn

from reproduce import data
from reproduce.attacks import FGSM, PGD, perturb
from reproduce.dither import floyd_steinberg
from reproduce.evaluation import batch_seed, correct, paired, wilson
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import filter_radius, linear_quantize
from reproduce.training import Interrupted


class LastDigit(nn.Module):
    """Says the last digit of the grey level of an image's first pixel; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        self.modes.append(self.training)
        digit = (x[:, 0, 0, 0] * 255).round().long() % 10
        return nn.functional.one_hot(digit, 10) * self.weight


def grey_images(n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n) * 3 % 256
    labels = torch.randint(0, 10, (n,), generator=torch.Generator().manual_seed(0))
    labels[::2] = images[::2, 0, 0, 0].long() % 10
    return images, labels


@pytest.fixture
def digits_lenet(lenet_on_digits):
    model, dataset = lenet_on_digits
    return model, dataset.x_test[:200], dataset.y_test[:200]


# --- What is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_a_known_model_is_right_where_it_is_right(batch_size):
    images, labels = grey_images()
    expected = [int(i[0, 0, 0]) % 10 == int(k) for i, k in zip(images, labels, strict=True)]
    hits = correct(LastDigit(), images, labels, batch_size=batch_size)
    assert hits.tolist() == expected
    assert hits.dtype == torch.bool and hits.device.type == "cpu"


@pytest.mark.parametrize("training", [True, False])
def test_images_are_taken_in_their_order_in_float32_and_eval_mode(training):
    images, labels = grey_images()
    model = LastDigit().train(training)
    correct(model, images, labels, batch_size=30)
    assert [len(x) for x in model.seen] == [30, 30, 30, 10]
    assert torch.equal(torch.cat(model.seen), images.float() / 255)
    assert all(x.dtype == torch.float32 for x in model.seen)
    assert model.modes == [False] * 4
    assert model.training == training


@pytest.mark.parametrize("attack", [FGSM(0), PGD(0, 2, 3), PGD(0, 2, 3, random_start=False)])
def test_accuracy_at_radius_zero_is_the_clean_one(digits_lenet, attack):
    model, images, labels = digits_lenet
    clean = correct(model, images, labels, batch_size=64)
    assert 0.8 < clean.float().mean() < 1
    assert torch.equal(correct(model, images, labels, attack, batch_size=64), clean)


def test_accuracy_under_pgd_falls_with_the_radius(digits_lenet):
    model, images, labels = digits_lenet
    radii = (0, 8, 16, 32, 64)
    shares = [
        correct(model, images, labels, PGD(eps, eps / 4, 8), batch_size=200).float().mean().item()
        for eps in radii
    ]
    assert all(b < a for a, b in itertools.pairwise(shares)), shares
    assert shares[-1] < 0.05


# --- Seeds ----------------------------------------------------------------------------------------


class Seen(nn.Sequential):
    """A model, and the images that it was asked about, with whether gradients were wanted."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.calls = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((x, torch.is_grad_enabled()))
        return super().forward(x)


def attacked(model: nn.Module, images, labels, *, seed: int, batch_size: int) -> torch.Tensor:
    """The images as the attack left them."""
    judge, attack = Seen(model), PGD(8, 2, 2)
    options = {"batch_size": batch_size, "seed": seed, "source_model": model}
    correct(judge, images, labels, attack, **options)
    return torch.cat([x for x, _ in judge.calls])


def test_random_starts_depend_on_the_seed_and_the_batch_alone(digits_lenet):
    model, images, labels = digits_lenet
    images, labels = images[:1].repeat(4, 1, 1, 1), labels[:1].repeat(4)
    first = attacked(model, images, labels, seed=0, batch_size=2)
    torch.manual_seed(999)
    assert torch.equal(attacked(model, images, labels, seed=0, batch_size=2), first)
    assert not torch.equal(attacked(model, images, labels, seed=1, batch_size=2), first)
    assert not torch.equal(first[:2], first[2:]), "two batches must not share their random starts"


# --- A filter that the attack does not know of ----------------------------------------------------


# "nearest" at the depths whose levels are whole grey levels: elsewhere a level rounded to uint8 is
# already off by up to half a grey level, more than what the radius leaves.
@pytest.mark.parametrize(
    ("bits", "rounding"),
    [*((b, "floor") for b in range(1, 8)), *((b, "nearest") for b in (1, 2, 4))],
)
@pytest.mark.parametrize("dithered", [True, False])
def test_inside_the_filter_radius_quantisation_gives_exactly_the_clean_result(
    digits_lenet, bits, dithered, rounding
):
    model, images, labels = digits_lenet
    images, labels = images[:40], labels[:40]
    images = floyd_steinberg(images, bits) if dithered else images
    images = (linear_quantize(images / 255, bits) * 255).round().byte()
    radius = filter_radius(bits, rounding)
    judge = nn.Sequential(DoubleQuantizer(bits, False, rounding), model).eval()
    clean = correct(model, images, labels, batch_size=25)
    for attack in FGSM(radius), PGD(radius, radius / 2, 3):
        hits = correct(judge, images, labels, attack, batch_size=25, source_model=model)
        assert torch.equal(hits, clean)


def test_beyond_the_filter_radius_quantisation_does_not_save_the_model(digits_lenet):
    model, images, labels = digits_lenet
    images = (linear_quantize(images / 255, 3) * 255).round().byte()
    judge = nn.Sequential(DoubleQuantizer(3, False), model).eval()
    clean = correct(model, images, labels, batch_size=200).sum()
    attack = PGD(64, 16, 8)
    hits = correct(judge, images, labels, attack, batch_size=200, source_model=model)
    assert hits.sum() < clean / 2


class Blank(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_the_attack_sees_the_bare_model_and_the_judge_what_it_made(digits_lenet):
    model, images, labels = digits_lenet
    attack = PGD(8, 2, 2, random_start=False)
    judge = Seen(Blank(), model).eval()
    hits = correct(judge, images, labels, attack, batch_size=64, source_model=model)
    calls = judge.calls
    x = data.to_float(images)
    expected = [
        perturb(model, attack, a, b, 0) for a, b in zip(x.split(64), labels.split(64), strict=True)
    ]
    assert [len(x) for x, _ in calls] == [len(x) for x in expected]
    assert torch.equal(torch.cat([x for x, _ in calls]), torch.cat(expected))
    assert not any(grad for _, grad in calls)
    blank = model(torch.zeros_like(x[:1])).argmax()
    assert torch.equal(hits, labels == blank), "the verdict is on the filtered images"


def test_the_attack_sees_the_source_and_the_model_judges(digits_lenet):
    model, images, labels = digits_lenet
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).train()
    attack = PGD(30, 10, 3)
    hits = correct(model, images, labels, attack, batch_size=64, seed=5, source_model=other)
    expected = []
    for number, (a, b) in enumerate(zip(images.split(64), labels.split(64), strict=True)):
        made = perturb(other, attack, data.to_float(a), b, batch_seed(5, number))
        expected.append(model(made).argmax(1) == b)
    assert torch.equal(hits, torch.cat(expected))
    own = correct(model, images, labels, attack, batch_size=64, seed=5)
    assert own.sum() < hits.sum(), "what is made for another network harms this one less"
    assert other.training, "the source comes back as it was"


# --- Stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda x: x + 2.1 / 255, "went 2.1/255"),
        (lambda x: x * float("nan"), "went nan/255"),
        (lambda x: x - 0.9 / 255, "values in [-0.00352941, "),
    ],
)
def test_an_attack_that_leaves_its_ball_or_the_pixel_range_does_not_count(made, says):
    @dataclass(frozen=True)
    class Wild:
        eps_255: float = 2

        def attack(self, model):
            return lambda images, labels: made(images)

    x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"Wild.*allowed are 2/255 and \[0, 1\]") as caught:
        correct(model, x, torch.zeros(4, dtype=torch.long), Wild(), batch_size=4)
    assert says in str(caught.value)


def test_an_interruption_leaves_the_model_as_it_was():
    images, labels = grey_images()
    model = LastDigit().train()
    model.register_forward_pre_hook(lambda *_: stop())

    def stop():
        if len(model.seen) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        correct(model, images, labels, batch_size=10)
    assert len(model.seen) == 2 and model.training and not model._forward_hooks


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_images", "n_labels"), [(3, 2), (2, 3), (0, 0), (0, 1)])
def test_unequal_or_no_images_and_labels_are_refused(n_images, n_labels):
    images = torch.zeros(n_images, 1, 2, 2, dtype=torch.uint8)
    labels = torch.zeros(n_labels, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"{n_images} images and .*label"):
        correct(LastDigit(), images, labels, batch_size=2)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(batch_size):
    images, labels = grey_images()
    with pytest.raises(ValueError, match="batch_size"):
        correct(LastDigit(), images, labels, batch_size=batch_size)


# --- Wilson's interval ----------------------------------------------------------------------------


@given(counts=st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_interval_is_scipy_s(counts, confidence):
    k, n = counts
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    low, high = wilson(k, n, confidence)
    assert math.isclose(low, expected.low, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(high, expected.high, rel_tol=1e-9, abs_tol=1e-12)
    assert 0 <= low <= k / n <= high <= 1


def test_every_interval_of_small_counts_is_scipy_s():
    for n in range(1, 30):
        for k in range(n + 1):
            expected = binomtest(k, n).proportion_ci(method="wilson")
            assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_touches_its_end_exactly_where_all_or_none_are_right():
    for n in (*range(1, 100), 10_000):
        assert wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0
        assert wilson(0, n)[1] < 1 and wilson(n, n)[0] > 0


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((0, 0), "total is 0; it must be a whole number, at least 1"),
        ((-1, 5), r"correct is -1; it must be a whole number in 0\.\.5"),
        ((6, 5), r"correct is 6; .* in 0\.\.5"),
        ((1, -5), "total is -5"),
        ((math.nan, 5), "correct is nan"),
        ((1.5, 2), "correct is 1.5"),
        ((1, 2.0), "total is 2.0"),
        ((True, 2), "correct is True"),
        (("1", 2), "correct is '1'"),
        ((1, None), "total is None"),
        ((1, 5, "0.9"), "confidence is '0.9'"),
        ((1, 5, 0.0), "confidence is 0.0"),
        ((1, 5, 1.0), "confidence is 1.0"),
        ((1, 5, 95), "confidence is 95"),
        ((1, 5, math.nan), "confidence is nan"),
    ],
)
def test_impossible_counts_and_confidences_are_refused_in_one_line(counts, names):
    with pytest.raises((ValueError, TypeError), match=names) as caught:
        wilson(*counts)
    assert "\n" not in str(caught.value)


# --- Seeds ----------------------------------------------------------------------------------------


def test_images_that_are_floats_are_taken_as_they_are(lenet_on_digits):
    model, digits = lenet_on_digits
    x, y = digits.x_test[:40], digits.y_test[:40]
    between = (x.float() + 0.4).clamp(max=255) / 255
    with torch.no_grad():
        expected = model(between).argmax(1) == y
    assert torch.equal(correct(model, between, y, batch_size=16), expected)
    with pytest.raises(ValueError, match="must lie in"):
        correct(model, between * 2, y, batch_size=16)
    with pytest.raises(TypeError):
        correct(model, between.double(), y, batch_size=16)


def test_every_batch_of_every_seed_has_its_own_attack_seed():
    seeds = {batch_seed(seed, number) for seed in range(5) for number in range(1000)}
    assert len(seeds) == 5000


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_a_paired_difference_is_that_of_the_discordant_pairs(pairs):
    one, other = (np.array(column) for column in zip(*pairs, strict=True))
    up, down = pairs.count((True, False)), pairs.count((False, True))
    n = len(pairs)
    gain, margin = paired(one, other)
    assert gain == pytest.approx(100 * (up - down) / n)
    spread = math.sqrt(max(0, (up + down) / n - ((up - down) / n) ** 2) / n)
    assert margin == pytest.approx(100 * 1.959964 * spread, abs=1e-4)


@pytest.mark.parametrize("bits", [[5, 7], [0.5], [[True]], "yes"])
def test_what_is_no_bit_an_image_is_no_pair(bits):
    with pytest.raises(TypeError, match="give bool, one an image, in an array"):
        paired(bits, bits)


@pytest.mark.parametrize("counts", [(2, 3), (0, 0)])
def test_unlike_numbers_of_images_are_no_pairs(counts):
    with pytest.raises(ValueError, match=f"{counts[0]} and {counts[1]} images"):
        paired(*(np.ones(count, bool) for count in counts))
