"""Functions with a gradient of one's own choice, in one pass over memory each way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reproduce.kernels.fused import fused


def one_pass(values: Callable, slopes: Callable) -> Callable[..., Tensor]:
    """A differentiable function of x, from a formula for its values and one for its gradients.

    Both formulas see x as (rows, M), in the order of its memory, and are compiled where that pays:

        values(x, *given) -> (y, *kept)
        slopes(x, grad, *kept and *given, *rule) -> the gradients of x and of each of `given`

    `given` are tensors, or numbers, which come after whatever else `slopes` gets of the forward
    pass; a float in `rule` arrives as a tensor, so that another value is not compiled anew.

    Returns: call(x, *given, rule=..., rows=1), which gives y in the shape and layout of x.
    """
    formulas = fused(values), fused(slopes)

    def call(x: Tensor, *given, rule: tuple, rows: int = 1) -> Tensor:
        return _OnePass.apply(x, formulas, rows, rule, *given)

    return call


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, formulas, rows, rule, *given):
        ctx.layout, ctx.formulas, ctx.rule = (_by_channel(x), rows), formulas, rule
        plain = [g.detach() if isinstance(g, Tensor) else g for g in given]
        y, *kept = formulas[0](_rows(x, *ctx.layout), *plain)
        ctx.save_for_backward(x, *kept, *(g for g in plain if isinstance(g, Tensor)))
        ctx.numbers = [g for g in plain if not isinstance(g, Tensor)]
        return _unrows(y, x, ctx.layout[0])

    @staticmethod
    def backward(ctx, grad):
        x, *saved = ctx.saved_tensors
        rows = _rows(x, *ctx.layout), _rows(grad, *ctx.layout)
        rule = [torch.full((), r, device=x.device) if isinstance(r, float) else r for r in ctx.rule]
        for_x, *others = ctx.formulas[1](*rows, *saved, *ctx.numbers, *rule)
        return _unrows(for_x, x, ctx.layout[0]), None, None, None, *others


def _by_channel(x: Tensor) -> bool:
    """Whether the channels of an image lie side by side in memory."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor, by_channel: bool, count: int) -> Tensor:
    """x as (count, M), in the order of its memory, in which a compiled pass is fastest."""
    x = x.detach()  # compiling looks at .grad, and warns where there is a history
    return (x.permute(0, 2, 3, 1) if by_channel else x).reshape(count, -1)


def _unrows(rows: Tensor, like: Tensor, by_channel: bool) -> Tensor:
    """Back in the shape of `like`; no view, so that it can be changed in place."""
    layout = torch.channels_last if by_channel else torch.contiguous_format
    strides = torch.empty(like.shape, device="meta").contiguous(memory_format=layout).stride()
    storage = rows.untyped_storage(), rows.storage_offset()
    return rows.new_empty(0).set_(*storage, like.shape, strides)
