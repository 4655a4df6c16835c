"""The audit, on models that are not the project's own: what it says, and that it never misleads."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import foolbox
import numpy as np
import pytest
import torch
import torchattacks
from torch import nn
from torch.nn import functional as F

import reproduce
from reproduce import Audit, attacks, audit, auditing, data, records, storage
from reproduce.attacks import FGSM, PGD, AdaptivePGD, Noise
from reproduce.auditing import signs
from reproduce.auditing.stand_ins import flat_layers, with_stand_ins
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import filter_radius, linear_quantize

ROOT = Path(__file__).resolve().parent.parent
EPS = 0.2
QUICK = {"eps": EPS, "suite": "quick", "progress": False}
SWIFT = {"eps": EPS, "suite": [FGSM(255 * EPS)], "progress": False}
HARMLESS = {"eps": 0.001, "suite": [FGSM(0.255)], "progress": False}


# --- Networks -------------------------------------------------------------------------------------


class Levels(nn.Module):
    """Four levels of a sigmoid, without a gradient."""

    def forward(self, x):
        return torch.round(torch.sigmoid(x) * 3) / 3


class StraightLevels(Levels):
    """The same, with the sigmoid's gradient."""

    def forward(self, x):
        soft = torch.sigmoid(x)
        return soft + (super().forward(x) - soft).detach()


class Sign(torch.autograd.Function):
    """Binarised, with somebody's own straight-through backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 1)


class Binarised(nn.Module):
    def forward(self, x):
        return Sign.apply(x)


class Blocks(nn.Module):
    """Like JPEG: the cosine transform of 7 x 7 blocks, its coefficients rounded to a step."""

    def __init__(self, size=7, step=0.25):
        super().__init__()
        k = torch.arange(size)
        basis = torch.cos(math.pi / size * (k + 0.5) * k[:, None]) * (2 / size) ** 0.5
        basis[0] /= 2**0.5
        self.register_buffer("basis", basis)
        self.size, self.step = size, step

    def forward(self, x):
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // self.size, self.size, w // self.size, self.size)
        blocks = blocks.transpose(3, 4)
        rounded = torch.round(self.basis @ blocks @ self.basis.T / self.step) * self.step
        back = self.basis.T @ rounded @ self.basis
        return back.transpose(3, 4).reshape(n, c, h, w)


class Thermometer(nn.Module):
    """Each pixel as the levels that it is above (Buckman et al. 2018)."""

    def __init__(self, levels=5):
        super().__init__()
        self.register_buffer("at", torch.arange(1, levels + 1).view(1, -1, 1, 1) / (levels + 1))

    def forward(self, x):
        return (x > self.at).float()

    def soft(self, x):
        return torch.sigmoid(10 * (x - self.at))


class Inlined(nn.Module):
    """The quantiser as a line of the forward pass, in no layer of its own."""

    def __init__(self, activation=None):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(288, 10)
        self.activation = activation

    def forward(self, x):
        x = self.conv(x)
        if self.activation is None:
            x = torch.round(torch.sigmoid(x) * 3) / 3
        else:
            x = self.activation(x)
        return self.head(x.flatten(1))


def network(activation, channels=1, classes=10):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), activation, nn.Flatten(), nn.Linear(288, classes)
    )


def fitted(model, x, y, steps=200):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(len(x), (64,), generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(model(x[index]), y[index]).backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="session")
def digits():
    """(x_train, y_train, x, y): halved to 14 x 14, and a hundred of the test set."""
    dataset = data.load("digits")
    x, x_test = (F.avg_pool2d(data.to_float(s), 2) for s in (dataset.x_train, dataset.x_test))
    return x, dataset.y_train, x_test[:100], dataset.y_test[:100]


@pytest.fixture(scope="session")
def networks(digits):
    """{name: network}, all trained alike in a second; the hard quantisers by a soft copy."""
    x, y, _, _ = digits
    made = {}
    torch.manual_seed(0)
    made["relu"] = fitted(network(nn.ReLU(inplace=True)), x, y)
    straight = fitted(network(StraightLevels()), x, y)
    made["levels"] = copy.deepcopy(straight)
    made["levels"][1] = Levels().eval()
    copied = Inlined(StraightLevels())
    copied.load_state_dict(
        {
            n.replace("0.", "conv.").replace("3.", "head."): v
            for n, v in straight.state_dict().items()
        }
    )
    made["straight copy"] = copied.eval()
    made["inlined"] = Inlined().eval()
    made["inlined"].load_state_dict(copied.state_dict())
    made["binarised"] = fitted(network(Binarised()), x, y)
    front = fitted(network(nn.ReLU()), Blocks()(x), y)
    made["blocks"] = nn.Sequential(Blocks(), front).eval()
    thermometer = Thermometer()
    coded = fitted(network(nn.ReLU(), channels=5), thermometer(x), y)
    made["thermometer"] = nn.Sequential(thermometer, coded).eval()
    return made


@pytest.fixture(scope="session")
def relu(networks):
    return networks["relu"]


@pytest.fixture
def images(digits):
    return digits[2], digits[3]


def bare(result):
    """No number of robustness, and no attack."""
    return result.robust is None and not result.attacks and result.adversarial is None


# --- Proofs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "layer"),
    [
        ("levels", lambda m: {"surrogates": {Levels: torch.sigmoid}}, "layer '1' of class Levels"),
        (
            "blocks",
            lambda m: {"surrogates": {Blocks: "straight_through"}},
            "layer '0' of class Blocks",
        ),
        (
            "thermometer",
            lambda m: {"surrogates": {Thermometer: m[0].soft}},
            "layer '0' of class Thermometer",
        ),
    ],
)
def test_a_layer_without_a_gradient_gives_no_number_until_something_stands_in(
    networks, images, name, given, layer
):
    blind = audit(networks[name], *images, **QUICK)
    assert bare(blind) and blind.flags["zero_gradients"]
    assert blind.verdict.startswith(f"no verdict: the gradient at the images is zero ({layer});")
    seeing = audit(networks[name], *images, **QUICK, **given(networks[name]))
    assert seeing.clean[0] > 0.8 and seeing.verdict == "broken"
    assert not seeing.flags["zero_gradients"]


def test_a_quantiser_inside_the_forward_pass_gives_no_number_without_a_copy(networks, images):
    blind = audit(networks["inlined"], *images, **QUICK)
    assert bare(blind) and "(the model of class Inlined)" in blind.verdict
    seeing = audit(networks["inlined"], *images, **QUICK, differentiable=networks["straight copy"])
    assert seeing.verdict == "broken" and "copy answers as the model" in seeing.notes[0]


def test_a_binarised_network_with_its_own_gradient_is_broken_as_it_is(networks, images):
    result = audit(networks["binarised"], *images, **QUICK)
    assert result.clean[0] > 0.8 and result.verdict == "broken"


@pytest.mark.parametrize("eps", [0.04, EPS])
def test_of_a_plain_network_as_much_is_left_as_autoattack_leaves(relu, images, eps):
    whole = auditing.suites.named_attacks("standard", eps, classes=10)
    follow = {name: attack for name, attack in whole.items() if attack.family == "gradient"}
    result = audit(relu, *images, **QUICK | {"eps": eps, "suite": follow})
    theirs = torchattacks.AutoAttack(relu, eps=eps, n_classes=10, seed=0)(*images)
    with torch.no_grad():
        left = int((relu(theirs).argmax(1) == images[1]).sum())
    assert abs(100 * result.robust[0] - left) <= 1
    assert all(c.passed for c in result.checks.values()), result.verdict
    if eps == EPS:
        assert result.verdict == "broken"
    else:  # some are left: a number that could differ
        assert 20 < left < 90 and result.verdict == "not broken by these attacks"


def test_a_filter_is_not_called_broken_inside_its_radius_nor_vouched_for(relu, images):
    x, y = linear_quantize(images[0], 2), images[1]
    model = nn.Sequential(DoubleQuantizer(2, False), relu).eval()
    inside = audit(model, x, y, **QUICK | {"eps": (filter_radius(2) - 0.5) / 255})
    assert inside.robust == inside.clean and inside.clean[0] > 0.7
    assert inside.verdict.startswith("no verdict") and "by a proof" in inside.verdict
    assert audit(model, x, y, **QUICK | {"eps": 100 / 255}).verdict == "broken"


# --- What makes a verdict impossible --------------------------------------------------------------


class Random(nn.Module):
    def forward(self, x):
        return x + 3 * torch.randn_like(x)


class Centred(nn.Module):
    """Less the batch's mean."""

    def forward(self, x):
        return x - 0.5 * x.mean(0)


@pytest.mark.parametrize(
    ("last", "flag"),
    [(Random(), "randomised"), (Centred(), "batch_dependent"), (nn.Softmax(1), "softmax")],
)
def test_a_doubtful_model_is_flagged_and_never_vouched_for(relu, images, last, flag):
    result = audit(nn.Sequential(relu, last).eval(), *images, **HARMLESS)
    assert result.flags[flag] and result.verdict.startswith("no verdict")
    assert result.reasons and result.reasons[0] in result.verdict
    assert sum(result.flags.values()) == 1


def test_a_model_that_draws_lots_is_not_called_broken_for_its_bad_luck():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), Random()).eval()
    suite = {str(i): Noise(eps_255=1, draws=1) for i in range(6)}
    x, y = torch.full((100, 1, 2, 2), 0.5), torch.zeros(100, dtype=torch.int64)
    result = audit(model, x, y, **SWIFT | {"eps": 1 / 255, "suite": suite})
    assert result.robust[0] < 0.1 < result.clean[0] and result.verdict.startswith("no verdict")
    assert not result.checks["eps = 0 changes nothing"].passed


def test_large_logits_hide_no_gradient(relu, images):
    class Scaled(nn.Module):
        def forward(self, x):
            return 1e4 * x

    result = audit(nn.Sequential(relu, Scaled()).eval(), *images, **QUICK)
    assert not result.flags["zero_gradients"] and result.verdict == "broken"


def test_a_flat_branch_beside_an_open_one_is_named(relu, images):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.open, self.flat, self.body = nn.Identity(), Levels(), relu

        def forward(self, x):
            return self.body(self.open(x) / 2 + self.flat(x) / 2)

    result = audit(Two().eval(), *images, **HARMLESS)
    assert (
        "no gradient comes through layer 'flat' of class Levels" in result.verdict and result.robust
    )


def test_a_model_that_goes_around_its_flat_layer_is_not_suspected(relu, images):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.levels, self.body = Levels(), relu

        def forward(self, x):
            return self.body(x + (self.levels(x) - x).detach())

    every, reached = flat_layers(Around().eval(), *images)
    assert every == ["layer 'levels' of class Levels"] and reached == []
    assert audit(Around().eval(), *images, **HARMLESS).reasons == []


def test_a_weak_suite_does_not_pass_for_a_robust_model(relu, images):
    result = audit(relu, *images, **SWIFT | {"suite": [Noise(eps_255=255 * EPS, draws=1)]})
    assert result.robust[0] > 0.7 and result.verdict.startswith("no verdict")
    assert not result.checks["the suite finds what PGD of 40 steps finds"].passed


def test_a_tiny_ball_is_not_broken_and_every_sign_is_there(relu, images):
    result = audit(relu, *images, **QUICK | {"eps": 0.01})
    assert result.verdict == "not broken by these attacks", result.verdict
    assert len(result.checks) == 7 and all(c.passed for c in result.checks.values())


def test_where_nothing_could_be_planted_nothing_is_vouched_for(relu, images, monkeypatch):
    none = dict.fromkeys(("valid", "random", "main"), torch.zeros(10, dtype=torch.bool))
    monkeypatch.setattr(signs.diagnostics, "binarization_test", lambda *_args: none)
    verdict = audit(relu, *images, **HARMLESS).verdict
    assert verdict.startswith("no verdict") and "none could be planted at 10 images" in verdict


def test_where_a_half_may_be_left_or_not_there_is_no_verdict():
    right = np.ones(10, bool)
    found = auditing.Found(family="given", bits=np.arange(10) < 6, tried=right, seconds=0.0)
    verdict = Audit(eps=0.1, right=right, attacks={"a": found}).verdict
    assert verdict == "no verdict: 6 of 10 survive, which may be half or not"


@pytest.mark.parametrize(("left", "verdict"), [(0, "broken"), (100, "not broken by these attacks")])
def test_the_verdict_counts_the_images_that_were_right(left, verdict):
    bits = np.arange(200) < left
    right = np.arange(200) < 100
    found = auditing.Found(family="given", bits=bits, tried=right, seconds=0.0)
    assert Audit(eps=0.1, right=right, attacks={"a": found}).verdict == verdict


def test_gradients_that_miss_what_queries_find_are_a_sign(relu, images):
    found = Audit(eps=0.1, right=np.ones(100, bool))
    for family, kept in (("gradient", 100), ("score", 50)):
        bits = np.arange(100) < kept
        found.attacks[family] = auditing.Found(
            family=family, bits=bits, tried=found.right, seconds=0.0
        )
    noted = {}
    signs._gradients(found, 1, lambda name, passed, said: noted.update({name: passed}))
    assert noted == {"gradients find what queries find": False}


# --- Stand-ins ------------------------------------------------------------------------------------


def test_a_rule_for_a_layer_that_is_not_there_names_those_without_a_gradient(networks, images):
    says = r"no such layer; the layers without .* '1' of class Levels$"
    with pytest.raises(ValueError, match=says):
        audit(networks["levels"], *images, **QUICK, surrogates={nn.Tanh: "tanh"})


def test_a_layer_that_stands_in_two_places_gets_its_stand_in_in_both():
    levels = Levels()
    model = nn.Sequential(levels, nn.Linear(4, 4), levels).eval()
    seen = with_stand_ins(model, {Levels: torch.sigmoid})
    x = torch.rand(2, 4, requires_grad=True)
    assert torch.equal(seen(x), model(x))
    assert torch.autograd.grad(seen(x).square().sum(), x)[0].all()
    assert type(model[0]) is Levels and type(seen[0]) is type(seen[2]) is not Levels


def test_what_stands_in_is_not_named_and_what_is_left_is(images):
    class Hard(Levels):
        pass

    model = nn.Sequential(Levels(), Hard(), nn.Flatten(), nn.Linear(196, 10)).eval()
    x, y = images[0], model(images[0]).argmax(1)
    verdict = audit(model, x, y, **QUICK, surrogates={Levels: torch.sigmoid}).verdict
    assert "is zero (layer '1' of class Hard); give" in verdict
    named = "layer '0' of class Levels, layer '1' of class Hard"
    assert f"is zero ({named}); give" in audit(model, x, y, **QUICK).verdict


def test_a_layer_that_works_in_place_is_judged_by_its_input(images):
    class Shifted(nn.Module):
        def forward(self, x):
            return F.relu(x.sub_(5) + 5)

    model = nn.Sequential(nn.Identity(), Shifted(), nn.Flatten(), nn.Linear(196, 10)).eval()
    copies = images[0].clone(), images[1]
    assert flat_layers(model, *copies)[0] == []


def test_a_stand_in_gives_the_layers_values_to_the_bit():
    x = 7 * torch.randn(1000)
    model = nn.Sequential(Levels()).eval()
    assert torch.equal(with_stand_ins(model, {Levels: "straight_through"})(x), model(x))


@pytest.mark.parametrize(
    ("surrogates", "kind", "says"),
    [
        ({"Levels": "tanh"}, TypeError, "the key 'Levels'; give a class of layers"),
        ({Levels: "sigmoid"}, ValueError, "Levels has 'sigmoid'; choose straight_through, tanh"),
        ({Levels: 3}, ValueError, "Levels has 3; choose"),
        ({Levels: lambda x: x[:, :1]}, ValueError, "the surrogate of Levels gives .* keeps"),
        ([Levels], TypeError, "surrogates is a list; give {Layer: rule}"),
    ],
)
def test_a_bad_rule_is_refused(networks, images, surrogates, kind, says):
    with pytest.raises(kind, match=says):
        audit(networks["levels"], *images, **QUICK, surrogates=surrogates)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.fixture
def no_attack(monkeypatch):
    """An attack that runs makes the test fail."""

    def run(*_args):
        raise AssertionError("an attack ran")

    monkeypatch.setattr(auditing.suites.Target, "attacked", run)


class Nan(nn.Module):
    def forward(self, x):
        return x * math.nan


class NanGradient(nn.Module):
    def forward(self, x):
        return x + (x - x.detach()).sqrt()


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def after(model, layer):
    return nn.Sequential(model, layer).eval()


BAD = {
    "eps of 8": ({"eps": 8}, ValueError, r"eps is 8, but images lie in \[0, 1\]; is 8 / 255 meant"),
    "eps of 0": ({"eps": 0.0}, ValueError, "eps is 0.0; it must be a number between 0 and 1"),
    "eps of NaN": ({"eps": math.nan}, ValueError, "eps is nan"),
    "eps, a text": ({"eps": "8/255"}, TypeError, "eps is '8/255'"),
    "norm": ({"norm": "L2"}, ValueError, "norm is 'L2'; only 'Linf'"),
    "suite": ({"suite": "full"}, ValueError, "suite is 'full'; choose quick or standard"),
    "no attacks": ({"suite": []}, ValueError, "suite is empty"),
    "one attack": ({"suite": FGSM(2)}, TypeError, "suite is a FGSM; give a list"),
    "no attack": ({"suite": [3]}, TypeError, "int is 3; give attacks of"),
    "a class": ({"suite": [torchattacks.PGD]}, TypeError, "PGD is the class PGD; give attacks"),
    "no eps": (
        {"suite": [attacks.CarliniWagner(steps=1, search_steps=1, lr=0.1, initial_c=1.0)]},
        TypeError,
        "smallest perturbation",
    ),
    "far": ({"suite": {"mine": PGD(90, 2, 3)}}, ValueError, "mine has eps_255 90; it is 51 here"),
    "batch size": ({"batch_size": 0}, ValueError, "batch_size is 0"),
    "seed": ({"seed": -1}, ValueError, "seed is -1"),
    "budget": ({"time_budget_s": -1}, ValueError, "time_budget_s is -1"),
    "head": ({"head": "0"}, ValueError, "head is '0'; the linear layers are 3"),
    "both": (
        {"surrogates": {nn.ReLU: "tanh"}, "differentiable": nn.Identity()},
        ValueError,
        "surrogates and differentiable are both given",
    ),
    "no copy": ({"differentiable": "soft"}, TypeError, "differentiable is 'soft'"),
    "other classes": (
        {"differentiable": network(nn.ReLU(), classes=3).eval()},
        ValueError,
        "the model knows 0..2",
    ),
    "double": ({"source": network(nn.ReLU()).double().eval()}, TypeError, "torch.float64"),
    "source trains": ({"source": nn.Identity()}, ValueError, "source: Identity is in training"),
}


@pytest.mark.parametrize(("options", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_a_line_before_any_attack(
    relu, images, no_attack, options, kind, says
):
    with pytest.raises(kind, match=says) as caught:
        audit(relu, *images, **QUICK | options)
    assert "\n" not in str(caught.value)


BAD_INPUT = {
    "normalised": (lambda m, x, y: (m, 2 * x - 1, y), ValueError, r"from -1.0 to 1.0; they must"),
    "of 255": (lambda m, x, y: (m, 255 * x, y), ValueError, "must lie in"),
    "half": (lambda m, x, y: (m, x.half(), y), TypeError, "torch.float16 of shape"),
    "an array": (lambda m, x, y: (m, x.numpy(), y), TypeError, "images are a ndarray"),
    "one image": (lambda m, x, y: (m, x[0], y[:1]), ValueError, r"give \(N, C, H, W\)"),
    "no images": (lambda m, x, y: (m, x[:0], y[:0]), ValueError, "N at least 1"),
    "one-hot": (lambda m, x, y: (m, x, F.one_hot(y)), ValueError, r"labels of shape \(100, 10\)"),
    "labels' dtype": (lambda m, x, y: (m, x, y.int()), TypeError, "must be int64"),
    "from 1": (lambda m, x, y: (m, x, y + 1), ValueError, "a label is 10; the model knows 0..9"),
    "negative": (lambda m, x, y: (m, x, y - 1), ValueError, "a label is -1"),
    "fewer": (lambda m, x, y: (m, x, y[1:]), ValueError, "give one label each"),
    "all wrong": (lambda m, x, y: (m, x, (m(x).argmax(1) + 1) % 10), ValueError, "none of 100 im"),
    "function": (lambda m, x, y: (m.forward, x, y), TypeError, "give a torch.nn.Module"),
    "training": (lambda m, x, y: (copy.deepcopy(m).train(), x, y), ValueError, "in training mode"),
    "half model": (
        lambda m, x, y: (copy.deepcopy(m).half(), x, y),
        TypeError,
        r"weights are torch.float16; give model.float\(\)",
    ),
    "meta": (lambda m, x, y: (copy.deepcopy(m).to("meta"), x, y), ValueError, "device meta"),
    "NaN logits": (lambda m, x, y: (after(m, Nan()), x, y), FloatingPointError, "are NaN"),
    "NaN slope": (lambda m, x, y: (after(m, NanGradient()), x, y), FloatingPointError, "gradient"),
    "no tensor": (lambda m, x, y: (after(m, Pair()), x, y), ValueError, "the model gives a tuple"),
    "one logit": (lambda m, x, y: (after(m, nn.Linear(10, 1)), x, 0 * y), ValueError, "2 or more"),
}


@pytest.mark.parametrize(("change", "kind", "says"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_models_images_and_labels_are_refused_in_a_line_before_any_attack(
    relu, images, no_attack, change, kind, says
):
    with torch.no_grad():
        given = change(relu, *images)
    with pytest.raises(kind, match=says) as caught:
        audit(*given, **QUICK)
    assert "\n" not in str(caught.value)


def test_bytes_are_taken_as_images_and_said(relu, images):
    x, y = (255 * images[0]).round().byte(), images[1]
    result = audit(relu, x, y, **SWIFT)
    assert "uint8" in result.notes[0]
    assert (result.adversarial == audit(relu, x.float() / 255, y, **SWIFT).adversarial).all()


def test_two_classes_work(digits):
    x, y, x_test, y_test = digits
    model = fitted(network(nn.ReLU(), classes=2), x, (y > 4).long(), steps=100)
    result = audit(model, x_test, (y_test > 4).long(), **QUICK)
    assert result.verdict == "broken" and len(result.attacks) == 6
    named = auditing.suites.named_attacks("standard", EPS, 2)
    assert "AutoAttack" not in named and "HopSkipJump" in named
    assert "AutoAttack" in auditing.suites.named_attacks("standard", EPS, 4)


# --- Attacks of others ----------------------------------------------------------------------------


def test_attacks_of_torchattacks_and_foolbox_and_functions_are_taken_as_they_are(relu, images):
    def brighter(x, y):
        return (x + EPS).clamp(max=1)

    mine = torchattacks.PGD(relu, eps=EPS, alpha=EPS / 4, steps=10)
    other = foolbox.attacks.LinfPGD(steps=10)
    result = audit(relu, *images, **QUICK | {"suite": [mine, other, brighter, mine]})
    assert list(result.attacks) == ["PGD", type(other).__name__, "brighter", "PGD 2"]
    assert {found.family for found in result.attacks.values()} == {"given"}
    assert all(result.attacks[n].bits.mean() < 0.6 for n in ("PGD", type(other).__name__))
    with torch.no_grad():
        left = relu((images[0] + EPS).clamp(max=1)).argmax(1) == images[1]
    assert (result.attacks["brighter"].bits == (left.numpy() & result.right)).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: torchattacks.FGSM(m, eps=0.4), r"mine went 102/255 from the images"),
        (lambda m: lambda x, y: x + 0.1, r"mine went .* to values in \[0.1, 1.1\]"),
        (lambda m: lambda x, y: x * math.nan, "mine went nan/255"),
        (lambda m: lambda x, y: x[1:], "mine made torch.float32 of shape"),
        (lambda m: lambda x, y: None, "mine made None"),
    ],
)
def test_an_attack_that_leaves_the_ball_is_refused_by_name(relu, images, make, says):
    with pytest.raises(ValueError, match=says):
        audit(relu, *images, **QUICK | {"suite": {"mine": make(relu)}})


def test_another_network_is_a_source_to_transfer_from(relu, networks, images):
    source = networks["binarised"]
    result = audit(relu, *images, **SWIFT, source=source)
    x, y = (t[torch.from_numpy(result.right)] for t in images)
    made = attacks.perturb(source, PGD(255 * EPS, 25.5 * EPS, 100), x, y, seed=0)
    with torch.no_grad():
        left = int((relu(made).argmax(1) == y).sum())
    assert list(result.attacks) == ["FGSM", "transfer"] and left < len(y)
    assert result.attacks["transfer"].bits.sum() == left


# --- Time, checkpoints, files ---------------------------------------------------------------------


def test_what_the_time_leaves_out_is_named_and_nothing_is_vouched_for(relu, images, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(auditing.run.time, "monotonic", lambda: next(clock))
    suite = {"first": FGSM(1), "second": FGSM(1), "third": FGSM(1)}
    result = audit(relu, *images, **SWIFT | {"suite": suite}, time_budget_s=2)
    assert list(result.attacks) == ["first"]
    assert result.skipped == ["second", "third", "the checks"] and not result.checks
    assert result.verdict == "no verdict: left out for want of time: second, third, the checks"


@pytest.fixture
def suite():
    e = 255 * EPS
    return {
        "noise": Noise(eps_255=e, draws=5),
        "FGSM": FGSM(e / 4),
        "PGD": AdaptivePGD(eps_255=e / 2, step_255=e / 8, steps=5),
    }


def test_interrupted_and_resumed_is_as_if_nothing_had_been(
    relu, images, suite, tmp_path, monkeypatch
):
    whole = audit(relu, *images, **SWIFT | {"suite": suite})
    path, calls = tmp_path / "new" / "audit.safetensors", []

    def stopped(x, y):
        raise KeyboardInterrupt

    class Stops(AdaptivePGD):
        def attack(self, model):
            calls.append(1)
            return stopped if len(calls) == 1 else super().attack(model)

    stopping = suite | {"PGD": Stops(eps_255=25.5, step_255=6.375, steps=5)}
    options = SWIFT | {"suite": stopping, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        audit(relu, *images, **options)
    ran, attacked = [], auditing.suites.Target.attacked
    monkeypatch.setattr(
        auditing.suites.Target, "attacked", lambda t, *a: ran.append(a[0]) or attacked(t, *a)
    )
    resumed = audit(relu, *images, **options)
    assert [name for name in ran if name != "a check"] == ["PGD"]
    assert list(resumed.attacks) == list(suite) and resumed.checks == whole.checks
    for name in suite:
        assert (resumed.attacks[name].bits == whole.attacks[name].bits).all()
    assert (resumed.adversarial == whole.adversarial).all()
    assert (resumed.rounded == whole.rounded).all() and resumed.notes == whole.notes
    assert whole.survives.sum() < whole.attacks["FGSM"].bits.sum()


@pytest.mark.parametrize(
    "change",
    [
        {"suite": [FGSM(1)]},
        {"seed": 1},
        {"batch_size": 7},
        {"eps": 0.1999},
        {"surrogates": {nn.ReLU: "tanh"}},
        {"surrogates": {nn.ReLU: torch.relu}},
        {"suite": {"FGSM": lambda x, y: x}},
        {"differentiable": network(nn.ReLU()).eval()},
        {"source": network(nn.ReLU()).eval()},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_audit_is_not_taken(relu, images, tmp_path, change):
    options = {"eps": EPS, "suite": [FGSM(2)], "progress": False, "checkpoint": tmp_path / "a"}
    audit(relu, *images, **options)
    with pytest.raises(storage.Damaged, match="is of another audit"):
        audit(relu, *images, **options | change)


def test_functions_of_one_name_are_told_apart_and_the_same_one_is_known(relu, images, tmp_path):
    options = {"eps": EPS, "progress": False, "checkpoint": tmp_path / "a"}

    def made(shift):
        return {"mine": eval(f"lambda x, y: (x + {shift}).clamp(0, 1)")}

    first = audit(relu, *images, **options, suite=made(0.125))
    assert audit(relu, *images, **options, suite=made(0.125)).checks == first.checks
    with pytest.raises(storage.Damaged, match="is of another audit"):
        audit(relu, *images, **options, suite=made(0.0625))


def test_a_file_that_is_no_checkpoint_is_refused_before_any_attack(
    relu, images, tmp_path, no_attack
):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"something else")
    with pytest.raises(storage.Damaged, match="damaged"):
        audit(relu, *images, **SWIFT, checkpoint=path)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_attack(
    relu, images, tmp_path, no_attack
):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to"):
        audit(relu, *images, **SWIFT, checkpoint=tmp_path / "file" / "checkpoint")


@pytest.fixture(scope="module")
def result(networks, digits):
    names = {"FGSM <one step>": FGSM(255 * EPS), "a | b": Noise(eps_255=50, draws=2)}
    return audit(networks["relu"], *digits[2:], **SWIFT | {"suite": names})


def test_what_was_saved_is_loaded(result, tmp_path):
    result.save(tmp_path / "v1.2")
    again = Audit.load(tmp_path / "v1.2.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1.2.json", "v1.2.npz"]
    for name in ("eps", "clean", "robust", "verdict", "checks", "flags", "reasons", "notes"):
        assert getattr(again, name) == getattr(result, name)
    for name in ("right", "rounded", "adversarial", "survives"):
        assert (getattr(again, name) == getattr(result, name)).all()
    assert again.table().equals(result.table()) and again.skipped == result.skipped
    with pytest.raises(FileExistsError):
        result.save(tmp_path / "v1.2")


def test_an_audit_without_attacks_is_saved_and_shown_too(networks, images, tmp_path):
    blind = audit(networks["inlined"], *images, **QUICK)
    blind.save(tmp_path / "blind")
    again = Audit.load(tmp_path / "blind")
    assert again.verdict == blind.verdict and bare(again)
    assert list(again.table().index) == ["no attack"]
    assert again.verdict in again.to_markdown()
    assert again.plot() and "no verdict" in again._repr_html_()


def test_an_audit_of_another_schema_is_refused(result, tmp_path):
    result.save(tmp_path / "a")
    content = json.loads((tmp_path / "a.json").read_text())
    content = {n: v for n, v in content.items() if n != "digest"} | {"schema": 1}
    content["digest"] = hashlib.sha256(records.canonical(content)).hexdigest()
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(storage.Damaged, match="this version reads schema 2"):
        Audit.load(tmp_path / "a")


@pytest.mark.parametrize("part", ["json", "npz", "no json"])
def test_a_damaged_file_is_refused(result, tmp_path, part):
    result.save(tmp_path / "a")
    path = tmp_path / ("a.npz" if part == "npz" else "a.json")
    content = path.read_bytes()
    changes = {
        "json": content.replace(b'"eps": 0.2', b'"eps": 0.1'),
        "npz": content[:-1] + bytes([content[-1] ^ 1]),
        "no json": b"nothing",
    }
    assert changes[part] != content
    path.write_bytes(changes[part])
    with pytest.raises(storage.Damaged, match="is no audit"):
        Audit.load(tmp_path / "a")


def test_a_record_that_cannot_be_written_leaves_no_images_behind(result, tmp_path):
    (tmp_path / "a.json").touch()
    with pytest.raises(FileExistsError):
        result.save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# --- What an audit shows --------------------------------------------------------------------------


def test_printed_it_is_its_verdict_and_both_accuracies_with_their_intervals():
    right, bits = np.arange(100) < 90, np.zeros(100, bool)
    found = Audit(eps=8 / 255, right=right)
    found.reasons.append("the gradient is zero")
    clean = "clean 90.0 % (82.6–94.5)"  # of 90 and of 0 in 100, as textbooks have them
    told = "no verdict: the gradient is zero\n"
    assert str(found) == f"{told}{clean}; eps 8/255, images 100, attacks 0"
    found.attacks["a"] = auditing.Found(family="given", bits=bits, tried=right, seconds=0.0)
    rest = "robust 0.0 % (0.0–3.7); eps 8/255, images 100, attacks 1"
    assert str(found) == f"broken\n{clean}, {rest}"
    assert repr(found) == f"<Audit: broken | {clean}, {rest}>"


def test_the_table_has_a_row_an_attack_and_the_worst_case(result):
    table = result.table()
    assert list(table.index) == ["no attack", *result.attacks, "all attacks"]
    assert table.loc["all attacks", "robust"] == result.survives.mean()
    assert table.loc["no attack", "robust"] == result.right.mean()
    one, other = (found.bits for found in result.attacks.values())
    assert list(table["alone"].iloc[1:3]) == [(other & ~one).sum(), (one & ~other).sum()]


def test_the_adversarial_images_are_those_that_break(result, relu, images):
    x, y = images
    made = torch.from_numpy(result.adversarial)
    with torch.no_grad():
        left = (relu(made).argmax(1) == y).numpy()
    assert (left == result.survives).all() and (made - x).abs().max() <= EPS + 1e-5
    assert (made == x).flatten(1).all(1).numpy()[result.survives | ~result.right].all()
    first = audit(relu, x, y, **SWIFT)  # that attack alone
    fell = result.right & ~first.survives
    assert (~list(result.attacks.values())[1].bits & fell).any()
    assert (result.adversarial[fell] == first.adversarial[fell]).all()
    with torch.no_grad():
        rounded = (relu((made * 255).round() / 255).argmax(1) == y).numpy()
    assert (rounded == result.rounded).all()


def test_queries_of_a_suite_are_run_on_what_gradients_left_and_the_table_says_so(relu, images):
    half = audit(relu, *images, **QUICK | {"eps": 0.08})
    for name in ("FGSM", "PGD"):
        assert (half.attacks[name].tried == half.right).all()
    standing = half.right.copy()
    for name, found in half.attacks.items():
        if name in ("noise", "Square"):
            assert (found.tried == standing).all() and 0 < found.tried.sum() < half.right.sum()
            assert not found.bits[~found.tried].any()
            assert half.table().loc[name, "tried"] == standing.sum()
        standing = standing & found.bits
    tried, none = np.array([True, False, True]), np.zeros(3, bool)
    one = auditing.Found(family="a", bits=none, tried=tried | True, seconds=0.0)
    two = auditing.Found(family="b", bits=none, tried=tried, seconds=0.0)
    table = Audit(eps=0.1, right=tried | True, attacks={"one": one, "two": two}).table()
    assert list(table["alone"].iloc[1:3]) == [1, 0]


def test_what_rounding_alone_sets_right_was_never_right():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        model[1].bias.copy_(torch.tensor([0.5018, 0.0]))  # below 128 / 255
    x, y = torch.tensor([0.9, 0.5017]).view(2, 1, 1, 1), torch.tensor([1, 1])
    result = audit(model, x, y, **HARMLESS)
    assert list(result.right) == list(result.rounded) == [True, False]


def test_markdown_and_html_show_verdict_attacks_and_checks(result):
    text, page = result.to_markdown(), result._repr_html_()
    for part in (result.verdict, *result.checks, *result.notes):
        assert part in text and part in page
    assert "FGSM &lt;one step&gt;" in page and "<one" not in page
    page = Audit(eps=0.1, right=result.right, reasons=["<x>"], notes=["<y>"])._repr_html_()
    assert "&lt;x&gt;" in page and "&lt;y&gt;" in page
    rows = [line for line in text.splitlines() if "a \\| b" in line]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 7


def test_the_ladder_goes_down_from_clean_to_robust(result):
    (axes,) = result.plot().axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[0] == pytest.approx(100 * result.clean[0])
    assert widths[-1] == pytest.approx(100 * result.robust[0])
    assert widths == sorted(widths, reverse=True)
    assert axes.get_yticklabels()[0].get_text() == "no attack"


# --- What an audit leaves behind ------------------------------------------------------------------


def test_the_model_is_left_as_it_was(relu, images):
    model = copy.deepcopy(relu)
    model[0].weight.requires_grad_(False)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()

    def careless(x, y):
        x = x.clone().requires_grad_()
        F.cross_entropy(model(x), y).backward()
        return x.detach()

    suite = [torchattacks.PGD(model, eps=EPS, steps=2), foolbox.attacks.LinfPGD(steps=2), careless]
    with torch.inference_mode():  # the caller's
        x, y = (t.clone() for t in images)
        result = audit(model, x, y, **QUICK | {"suite": [FGSM(2), *suite]}, source=model)
    assert len(result.attacks) == 5 and len(audit(relu, x, y, **SWIFT).attacks) == 1
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all((p.grad == 1).all() for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert not any(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_same_seed_gives_the_same_audit(relu, images, suite):
    one, two = (audit(relu, *images, **SWIFT | {"suite": suite}, seed=3) for _ in range(2))
    assert (one.adversarial == two.adversarial).all() and one.checks == two.checks


def test_the_head_is_the_linear_layer_that_is_asked_last(images):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.idle = (nn.Linear(*s) for s in ((8, 10), (196, 8), (1, 1)))

        def forward(self, x):
            return self.last(self.first(x.flatten(1)).relu())

    model = Odd().eval()
    find = auditing.stand_ins.find_head
    assert find(model, None, images[0][:1]) == "last"
    assert find(model, "first", images[0][:1]) == "first"
    with pytest.raises(ValueError, match=r"head is 'idle'; the linear layers are first, last$"):
        find(model, "idle", images[0][:1])
    assert find(nn.Conv2d(1, 1, 3), None, images[0][:1]) is None
    before = auditing.stand_ins.BeforeHead(model, "last")(images[0])
    assert torch.equal(before, model.first(images[0].flatten(1)).relu())


def test_a_copy_may_call_its_last_layer_by_another_name(relu, images):
    result = audit(relu, *images, **SWIFT, differentiable=nn.Sequential(relu).eval())
    assert result.checks == audit(relu, *images, **SWIFT).checks


# --- The library ----------------------------------------------------------------------------------


def test_audit_is_a_function_of_the_package_and_torch_is_not_imported_before():
    code = (
        "import sys, reproduce; print('torch' in sys.modules, reproduce.__version__); "
        "print(callable(reproduce.audit), reproduce.Audit.__name__, 'torch' in sys.modules); "
        "import reproduce.auditing; print(callable(reproduce.audit))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == f"False {reproduce.__version__} True Audit True True".split()
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        _ = reproduce.audits


def test_an_installed_package_writes_where_one_works(monkeypatch, tmp_path):
    monkeypatch.delenv("REPRODUCE_RESULTS", raising=False)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "site-packages/reproduce/records.py"))
    monkeypatch.chdir(tmp_path)
    assert records.root() == tmp_path / "results"


def test_the_example_in_the_readme_runs_and_prints_what_it_says(capsys):
    section = (ROOT / "README.md").read_text().partition("## Use it on your own model")[2]
    code, shown = re.findall(r"^```(?:python|text)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[
        :2
    ]
    assert len(code.strip().splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == shown.split()
