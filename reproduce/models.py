"""The networks of both papers, each with a pluggable activation.

Every builder takes `activation`, a callable that makes a new activation layer, and returns a module
that maps images (N, C, H, W), float in [0, 1], to logits (N, num_classes). Normalisation, where a
model has one, is its first layer, so that attacks work on the images themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reproduce.kernels.fused import fused

ActivationFactory = Callable[[], nn.Module]

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
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
    model = copy.deepcopy(model).eval()
    for block in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(block) - 1):
            if isinstance(block[i], nn.Conv2d) and isinstance(block[i + 1], nn.BatchNorm2d):
                block[i] = fuse_conv_bn_eval(block[i], block[i + 1])
                block[i + 1] = nn.Identity()
    return model


@fused
def _max_of_four(x: Tensor, corner: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """x (N, H/2, 2, W/2, 2, C) -> each window's maximum, and where in its plane it first is.

    corner: (H/2, W/2, 1) float32, the place of each window's first pixel, of `width` in a row.
    Whole numbers in float32, since those in int64 are not vectorised.
    """
    a, b, c, d = (x[:, :, i, :, j].float() for i in (0, 1) for j in (0, 1))
    best = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    offset = torch.where(c == best, width, width + 1.0)
    offset = torch.where(a == best, 0.0, torch.where(b == best, 1.0, offset))
    return best.to(x.dtype), (corner + offset).to(torch.int64)


class _PoolByChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        n, channels, height, width = x.shape
        pixels = torch.arange(height * width, dtype=torch.float32)
        windows = x.detach().permute(0, 2, 3, 1)
        windows = windows.reshape(n, height // 2, 2, width // 2, 2, channels)
        corner = pixels.view(height // 2, 2, width // 2, 2, 1)[:, 0, :, 0]
        best, place = (t.permute(0, 3, 1, 2) for t in _max_of_four(windows, corner, width))
        ctx.save_for_backward(x, place)
        return best

    @staticmethod
    def backward(ctx, grad):
        x, place = ctx.saved_tensors
        window = [2, 2], [2, 2], [0, 0], [1, 1], False
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *window, place)


class MaxPool2x2(nn.MaxPool2d):
    """nn.MaxPool2d(2), and the same gradient where nothing is NaN, without PyTorch's slow path.

    That one takes 8 times as long for a few bfloat16 channels that lie side by side in a CPU's
    memory, which is most of the time of an attack on LeNet.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        by_channel = x.is_contiguous(memory_format=torch.channels_last)
        even = not (x.shape[-2] % 2 or x.shape[-1] % 2)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and by_channel and even:
            return _PoolByChannel.apply(x)
        return super().forward(x)


def lenet(activation: ActivationFactory = nn.ReLU, num_classes: int = 10) -> nn.Module:
    """LeNet-5 with max pooling, for 1 x 28 x 28 images; 61,706 parameters with ReLU.

    Pooling stands before the activation. For the monotone activations used here the order makes no
    difference to the result but for the maximum in Eq. 2, and it quarters the work.

    Source: LeCun et al. 1998; DQA, section 4.
    """
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
        self.body = nn.Sequential(
            _conv3x3(channels_in, channels_out, stride),
            nn.BatchNorm2d(channels_out),
            activation(),
            _conv3x3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
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
