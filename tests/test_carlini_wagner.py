"""Carlini and Wagner's attack, DDN, and what they and ZOO all promise."""

from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import replace

import foolbox
import pytest
import torch
from torch import Tensor, nn

from reproduce import data, models
from reproduce.attacks import bpda, carlini_wagner
from reproduce.attacks import ddn as ddn_module
from reproduce.attacks import zoo as zoo_module
from reproduce.attacks.carlini_wagner import CarliniWagner, Search, shortfall
from reproduce.attacks.ddn import DDN
from reproduce.attacks.zoo import ZOO
from reproduce.quantizers import activation

CW = CarliniWagner(steps=50, search_steps=3, lr=0.05, initial_c=1)
SHORT = CarliniWagner(steps=20, search_steps=3, lr=0.05, initial_c=1)


def zoo(model, x, y, **options):
    attack = ZOO(queries=1200, search_steps=3, coordinates=8, h_255=1, lr=0.02, initial_c=1)
    return attack.run(model, x, y, seed=0, **options)


def ddn(model, x, y, **options):
    return DDN(40).run(model, x, y, seed=0, **options)


each = pytest.mark.parametrize("run", [SHORT.run, zoo, ddn], ids=["cw", "zoo", "ddn"])


def linear(kind: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Two classes with a plane between them, images (n, 1, 4, 4), labels, distances to the plane.

    The shortest way to the plane does not leave the box. kind: "inside", images in the middle of
    the box; "corner", one image whose pixels are all 0 or 1.
    """
    generator = torch.Generator().manual_seed(3)
    w = 0.5 + torch.rand(16, generator=generator)
    w = w * torch.randint(0, 2, (16,), generator=generator).mul(2).sub(1)
    if kind == "corner":
        x = (w > 0).float().unsqueeze(0)
        lead = 0.5 * w.norm().unsqueeze(0)
    else:
        x = 0.4 + 0.2 * torch.rand(6, 16, generator=generator)
        lead = torch.tensor([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3]) * w.norm()
        x = x + (lead + w.sum() / 2 - x @ w).unsqueeze(1) * w / w.square().sum()
    layer = nn.Linear(16, 2)
    layer.weight.data = torch.stack([w, torch.zeros(16)])
    layer.bias.data = torch.stack([(lead - x @ w)[0], torch.tensor(0.0)])
    model = nn.Sequential(nn.Flatten(), layer)
    return model, x.view(-1, 1, 4, 4), (lead < 0).long(), lead.abs() / w.norm()


@pytest.fixture
def digits_lenet(lenet_on_digits):
    model, dataset = lenet_on_digits
    return model, data.to_float(dataset.x_test), dataset.y_test


def network() -> nn.Module:
    """Dropout and batch normalisation make training and eval modes differ; one weight is frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    model[1].running_mean.fill_(0.3)
    model[4].bias.requires_grad_(False)
    with torch.no_grad():
        model[4].bias -= model.eval()(torch.full((1, 1, 4, 4), 0.5))[0]  # no class is far
    return model.train()


def batch(model: nn.Module, n: int = 8) -> tuple[Tensor, Tensor]:
    """Images of which a third of the pixels is 0 and a third 1; all but the first two are right."""
    generator = torch.Generator().manual_seed(1)
    x = (3 * torch.rand(n, 1, 4, 4, generator=generator) - 1).clamp(0, 1)
    with torch.no_grad():
        y = copy.deepcopy(model).eval()(x).argmax(1)
    y[:2] = (y[:2] + 1) % 3
    return x, y


# --- The smallest perturbation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "initial_c", "steps"), [("inside", 1e-3, 80), ("inside", 100, 80), ("corner", 1, 150)]
)
def test_on_a_linear_model_the_norm_is_the_distance_to_the_plane(kind, initial_c, steps):
    model, x, y, distance = linear(kind)
    attack = CarliniWagner(steps=steps, search_steps=9, lr=0.02, initial_c=initial_c)
    found = attack.run(model, x, y)
    assert found.success.all()
    assert (found.norms >= 0.999 * distance).all()
    assert (found.norms <= 1.02 * distance).all()


@pytest.mark.parametrize("init_eps", [0.01, 5])
def test_ddn_finds_the_distance_to_a_plane_from_any_first_norm(init_eps):
    model, x, y, distance = linear("inside")
    found = DDN(200, init_eps=init_eps).run(model, x, y, seed=0)
    assert found.success.all()
    assert (found.norms >= 0.999 * distance).all()
    assert (found.norms <= 1.05 * distance).all()


def test_more_steps_of_ddn_break_no_fewer_images_and_end_no_further_away():
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    model, x = nn.Sequential(*layers).eval(), torch.rand(60, 1, 8, 8)
    y = model(x).argmax(1)
    few, many = (DDN(steps).run(model, x, y, seed=0) for steps in (50, 500))
    assert few.success.all() and many.success.all()
    assert (many.norms <= 1.01 * few.norms).all()


def test_ddn_breaks_images_that_a_search_over_c_leaves_standing():
    # Of too few values none is large enough.
    model, x, y, _ = linear("inside")
    few = CarliniWagner(steps=50, search_steps=1, lr=0.01, initial_c=1e-4)
    assert not few.run(model, x, y).success.any()
    assert DDN(50).run(model, x, y, seed=0).success.all()


def test_its_steps_are_those_of_adam_on_the_objective():
    model, x, y, _ = linear("inside")
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    CarliniWagner(steps=30, search_steps=1, lr=0.02, initial_c=0.1).run(model, x[5:], y[5:])

    start = torch.atanh(2 * x[5:].double() - 1)
    w = start.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.02, eps=1e-12)
    expected = []
    for _ in range(30):
        image = (torch.tanh(w) + 1) / 2
        expected.append(image.detach())
        lead = model[1].weight[0].double() @ image.flatten()
        w.grad = torch.autograd.grad(0.1 * lead + (image - x[5:]).square().sum(), w)[0]
        adam.step()
    assert torch.allclose(torch.cat(seen[1:-1]).double(), torch.cat(expected), atol=1e-3)


def test_confidence_moves_the_plane_by_its_lead():
    model, x, y, distance = linear("inside")
    weight = model[1].weight[0].norm().item()
    found = replace(CW, search_steps=8, lr=0.02, confidence=0.5 * weight).run(model, x, y)
    assert torch.allclose(found.norms, distance + 0.5, rtol=0.03)
    logits = model(found.images)
    lead = (logits[:, 0] - logits[:, 1]).abs()
    assert (logits.argmax(1) != y).all() and (lead >= 0.5 * weight).all()


def test_it_is_no_weaker_than_foolbox_at_the_same_budget(digits_lenet):
    model, x, y = digits_lenet
    x, y = x[:12], y[:12]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=3, steps=50, stepsize=0.05, initial_const=1
    )
    theirs = attack.run(wrapped, x, foolbox.criteria.Misclassification(y))
    assert (model(theirs).argmax(1) != y).all()
    found = CW.run(model, x, y)
    assert found.success.all()
    wrong = model(x).argmax(1) != y
    ratio = found.norms[~wrong] / (theirs - x).flatten(1).norm(dim=1)[~wrong]
    assert ratio.median() <= 1.02


def test_a_batch_gives_what_each_image_alone_gives(digits_lenet):
    model, x, y = digits_lenet
    together = SHORT.run(model, x[:6], y[:6])
    alone = [SHORT.run(model, x[i : i + 1], y[i : i + 1]) for i in range(6)]
    assert together.success.any()
    assert torch.equal(torch.cat([a.success for a in alone]), together.success)
    assert torch.equal(torch.cat([a.queries for a in alone]), together.queries)
    # Sums over a batch are rounded differently, and Adam amplifies that.
    assert torch.allclose(torch.cat([a.norms for a in alone]), together.norms, rtol=0.01)


def test_c_grows_tenfold_until_an_image_falls_once_and_then_goes_half_way_between():
    x = torch.zeros(2, 1, 1, 1)
    search = Search(x, torch.zeros(2, dtype=torch.int64), 0.5)
    tried = []
    for fell in (False, True, False, True):
        tried.append(search.c.tolist())
        for outcome in (fell, False):
            search.note(torch.tensor([1]), x[1:] + 0.1, torch.tensor([outcome]))
        search.next_c()
    assert tried == [[0.5, 0.5], [5, 5], [50, 2.75], [500, 3.875]]
    assert search.norms[0].isinf() and search.norms[1].item() == pytest.approx(0.1)


def test_what_is_lacking_is_the_lead_in_logits_or_in_log_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 10, generator=generator)
    labels = torch.randint(0, 10, (50,), generator=generator)
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    leads = [max(z for j, z in enumerate(row) if j != y) - row[y] for row, y in rows]
    for outputs in logits, logits.log_softmax(1):
        lack = shortfall(outputs, labels, 2.0)
        assert torch.allclose(lack, 2 - torch.tensor(leads), atol=1e-3)
        assert (shortfall(outputs, labels, 0)[torch.tensor(leads) < 0] > 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_a_lead_that_may_be_rounding_is_no_success(scale):
    logits = scale * torch.tensor([[1.0, 1.00005], [1.0, 1.0002]])
    lack = shortfall(logits, torch.tensor([0, 0]), 0)
    assert lack[0] > 0 > lack[1]


# --- Staircases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "bits"), [("fixed", 1), ("dynamic", 2)])
def test_without_a_gradient_it_fails_and_gives_up_and_with_a_surrogate_it_succeeds(kind, bits):
    options = {"maximum": "image"} if kind == "fixed" else {}
    torch.manual_seed(0)
    model = models.lenet(activation(kind, bits, backward="zero", **options)).eval()
    x = data.to_float(data.load("digits").x_test[:8])
    y = model(x).argmax(1)
    found = SHORT.run(model, x, y)
    assert not found.success.any() and found.norms.isinf().all()
    assert torch.equal(found.images, x)
    assert (found.queries == 2).all()
    with bpda(model, "tanh"):
        assert replace(SHORT, initial_c=100).run(model, x, y).success.all()


class Stairs(nn.Module):
    """Class 1 where round(4 x) is at least 2, from x = 0.375 on; straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        z = 4 * x.flatten(1)
        height = z + (z.round() - z).detach()
        return torch.cat([5 - 4 * height, torch.zeros_like(height)], 1)


def test_a_loss_that_rises_between_two_steps_does_not_end_the_search():
    x = torch.full((1, 1, 1, 1), 0.26)
    found = CarliniWagner(300, 1, 0.002, 1e3).run(Stairs(), x, torch.tensor([0]))
    assert found.success.all()
    assert found.norms.item() == pytest.approx(0.375 - 0.26, rel=0.02)


def test_an_image_without_a_gradient_does_not_stop_another():
    class Half(nn.Module):
        def forward(self, x):
            lead = x.flatten(1).mean(1, keepdim=True)
            lead = torch.where(lead > 0.5, 1.0, lead - 0.2)
            return torch.cat([lead, torch.zeros_like(lead)], 1)

    x = torch.tensor([0.9, 0.4]).view(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()
    found = CW.run(Half(), x, torch.tensor([0, 0]))
    assert found.success.tolist() == [False, True]
    assert found.queries.tolist() == [2, 1 + 3 * 50]


# --- What all searches promise --------------------------------------------------------------------


@each
def test_what_is_returned_agrees_with_an_independent_forward_pass(run):
    model = network().eval()
    x, y = batch(model)
    found = run(model, x.clone().requires_grad_(), y)
    assert not any(t.requires_grad for t in found)
    assert found.images.dtype == torch.float32 and found.images.shape == x.shape
    assert found.images.min() >= 0 and found.images.max() <= 1
    alone = torch.cat([model(image[None]).argmax(1) for image in found.images])
    assert torch.equal(found.success, alone != y)
    norms = (found.images - x).double().flatten(1).norm(dim=1)
    assert torch.allclose(found.norms[found.success].double(), norms[found.success], atol=1e-6)
    assert found.success[2:].any() and (found.norms[2:] > 0).all()


@each
def test_a_failure_returns_the_image_and_an_infinite_norm(run):
    model = network().eval()
    model[4].weight.data.mul_(1e-3)
    model[4].bias.data = torch.tensor([9.0, 0.0, 0.0])
    x, _ = batch(model)
    found = run(model, x, torch.zeros(8, dtype=torch.int64))
    assert not found.success.any()
    assert torch.equal(found.images, x)
    assert found.norms.isinf().all()


@each
def test_what_is_wrong_as_it_stands_is_a_success_of_norm_zero_after_one_query(run):
    model = network().eval()
    x, y = batch(model)
    found = run(model, x, y)
    assert found.success[:2].all()
    assert found.norms[:2].tolist() == [0, 0]
    assert torch.equal(found.images[:2], x[:2])
    assert found.queries[:2].tolist() == [1, 1] and (found.queries[2:] > 1).all()
    found = run(model, x[:2], y[:2])
    assert found.success.all()


@each
@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_as_it_was_even_after_a_stop(run, training):
    model = network().train(training)
    x, y = batch(model)
    before, images, labels = copy.deepcopy(model), x.clone(), y.clone()
    required = [p.requires_grad for p in model.parameters()]

    def unchanged() -> bool:
        same = all(torch.equal(model.state_dict()[n], t) for n, t in before.state_dict().items())
        return (
            same
            and [p.requires_grad for p in model.parameters()] == required
            and all(p.grad is None for p in model.parameters())
            and [m.training for m in model.modules()] == [m.training for m in before.modules()]
            and torch.equal(x, images)
            and torch.equal(y, labels)
            and torch.backends.cudnn.allow_tf32
            and not any(m._forward_hooks for m in model.modules())
        )

    run(model, x, y)
    assert unchanged()

    asked = []

    def stop(_module, _args):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt

    handle = model[-1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, x, y)
    handle.remove()
    assert unchanged()


@each
def test_the_model_runs_in_eval_mode_in_full_float32_and_without_gradients_of_its_weights(run):
    model = network().train()
    x, y = batch(model)
    seen = set()
    model[4].register_forward_pre_hook(
        lambda layer, _: seen.add(
            (
                layer.training,
                layer.weight.requires_grad,
                torch.backends.cudnn.conv.fp32_precision,
                torch.backends.cuda.matmul.fp32_precision,
            )
        )
    )
    run(model, x, y)
    assert seen == {(False, False, "ieee", "ieee")}


@each
def test_it_shows_how_far_it_is(run, monkeypatch):
    model = network().eval()
    x, y = batch(model)
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, *, total, disable, **_):
            super().__init__(self)
            assert disable is None, "where there is no terminal"
            self.total, self.n = total, 0
            bars.append(self)

        def update(self, n=1):
            self.n += n

    for module in carlini_wagner, ddn_module, zoo_module:
        monkeypatch.setattr(module, "tqdm", Bar)
    run(model, x, y)
    (bar,) = bars
    assert 0.8 * bar.total <= bar.n <= bar.total


@each
def test_the_same_arguments_give_the_same_examples_and_leave_the_global_generator(run):
    model = network().eval()
    x, y = batch(model)
    first = run(model, x, y)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for a, b in zip(first, run(model, x, y), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


# --- Bad input ------------------------------------------------------------------------------------

GOOD = {
    CarliniWagner: {"steps": 5, "search_steps": 2, "lr": 0.1, "initial_c": 1},
    ZOO: {
        "queries": 99, "search_steps": 2, "coordinates": 4, "h_255": 1, "lr": 0.1, "initial_c": 1,
    },
}  # fmt: skip
SHARED = [
    ("search_steps", 0, "at least 1"),
    ("lr", 0, "above 0"),
    ("lr", math.inf, "above 0"),
    ("lr", math.nan, "above 0"),
    ("initial_c", -1, "above 0"),
    ("confidence", -0.1, "at least 0"),
    ("confidence", math.nan, "at least 0"),
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [(kind, *case) for kind in GOOD for case in SHARED]
    + [
        (CarliniWagner, "steps", 0, "at least 1"),
        (ZOO, "coordinates", 0, "at least 1"),
        (ZOO, "queries", 18, "at least 19"),
        (ZOO, "h_255", 0, r"in \[0.001, 255\]"),
        (ZOO, "h_255", 256, r"in \[0.001, 255\]"),
        (ZOO, "h_255", math.nan, r"in \[0.001, 255\]"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(kind, name, value, allowed):
    kind(**GOOD[kind])
    with pytest.raises(ValueError, match=f"{name} is {value}.*{allowed}") as caught:
        kind(**GOOD[kind] | {name: value})
    assert "\n" not in str(caught.value)


@each
def test_bad_images_and_labels_are_refused(run):
    model = network()
    x, y = batch(model)
    with pytest.raises(TypeError, match=r"float64.*float32"):
        run(model, x.double(), y)
    with pytest.raises(ValueError, match=r"255.0; they must lie in \[0, 1\]"):
        run(model, x * 255, y)
    with pytest.raises(ValueError, match=r"8 images and labels of shape \(7,\)"):
        run(model, x, y[:7])
    with pytest.raises(ValueError, match="0 images"):
        run(model, x[:0], y[:0])


@each
def test_a_network_in_which_an_image_depends_on_its_batch_is_refused(run):
    dataset = data.load("digits")
    x, y = data.to_float(dataset.x_test[:2]), dataset.y_test[:2]
    with pytest.raises(ValueError, match=r"maximum is 'batch'.*'image'"):
        run(models.lenet(activation("fixed", 2)), x, y)
