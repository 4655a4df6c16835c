"""Every attack that there is, on networks, images and labels as nobody would give them."""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from reproduce.attacks import KINDS, Attack, perturb
from reproduce.evaluation import correct
from tests.campaign import figures

CHEAP = {"eps_255": 20, "step_255": 5, "steps": 2, "samples": 2, "sigma_255": 4, "draws": 2}
CHEAP |= {"queries": 20, "classes": 4, "search_steps": 1, "lr": 0.1, "initial_c": 1.0}
CHEAP |= {"coordinates": 4, "h_255": 4.0}


def cheap(kind: type, classes: int) -> Attack:
    """An attack of a kind with settings that take a moment."""
    names = inspect.signature(kind).parameters
    return kind(**{n: v for n, v in (CHEAP | {"classes": classes}).items() if n in names})


class Network(nn.Module):
    """Of a layer that is frozen, in another mode, beside one that is not."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.drop = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.last = nn.Linear(2 * 36, classes)
        self.train()
        self.norm.eval()
        self.first.requires_grad_(False)
        self.last.weight.grad = torch.ones_like(self.last.weight)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.first(x))).flatten(1))


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))

    def forward(self, x):
        return self.bias + 0 * x.flatten(1).sum(1, keepdim=True)


def state(model: nn.Module) -> list:
    return [
        *(m.training for m in model.modules()),
        *(p.requires_grad for p in model.parameters()),
        *(None if p.grad is None else p.grad.tolist() for p in model.parameters()),
        *(t.tolist() for t in model.state_dict().values()),
        *(len(m._forward_hooks) for m in model.modules()),
        torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
    ]  # fmt: skip


def images(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator) / 255


def said(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    other = type(model)() if isinstance(model, Constant) else Network(model.last.out_features)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return other.eval()(x).argmax(1)


def made(attack, model, x, y) -> torch.Tensor:
    """Adversarial examples, of the attacks that look for the smallest as well."""
    if hasattr(attack, "attack"):
        return perturb(model, attack, x, y, 0)
    options = {"seed": 0} if "seed" in inspect.signature(attack.run).parameters else {}
    return attack.run(model, x, y, **options).images


every = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.kind)
WRONG = {
    "float": lambda y: y.float(),
    "int32": lambda y: y.int(),
    "bool": lambda y: y.bool(),
    "column": lambda y: y[:, None],
    "too many": lambda y: torch.cat([y, y]),
    "none": lambda y: y[:0],
    "minus": lambda y: y - 10,
    "no class": lambda y: y + 10,
    "list": lambda y: y.tolist(),
    "array": lambda y: y.numpy(),
    "meta": lambda y: y.to("meta"),
    "nothing": lambda y: None,
}


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_examples_lie_in_the_ball_have_no_graph_and_leave_the_model_as_it_was(kind, mode, n):
    model, x = Network(), images(n)
    y, attack, before = said(model, x), cheap(kind, 4), state(model)
    norms = not hasattr(attack, "attack")
    if norms and not n:
        with pytest.raises(ValueError, match="0 images; give at least one"):
            made(attack, model, x, y)
        return
    with mode():
        found = made(attack, model, x.clone(), y.clone())
    assert state(model) == before
    assert found.shape == x.shape and found.dtype == torch.float32
    assert not found.requires_grad and found.grad_fn is None
    if n:
        assert 0 <= found.min() and found.max() <= 1
        reach = 1 if norms else 20 / 255 + 1e-5
        assert (found - x).abs().max() <= reach
    figures.count("attacks", f"{kind.kind} {mode} {n}", "accepted")


@every
def test_what_is_wrong_already_and_what_never_changes_end_as_they_are(kind):
    model, x, attack = Network(), images(5), cheap(kind, 4)
    wrong = (said(model, x) + 1) % 4
    assert (said(model, made(attack, model, x, wrong)) != wrong).all()
    constant = Constant()
    right = torch.zeros(5, dtype=torch.int64)
    assert (said(constant, made(attack, constant, x, right)) == right).all()


@every
def test_a_network_of_two_classes_is_attacked_or_refused_in_one_line(kind):
    names = inspect.signature(kind).parameters
    model, x = Network(2), images(5)
    attack = cheap(kind, 4 if "classes" in names else 2)
    if "classes" in names:
        with pytest.raises(ValueError, match="classes is 4; the model has 2"):
            made(attack, model, x, said(model, x))
    else:
        assert made(attack, model, x, said(model, x)).shape == x.shape


@every
@pytest.mark.parametrize("how", WRONG)
def test_labels_of_every_wrong_kind_are_refused_in_one_line(kind, how):
    model, x = Network(), images(5)
    before, y = state(model), WRONG[how](said(model, x))
    for call in (
        lambda: made(cheap(kind, 4), model, x, y),
        lambda: correct(model, x, y, batch_size=2),
    ):
        with pytest.raises((TypeError, ValueError), match="label") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert state(model) == before
    figures.count("attacks", f"{kind.kind} {how}", "refused")


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_refused_in_one_line(kind, dtype):
    model, x = Network(), images(5)
    y = said(model, x)
    model.to(dtype)
    with pytest.raises(TypeError, match=r"give model\.float\(\)"):
        made(cheap(kind, 4), model, x, y)
    with pytest.raises(TypeError, match="images are"):
        made(cheap(kind, 4), Network(), x.to(dtype), y)
    figures.count("attacks", f"{kind.kind} {dtype}", "refused")


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_judge_nothing(kind, value):
    model, x = Network(), images(5)
    y, before = said(model, x), model.training
    with torch.no_grad():
        model.last.bias.fill_(value)
    for call in (
        lambda: made(cheap(kind, 4), model, x, y),
        lambda: correct(model, x, y, batch_size=2),
    ):
        with pytest.raises(FloatingPointError, match="logits are NaN or infinite"):
            call()
    assert model.training == before


def test_every_attack_of_the_package_is_asked():
    from reproduce import attacks

    named = [getattr(attacks, name) for name in attacks.__all__]
    kinds = {one for one in named if isinstance(one, type) and hasattr(one, "passes")}
    assert kinds - {Attack} == set(KINDS)
