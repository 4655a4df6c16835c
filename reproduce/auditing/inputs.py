"""What an audit is given: checked before any attack runs, and looked at for signs of trouble."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor, nn

from reproduce import checks, data
from reproduce.attacks import diagnostics, full_float32, margin
from reproduce.attacks.base import answers_watched, check_model
from reproduce.auditing.result import Audit
from reproduce.auditing.stand_ins import flat_layers

PROBED = 32  # images that the flags look at
PROBED_LAYERS = 8  # images that are sent through each layer alone


def checked_eps(eps: float) -> float:
    """A radius in units of the images. Raises: TypeError, ValueError."""
    if isinstance(eps, numbers.Real) and not isinstance(eps, bool) and eps >= 1:
        raise ValueError(f"eps is {eps:g}, but images lie in [0, 1]; is {eps:g} / 255 meant?")
    return checks.number("eps", eps, 0, 1, inside=True)


def checked_images(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, list[str]]:
    """Images and labels where the model is, and what was done to them.

    Raises: TypeError, ValueError, FloatingPointError: what is wrong, in one line.
    """
    notes = []
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        checks.check_uint8(images, labels)
        notes.append("The images were uint8 and were divided by 255.")
        images = data.to_float(images)
    checks.check_images(images)
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images are {checks.kind(images)}; give (N, C, H, W), N at least 1")
    checks.check_labels(images, labels)
    check_network("model", model)
    device = next((p.device for p in model.parameters()), images.device)
    if device.type == "meta":
        raise ValueError("the model is on the device meta, which computes nothing; load it")
    images, labels = images.detach().to(device), labels.to(device)
    check_model(model, device)
    return images, labels, notes


def check_network(name: str, model: nn.Module) -> None:
    """Raise TypeError unless it is a module, ValueError unless it is in eval mode."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} is {checks.shown(model)}; give a torch.nn.Module")
    training = [n or type(m).__name__ for n, m in model.named_modules() if m.training]
    if training:
        raise ValueError(f"{name}: {training[0]} is in training mode; call .eval() first")


def check_other(name: str, other: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Another network of the same task: the copy, or the one to transfer from."""
    check_network(name, other)
    check_model(other, images.device)
    answers(other, images[:1], labels)


def answers(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 100) -> Tensor:
    """(N,) int64, the classes that the model names, in full float32.

    Raises: ValueError: it gives no logits (N, K), or a label is none of its classes.
            FloatingPointError: NaN or infinite logits.
    """
    with torch.no_grad(), full_float32():
        one = model(images[:1])
        if not isinstance(one, Tensor):
            raise ValueError(f"the model gives a {type(one).__name__}; give logits (N, K)")
        with answers_watched(model, labels):
            return torch.cat([model(x).argmax(1) for x in images.split(batch_size)])


def look(
    found: Audit, model: nn.Module, images: Tensor, labels: Tensor, seen: nn.Module | None = None
) -> list[str]:
    """Note what makes an evaluation doubtful before it begins, and why there can be no verdict.

    Args:    seen: the network that gradients are taken of, the model itself by default.
    Returns: the layers through which no gradient comes.
    Raises:  FloatingPointError: NaN gradients.
    """
    images, labels = images[:PROBED], labels[:PROBED]
    if seen is None:
        found.flags |= _of_answers(model, images)
    target = model if seen is None else seen
    dead = _dead(target, images, labels)
    found.flags["zero_gradients"] = dead
    with full_float32():
        flat, reached = flat_layers(target, images[:PROBED_LAYERS], labels[:PROBED_LAYERS])
    found.reasons[:] = _reasons(found.flags, flat if dead else reached)
    return flat


def _of_answers(model: nn.Module, images: Tensor) -> dict[str, bool]:
    flags = diagnostics.flags(model, images)
    with torch.no_grad(), full_float32():
        together = model(images)
        alone = torch.cat([model(x[None]) for x in images])
    apart = (together - alone).abs().amax().item()
    # Libraries add in another order for another number of images.
    differs = apart > 1e-3 * together.abs().amax().item() + 1e-6
    return flags | {"batch_dependent": differs and not flags["randomised"]}


def _dead(seen: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Is the margin's gradient zero at more than half of the images? No softmax mutes this one."""
    probe = images.clone().requires_grad_(True)
    gradient = None
    with torch.enable_grad(), full_float32():
        loss = margin(seen(probe), labels).sum()
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    if gradient is None:
        return True
    if not gradient.isfinite().all():
        raise FloatingPointError(
            "the gradient at the images is NaN or infinite; nothing follows it"
        )
    return (gradient == 0).flatten(1).all(1).float().mean().item() > 0.5


def _reasons(flags: dict[str, bool], layers: list[str]) -> list[str]:
    where = ", ".join(layers)
    reasons = []
    if flags["zero_gradients"]:
        reasons.append(
            f"the gradient at the images is zero{f' ({where})' if where else ''}; give "
            "surrogates={Layer: rule} for these layers, or differentiable=, a copy of the model "
            "that lets gradients through"
        )
    elif layers:
        reasons.append(f"no gradient comes through {where}; give surrogates={{Layer: rule}}")
    said = {
        "randomised": "its answers change from call to call, and each image was asked once",
        "batch_dependent": "its answer to an image depends on the others of the batch",
        "softmax": "its outputs look like probabilities; give logits, which do not saturate",
    }
    return reasons + [why for flag, why in said.items() if flags[flag]]
