"""Networks with layers that have no useful gradient: finding them, and attacking around them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

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
        return soft + (hard - soft).detach()


NAMED: dict[str, Function] = {"straight_through": lambda x: x, "tanh": torch.tanh}


def with_stand_ins(
    model: nn.Module, surrogates: Mapping[type[nn.Module], str | Function]
) -> nn.Module:
    """A copy of a model whose layers of these classes pass gradients on.

    Args:   surrogates: {class of the layer: "straight_through" (the identity), "tanh", or a
            differentiable function of the layer's input that gives the layer's shape}.
    Raises: TypeError: a key that is no class of layers. ValueError: an unknown name, or a class of
            which the model has no layer; it says which layers have no gradient.
    Source: Athalye et al. 2018, backward pass differentiable approximation.
    """
    model = copy.deepcopy(model)
    for kind, function in surrogates.items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"surrogates has the key {kind!r}; give a class of layers")
        if isinstance(function, str) and function not in NAMED:
            allowed = ", ".join(NAMED)
            raise ValueError(f"{kind.__name__} has {function!r}; choose {allowed}, or a function")
        stand_in = NAMED[function] if isinstance(function, str) else function
        names = [name for name, m in model.named_modules() if type(m) is kind]
        if not names:
            present = sorted({type(m).__name__ for m in model.modules()})
            raise ValueError(
                f"surrogates names {kind.__name__}, but the model has no such layer; its layers "
                f"are of {', '.join(present)}"
            )
        for name in names:
            if not name:
                model = _StandIn(model, stand_in)
                continue
            parent, _, last = name.rpartition(".")
            setattr(
                model.get_submodule(parent), last, _StandIn(model.get_submodule(name), stand_in)
            )
    return model.eval()


def flat_layers(model: nn.Module, images: Tensor) -> list[str]:
    """The layers through which no gradient comes: "name (class)", in the order of the model.

    Of the layers without layers inside. One that saturates here and there is not meant: every
    entry of the gradient of its summed output must be zero, at all of these images.

    Args: images: (N, C, H, W) float32 in [0, 1].
    """
    seen: dict[str, tuple[nn.Module, Tensor]] = {}
    leaves = {n: m for n, m in model.named_modules() if not list(m.children())}

    def keep(name: str, layer: nn.Module) -> Callable:
        def hook(_module, args, _out) -> None:
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                seen.setdefault(name, (layer, args[0].detach()))

        return hook

    handles = [m.register_forward_hook(keep(n, m)) for n, m in leaves.items()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name, (layer, x) in seen.items():
        x = x.clone().requires_grad_(True)
        with torch.enable_grad():
            out = layer(x)
            weight = torch.linspace(0.5, 1.5, out.numel(), device=out.device).view_as(out)
            gradient = None
            if out.requires_grad:
                (gradient,) = torch.autograd.grad((out * weight).sum(), x, allow_unused=True)
        if gradient is None or not gradient.any():
            found.append(f"{name or 'the model'} ({type(layer).__name__})")
    return found


class BeforeHead(nn.Module):
    """What a model hands to its last linear layer. Args: head: the layer's name in the model."""

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        layer = self.model.get_submodule(self.head)
        handle = layer.register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
        try:
            self.model(x)
        finally:
            handle.remove()
        return kept[-1].flatten(1)


def find_head(model: nn.Module, head: str | None) -> str | None:
    """The name of the last linear layer, or the given one; None where there is none.

    Raises: ValueError: `head` names no linear layer of the model.
    """
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    if head is None:
        return linear[-1] if linear else None
    if head not in linear:
        raise ValueError(f"head is {head!r}; the linear layers are {', '.join(linear) or 'none'}")
    return head
