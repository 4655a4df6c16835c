"""Double quantization as it is deployed, with a gradient for attackers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from reproduce.checks import flag
from reproduce.dither import floyd_steinberg
from reproduce.quantizers import Rounding, linear_quantize


class _Identity(torch.autograd.Function):
    """The value of `filtered`, the gradient of `x`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, filtered: Tensor) -> Tensor:
        return filtered

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class DoubleQuantizer(nn.Module):
    """The defence in front of the network: what it does to an image that someone sent.

    With `dithered` the image is read as 8 bits a channel, dithered, and quantised: noise comes
    before dithering. Without, it is only quantised: the second quantisation of the paper, and the
    whole of the defence for models that are trained without dithering.

    Backward it is the identity. For the dithering this is the straight-through rule and no cruder:
    a pixel becomes Q(u) and passes on the error u - Q(u); with Q' = 1 that error has derivative 0,
    so nothing flows between pixels and du/dx = 1.

    Args:   bits: 1..8. dithered: with the released Floyd-Steinberg; 8 bits cannot be.
            rounding: "floor" or "nearest".
    Shapes: (N, C, H, W) float32 in [0, 1] -> the same, on the levels k / (2**bits - 1).
    Raises: TypeError, ValueError: as floyd_steinberg and linear_quantize.
    Source: Double quantization, Fig. 3; Athalye et al. 2018 (BPDA).
    """

    def __init__(self, bits: int, dithered: bool, rounding: Rounding = "floor") -> None:
        super().__init__()
        self.bits, self.dithered, self.rounding = bits, flag("dithered", dithered), rounding
        self(torch.zeros(0, 1, 1, 1))  # complains of bits and rounding

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            filtered = x
            if self.dithered:
                sent = (x * 255).round().byte()
                filtered = floyd_steinberg(sent, self.bits).float() / 255
                # Whole grey values may lie a little below their level: floor takes them back to it.
                filtered = linear_quantize(filtered, self.bits)
            filtered = linear_quantize(filtered, self.bits, self.rounding)
        return _Identity.apply(x, filtered)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, dithered={self.dithered}, rounding={self.rounding!r}"
