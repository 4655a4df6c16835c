"""Laws of the networks, against torchvision, plain functional code and counts made by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg

from reproduce import models
from reproduce.models import (
    BasicBlock,
    MaxPool2x2,
    Normalize,
    alexnet,
    lenet,
    resnet18,
    resnet20,
    vgg16,
)
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer, activation

BUILDERS = (lenet, resnet18, resnet20, vgg16, alexnet)
# By hand: a k x k convolution from i to o channels has i o k^2 weights, and o biases where it has
# any; batch normalisation 2 per channel. 269,722 and 11,173,962 are widely quoted.
PARAMETERS = {
    lenet: (1 * 6 + 6 * 16) * 25 + 22 + 401 * 120 + 121 * 84 + 85 * 10,
    resnet18: 11_173_962,
    resnet20: 269_722,
    vgg16: 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256)
    + 9 * (256 * 512 + 5 * 512 * 512)
    + 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    + 513 * 10,
    alexnet: (27 + 1) * 64
    + (9 * 64 + 1) * 192
    + (9 * 192 + 1) * 384
    + (9 * 384 + 1) * 256
    + (9 * 256 + 1) * 256
    + 1025 * 4096
    + 4097 * 4096
    + 4097 * 10,
}
# One after the stem and two a block in a ResNet; one after every layer but the last elsewhere.
ACTIVATIONS = {lenet: 4, resnet18: 1 + 2 * 8, resnet20: 1 + 2 * 9, vgg16: 13, alexnet: 7}

each_builder = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


def images(build: Callable, count: int, seed: int = 0) -> Tensor:
    shape = (1, 28, 28) if build is lenet else (3, 32, 32)
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable, *args, **options) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args, **options)


def stirred(model: nn.Module) -> nn.Module:
    """`model` in eval mode, its batch normalisation with statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2, generator=generator)
    return model.eval()


def with_the_weights_of(source: nn.Module, target: nn.Module) -> nn.Module:
    """`target` with the weights of `source`, taken in the order in which both define them."""
    weights = source.state_dict().values()
    target.load_state_dict(dict(zip(target.state_dict(), weights, strict=True)))
    return target.eval()


def kinds(model: nn.Module, *kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


# --- Shapes and counts ----------------------------------------------------------------------------


@each_builder
def test_two_images_give_two_rows_of_finite_logits(build):
    model = seeded(build, activation("dynamic", 2), num_classes=7).eval()
    with torch.no_grad():
        logits = model(images(build, 2))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@each_builder
def test_the_number_of_parameters_is_that_counted_by_hand(build):
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == PARAMETERS[build]
        learnt = build(activation("dynamic", 3))
    thresholds = 7 * ACTIVATIONS[build]
    assert sum(p.numel() for p in learnt.parameters()) == PARAMETERS[build] + thresholds
    assert math.isclose(PARAMETERS[resnet20], 0.27e6, rel_tol=0.01)


@each_builder
def test_the_number_of_classes_and_ten_by_default_is_the_width_of_the_last_layer(build):
    with torch.device("meta"):
        assert kinds(build(), nn.Linear)[-1].out_features == 10
        assert kinds(build(num_classes=3), nn.Linear)[-1].out_features == 3


@pytest.mark.parametrize("width", (8, 16, 64))
def test_the_width_of_a_resnet_18_scales_every_stage(width):
    with torch.device("meta"):
        convolutions = kinds(resnet18(width=width), nn.Conv2d)
    stages = [width] * 5 + [2 * width] * 5 + [4 * width] * 5 + [8 * width] * 5
    assert [c.out_channels for c in convolutions] == stages


# --- Activations ----------------------------------------------------------------------------------


@each_builder
@pytest.mark.parametrize(
    ("name", "kind"), [("fixed", FixedQuantizer), ("dynamic", DynamicQuantizer)]
)
def test_every_activation_is_a_layer_of_its_own_and_used_once_and_none_is_a_relu(build, name, kind):
    model = seeded(build, activation(name, 1)).eval()
    layers, calls = kinds(model, kind), []
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, output: calls.append(layer))
    with torch.no_grad():
        model(images(build, 1))
    assert len(layers) == ACTIVATIONS[build]
    assert sorted(map(id, calls)) == sorted(map(id, layers))
    assert not kinds(model, nn.ReLU)


@each_builder
def test_the_activation_is_relu_by_default(build):
    with torch.device("meta"):
        assert len(kinds(build(), nn.ReLU)) == ACTIVATIONS[build]


def test_a_monotone_staircase_commutes_with_max_pooling_and_keeps_the_maximum_of_equation_2():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = 5  # max|y| is that of a value which pooling keeps, in each image
    for bits in (1, 2, 3):
        for quantize in (
            DynamicQuantizer(bits),
            FixedQuantizer(bits),
            FixedQuantizer(bits, maximum="image"),
        ):
            pooled_after, pooled_before = F.max_pool2d(quantize(x), 2), quantize(F.max_pool2d(x, 2))
            assert torch.equal(pooled_after, pooled_before)
            assert len(pooled_after.unique()) > 1


@given(thresholds=st.lists(st.floats(-1, 1, width=32), min_size=7, max_size=7), seed=st.integers(0))
@settings(deadline=None, max_examples=50)
def test_learnt_thresholds_commute_with_max_pooling_wherever_they_went(thresholds, seed):
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed % 2**63))
    quantize = DynamicQuantizer(3)
    with torch.no_grad():
        quantize.thresholds.copy_(torch.tensor(thresholds))
        quantize.project()
        after, before = F.max_pool2d(quantize(x), 2), quantize(F.max_pool2d(x, 2))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


# --- Structure, against other code ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
@pytest.mark.parametrize("layout", (torch.channels_last, torch.contiguous_format))
@pytest.mark.parametrize("shape", ((2, 6, 4, 8), (40, 6, 28, 28), (3, 16, 10, 10), (2, 6, 7, 4)))
def test_pooling_is_that_of_pytorch_with_the_gradient_at_the_first_of_equal_pixels(
    shape, layout, dtype
):
    generator = torch.Generator().manual_seed(0)
    # Of 4 values, so that most windows hold their maximum more than once.
    x = torch.randint(0, 4, shape, generator=generator).to(dtype).to(memory_format=layout)
    outcomes = []
    for pool in (MaxPool2x2(), nn.MaxPool2d(2)):
        leaf = x.clone().requires_grad_()
        out = pool(leaf)
        weights = torch.arange(out.numel()).view(out.shape).remainder(97).to(dtype)
        outcomes.append((out, torch.autograd.grad((weights * out).sum(), leaf)[0]))
    for ours, theirs in zip(*outcomes, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


def test_pooling_hides_no_nan():
    x = torch.zeros(1, 6, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    x[0, :, 1, 2] = torch.nan
    assert MaxPool2x2()(x).isnan().sum() == 6 == MaxPool2x2()(x)[..., 0, 1].isnan().sum()


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel():
    x = images(resnet18, 2)
    got = Normalize((0.1, 0.2, 0.3), (0.5, 2.0, 4.0))(x)
    expected = [(x[:, 0] - 0.1) / 0.5, (x[:, 1] - 0.2) / 2, (x[:, 2] - 0.3) / 4]
    torch.testing.assert_close(got, torch.stack(expected, dim=1))
    assert not Normalize((0.1,), (0.5,)).state_dict()


@pytest.mark.parametrize("build", (resnet18, vgg16, alexnet), ids=lambda build: build.__name__)
def test_what_normalises_does_so_inside_with_the_statistics_of_cifar_10(build):
    with torch.device("meta"):
        first = next(build().children())
    assert isinstance(first, Normalize)
    assert models.CIFAR10_MEAN == (0.4914, 0.4822, 0.4465)
    assert models.CIFAR10_STD == (0.2470, 0.2435, 0.2616)


def cifar10_normalised(x: Tensor) -> Tensor:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return torchvision.transforms.functional.normalize(x, mean, std)


def test_resnet_18_is_that_of_torchvision_with_a_small_stem():
    ours = stirred(seeded(resnet18))
    with torch.device("meta"):
        theirs = torchvision.models.resnet18(num_classes=10)
    theirs = theirs.to_empty(device="cpu")
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    with_the_weights_of(ours, theirs)
    x = images(resnet18, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(cifar10_normalised(x)), rtol=1e-4, atol=1e-4)


def test_vgg_16_is_configuration_d_of_torchvision_with_one_linear_layer():
    ours = stirred(seeded(vgg16))
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    for convolution in kinds(features, nn.Conv2d):
        convolution.bias = None
    theirs = nn.Sequential(*features, nn.Flatten(), nn.Linear(512, 10))
    with_the_weights_of(ours, theirs)
    x = images(vgg16, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(cifar10_normalised(x)), rtol=1e-4, atol=1e-4)


def resnet20_by_hand(weights: list[Tensor], x: Tensor) -> Tensor:
    """He et al., section 4.2: 6n + 2 layers with n = 3, in the order of a state dictionary."""
    left = iter(weights)

    def convolve(x: Tensor, stride: int = 1) -> Tensor:
        x = F.conv2d(x, next(left), stride=stride, padding=1)
        weight, bias, mean, var, _ = (next(left) for _ in range(5))
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.relu(convolve(x))
    for block in range(9):
        halves = block in (3, 6)
        y = convolve(F.relu(convolve(x, 2 if halves else 1)))
        if halves:
            zeros = torch.zeros(len(y), x.shape[1] // 2, *y.shape[2:])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
        x = F.relu(y + x)
    return F.linear(x.mean((2, 3)), next(left), next(left))


def test_resnet_20_is_that_of_he_et_al_with_parameter_free_shortcuts_and_no_normalisation():
    model = stirred(seeded(resnet20))
    x = images(resnet20, 2)
    with torch.no_grad():
        expected = resnet20_by_hand(list(model.state_dict().values()), x)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_lenet_is_the_textbook_network_whichever_of_pooling_and_relu_comes_first():
    model = seeded(lenet)
    w1, b1, w2, b2, *linear = model.parameters()
    x = images(lenet, 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(x, w1, b1, padding=2)), 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, w2, b2)), 2).reshape(2, 16 * 5 * 5)
    for i in (0, 2):
        hidden = F.relu(F.linear(hidden, linear[i], linear[i + 1]))
    expected = F.linear(hidden, linear[4], linear[5])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def test_alexnet_is_five_convolutions_and_three_linear_layers_with_dropout_before_the_first_two():
    model = seeded(alexnet)
    weights, x = list(model.parameters()), images(alexnet, 2)
    with torch.no_grad():
        hidden = cifar10_normalised(x)
        for i, (stride, pooled) in enumerate([(2, 1), (1, 1), (1, 0), (1, 0), (1, 1)]):
            hidden = F.conv2d(hidden, weights[2 * i], weights[2 * i + 1], stride, padding=1)
            hidden = F.relu(F.max_pool2d(hidden, 2) if pooled else hidden)
        hidden = hidden.flatten(1)
        for i in (10, 12):
            hidden = F.relu(F.linear(hidden, weights[i], weights[i + 1]))
        expected = F.linear(hidden, weights[14], weights[15])
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-4)
    order = [type(m) for m in model if isinstance(m, nn.Linear | nn.Dropout)]
    assert order == [nn.Dropout, nn.Linear, nn.Dropout, nn.Linear, nn.Linear]
    assert [m.p for m in kinds(model, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("channels", [(16, 32), (32, 64), (3, 8)])
def test_an_option_a_shortcut_has_no_parameters_and_fills_new_channels_with_zeros(channels):
    few, many = channels
    block = BasicBlock(few, many, 2, nn.Identity, "pad")
    assert not list(block.shortcut.parameters())
    assert all(not list(b.shortcut.parameters()) for b in kinds(resnet20(), BasicBlock))

    x = 1 + torch.rand(2, few, 8, 8)
    nn.init.zeros_(block.body[-1].weight)  # the shortcut alone is left
    out = block(x)
    assert out.shape == (2, many, 4, 4)
    kept = out.abs().sum((0, 2, 3)) > 0
    assert kept.sum() == few
    torch.testing.assert_close(out[:, kept], x[:, :, ::2, ::2])


@pytest.mark.parametrize("build", (resnet18, resnet20, vgg16, alexnet), ids=lambda b: b.__name__)
def test_initial_weights_have_the_variance_of_he_et_al_and_biases_are_zero(build):
    layers = kinds(seeded(build), nn.Conv2d, nn.Linear)
    for layer in layers:
        fan_in = layer.weight[0].numel()
        error = 4 / math.sqrt(2 * layer.weight.numel())  # four standard errors
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=error)
        assert layer.bias is None or not layer.bias.any()


# --- Batches --------------------------------------------------------------------------------------


def logits_alone_and_in_a_batch(build: Callable, make: Callable) -> tuple[Tensor, Tensor]:
    # float64: in float32 the order of additions depends on the size of the batch.
    model = stirred(seeded(build, make)).double()
    x = images(build, 5).double() * torch.tensor([0.2, 1, 0.5, 0.1, 0.9]).view(-1, 1, 1, 1)
    with torch.no_grad():
        return torch.cat([model(image[None]) for image in x]), model(x)


@pytest.mark.parametrize("build", (lenet, resnet20), ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    "make",
    [activation("relu"), activation("dynamic", 2), activation("fixed", 2, maximum="image")],
    ids=("relu", "dynamic", "fixed"),
)
def test_logits_do_not_depend_on_the_batch_where_the_activation_is_that_of_an_image(build, make):
    alone, together = logits_alone_and_in_a_batch(build, make)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", (lenet, resnet20), ids=lambda build: build.__name__)
def test_logits_depend_on_the_batch_where_equation_2_takes_its_maximum_over_it(build):
    alone, together = logits_alone_and_in_a_batch(build, activation("fixed", 2, maximum="batch"))
    assert (alone - together).abs().max() > 1e-3


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", (lenet, resnet18, resnet20), ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    "make",
    [activation("relu"), activation("fixed", 2), activation("dynamic", 2)],
    ids=("relu", "fixed", "dynamic"),
)
def test_a_gradient_reaches_every_parameter_and_a_small_step_against_it_lowers_the_loss(
    build, make
):
    options = {"width": 16} if build is resnet18 else {}
    model = seeded(build, make, **options)
    x, labels = images(build, 16), torch.arange(16) % 10

    def loss() -> Tensor:
        return F.cross_entropy(model(x), labels)

    before = loss()
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    start = copy.deepcopy(model.state_dict())
    after = []
    for step in (0.03, 0.01, 0.003):
        model.load_state_dict(start)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= step * parameter.grad
        after.append(loss().item())
    assert min(after) < before.item(), after


@pytest.mark.parametrize("build", [models.resnet20, models.vgg16])
def test_folding_the_batch_normalisation_leaves_the_function_alone(build):
    model = build()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1, 0.3)
            nn.init.normal_(m.bias, 0, 0.3)
            m.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        expected = model.eval()(images)
        folded = models.folded(model)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "build", [models.lenet, models.resnet18, models.resnet20, models.vgg16, models.alexnet]
)
@pytest.mark.parametrize("value", [0, 1, -3, 2.0, "10", None, True])
def test_impossible_sizes_are_refused_in_one_line(build, value):
    with pytest.raises(
        (ValueError, TypeError), match=rf"num_classes is {value!r}.*in 2\.\.1000000"
    ):
        build(num_classes=value)
    if build not in (models.lenet, models.resnet20) and value != 1:
        with pytest.raises((ValueError, TypeError), match=rf"width is {value!r}.*in 1\.\.4096"):
            build(width=value)
