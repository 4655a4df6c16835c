"""The networks of both papers, each with a pluggable activation.

Every builder takes `activation`, a callable that makes a new activation layer, and returns a module
that maps images (N, C, H, W), float in [0, 1], to logits (N, num_classes). Normalisation, where a
model has one, is its first layer, so that attacks work on the images themselves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reproduce.checks import check_module, choice, number, shown, whole
from reproduce.kernels.pooling import MaxPool2x2

ActivationFactory = Callable[[], nn.Module]

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _check(activation: ActivationFactory, num_classes: int, width: int = 1) -> None:
    if not callable(activation) or not isinstance(activation(), nn.Module):
        raise TypeError(f"activation is {shown(activation)}; give what makes a torch.nn.Module")
    whole("num_classes", num_classes, 2, 1_000_000)
    whole("width", width, 1, 4_096)


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise ValueError(f"mean has {len(mean)} channels, std {len(std)}; give one each")
        mean = tuple(number("mean", m, -math.inf) for m in mean)
        std = tuple(number("std", s, inside=True) for s in std)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _he_init(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode, its batch normalisation folded into the convolutions before it.

    The same function up to rounding, in two thirds of the time.

    Args: model: one of this module's networks; a folded one cannot be trained.
    """
    check_module("model", model)
    model = copy.deepcopy(model).eval()
    for block in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i, (one, other) in enumerate(pairwise(list(block))):
            if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d):
                block[i] = fuse_conv_bn_eval(one, other)
                block[i + 1] = nn.Identity()
    return model


def lenet(activation: ActivationFactory = nn.ReLU, num_classes: int = 10) -> nn.Module:
    """LeNet-5 with max pooling, for 1 x 28 x 28 images; 61,706 parameters with ReLU.

    Pooling stands before the activation. For the monotone activations used here the order makes no
    difference to the result but for the maximum in Eq. 2, and it quarters the work.

    Raises: TypeError, ValueError: fewer than 2 classes, as every builder.
    Source: LeCun et al. 1998; DQA, section 4.
    """
    _check(activation, num_classes)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        MaxPool2x2(),
        activation(),
        nn.Conv2d(6, 16, 5),
        MaxPool2x2(),
        activation(),
        nn.Flatten(),
        nn.Linear(400, 120),
        activation(),
        nn.Linear(120, 84),
        activation(),
        nn.Linear(84, num_classes),
    )


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


class _PadShortcut(nn.Module):
    """Option A of He et al.: every second pixel, the new channels filled with zeros."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.extra - before))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and a shortcut.

    Source: He et al. 2016. `shortcut` is "project" (1 x 1 convolution) or "pad" (option A).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        activation: ActivationFactory,
        shortcut: str,
    ) -> None:
        super().__init__()
        for name, channels in (("channels_in", channels_in), ("channels_out", channels_out)):
            whole(name, channels, 1, 65_536)
        whole("stride", stride, 1, 2)
        choice("shortcut", shortcut, Literal["project", "pad"])
        self.body = nn.Sequential(
            _conv3x3(channels_in, channels_out, stride),
            nn.BatchNorm2d(channels_out),
            activation(),
            _conv3x3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module
        if stride == 1 and channels_in == channels_out:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = _PadShortcut(channels_out - channels_in)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def _resnet(
    widths: tuple[int, ...],
    blocks: int,
    shortcut: str,
    activation: ActivationFactory,
    num_classes: int,
    *,
    first: tuple[nn.Module, ...] = (),
) -> nn.Module:
    _check(activation, num_classes, widths[0])
    layers = [*first, _conv3x3(3, widths[0]), nn.BatchNorm2d(widths[0]), activation()]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(BasicBlock(channels, width, stride, activation, shortcut))
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return _he_init(nn.Sequential(*layers))


def resnet18(
    activation: ActivationFactory = nn.ReLU, num_classes: int = 10, width: int = 64
) -> nn.Module:
    """ResNet-18 for 3 x 32 x 32 images (3 x 3 stem, no pooling), normalised inside; 11.2 M weights.

    Args:   width: channels of the first stage; 64 is the standard network, 16 the quarter width.
    Source: He et al. 2016; DQA, section 4.
    """
    whole("width", width, 1, 4_096)
    widths = (width, 2 * width, 4 * width, 8 * width)
    first = (Normalize(CIFAR10_MEAN, CIFAR10_STD),)
    return _resnet(widths, 2, "project", activation, num_classes, first=first)


def resnet20(activation: ActivationFactory = nn.ReLU, num_classes: int = 10) -> nn.Module:
    """ResNet-20 for 3 x 32 x 32 images, option-A shortcuts, no normalisation; 0.27 M parameters.

    Source: He et al. 2016, section 4.2; Double quantization, section IV-A.
    """
    return _resnet((16, 32, 64), 3, "pad", activation, num_classes)


def vgg16(
    activation: ActivationFactory = nn.ReLU, num_classes: int = 10, width: int = 64
) -> nn.Module:
    """VGG-16 for 3 x 32 x 32 images: 13 convolutions with batch normalisation, one linear layer.

    Args:   width: channels of the first stage; 64 is the standard network.
    Source: Simonyan and Zisserman 2015, configuration D; DQA, section 6 (substitute model).
    """
    _check(activation, num_classes, width)
    layers: list[nn.Module] = [Normalize(CIFAR10_MEAN, CIFAR10_STD)]
    channels = 3
    for times, convolutions in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(convolutions):
            layers += [
                _conv3x3(channels, times * width),
                nn.BatchNorm2d(times * width),
                activation(),
            ]
            channels = times * width
        layers.append(nn.MaxPool2d(2))
    return _he_init(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, num_classes)))


def alexnet(
    activation: ActivationFactory = nn.ReLU, num_classes: int = 10, width: int = 64
) -> nn.Module:
    """AlexNet for 3 x 32 x 32 images: five convolutions, three linear layers, dropout.

    Args:   width: channels of the first convolution; 64 is the standard network.
    Source: Krizhevsky et al. 2012, kernels and strides reduced to 32 x 32; DQA, section 6.
    """
    _check(activation, num_classes, width)
    return _he_init(
        nn.Sequential(
            Normalize(CIFAR10_MEAN, CIFAR10_STD),
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.MaxPool2d(2),
            activation(),
            nn.Conv2d(width, 3 * width, 3, padding=1),
            nn.MaxPool2d(2),
            activation(),
            nn.Conv2d(3 * width, 6 * width, 3, padding=1),
            activation(),
            nn.Conv2d(6 * width, 4 * width, 3, padding=1),
            activation(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.MaxPool2d(2),
            activation(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(16 * width, 64 * width),
            activation(),
            nn.Dropout(0.5),
            nn.Linear(64 * width, 64 * width),
            activation(),
            nn.Linear(64 * width, num_classes),
        )
    )
