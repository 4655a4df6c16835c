"""Pooling by windows of 2 x 2 where PyTorch has a slow path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reproduce.kernels.fused import fused


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
