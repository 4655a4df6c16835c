from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reproduce import data, models
from reproduce.attacks import (
    NES,
    AdaptivePGD,
    AutoAttack,
    HopSkipJump,
    Noise,
    Square,
    black_box,
    margin,
    perturb,
)
from reproduce.attacks.gradient import dlr, logit_scale
from reproduce.quantizers import FixedQuantizer, activation


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
    model[3].weight.data *= 4
    return model


def batch(n: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 4, 4) of which a third of the pixels is exactly 0 and a third exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.rand(n, 1, 4, 4, generator=generator) - 1).clamp(0, 1)
    y = network()(x).argmax(1)
    y[::4] = (y[::4] + 1) % 4  # these the model gets wrong
    return x, y


def pgd(eps: float = 40.0, **options) -> AdaptivePGD:
    return AdaptivePGD(**{"eps_255": eps, "step_255": eps / 3, "steps": 3} | options)


def every(eps: float) -> dict:
    """One of each attack at this radius, of budgets that break some of `batch` at 40."""
    return {
        "cross_entropy": pgd(eps),
        "margin": pgd(eps, loss="margin", restarts=2),
        "dlr": pgd(eps, loss="dlr"),
        "scaled": pgd(eps, scaled=True),
        "averaged": pgd(eps, samples=2, noise_255=4.0),
        "nes": NES(eps_255=eps, step_255=eps / 2, steps=3, samples=8, sigma_255=4.0),
        "noise": Noise(eps_255=eps, draws=20),
        "square": Square(eps_255=eps, queries=20),
        "hopskipjump": HopSkipJump(eps_255=eps, steps=1),
    }


any_attack = pytest.mark.parametrize("attack", every(40.0).values(), ids=every(40.0))


@pytest.fixture
def digits_lenet(lenet_on_digits):
    model, dataset = lenet_on_digits
    return model, data.to_float(dataset.x_test[:40]), dataset.y_test[:40]


def broken(model: nn.Module, attack, x, y, seed: int = 0) -> torch.Tensor:
    return model(perturb(model, attack, x, y, seed)).argmax(1) != y


# --- What an attack may do ------------------------------------------------------------------------


def assert_lawful(model: nn.Module, attack, x, y, seed: int) -> torch.Tensor:
    """Ball, box and the images that must come back as they are; returns which were broken."""
    made = perturb(model, attack, x, y, seed)
    assert made.dtype == torch.float32 and made.shape == x.shape and not made.requires_grad
    assert made.min() >= 0 and made.max() <= 1
    assert (made - x).abs().max() <= attack.eps_255 / 255 + 1e-6
    wrong_before, wrong_now = model(x).argmax(1) != y, model(made).argmax(1) != y
    still = wrong_before | ~wrong_now
    assert torch.equal(made[still], x[still])
    return wrong_now & ~wrong_before


@pytest.mark.parametrize("name", every(1.0))
@settings(max_examples=12)
@given(eps=st.floats(0, 300) | st.sampled_from([0.0, 8.0, 40.0, 255.0]), seed=st.integers(0, 2**62))
def test_it_stays_in_ball_and_box_and_touches_only_what_it_breaks(name, eps, seed):
    assert_lawful(network(), every(eps)[name], *batch(seed=seed), seed)


@any_attack
def test_it_breaks_some_images_at_a_large_radius(attack):
    x, y = batch(60)
    found = assert_lawful(network(), attack, x, y, 0)
    assert 0.05 < found.float().mean() < 0.75, "three in four can be broken, not every one is"


@any_attack
def test_the_same_seed_makes_the_same_examples_and_another_makes_others(attack):
    x, y = batch(60)
    model = network()
    first = perturb(model, attack, x, y, 7)
    torch.manual_seed(12345)
    assert torch.equal(perturb(model, attack, x, y, 7), first)
    assert not torch.equal(perturb(model, attack, x, y, 8), first)


@any_attack
def test_images_labels_and_all_global_generators_are_untouched(attack):
    x, y = batch()
    images, labels = x.clone(), y.clone()
    model = network()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    perturb(model, attack, x, y, 3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(x, images) and torch.equal(y, labels)


@any_attack
def test_examples_are_made_in_eval_mode_and_the_model_comes_back_as_it_was(attack):
    x, y = batch()
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), *network())
    model[0].running_mean.fill_(0.1)
    before = copy.deepcopy(model).eval()
    made = perturb(model.train(), attack, x, y, 0)
    assert all(m.training for m in model.modules())
    assert torch.equal(made, perturb(before, attack, x, y, 0))
    for name, t in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], t), name


@pytest.mark.parametrize("name", [n for n in every(1.0) if n != "square"])
def test_no_images_are_no_work(name):
    x, y = batch()
    assert perturb(network(), every(8.0)[name], x[:0], y[:0], 0).shape == (0, 1, 4, 4)


# --- Losses ---------------------------------------------------------------------------------------

logits_and_labels = st.integers(3, 6).flatmap(
    lambda c: st.lists(
        st.tuples(
            st.lists(st.floats(-50, 50, width=32), min_size=c, max_size=c, unique=True),
            st.integers(0, c - 1),
        ),
        min_size=1,
        max_size=5,
    )
)


@given(rows=logits_and_labels)
def test_margin_and_dlr_are_what_a_loop_over_classes_finds(rows):
    z, y = torch.tensor([r for r, _ in rows]), torch.tensor([k for _, k in rows])
    for (row, label), m, d in zip(rows, margin(z, y), dlr(z, y), strict=True):
        best_wrong = max(v for k, v in enumerate(row) if k != label)
        assert m.item() == pytest.approx(best_wrong - row[label], rel=1e-5, abs=1e-5)
        assert (m > 0) == (best_wrong > row[label])
        first, _, third = sorted(row, reverse=True)[:3]
        expected = (best_wrong - row[label]) / max(first - third, 1e-12)
        assert d.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_dlr_does_not_change_with_the_scale_and_offset_of_the_logits():
    z, y = torch.randn(20, 5), torch.randint(0, 5, (20,))
    assert torch.allclose(dlr(100 * z + 7, y), dlr(z, y), rtol=1e-3)
    assert not torch.allclose(margin(100 * z, y), margin(z, y))


def bend(z: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of the Hessian of the cross-entropy in the logits, for each b."""
    z = z.repeat(len(b), 1).requires_grad_()
    loss = F.cross_entropy(b[:, None] * z, torch.ones(len(b), dtype=torch.long), reduction="sum")
    (slope,) = torch.autograd.grad(loss, z, create_graph=True)
    rows = [torch.autograd.grad(column.sum(), z, retain_graph=True)[0] for column in slope.T]
    return torch.stack(rows).square().sum((0, 2)).sqrt()


def random_logits(n: int = 12, classes: int = 5) -> torch.Tensor:
    """The first two at least 0.4 apart: the scale of ties lies beyond the grid."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(4 * n, classes, generator=generator)
    first, second = z.topk(2).values.T
    return z[first - second > 0.4][:n]


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1000.0])
def test_the_logit_scale_is_where_the_hessian_of_the_cross_entropy_is_largest(size):
    logits = size * random_logits()
    fine = torch.logspace(-4, 2, 2001, dtype=torch.float64)
    for z, b in zip(logits.double(), logit_scale(logits), strict=True):
        norms = bend(z, fine)
        assert abs(torch.log10(b / fine[norms.argmax()])) <= 0.05, "one step of the grid of 121"
        assert bend(z, b.double()[None]).item() >= 0.97 * norms.max()


def test_the_logit_scale_is_inverse_to_the_scale_of_the_logits():
    logits = random_logits(50)
    assert torch.allclose(10 * logit_scale(10 * logits), logit_scale(logits), rtol=1e-3)
    assert torch.equal(logit_scale(logits + 5), logit_scale(logits))


# --- A linear model: the optimum is known ---------------------------------------------------------


def linear(w: torch.Tensor, size: float = 1.0) -> nn.Module:
    """Logits (s, -s, far below) with s = size w (x - 1/2)."""
    layer = nn.Linear(16, 3)
    layer.weight.data = size * torch.stack([w, -w, 0 * w])
    layer.bias.data = size * torch.tensor([-w.sum() / 2, w.sum() / 2, -1000 * w.abs().sum()])
    return nn.Sequential(nn.Flatten(), layer)


def task(seed: int, n: int = 20):
    """w, images whose balls of up to 76 grey levels lie in the box, labels, and the distance of
    each image from the boundary in the l-infinity norm, in grey levels."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(16, generator=generator) + 0.3
    w = w * torch.randint(0, 2, (16,), generator=generator).mul(2).sub(1)
    x = 0.5 + 0.4 * (torch.rand(n, 1, 4, 4, generator=generator) - 0.5)
    s = (x.flatten(1) - 0.5) @ w
    return w, x, (s < 0).long(), 255 * s.abs() / w.abs().sum()


CROSSING = {"step_255": 76.0, "steps": 3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "margin"},
        {"loss": "dlr"},
        {"scaled": True},
        {"samples": 3, "noise_255": 10.0},
        {"samples": 2, "noise_255": 4.0, "loss": "margin", "restarts": 2},
    ],
    ids=str,
)
@settings(max_examples=15)
@given(eps=st.floats(0.5, 20), seed=st.integers(0, 2**62))
def test_pgd_breaks_exactly_what_can_be_broken(options, eps, seed):
    w, x, y, distance = task(seed)
    clear = (distance - eps).abs() > 1e-3
    found = broken(linear(w), pgd(eps, **CROSSING, **options), x, y, seed)
    assert torch.equal(found[clear], (distance < eps)[clear])


@pytest.mark.parametrize("name", [n for n in every(1.0) if n not in ("cross_entropy", "dlr")])
def test_nothing_finds_what_is_not_there(name):
    w, x, y, distance = task(0, 60)
    eps = distance.median().item()
    found = broken(linear(w), every(eps)[name], x, y)
    assert not found[distance > eps].any()


def test_scaled_logits_bring_a_vanished_gradient_back():
    w, x, y, distance = task(1)
    model = linear(w, size=1e5)  # the softmax is exactly 0 or 1 in float32
    eps = distance.median().item() + 0.1
    plain, scaled = (broken(model, pgd(eps, **CROSSING, scaled=s), x, y) for s in (False, True))
    assert torch.equal(scaled, distance < eps) and 9 <= scaled.sum() <= 11
    start = broken(model, pgd(eps, steps=1, step_255=0.0), x, y)
    assert torch.equal(plain, start) and start.sum() < 9, "the random start and nothing else"


def test_nes_steps_along_the_sign_of_the_true_gradient():
    w, x, y, _ = task(2)
    attack = NES(eps_255=38, step_255=38, steps=1, samples=3000, sigma_255=5)
    made = perturb(linear(w), attack, x, y, 0)
    moved = (made != x).flatten(1).any(1)
    assert moved.sum() >= 10
    towards = torch.where(y == 0, -1.0, 1.0)[:, None] * w.sign()
    change = (made - x).flatten(1)[moved]
    assert torch.allclose(change.abs(), torch.tensor(38 / 255), atol=1e-6)
    assert (change.sign() == towards[moved]).float().mean() > 0.97


def test_hopskipjump_ends_near_the_boundary():
    w, x, y, distance = task(3, 12)
    found = broken(linear(w), HopSkipJump(eps_255=2.5 * distance.max().item(), steps=8), x, y)
    assert found.all()


# --- Steps, restarts, starts and averages ---------------------------------------------------------


@pytest.mark.parametrize(
    ("eps", "more"), [(16, {"steps": 2}), (16, {"steps": 7}), (60, {"restarts": 9})]
)
def test_more_steps_or_restarts_break_no_image_less(digits_lenet, eps, more):
    model, x, y = digits_lenet
    few, many = (
        broken(model, pgd(eps, **{"step_255": 4.0, "steps": 1} | m), x, y) for m in ({}, more)
    )
    assert (many >= few).all()
    assert many.sum() > few.sum()


def test_restarts_start_at_different_points_of_the_whole_ball():
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            seen.append(x.detach().clone())
            return torch.stack([x.sum((1, 2, 3)) * 0 + 1, x.sum((1, 2, 3)) * 0], 1) * self.weight

    x, y = torch.full((400, 1, 1, 1), 0.1), torch.zeros(400, dtype=torch.long)
    perturb(Watch(), pgd(51, restarts=2, steps=1), x, y, 0)
    starts = [seen[1], seen[3]]  # after the clean images; then start and end of each restart
    assert not torch.equal(*starts)
    for start in starts:
        assert 0 <= start.min() < 0.01 and 0.29 < start.max() <= 0.3 + 1e-6
        assert abs(start.mean() - 0.15) < 0.02, "uniform on what the box leaves of the ball"


def quantised_lenet(kind: str, bits: int) -> nn.Module:
    torch.manual_seed(0)
    options = {"maximum": "image"} if kind == "fixed" else {}
    return models.lenet(activation(kind, bits, **options)).eval()


@pytest.mark.parametrize(("kind", "bits"), [("fixed", 1), ("fixed", 3), ("dynamic", 2)])
def test_without_a_gradient_nothing_is_found_that_the_random_start_does_not_find(kind, bits):
    model = quantised_lenet(kind, bits)
    x = data.to_float(data.load("digits").x_test[:60])
    y = model(x).argmax(1)
    blind = pgd(60, steps=5, backward="zero")
    start = pgd(60, steps=1, step_255=0.0)
    made = perturb(model, blind, x, y, 0)
    assert torch.equal(made, perturb(model, start, x, y, 0))
    found = (made != x).flatten(1).any(1)
    seeing = broken(model, pgd(60, steps=5, backward="sigmoid", temperature=5.0), x, y)
    assert 0 < found.sum() < seeing.sum()


def test_the_attacker_s_rule_is_in_force_during_the_attack_alone():
    model = quantised_lenet("fixed", 2)
    rules = []
    layers = [m for m in model.modules() if isinstance(m, FixedQuantizer)]
    layers[0].register_forward_pre_hook(
        lambda m, _: rules.append((m.backward, m.temperature)) if torch.is_grad_enabled() else None
    )
    x = data.to_float(data.load("digits").x_test[:3])
    y = model(x).argmax(1)
    rules.clear()
    for attack in (
        pgd(8, backward="sigmoid", temperature=5.0),
        AutoAttack(eps_255=255, backward="sigmoid", temperature=5.0),
    ):
        perturb(model, attack, x, y, 0)
        assert ("sigmoid", 5.0) in rules
        if isinstance(attack, AdaptivePGD):
            assert set(rules) == {("sigmoid", 5.0)}
        assert {(m.backward, m.temperature) for m in layers} == {("straight_through", 1.0)}
        rules.clear()
    perturb(model, pgd(8), x, y, 0)
    assert set(rules) == {("straight_through", 1.0)}, "by default it is the model's own"


class Rippled(nn.Module):
    """A linear model on which a steep ripple of 2 grey levels lies."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        s = (self.w * x + 0.01 * torch.sin(2 * math.pi * 255 / 2 * x)).sum(1)
        return torch.stack([s, -s], 1)


def test_averaging_over_noise_sees_through_a_ripple():
    w, x, _, _ = task(4)
    y = torch.zeros(len(x), dtype=torch.long)
    model = Rippled(w)

    def agreement(attack: AdaptivePGD) -> float:
        torch.manual_seed(0)
        logits, grad = attack.gradient(model, x, y)
        assert torch.equal(logits, model(x)), "the answer is that to the image itself"
        return (grad.flatten(1).sign() == -w.sign()).float().mean().item()

    plain, one, many = (
        agreement(pgd(8, loss="margin", **o))
        for o in ({}, {"noise_255": 8.0}, {"noise_255": 8.0, "samples": 200})
    )
    assert plain < 0.8 and one < 0.8 and many > 0.95


def test_the_noise_of_averaging_stays_in_its_size_and_in_the_box():
    seen = []
    model = network()
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    x, y = batch()
    pgd(8, samples=5, noise_255=30.0).gradient(model, x, y)
    assert len(seen) == 5 + 1 and torch.equal(seen[-1], x)
    for near in seen[:-1]:
        assert near.min() >= 0 and near.max() <= 1
        assert 28 / 255 < (near - x).abs().max() <= 30 / 255 + 1e-6
        assert (near < x).any() and (near > x).any()


# --- Noise ----------------------------------------------------------------------------------------


class Threshold(nn.Module):
    """Answers 1 where the first pixel exceeds a threshold."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = (x[:, 0, 0, 0] > self.value).float()
        return torch.stack([1 - over, over], 1)


@pytest.mark.parametrize(
    ("share", "draws", "low", "high"),
    [(0.0, 30, 1, 1), (0.9, 200, 0.99, 1), (0.9, 1, 0.02, 0.09), (0.9, 20, 0.55, 0.73),
     (1.01, 200, 0, 0)],
)  # fmt: skip
def test_noise_finds_a_region_as_often_as_its_share_of_the_ball_says(share, draws, low, high):
    x, y = torch.full((500, 1, 1, 2), 0.5), torch.zeros(500, dtype=torch.long)
    attack = Noise(eps_255=51, draws=draws)
    found = broken(Threshold(0.5 + share * 0.2), attack, x, y).float().mean()
    assert low <= found <= high, "1 - (1 - region's share of the ball)^draws"


@any_attack
def test_no_radius_leaves_every_image_as_it_is(attack):
    x, y = batch(20)
    still = type(attack)(**{**vars(attack), "eps_255": 0.0})
    assert torch.equal(perturb(network(), still, x, y, 0), x)


# --- Attacks of other libraries, on a trained network ---------------------------------------------


@pytest.mark.parametrize(
    "attack", [Square(eps_255=60, queries=60), HopSkipJump(eps_255=60, steps=3)], ids=str
)
def test_a_black_box_breaks_some_digits_and_gradients_break_more(digits_lenet, attack):
    model, x, y = digits_lenet
    x, y = x[:16], y[:16]
    found = assert_lawful(model, attack, x, y, 0)
    white = broken(model, pgd(60, step_255=10.0, steps=10), x, y) & (model(x).argmax(1) == y)
    assert 0 < found.sum() <= white.sum()
    more = {"queries": 300} if isinstance(attack, Square) else {"steps": 6}
    assert assert_lawful(model, type(attack)(**vars(attack) | more), x, y, 0).sum() >= found.sum()


def test_hopskipjump_takes_many_images_a_part_at_a_time(digits_lenet, monkeypatch):
    model, x, y = digits_lenet
    monkeypatch.setattr(black_box, "_WALKERS", 6)
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    found = broken(model, HopSkipJump(eps_255=150, steps=3), x[:16], y[:16])
    handle.remove()
    assert found.sum() >= 12
    assert sizes.count(16) <= 3 and set(sizes) - {16} <= set(range(7)), "but for looks at the whole"


def test_hopskipjump_needs_no_more_than_labels(digits_lenet):
    model, x, y = digits_lenet

    class Answer(nn.Module):
        def forward(self, x):
            return F.one_hot(model(x).argmax(1), 10).float()

    attack = HopSkipJump(eps_255=60, steps=2)
    with_logits = perturb(model, attack, x[:8], y[:8], 0)
    assert torch.equal(perturb(Answer(), attack, x[:8], y[:8], 0), with_logits)


def test_hopskipjump_leaves_a_model_of_one_answer_alone():
    x, y = batch()
    model = network()
    model[3].bias.data[2] = 1e6
    for labels in y, torch.full_like(y, 2):
        assert torch.equal(perturb(model, HopSkipJump(eps_255=255, steps=1), x, labels, 0), x)


def test_autoattack_breaks_what_pgd_breaks_and_touches_nothing_else():
    x, y = batch(12)
    model = network()
    found = assert_lawful(model, AutoAttack(eps_255=12, classes=4), x, y, 0)
    weak = broken(model, pgd(12, steps=10, step_255=3.0, loss="margin"), x, y)
    assert 0 < found.sum() < 9 and (found >= weak & (model(x).argmax(1) == y)).all()


def test_autoattack_is_the_standard_ensemble_with_its_budgets(monkeypatch):
    seen = []
    genuine = torchattacks.MultiAttack
    monkeypatch.setattr(torchattacks, "MultiAttack", lambda a: seen.extend(a) or genuine(a))
    x, y = batch(2)
    perturb(network(), AutoAttack(eps_255=120, classes=4), x, y, 0)
    budgets = [(m.attack, getattr(m, "steps", None) or m.n_queries) for m in seen]
    assert budgets == [("APGD", 100), ("APGDT", 100), ("FAB", 100), ("Square", 5_000)]
    assert (seen[0].loss, seen[2].multi_targeted) == ("ce", True)
    assert not seen[3].rescale_schedule
    assert all(m.eps == 120 / 255 and m.norm == "Linf" and m.n_restarts == 1 for m in seen)


def test_autoattack_starts_where_the_seed_says():
    x, y = batch(12)
    attack, model = AutoAttack(eps_255=120, classes=4), network()
    first = perturb(model, attack, x, y, 0)
    state = torch.get_rng_state()
    assert torch.equal(perturb(model, attack, x, y, 0), first)
    assert not torch.equal(perturb(model, attack, x, y, 1), first)
    assert torch.equal(torch.get_rng_state(), state)


# --- Bad input ------------------------------------------------------------------------------------

NES_OPTIONS = {"eps_255": 8.0, "step_255": 1.0, "steps": 2, "samples": 2, "sigma_255": 1.0}


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: pgd(-1.0), "eps_255 is -1.0; .* at least 0"),
        (lambda: pgd(math.nan), "eps_255 is nan"),
        (lambda: pgd(math.inf), "eps_255 is inf"),
        (lambda: pgd(True), "eps_255 is True"),
        (lambda: AdaptivePGD(eps_255="8", step_255=1, steps=1), "eps_255 is '8'"),
        (lambda: AdaptivePGD(eps_255=None, step_255=1, steps=1), "eps_255 is None"),
        (lambda: AdaptivePGD(eps_255=[8.0], step_255=1, steps=1), r"eps_255 is \[8.0\]"),
        (lambda: pgd(torch.tensor(8.0)), r"eps_255 is a Tensor of shape \(\)"),
        (lambda: pgd(scaled="false"), "scaled is 'false'; it must be True or False"),
        (lambda: pgd(loss=["dlr"]), "loss is .*dlr"),
        (lambda: pgd(file="int8"), "file is 'int8'; choose one of uint8 or None"),
        (lambda: pgd(step_255=-2.0), "step_255 is -2.0"),
        (lambda: pgd(noise_255=-1.0), "noise_255 is -1.0"),
        (lambda: pgd(steps=0), "steps is 0; .* at least 1"),
        (lambda: pgd(steps=2.5), "steps is 2.5; .* whole number"),
        (lambda: pgd(restarts=0), "restarts is 0"),
        (lambda: pgd(restarts=True), "restarts is True"),
        (lambda: pgd(samples=0), "samples is 0"),
        (lambda: pgd(loss="hinge"), "loss is 'hinge'; choose one of cross_entropy, margin, dlr"),
        (lambda: pgd(backward="hard"), "backward is 'hard'"),
        (lambda: pgd(backward=""), "backward is ''"),
        (lambda: pgd(backward="sigmoid", temperature=0.0), "temperature is 0.0"),
        (lambda: pgd(temperature=-1.0), "temperature is -1.0"),
        (lambda: NES(**NES_OPTIONS | {"eps_255": -1}), "eps_255 is -1"),
        (lambda: NES(**NES_OPTIONS | {"step_255": -1}), "step_255 is -1"),
        (lambda: NES(**NES_OPTIONS | {"sigma_255": math.nan}), "sigma_255 is nan"),
        (lambda: NES(**NES_OPTIONS | {"steps": 0}), "steps is 0"),
        (lambda: NES(**NES_OPTIONS | {"samples": 0}), "samples is 0; .* at least 2"),
        (lambda: NES(**NES_OPTIONS | {"samples": 3}), "samples is 3; it must be even"),
        (lambda: Noise(eps_255=-1, draws=1), "eps_255 is -1"),
        (lambda: Noise(eps_255=1, draws=0), "draws is 0"),
        (lambda: Square(eps_255=-1, queries=1), "eps_255 is -1"),
        (lambda: Square(eps_255=1, queries=0), "queries is 0"),
        (lambda: AutoAttack(eps_255=math.inf), "eps_255 is inf"),
        (lambda: AutoAttack(eps_255=8, classes=3), "classes is 3; .* at least 4"),
        (lambda: AutoAttack(eps_255=8, steps=0), "steps is 0"),
        (lambda: AutoAttack(eps_255=8, queries=0), "queries is 0"),
        (lambda: AutoAttack(eps_255=8, backward="hard"), "backward is 'hard'"),
        (lambda: AutoAttack(eps_255=8, backward="tanh", temperature=0), "temperature is 0"),
        (lambda: HopSkipJump(eps_255=-1, steps=1), "eps_255 is -1"),
        (lambda: HopSkipJump(eps_255=1, steps=0), "steps is 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(make, names):
    with pytest.raises((ValueError, TypeError), match=names) as caught:
        make()
    assert "\n" not in str(caught.value)
