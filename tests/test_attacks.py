from __future__ import annotations

import copy
import math
import random
import re
from dataclasses import fields

import foolbox
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import nn
from torch.nn import functional as F

from reproduce import attacks, data, models
from reproduce.attacks import FGSM, PGD, bpda, perturb
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer, activation

ATTACKS = {"fgsm": FGSM(20), "pgd": PGD(20, 5, 4)}
any_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def batch(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 4, 4) of which a third of the pixels is exactly 0 and a third exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.rand(n, 1, 4, 4, generator=generator) - 1).clamp(0, 1)
    return x, torch.randint(0, 3, (n,), generator=generator)


@pytest.fixture
def digits_lenet(lenet_on_digits):
    model, dataset = lenet_on_digits
    return model, data.to_float(dataset.x_test), dataset.y_test


# --- What an attack may do ------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    eps=st.floats(0, 300) | st.sampled_from([0.0, 8.0, 76.5, 255.0]),
    step=st.floats(0, 300),
    steps=st.integers(1, 4),
    random_start=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_an_attack_stays_in_the_ball_and_in_the_box(eps, step, steps, random_start, seed):
    x, y = batch(seed=seed)
    for attack in FGSM(eps), PGD(eps, step, steps, random_start):
        adversarial = perturb(network(), attack, x, y, seed)
        assert adversarial.dtype == torch.float32 and adversarial.shape == x.shape
        assert adversarial.min() >= 0 and adversarial.max() <= 1
        assert (adversarial - x).abs().max() <= eps / 255 + 1e-6


@settings(max_examples=60)
@given(eps=st.floats(0, 255), parts=st.integers(1, 5), seed=st.integers(0, 2**62))
def test_on_a_linear_model_an_attack_reaches_the_closed_form_optimum(eps, parts, seed):
    x, y = batch(seed=seed)
    y = y % 2
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(16, generator=generator) * 0.5 + 0.1
    w = w * torch.randint(0, 2, (16,), generator=generator).mul(2).sub(1)
    linear = nn.Linear(16, 2, bias=False)
    linear.weight.data = torch.stack([w, -w])
    model = nn.Sequential(nn.Flatten(), linear)
    towards = torch.where(y == 0, -1.0, 1.0).view(-1, 1, 1, 1) * w.sign().view(1, 1, 4, 4)
    optimum = (x + eps / 255 * towards).clamp(0, 1)
    # From anywhere in the ball the far corner is at most 2 eps away.
    crossing = PGD(eps, 2.001 * eps / parts, parts)
    for attack in FGSM(eps), crossing, PGD(eps, eps, 1, random_start=False):
        assert torch.allclose(perturb(model, attack, x, y, seed), optimum, rtol=0, atol=1e-6)


def test_fgsm_is_one_step_along_the_sign_of_the_gradient(digits_lenet):
    model, x, y = digits_lenet
    x, y = x[:50], y[:50]
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y).backward()
    expected = (x + 20 / 255 * leaf.grad.sign()).clamp(0, 1)
    assert torch.equal(perturb(model, FGSM(20), x, y, 0), expected)


def test_more_steps_of_pgd_raise_the_loss(digits_lenet):
    model, x, y = digits_lenet
    losses = [
        F.cross_entropy(model(perturb(model, PGD(20, 4, steps), x, y, 0)), y).item()
        for steps in (1, 3, 10)
    ]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(
    "attack", [FGSM(0), PGD(0, 5, 3), PGD(0, 5, 3, False), PGD(8, 0, 3, False)]
)
def test_no_radius_or_no_step_leaves_the_images_as_they_are(attack):
    x, y = batch()
    assert torch.equal(perturb(network(), attack, x, y, 0), x)


def test_without_a_random_start_the_seed_does_not_matter():
    x, y = batch()
    attack = PGD(20, 5, 4, random_start=False)
    assert torch.equal(perturb(network(), attack, x, y, 0), perturb(network(), attack, x, y, 1))


# --- What it leaves alone -------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_examples_and_another_makes_others():
    x, y = batch()
    model = network()
    first = perturb(model, ATTACKS["pgd"], x, y, 7)
    torch.manual_seed(12345)
    assert torch.equal(perturb(model, ATTACKS["pgd"], x, y, 7), first)
    assert not torch.equal(perturb(model, ATTACKS["pgd"], x, y, 8), first)


@any_attack
def test_the_images_and_all_global_generators_are_untouched(attack):
    x, y = batch()
    model = network()
    images, labels = x.clone(), y.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    perturb(model, attack, x, y, 3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(x, images) and torch.equal(y, labels)


def normalised() -> nn.Module:
    """A network whose training and eval modes differ, with one frozen weight."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    model[1].running_mean.fill_(0.3)
    model[4].bias.requires_grad_(False)
    return model


@any_attack
@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_as_it_was(attack, training):
    x, y = batch()
    model = normalised().train(training)
    for number, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, number) if p.requires_grad else None
    before = copy.deepcopy(model)
    required = [p.requires_grad for p in model.parameters()]
    perturb(model, attack, x, y, 0)
    assert [p.requires_grad for p in model.parameters()] == required
    for number, p in enumerate(model.parameters()):
        assert p.grad.unique().tolist() == [number] if required[number] else p.grad is None
    for name, t in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], t), name
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]


@any_attack
def test_a_caller_without_gradients_gets_the_same_examples(attack):
    x, y = batch()
    with torch.no_grad():
        got = perturb(normalised(), attack, x, y, 0)
    assert torch.equal(got, perturb(normalised(), attack, x, y, 0))


@any_attack
def test_no_gradient_is_computed_for_the_weights(attack):
    x, y = batch()
    model = normalised()
    required = []
    model[4].register_forward_pre_hook(
        lambda *_: required.extend(p.requires_grad for p in model.parameters())
    )
    perturb(model, attack, x, y, 0)
    assert required and not any(required)


@any_attack
def test_examples_are_made_in_eval_mode(attack):
    x, y = batch()
    in_eval = perturb(normalised().eval(), attack, x, y, 0)
    assert torch.equal(perturb(normalised().train(), attack, x, y, 0), in_eval)


def test_the_model_comes_back_as_it_was_after_an_error():
    x, y = batch()
    model = normalised().train()
    before = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        perturb(model, ATTACKS["pgd"], x[:, :, :3], y, 0)
    assert [p.requires_grad for p in model.parameters()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


# --- An independent library -----------------------------------------------------------------------


def foolbox_hits(model, x, y, eps, step, steps, random_start=True, seed=0) -> np.ndarray:
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=random_start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, success = attack(wrapped, x, y, epsilons=eps)
    return ~success.numpy()


def our_hits(model, x, y, attack, seed=0) -> np.ndarray:
    return (model(perturb(model, attack, x, y, seed)).argmax(1) == y).numpy()


def p_same(a: np.ndarray, b: np.ndarray) -> float:
    """McNemar's exact test: images that only one attack breaks split evenly if they are equal."""
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0


def test_pgd_agrees_with_foolbox_within_the_noise_of_its_random_start(digits_lenet):
    model, x, y = digits_lenet
    seeds = range(3)
    ours = np.concatenate([our_hits(model, x, y, PGD(20, 4, 8), s) for s in seeds])
    theirs = [foolbox_hits(model, x, y, 20 / 255, 4 / 255, 8, seed=100 + s) for s in seeds]
    theirs = np.concatenate(theirs)
    assert 0.2 < ours.mean() < 0.8, "a test where nearly all or nothing survives tells nothing"
    assert p_same(ours, theirs) > 1e-3
    weaker = np.concatenate([our_hits(model, x, y, PGD(20, 4, 2), s) for s in seeds])
    assert p_same(weaker, theirs) < 1e-3, "the test must be able to tell a weaker attack"


def test_pgd_without_a_random_start_is_foolbox_s_image_by_image(digits_lenet):
    model, x, y = digits_lenet
    ours = our_hits(model, x, y, PGD(20, 4, 8, random_start=False))
    theirs = foolbox_hits(model, x, y, 20 / 255, 4 / 255, 8, random_start=False)
    assert 0.2 < ours.mean() < 0.8
    # They differ by rounding alone, which tips over at most a few images on the edge.
    assert (ours != theirs).mean() <= 0.01


# --- Backward surrogates --------------------------------------------------------------------------


def quantised_lenet(kind: str, bits: int, backward: str) -> nn.Module:
    torch.manual_seed(0)
    return models.lenet(activation(kind, bits, backward=backward)).eval()


def rules(model: nn.Module) -> list[tuple[str, float]]:
    kinds = FixedQuantizer | DynamicQuantizer
    return [(m.backward, m.temperature) for m in model.modules() if isinstance(m, kinds)]


every_quantizer = pytest.mark.parametrize(
    ("kind", "bits"), [(k, b) for k in ("fixed", "dynamic") for b in (1, 2, 3)]
)


@every_quantizer
def test_a_zero_gradient_stops_pgd_and_a_straight_through_one_does_not(kind, bits):
    dataset = data.load("digits")
    x, y = data.to_float(dataset.x_test[:4]), dataset.y_test[:4]
    attack = PGD(30, 10, 2, random_start=False)
    model = quantised_lenet(kind, bits, "zero")
    assert torch.equal(perturb(model, attack, x, y, 0), x)
    for backward in ("straight_through", "tanh", "sigmoid"):
        with bpda(model, backward):
            assert not torch.equal(perturb(model, attack, x, y, 0), x)
    assert torch.equal(perturb(model, attack, x, y, 0), x)


@every_quantizer
def test_a_surrogate_changes_no_output(kind, bits):
    x = data.to_float(data.load("digits").x_test[:4])
    model = quantised_lenet(kind, bits, "straight_through")
    with torch.no_grad():
        expected = model(x)
        for backward in ("zero", "tanh", "sigmoid"):
            with bpda(model, backward, temperature=3.0):
                assert torch.allclose(model(x), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_pgd_with_a_rule_of_its_own_is_pgd_on_the_model_with_this_rule(kind):
    torch.manual_seed(0)
    model = models.lenet(activation(kind, 2)).eval()
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    plain, informed = PGD(20, 5, 3), PGD(20, 5, 3, backward="sigmoid", temperature=2.0)
    found = perturb(model, informed, x, y, seed=0)
    assert not torch.equal(found, perturb(model, plain, x, y, seed=0)), "its own rule is back"
    with bpda(model, "sigmoid", 2.0):
        assert torch.equal(found, perturb(model, plain, x, y, seed=0))


def test_without_a_rule_a_model_keeps_its_own():
    model = models.lenet(activation("fixed", 2, backward="tanh"))
    with bpda(model, None):
        assert {m.backward for m in model.modules() if isinstance(m, FixedQuantizer)} == {"tanh"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"backward": "step"}, "step"),
        (
            {"backward": "tanh", "temperature": 0.0},
            r"temperature is 0\.0; it must be a finite number above 0",
        ),
        ({"temperature": 2.0}, r"temperature is 2\.0 without a rule"),
    ],
)
def test_pgd_with_an_unknown_rule_is_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        PGD(20, 5, 3, **rule)


def test_surrogates_nest_and_are_undone_even_after_an_error():
    model = quantised_lenet("dynamic", 2, "zero")
    model[2].set_backward("sigmoid", 5.0)
    before = rules(model)
    with pytest.raises(ArithmeticError), bpda(model, "tanh"):
        assert rules(model) == [("tanh", 1.0)] * 4
        with bpda(model, "sigmoid", 2.5):
            assert rules(model) == [("sigmoid", 2.5)] * 4
        assert rules(model) == [("tanh", 1.0)] * 4
        raise ArithmeticError
    assert rules(model) == before


@pytest.mark.parametrize("wrong", [("nonsense", 1.0), ("tanh", 0.0), ("tanh", math.inf)])
@pytest.mark.parametrize("kind", ["dynamic", "relu"])
def test_a_wrong_surrogate_is_refused_and_changes_nothing(kind, wrong):
    model = models.lenet(activation(kind, 2 if kind == "dynamic" else None))
    before = rules(model)
    with pytest.raises(ValueError, match=r"nonsense|temperature"), bpda(model, *wrong):
        pass
    assert rules(model) == before


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: FGSM(-1), "eps_255 is -1"),
        (lambda: FGSM(math.nan), "eps_255 is nan"),
        (lambda: FGSM(math.inf), "eps_255 is inf"),
        (lambda: PGD(-0.5, 1, 1), "eps_255 is -0.5"),
        (lambda: PGD(8, -2, 1), "step_255 is -2"),
        (lambda: PGD(8, math.nan, 1), "step_255 is nan"),
        (lambda: PGD(8, 2, 0), "steps is 0"),
        (lambda: PGD(8, 2, -3), "steps is -3"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(make, names):
    with pytest.raises(ValueError, match=names) as caught:
        make()
    assert "\n" not in str(caught.value)


@any_attack
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_images_of_another_dtype_are_refused(attack, dtype):
    x, y = batch()
    with pytest.raises(TypeError, match=f"{dtype}.*float32"):
        perturb(network(), attack, x.to(dtype), y, 0)


@any_attack
@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6, 255.0, math.nan, math.inf, -math.inf])
def test_images_outside_0_and_1_are_refused(attack, value):
    x, y = batch()
    x[2, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]") as caught:
        perturb(network(), attack, x, y, 0)
    assert "\n" not in str(caught.value)


# --- What all attacks share -----------------------------------------------------------------------

ALL = {
    attacks.FGSM: (8,),
    attacks.PGD: (8, 2, 5),
    attacks.AdaptivePGD: {
        "eps_255": 8,
        "step_255": 2,
        "steps": 3,
        "restarts": 2,
        "samples": 2,
        "noise_255": 1,
    },
    attacks.AutoAttack: {"eps_255": 8, "steps": 10, "queries": 100},
    attacks.NES: {"eps_255": 8, "step_255": 2, "steps": 3, "samples": 4, "sigma_255": 1},
    attacks.Noise: {"eps_255": 8, "draws": 5},
    attacks.Square: {"eps_255": 8, "queries": 50},
    attacks.HopSkipJump: {"eps_255": 8, "steps": 3},
    attacks.CarliniWagner: (5, 3, 0.01, 1.0),
    attacks.DDN: (12,),
    attacks.ZOO: (60, 2, 5, 1.0, 0.01, 1.0),
}
MADE = {
    kind: kind(**given) if isinstance(given, dict) else kind(*given) for kind, given in ALL.items()
}


def test_kinds_are_names_of_their_own_and_no_settings():
    assert len({a.kind for a in MADE.values()}) == len(MADE)
    for kind, attack in MADE.items():
        assert kind.kind == attack.kind and re.fullmatch("[a-z-]+", kind.kind)
        assert kind.family in ("gradient", "score", "decision", "noise", "ensemble")
        assert not {"kind", "family", "passes"} & {f.name for f in fields(kind)}


class Certain(nn.Module):
    """Says class 0 of every image, whatever is done; counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.asked = nn.Linear(48, 10), 0
        self.layer.bias.data[0] = 1000.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.kind)
def test_passes_are_about_what_an_image_that_never_falls_takes(kind):
    torch.manual_seed(0)
    attack, model = MADE[kind], Certain().eval()
    x, y = torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    if kind is attacks.HopSkipJump:  # walks from an image of another class
        model.forward = lambda images: boundary(model, images)
        x[0], x[1] = 0.1, 0.9
        y = torch.tensor([0, 1])
    if kind in (attacks.DDN, attacks.ZOO):
        attack.run(model, x, y, seed=0)
    elif kind is attacks.CarliniWagner:
        attack.run(model, x, y)
    else:
        perturb(model, attack, x, y, 0)
    each = model.asked / 2 / (3 if kind is attacks.ZOO else 1)
    assert 0.4 * each - 4 <= attack.passes <= 1.5 * each, each


def boundary(model, images: torch.Tensor) -> torch.Tensor:
    model.asked += len(images)
    bright = (images.flatten(1).mean(1) > 0.5).float()
    return torch.stack([1 - bright, bright], 1)


@given(st.integers(0, 2**32 - 1))
def test_it_does_not_matter_whether_the_ball_or_the_box_is_clipped_to_last(seed):
    # Released code of the second paper clips to the ball last: the image is in both.
    x, far = torch.rand(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved, eps = x + 4 * (far - 0.5), 8 / 255
    box_last = moved.clamp(x - eps, x + eps).clamp(0, 1)
    assert torch.equal(moved.clamp(0, 1).clamp(x - eps, x + eps), box_last)
