"""What every attack and every evaluation asks of its input, and leaves of its model."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from reproduce.attacks import (
    DDN,
    FGSM,
    NES,
    PGD,
    ZOO,
    AdaptivePGD,
    AutoAttack,
    CarliniWagner,
    HopSkipJump,
    Noise,
    Square,
    base,
    bpda,
    full_float32,
    perturb,
)
from reproduce.evaluation import correct
from reproduce.quantizers import activation

SETTINGS = {
    "fgsm": FGSM(8),
    "pgd": PGD(8, 2, 2),
    "adaptive": AdaptivePGD(eps_255=8, step_255=2, steps=2, loss="margin"),
    "file": AdaptivePGD(eps_255=8, step_255=2, steps=2, file="uint8"),
    "autoattack": AutoAttack(eps_255=8, classes=4, steps=2, queries=5),
    "nes": NES(eps_255=8, step_255=2, steps=2, samples=2, sigma_255=1),
    "noise": Noise(eps_255=8, draws=2),
    "square": Square(eps_255=8, queries=5),
    "hopskipjump": HopSkipJump(eps_255=8, steps=1),
}


def attacked(attack):
    return lambda model, x, y: perturb(model, attack, x, y, 0)


def judged(model, x, y):
    return correct(model, (x * 255).round().byte(), y, FGSM(8), batch_size=3)


def clean(model, x, y):
    return correct(model, (x * 255).round().byte(), y, batch_size=3)


def zoo(model, x, y):
    return ZOO(20, 1, 4, 4.0, 0.1, 1.0).run(model, x, y, seed=0)


def ddn(model, x, y):
    return DDN(3).run(model, x, y, seed=0)


CALLS = {name: attacked(attack) for name, attack in SETTINGS.items()} | {
    "cw": CarliniWagner(3, 1, 0.05, 1.0).run,
    "ddn": ddn,
    "zoo": zoo,
    "correct": judged,
    "clean": clean,
}
every = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
cheap = pytest.mark.parametrize(
    "call", [CALLS[n] for n in ("pgd", "adaptive", "cw", "ddn", "zoo", "clean")]
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation("dynamic", 2)(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4 * 36, 4),
    )  # fmt: skip


def batch(model) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (6, 3, 8, 8), generator=generator) / 255
    with base.eval_mode(model), torch.no_grad():
        return x, model(x).argmax(1)


def state(model) -> list:
    return [
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [(m.backward, m.temperature) for m in model.modules() if hasattr(m, "temperature")],
        [len(m._forward_hooks) for m in model.modules()],
        [part.fp32_precision for part, _, _ in base._precisions()],
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
    ]


# --- What comes back ------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
def test_the_caller_s_gradient_mode_does_not_matter_and_no_graph_comes_back(call, mode):
    model = network()
    x, y = batch(model)
    expected = call(model, x, y)
    with mode():
        made = x * 1, y + 0
        got = call(model, *made)
    with_history = call(model, x.clone().requires_grad_(), y)
    for result in (got, with_history):
        parts = (result, expected) if isinstance(got, tuple) else ([result], [expected])
        for a, b in zip(*parts, strict=True):
            assert torch.equal(a, b)
            assert not a.requires_grad


@every
def test_a_frozen_layer_stays_frozen_and_everything_else_comes_back_as_it_was(call):
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    x, y = batch(model)
    before, weights = state(model), [t.clone() for t in model.state_dict().values()]
    call(model, x, y)
    assert state(model) == before
    assert all(map(torch.equal, model.state_dict().values(), weights))


class Cut(BaseException):
    """What a signal's handler may raise."""


def interrupted_at(line: int, work) -> bool:
    """Run `work` and raise Cut at the line-th line of attacks/base.py; whether it came to that."""
    left = line

    def trace(frame, event, _arg):
        nonlocal left
        if frame.f_code.co_filename != base.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Cut
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Cut:
        return True
    finally:
        sys.settrace(before)
    return False


def test_whatever_line_an_interruption_comes_at_all_is_as_before():
    model = network().train()
    model[1].eval()
    x, y = batch(model)
    before, line = state(model), 0

    def work():
        with bpda(model, "tanh"):
            perturb(model, AdaptivePGD(eps_255=8, step_255=2, steps=1), x, y, 0)

    while True:
        line += 1
        if not interrupted_at(line, work):
            break
        assert state(model) == before, line
    assert line > 100


def test_a_caller_s_reduced_precision_is_off_meanwhile_and_on_again_afterwards():
    part = torch.backends.cuda.matmul
    old, seen = part.fp32_precision, []
    model = network()
    x, y = batch(model)
    model[-1].register_forward_pre_hook(lambda *_: seen.append(part.fp32_precision))
    try:
        part.fp32_precision = "tf32"
        perturb(model, PGD(8, 2, 2), x, y, 0)
        assert part.fp32_precision == "tf32" and set(seen) == {"ieee"}
        with full_float32():
            assert {p.fp32_precision for p, _, _ in base._precisions()} == {"ieee"}
    finally:
        part.fp32_precision = old


# --- What is refused ------------------------------------------------------------------------------


class Broken(nn.Module):
    """Answers with one value that is no number, for one image of a batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(192, 4), value

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return logits + torch.where(torch.arange(len(x)) == 0, self.value, 0.0)[:, None]


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_answer_that_is_no_number_breaks_nothing_and_saves_nothing(call, value):
    model = Broken(value)
    x = torch.full((6, 3, 8, 8), 51 / 255)
    with pytest.raises(FloatingPointError, match="logits are NaN or infinite") as caught:
        call(model, x, torch.zeros(6, dtype=torch.int64))
    assert "\n" not in str(caught.value) and not model._forward_hooks


@every
@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        (torch.tensor([0, 1, 2, 3, 0, 4]), ValueError, r"a label is 4; the model knows 0\.\.3"),
        (torch.tensor([0, 1, 2, 3, 0, -1]), ValueError, "a label is -1"),
        (
            torch.zeros(6, 1, dtype=torch.int64),
            ValueError,
            r"6 images and labels of shape \(6, 1\)",
        ),
        (torch.zeros(7, dtype=torch.int64), ValueError, r"6 images and labels of shape \(7,\)"),
        (torch.zeros(6), TypeError, "labels are torch.float32"),
        (torch.zeros(6, dtype=torch.int32), TypeError, "labels are torch.int32"),
        ([0, 1, 2, 3, 0, 1], TypeError, "labels are a list"),
    ],
)
def test_labels_that_are_no_classes_are_named_in_one_line(call, labels, error, says):
    model = network()
    x, _ = batch(model)
    with pytest.raises(error, match=says) as caught:
        call(model, x, labels)
    assert "\n" not in str(caught.value)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_is_named_in_one_line(call, dtype):
    model = network()
    x, y = batch(model)
    with pytest.raises(TypeError, match=rf"weights are {dtype}; give model.float\(\)"):
        call(model.to(dtype), x, y)


@cheap
def test_images_of_other_dimensions_are_named_in_one_line(call):
    model = network()
    x, y = batch(model)
    with pytest.raises((TypeError, ValueError), match=r"of shape \(6, 192\).*\(N, C, H, W\)"):
        call(model, x.flatten(1), y)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_image_gives_no_example(name):
    model = network()
    x, y = batch(model)
    assert CALLS[name](model, x[:0], y[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**300, 1.0, None, True, "0"])
def test_a_seed_that_torch_does_not_take_is_named(seed):
    model = network()
    x, y = batch(model)
    with pytest.raises((TypeError, ValueError), match="seed is "):
        perturb(model, PGD(8, 2, 1), x, y, seed)
    with pytest.raises((TypeError, ValueError), match="seed is "):
        correct(model, (x * 255).byte(), y, batch_size=2, seed=seed)


def few_classes(n: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, n))


def test_an_attack_that_looks_at_more_classes_than_there_are_is_refused():
    x, y = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    dlr = AdaptivePGD(eps_255=8, step_255=2, steps=2, loss="dlr")
    with pytest.raises(ValueError, match="dlr takes 3 classes or more; the model has 2"):
        perturb(few_classes(2), dlr, x, few_classes(2)(x).argmax(1), 0)
    with pytest.raises(ValueError, match="classes is 10; the model has 4"):
        perturb(few_classes(4), AutoAttack(eps_255=8), x, y, 0)
    with pytest.raises(ValueError, match="2 or more"):
        perturb(few_classes(1), PGD(8, 2, 1), x, y, 0)


# --- Images that a file can hold ------------------------------------------------------------------


@pytest.mark.parametrize("eps_255", [0.4, 8, 8.7])
@pytest.mark.parametrize("step_255", [0.3, 2])
def test_an_attack_on_files_gives_whole_grey_values_in_its_ball(eps_255, step_255):
    model = few_classes(4)
    x, y = batch(model)
    options = {"eps_255": eps_255, "step_255": step_255, "steps": 12, "restarts": 2}
    asked = []
    model.register_forward_pre_hook(lambda _, args: asked.append(args[0].detach().clone()))
    made = perturb(model, AdaptivePGD(**options, file="uint8"), x, y, 3)
    written = (made * 255).round().byte()
    assert torch.equal(written / 255, made)
    moved = (written.int() - (x * 255).round().int()).abs()
    assert moved.max() <= eps_255
    for seen in asked:
        assert torch.equal((255 * seen).round() / 255, seen)
    hit = model(made).argmax(1) != y
    assert (moved.flatten(1).amax(1) > 0).equal(hit), "what fell is what a file holds of it"
    if eps_255 >= 8:
        assert hit.any() and moved.max() == 8


def test_small_steps_add_up_on_files_as_they_do_on_any_image():
    torch.manual_seed(0)
    model = few_classes(4)
    x, y = batch(model)
    options = {"eps_255": 8, "step_255": 0.4, "steps": 80}
    free = perturb(model, AdaptivePGD(**options), x, y, 0)
    file = perturb(model, AdaptivePGD(**options, file="uint8"), x, y, 0)
    assert torch.equal(model(free).argmax(1) == y, model(file).argmax(1) == y)


def test_images_that_no_file_holds_are_refused_by_an_attack_on_files():
    model = few_classes(4)
    x, y = batch(model)
    with pytest.raises(ValueError, match=r"up to 0\.5 grey levels off whole ones"):
        perturb(model, SETTINGS["file"], (x * 254 + 0.5) / 255, y, 0)
