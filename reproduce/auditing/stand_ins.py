"""Networks with layers that have no useful gradient: finding them, and attacking around them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from reproduce.attacks import margin

Function = Callable[[Tensor], Tensor]


class _StandIn(nn.Module):
    """The value of a layer, the gradient of a function that stands in for it."""

    def __init__(self, layer: nn.Module, function: Function) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hard = self.layer(x)
        soft = self.function(x)
        if soft.shape != hard.shape:
            raise ValueError(
                f"the surrogate of {type(self.layer).__name__} gives {tuple(soft.shape)}, "
                f"the layer {tuple(hard.shape)}; give a function that keeps the layer's shape"
            )
        # Not soft + (hard - soft): its rounding would move values off the layer's levels.
        return _Value.apply(soft, hard)


class _Value(torch.autograd.Function):
    """The value of `hard`, the gradient of `soft`."""

    @staticmethod
    def forward(ctx: FunctionCtx, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


NAMED: dict[str, Function] = {"straight_through": lambda x: x, "tanh": torch.tanh}


def with_stand_ins(
    model: nn.Module,
    surrogates: Mapping[type[nn.Module], str | Function],
    flat: list[str] | None = None,
) -> nn.Module:
    """A copy of a model whose layers of these classes pass gradients on.

    Args:   surrogates: {class of the layer: "straight_through" (the identity), "tanh", or a
            differentiable function of the layer's input that gives the layer's shape}; subclasses
            are not meant. flat: names of the layers without a gradient, for the message.
    Raises: TypeError: a key that is no class of layers. ValueError: an unknown name, or a class of
            which the model has no layer; it says which layers have no gradient.
    Source: Athalye et al. 2018, backward pass differentiable approximation.
    """
    model = copy.deepcopy(model)
    for kind, function in surrogates.items():
        stand_in = _checked(kind, function)
        # One layer may stand in several places, under a name for each.
        names = [n for n, m in model.named_modules(remove_duplicate=False) if type(m) is kind]
        if not names:
            known = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
            where = f"the layers without a gradient are {', '.join(flat)}" if flat else ""
            raise ValueError(
                f"surrogates names {kind.__name__}, but the model has no such layer; "
                f"{where or f'its layers are of {known}'}"
            )
        for name in names:
            layer = model.get_submodule(name)  # a stand-in by now, if its block has two names
            if not name:
                model = _StandIn(model, stand_in)
                continue
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _StandIn(layer, stand_in))
    return model.eval()


def _checked(kind: object, function: object) -> Function:
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"surrogates has the key {kind!r}; give a class of layers")
    if isinstance(function, str) and function in NAMED:
        return NAMED[function]
    if isinstance(function, str) or not callable(function):
        allowed = ", ".join(NAMED)
        raise ValueError(f"{kind.__name__} has {function!r}; choose {allowed}, or a function")
    return function


def flat_layers(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[list[str], list[str]]:
    """The layers through which no gradient comes, with their class, in the order of the model.

    The smallest parts of which this is true. One that saturates here and there is not meant: every
    entry of the gradient of its output must be zero, at all of these images.

    Args:    images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64.
    Returns: (all of them, those at which a gradient arrives). A layer whose model goes around it,
             as in x + (layer(x) - x).detach(), is among the first alone.
    """
    calls = _calls(model, images)
    flat = {n for n, call in calls.items() if _is_flat(*call)}
    flat = {n for n in flat if not any(other != n and _inside(other, n) for other in flat)}
    named = {
        n: f"{f'layer {n!r}' if n else 'the model'} of class {type(calls[n][0]).__name__}"
        for n in calls
        if n in flat
    }
    reached = _reached(model, list(named), images, labels)
    return list(named.values()), [said for n, said in named.items() if n in reached]


def _inside(name: str, other: str) -> bool:
    return not other or name.startswith(f"{other}.")


def _calls(model: nn.Module, images: Tensor) -> dict[str, tuple]:
    """{name: (layer, arguments, keywords)} of the first call of each layer."""
    calls: dict[str, tuple] = {}
    hard = [n for n, m in model.named_modules() if isinstance(m, _StandIn)]

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple, keywords: dict) -> None:
            if name not in calls and args and isinstance(args[0], Tensor):
                if args[0].is_floating_point():
                    # A layer may work in place.
                    calls[name] = (layer, (args[0].detach().clone(), *args[1:]), keywords)

        return hook

    handles = [
        m.register_forward_pre_hook(keep(n), with_kwargs=True)
        for n, m in model.named_modules()
        if not any(n.startswith(f"{h}.layer") for h in hard)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_flat(layer: nn.Module, args: tuple, keywords: dict) -> bool:
    x = args[0].requires_grad_(True)
    with torch.enable_grad():
        out = layer(x * 1, *args[1:], **keywords)  # a leaf cannot be changed in place
        out = out[0] if isinstance(out, tuple | list) and out else out
        if not isinstance(out, Tensor):
            return False
        if not out.requires_grad:
            return True
        weight = torch.linspace(0.5, 1.5, out.numel(), device=out.device).view_as(out)
        (gradient,) = torch.autograd.grad((out * weight).sum(), x, allow_unused=True)
    return gradient is None or not gradient.any()


def _reached(model: nn.Module, names: list[str], images: Tensor, labels: Tensor) -> set[str]:
    """At the outputs of which of these layers does the gradient of the margin arrive?"""
    outs: dict[str, Tensor] = {}

    def cut(name: str) -> Callable[..., Tensor | None]:
        def hook(_layer: nn.Module, _args: tuple, out: object) -> Tensor | None:
            if not isinstance(out, Tensor) or not out.is_floating_point():
                return None
            outs[name] = out.detach().requires_grad_(True)
            return outs[name] * 1

        return hook

    handles = [model.get_submodule(n).register_forward_hook(cut(n)) for n in names]
    try:
        with torch.enable_grad():
            loss = margin(model(images), labels).sum()
            grads: Sequence[Tensor | None] = [None] * len(outs)
            if outs and loss.requires_grad:
                grads = torch.autograd.grad(loss, list(outs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return {n for n, g in zip(outs, grads, strict=True) if g is not None and g.any()}


class BeforeHead(nn.Module):
    """What a model hands to its last linear layer, (N, D); without a head, its logits.

    Args: head: the layer's name in the model.
    """

    def __init__(self, model: nn.Module, head: str | None) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: Tensor) -> Tensor:
        if self.head is None:
            return self.model(x)
        kept: list[Tensor] = []
        layer = self.model.get_submodule(self.head)
        handle = layer.register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
        try:
            self.model(x)
        finally:
            handle.remove()
        return kept[-1].flatten(1)


def find_head(model: nn.Module, head: str | None, image: Tensor) -> str | None:
    """The name of the linear layer that is asked last, or the given one; None where there is none.

    Args:   image: (1, C, H, W), which the model is asked about.
    Raises: ValueError: `head` names no linear layer that the model asks.
    """
    asked: list[str] = []
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [
        m.register_forward_pre_hook(lambda _m, _args, name=n: asked.append(name))
        for n, m in linear.items()
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    if head is None:
        return asked[-1] if asked else None
    if head not in asked:
        known = ", ".join(dict.fromkeys(asked)) or "none"
        raise ValueError(f"head is {head!r}; the linear layers are {known}")
    return head
