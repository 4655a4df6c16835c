"""ZOO's own laws; those it shares with Carlini and Wagner's attack are in test_carlini_wagner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import ZooAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from reproduce import data
from reproduce.attacks.zoo import ZOO
from reproduce.quantizers import linear_quantize


def linear(corner: bool = False) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Two classes with a plane at distance 0.4 from every image (4, 1, 4, 4), within the box.

    corner: every pixel is 0 or 1.
    """
    generator = torch.Generator().manual_seed(2)
    w = 0.5 + torch.rand(16, generator=generator)
    w = w * torch.randint(0, 2, (16,), generator=generator).mul(2).sub(1)
    x = (w > 0).float() if corner else 0.4 + 0.2 * torch.rand(16, generator=generator)
    layer = nn.Linear(16, 2)
    layer.weight.data = torch.stack([w, torch.zeros(16)])
    layer.bias.data = torch.stack([0.4 * w.norm() - x @ w, torch.tensor(0.0)])
    images = x.expand(4, 16).reshape(4, 1, 4, 4).contiguous()
    return nn.Sequential(nn.Flatten(), layer), images, torch.zeros(4, dtype=torch.int64), 0.4


class Counting(nn.Module):
    """A model that remembers its batches' sizes and range of pixels, and if it made a graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sizes, self.range, self.graph = model, [], [0.5, 0.5], False

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        self.range = [min(self.range[0], x.min().item()), max(self.range[1], x.max().item())]
        logits = self.model(x)
        self.graph |= logits.requires_grad
        return logits


@pytest.mark.parametrize(
    ("corner", "coordinates", "h_255"),
    [(False, 6, 0.0255), (True, 6, 20), (False, 40, 20), (True, 40, 0.0255)],
)
def test_on_a_linear_model_the_norm_is_the_distance_to_the_plane(corner, coordinates, h_255):
    model, x, y, distance = linear(corner)
    attack = ZOO(9000, 7, coordinates, h_255, lr=0.01, initial_c=1)
    found = attack.run(model, x, y, seed=0)
    assert found.success.all()
    assert (found.norms >= 0.999 * distance).all()
    assert (found.norms <= 1.02 * distance).all()


@pytest.mark.parametrize("c", [0.1, 1])
def test_with_all_coordinates_at_once_it_is_adam_on_the_measured_slope_clamped_to_the_box(c):
    model, x, y, _ = linear(corner=True)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).clone()))
    ZOO(1 + 30 * 33, 1, 16, 1, lr=0.007, initial_c=c).run(model, x[:1], y[:1], seed=0)
    looks = torch.cat([batch for batch in seen[1:-1] if len(batch) == 1]).double()

    start = x[0].flatten().double()
    w, bias = model[1].weight[0].detach().double(), model[1].bias[0].item()
    at = start.clone().requires_grad_()
    adam = torch.optim.Adam([at], lr=0.007, eps=1e-12)
    expected = []
    for _ in range(30):
        low, high = (at.detach() - 1 / 255).clamp(min=0), (at.detach() + 1 / 255).clamp(max=1)
        lead = at.detach() @ w + bias
        f_low, f_high = ((lead + w * (end - at.detach())).relu() for end in (low, high))
        at.grad = c * (f_high - f_low) / (high - low) + 2 * (at.detach() - start)
        adam.step()
        at.data.clamp_(0, 1)
        expected.append(at.detach().clone())
    assert torch.allclose(looks, torch.stack(expected), atol=1e-4)
    lead = expected[-1] @ w + bias
    assert (lead < 0) == (c == 1), "one of the two must come to where f is flat"


def test_it_succeeds_at_least_as_often_as_art_with_as_many_queries(lenet_on_digits):
    model, dataset = lenet_on_digits
    x, y = data.to_float(dataset.x_test[:8]), dataset.y_test[:8]

    class Batched(PyTorchClassifier):
        """ART asks for as many answers at a time as it attacks images, which takes a while."""

        queries = 0

        def predict(self, x, batch_size=1, **options):
            Batched.queries += len(x)
            return super().predict(x, batch_size=512, **options)

    wrapped = Batched(model, nn.CrossEntropyLoss(), (1, 28, 28), 10, device_type="cpu")
    theirs = ZooAttack(
        wrapped, learning_rate=0.1, max_iter=15, binary_search_steps=1, initial_const=1,
        abort_early=False, use_resize=False, use_importance=False, nb_parallel=32,
        variable_h=1 / 255, verbose=False,
    )  # fmt: skip
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    images = torch.from_numpy(theirs.generate(x.numpy(), y.numpy())).clamp(0, 1)
    np.random.set_state(state)  # noqa: NPY002
    beaten = model(images).argmax(1) != y
    budget = Batched.queries // len(x)
    found = ZOO(budget, 1, 32, h_255=1, lr=0.1, initial_c=1).run(model, x, y, seed=0)
    assert found.queries.max() <= budget
    assert found.success.sum() >= max(1, beaten.sum())


def stairs() -> tuple[nn.Module, Tensor, Tensor]:
    """A model that sees 3 bits of images (6, 1, 4, 4) which lie 18 grey levels from any step."""
    torch.manual_seed(4)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    class Quantised(nn.Module):
        def forward(self, x):
            return layer(linear_quantize(x, 3, "nearest"))

    model = Quantised()
    x = torch.randint(0, 8, (6, 1, 4, 4)) / 7
    return model, x, model(x).argmax(1)


def test_a_step_that_crosses_no_threshold_measures_nothing_and_a_longer_one_succeeds():
    model, x, y = stairs()
    options = {"lr": 0.05, "initial_c": 10}
    blind = ZOO(2000, 3, 6, 18, **options).run(model, x, y, seed=0)
    assert not blind.success.any()
    assert torch.equal(blind.images, x)
    # One look at the image, a pair of looks at each pixel and one after each of three steps.
    assert (blind.queries == 1 + 2 * 16 + 3).all()
    seeing = ZOO(2000, 3, 6, 19, **options).run(model, x, y, seed=0)
    assert seeing.success.all()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_query_is_counted_within_the_budget_and_asked_in_small_batches(batch_size):
    model, x, y, _ = linear(corner=True)
    model = Counting(model)
    found = ZOO(300, 2, 5, 50, 0.1, 1).run(model, x, y, seed=0, batch_size=batch_size)
    assert max(model.sizes) <= batch_size
    # The last look at what is returned belongs to the judge.
    assert sum(model.sizes) == found.queries.sum() + len(x)
    assert found.queries.max() <= 300
    assert found.queries.min() > 300 - 2 * 11
    assert model.range == [0, 1]


def test_the_look_at_the_clean_image_is_a_query_too():
    model, x, y, _ = linear()
    for budget, taken in ((34, 34), (66, 34), (67, 67)):
        found = ZOO(budget, 1, 16, 1, 0.02, 10).run(model, x, y, seed=0)
        assert found.queries.tolist() == [taken] * 4


def test_the_batch_size_changes_nothing():
    model, x, y = stairs()
    attack = ZOO(600, 2, 6, 30, 0.05, 10)
    whole, parts = (attack.run(model, x, y, seed=0, batch_size=b) for b in (1000, 5))
    assert torch.allclose(whole.images, parts.images, atol=1e-5)
    assert torch.equal(whole.queries, parts.queries)


def test_another_seed_takes_another_order():
    model, x, y = stairs()
    attack = ZOO(600, 2, 6, 30, 0.05, 10)
    assert not torch.equal(*(attack.run(model, x, y, seed=seed).images for seed in (0, 1)))


def test_each_image_has_an_order_of_its_own_whoever_else_is_in_play():
    model, x, y, _ = linear()
    attack = ZOO(200, 1, 2, 1, 0.2, 10)
    moved = attack.run(model, x, y, seed=0).images - x
    assert not torch.equal(moved[0], moved[1])
    y[0] = 1  # wrong as it stands: it takes no part
    assert torch.allclose(attack.run(model, x, y, seed=0).images[1:] - x[1:], moved[1:], atol=1e-6)


def test_it_sees_outputs_and_no_gradients():
    model, x, y, _ = linear()
    model = Counting(model)
    ZOO(80, 1, 2, 1, 0.02, 10).run(model, x.requires_grad_(), y, seed=0)
    assert not model.graph


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size_is_refused(batch_size):
    model, x, y, _ = linear()
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; it must be"):
        ZOO(80, 1, 2, 1, 0.02, 10).run(model, x, y, seed=0, batch_size=batch_size)
