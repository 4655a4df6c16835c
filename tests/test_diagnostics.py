from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reproduce import data, models
from reproduce.attacks import AdaptivePGD
from reproduce.attacks.diagnostics import (
    FRESH,
    INNER,
    PLANTING,
    binarization_test,
    false_labels,
    flags,
    loss_by_step,
    zero_gradients,
)
from reproduce.quantizers import activation

PGD = AdaptivePGD(eps_255=20, step_255=6, steps=4)


def images(n: int = 6, size: int = 4, seed: int = 0) -> torch.Tensor:
    """(n, 1, size, size), of which some pixels are exactly 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    return (1.6 * torch.rand(n, 1, size, size, generator=generator) - 0.3).clamp(0, 1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


# --- Flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m, (False, False)),
        (lambda m: nn.Sequential(*m, nn.Dropout(0.5)).train(), (True, False)),
        (lambda m: nn.Sequential(*m, nn.Dropout(0.5)).eval(), (False, False)),
        (lambda m: nn.Sequential(*m, nn.Softmax(1)), (False, True)),
        (lambda m: nn.Sequential(*m, nn.LogSoftmax(1)), (False, False)),
        (lambda m: nn.Sequential(*m, nn.Softmax(1), nn.Dropout(0.5)).train(), (True, False)),
    ],
)
def test_flags_tell_a_random_model_and_one_that_ends_in_a_softmax(change, expected):
    found = flags(change(network()), images(20))
    assert (found["randomised"], found["softmax"]) == expected


def test_logits_that_sum_to_one_by_an_offset_are_no_softmax():
    class Summing(nn.Module):
        def forward(self, x):
            a = 3 * x.flatten(1)[:, :1] + 1
            return torch.cat([a, 1 - a], 1)

    assert flags(Summing(), images())["softmax"] is False


# --- Zero gradients -------------------------------------------------------------------------------


def halves() -> nn.Sequential:
    """Of 16 pixels the first 4 are not looked at; of 4 hidden units 3 are cut off by ReLU."""
    first, second = nn.Linear(16, 4), nn.Linear(4, 2)
    weight = torch.ones(4, 16)
    weight[:, :4] = 0
    first.weight.data, first.bias.data = weight, torch.tensor([1.0, -99.0, -99.0, -99.0])
    second.weight.data = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    second.bias.data = torch.tensor([0.0, -1.0])
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())


def test_the_caller_s_gradient_mode_does_not_matter():
    model, x, y = halves(), images(5), torch.zeros(5, dtype=torch.long)
    expected = zero_gradients(model, PGD, x, y), loss_by_step(model, PGD, x, y, 0)
    with torch.inference_mode():
        x, y = x * 1, y + 0
        assert (zero_gradients(model, PGD, x, y), loss_by_step(model, PGD, x, y, 0)) == expected


def test_the_shares_are_those_of_a_network_made_by_hand():
    x = images(5)
    found = zero_gradients(halves(), PGD, x, torch.zeros(5, dtype=torch.long))
    # One hidden unit of four passes a gradient, and the logit that is not exactly 0.
    assert found == {"images": 0.0, "pixels": 4 / 16, "1": 3 / 4, "2": 1 / 2}


def test_an_image_counts_whose_gradient_is_zero_everywhere():
    model = halves()
    model[1].weight.data[0] *= -1  # hidden unit 0 lives where the sum of 12 pixels is below 1
    x = images(40)
    x[:15] *= 0.05
    dead = (x.flatten(1)[:, 4:].sum(1) >= 1).float().mean().item()
    found = zero_gradients(model, PGD, x, torch.zeros(40, dtype=torch.long))
    assert found["images"] == pytest.approx(dead) and 0.2 < dead < 0.8
    assert found["pixels"] == pytest.approx(dead + (1 - dead) * 4 / 16)


@pytest.mark.parametrize(("kind", "bits"), [("fixed", 1), ("fixed", 3), ("dynamic", 2)])
def test_the_gradient_is_that_of_the_attack_s_own_rule(kind, bits):
    torch.manual_seed(0)
    model = models.lenet(activation(kind, bits)).eval()
    x = data.to_float(data.load("digits").x_test[:4])
    y = model(x).argmax(1)
    blind = zero_gradients(model, replace(PGD, backward="zero"), x, y)
    assert blind.keys() == {"images", "pixels", "1", "2", "3", "4"}
    assert all(share == 1 for share in blind.values())
    seeing = zero_gradients(model, replace(PGD, backward="tanh"), x, y)
    assert seeing["images"] == 0 and seeing["pixels"] < 0.2 and seeing["4"] == 0
    assert not any(m._forward_pre_hooks for m in model.modules()), "nothing is left behind"
    assert {m.backward for m in model.modules() if hasattr(m, "backward")} == {"straight_through"}


def test_the_objective_is_the_attack_s_own():
    model = network()
    model = nn.Sequential(*model[:3], nn.ReLU(), model[3])
    model[4].weight.data *= 1e5  # the softmax is saturated
    x = images()
    y = model(x).argmax(1)
    assert zero_gradients(model, PGD, x, y)["images"] == 1
    assert zero_gradients(model, replace(PGD, scaled=True), x, y)["images"] == 0
    assert zero_gradients(model, replace(PGD, loss="margin"), x, y)["images"] == 0


# --- Loss by step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_the_losses_are_those_of_a_plain_loop(loss):
    model, x, y = network(), images(), torch.tensor([0, 1, 2, 0, 1, 2])

    def objective(logits):
        if loss == "cross_entropy":
            return F.cross_entropy(logits, y)
        others = logits.masked_fill(F.one_hot(y, 3).bool(), -torch.inf)
        return (others.amax(1) - logits[torch.arange(6), y]).mean()

    eps, step = 20 / 255, 6 / 255
    lowest, highest = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5))
    z, expected = lowest + (highest - lowest) * noise, []
    for _ in range(PGD.steps + 1):
        z = z.detach().requires_grad_()
        value = objective(model(z))
        expected.append(value.item())
        (grad,) = torch.autograd.grad(value, z)
        z = torch.minimum(torch.maximum(z + step * grad.sign(), lowest), highest)
    found = loss_by_step(model, replace(PGD, loss=loss), x, y, 5)
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(found) == 5 and found[-1] > found[0]


def test_a_curve_depends_on_its_seed_alone_and_leaves_the_generator():
    model, x, y = network(), images(), torch.zeros(6, dtype=torch.long)
    for attack in PGD, replace(PGD, samples=2, noise_255=8.0):
        first = loss_by_step(model, attack, x, y, 1)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert loss_by_step(model, attack, x, y, 1) == first
        assert torch.equal(torch.get_rng_state(), state)
        assert loss_by_step(model, attack, x, y, 2) != first


def test_a_curve_goes_the_way_of_the_attack_s_rule():
    torch.manual_seed(0)
    model = models.lenet(activation("fixed", 2, maximum="image")).eval()
    x = data.to_float(data.load("digits").x_test[:6])
    y = model(x).argmax(1)
    flat = loss_by_step(model, replace(PGD, backward="zero"), x, y, 0)
    steep = loss_by_step(model, replace(PGD, backward="straight_through"), x, y, 0)
    assert len(set(flat)) == 1 and flat[0] == pytest.approx(steep[0], rel=1e-5)
    assert steep[-1] > steep[0] + 0.1


# --- False labels ---------------------------------------------------------------------------------


class Pixels(nn.Module):
    """Logit k is how far pixel k is above 1/2, plus a hint at the true class in the second row.

    `leak` turns the sign in the forward pass, and not in the backward one: moving away from a label
    makes the model name it.
    """

    def __init__(self, leak: bool) -> None:
        super().__init__()
        self.leak = leak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = x[:, 0, 0] - 0.5
        if self.leak:
            moved = moved - 2 * moved.detach()
        return moved + 0.01 * x[:, 0, 1].detach()


def labelled(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(n) % 10
    x = torch.full((n, 1, 2, 10), 0.5)
    x[:, 0, 1] = F.one_hot(y, 10).float()
    return x, y


WALK = AdaptivePGD(eps_255=20, step_255=10, steps=8)


def test_a_model_that_answers_the_perturbation_names_the_false_label_and_an_honest_one_does_not():
    x, y = labelled()
    for leak in True, False:
        assert torch.equal(Pixels(leak)(x).argmax(1), y)
        named = false_labels(Pixels(leak), WALK, x, y, 0)
        assert named.dtype == torch.bool and named.tolist() == [leak] * 60


def test_the_false_label_is_any_class_but_the_true_one():
    """A model of one answer is accused where that answer was the false label."""

    class Always(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 10)
            logits[:, 3] = 1
            return logits + 0 * x.sum((1, 2, 3))[:, None]

    x, y = labelled(5000)
    named = false_labels(Always(), replace(WALK, steps=1), x, y, 0)
    assert not named[y == 3].any()
    for other in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        assert 0.06 < named[y == other].float().mean() < 0.17, "one in nine"
    assert torch.equal(named, false_labels(Always(), replace(WALK, steps=1), x, y, 0))
    assert not torch.equal(named, false_labels(Always(), replace(WALK, steps=1), x, y, 1))


# --- Planted examples -----------------------------------------------------------------------------


def features(pixels: int = 16) -> nn.Sequential:
    """Linear features and a head that the test takes off."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.Linear(24, 10)).eval()


def heads(monkeypatch) -> list[tuple[nn.Module, torch.Tensor, nn.Linear]]:
    """What planted examples were made: (body, image, head)."""
    from reproduce.attacks import diagnostics

    made, genuine = [], diagnostics._head

    def watched(body, image, eps, generator):
        head = genuine(body, image, eps, generator)
        made.append((body, image, head))
        return head

    monkeypatch.setattr(diagnostics, "_head", watched)
    return made


def test_the_planted_corner_is_on_the_far_side_and_all_inner_points_on_the_near_one(monkeypatch):
    made = heads(monkeypatch)
    x, eps = images(8), 20 / 255
    found = binarization_test(features(), {"own": PGD}, x, seed=40)
    assert found["valid"].all() and len(made) == 8
    for i, (body, image, head) in enumerate(made):
        assert torch.equal(image, x[i])
        generator = torch.Generator().manual_seed(PLANTING + 40 + i)
        signs = torch.rand(image.shape, generator=generator) < 0.5
        noise = torch.rand((INNER, *image.shape), generator=generator)
        corner = (image + eps * torch.where(signs, -1.0, 1.0)).clamp(0, 1)
        inner = (image + eps * (2 * noise - 1)).clamp(0, 1)
        with torch.no_grad():
            near, far = (head(body(z)) for z in (torch.stack([image, *inner]), corner[None]))
        assert near.shape == (257, 2) and near.argmax(1).sum() == 0
        assert far.argmax(1) == 1 and far.diff().item() == pytest.approx(1, abs=1e-2)
        assert near.diff().max().item() == pytest.approx(-1, abs=1e-2), "the threshold is halfway"
        noise = torch.rand((FRESH, *image.shape), generator=generator)
        fresh = (image + eps * (2 * noise - 1)).clamp(0, 1)
        with torch.no_grad():
            assert found["random"][i] == head(body(fresh)).argmax(1).any()


def test_a_strong_attack_finds_every_planted_example_and_random_points_hardly_any():
    x = images(30, size=10)
    attacks = {"strong": replace(PGD, steps=10), "still": replace(PGD, step_255=0.0, steps=1)}
    found = binarization_test(features(100), attacks, x, seed=0)
    assert list(found) == ["valid", "random", "strong", "still"]
    assert all(hit.shape == (30,) and hit.dtype == torch.bool for hit in found.values())
    assert found["strong"].all() and found["random"].sum() <= 3
    assert not found["still"].any()


def test_an_attack_without_a_gradient_misses_what_is_planted_in_a_quantised_network():
    torch.manual_seed(0)
    model = models.lenet(activation("fixed", 3, maximum="image")).eval()
    x = data.to_float(data.load("digits").x_test[:6])
    base = AdaptivePGD(eps_255=76.5, step_255=10, steps=20)
    attacks = {
        "zero": replace(base, backward="zero"),
        "sigmoid": replace(base, backward="sigmoid", temperature=5.0),
    }
    found = binarization_test(model, attacks, x, seed=0)
    assert found["valid"].all() and found["sigmoid"].all() and not found["zero"].any()


def test_the_network_with_a_planted_head_is_asked_in_eval_mode_and_comes_back_in_its_own():
    torch.manual_seed(0)
    model = features()
    model.insert(2, nn.BatchNorm1d(24))
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    binarization_test(model, {"own": PGD}, images(2), seed=0)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_an_attack_s_start_knows_nothing_of_the_planted_corner(monkeypatch):
    made = heads(monkeypatch)
    starts = []

    class Watched(nn.Flatten):
        def forward(self, x):
            if torch.is_grad_enabled():
                starts.append(x[0].detach())
            return super().forward(x)

    x = torch.full((20, 1, 10, 10), 0.5)
    model = nn.Sequential(Watched(), *features(100)[1:])
    binarization_test(model, {"own": replace(PGD, steps=1)}, x, seed=0)
    same = 0.0
    for start, (body, image, head) in zip(starts, made, strict=True):
        uphill = (head.weight.diff(dim=0) @ body[1].weight).view_as(image)
        same += (start.sub(0.5).sign() == uphill.sign()).float().mean().item()
    assert abs(same / 20 - 0.5) < 0.04


def test_where_the_features_do_not_move_nothing_is_planted():
    model = features()
    model[1].weight.data.zero_()
    found = binarization_test(model, {"own": PGD}, images(3), seed=0)
    assert not any(hit.any() for hit in found.values())


def test_an_image_s_planting_depends_on_the_seed_and_its_place_alone():
    x, model = images(6), features()
    found = binarization_test(model, {"own": PGD}, x, seed=3)
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    rest = binarization_test(model, {"own": PGD}, x[2:], seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for name, hit in rest.items():
        assert torch.equal(hit, found[name][2:])


@pytest.mark.parametrize("radii", [(), (8.0, 9.0)])
def test_attacks_of_other_radii_are_refused_in_one_line(radii):
    attacks = {str(eps): replace(PGD, eps_255=eps) for eps in radii}
    with pytest.raises(ValueError, match="give attacks of one eps") as caught:
        binarization_test(features(), attacks, images(1), 0)
    assert str(sorted(radii)) in str(caught.value) and "\n" not in str(caught.value)
