"""Is an attack working at all? Measurements that an evaluation stores beside its result.

Source: Carlini et al. 2019, On evaluating adversarial robustness; Zimmermann et al. 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reproduce.attacks.base import (
    answers_watched,
    check_model,
    eval_mode,
    full_float32,
    perturb,
    seeded,
    under_attack,
)
from reproduce.attacks.gradient import AdaptivePGD
from reproduce.checks import check_floats, check_images
from reproduce.checks import seed as check_seed
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer

INNER = 256  # random points around an image, on the planted head's near side
FRESH = 256  # random points that are tried as an attack on it
# Attacks draw their starts from seed + i: the same numbers would start them beside the corner.
PLANTING = 1_000_000


def flags(model: nn.Module, images: Tensor) -> dict[str, bool]:
    """What makes AutoAttack's result doubtful: a model that is random, or ends in a softmax.

    Args: model: in the mode in which it answers. images: (N, C, H, W) float32 in [0, 1].
    """
    check_images(images)
    labels = torch.zeros(images.shape[:1], dtype=torch.int64, device=images.device)
    check_floats(images, labels)
    check_model(model, images.device)
    with answers_watched(model, labels), full_float32(), torch.no_grad():
        once, again = model(images), model(images)
    sums = torch.allclose(once.sum(1), torch.ones(len(once), device=once.device), atol=1e-4)
    return {
        "randomised": not torch.equal(once, again),
        "softmax": bool(sums and once.min() >= 0),
    }


def zero_gradients(
    model: nn.Module, attack: AdaptivePGD, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """Share of entries that are exactly zero in the gradient at the images, at each layer's input.

    Of the attack's rule and loss, but of one gradient: without an average over noise.

    Args:    images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64.
    Returns: {"images": share of images whose gradient is zero everywhere, "pixels": share of their
             entries, and the number of each activation layer, "1", "2", ... from the first on}.
    """
    inputs: list[Tensor] = []
    kinds = (nn.ReLU, FixedQuantizer, DynamicQuantizer)

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0])

    layers = [m for m in model.modules() if isinstance(m, kinds)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with under_attack(model, images, labels) as (images, labels), attack.rule(model):
            x = images.clone().requires_grad_(True)
            loss = attack.objective(model(x), labels).sum()
            grads = torch.autograd.grad(loss, [x, *inputs], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    zero = [torch.ones_like(x) if g is None else g == 0 for g in grads]
    shares = {str(number): z.float().mean().item() for number, z in enumerate(zero)}
    whole = zero[0].flatten(1).all(1).float().mean().item()
    return {"images": whole, "pixels": shares.pop("0"), **shares}


def loss_by_step(
    model: nn.Module, attack: AdaptivePGD, images: Tensor, labels: Tensor, seed: int
) -> list[float]:
    """The attack's mean objective at its start and after each step, no image left out.

    Args: images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64. seed: of the start and
          of the noise that the gradient is averaged over.
    """
    curve: list[float] = []
    _walk(model, attack, images, labels, seed, curve=curve)
    return curve


def _walk(
    model: nn.Module,
    attack: AdaptivePGD,
    images: Tensor,
    labels: Tensor,
    seed: int,
    *,
    curve: list[float] | None = None,
) -> Tensor:
    """The attack's path from one start to its end, whatever the model says on the way."""
    seed, step = check_seed("seed", seed), attack.step_255 / 255
    with (
        under_attack(model, images, labels) as (images, labels),
        attack.rule(model),
        seeded(seed, images.device),
    ):
        low, high = attack.ball(images)
        x = low + (high - low) * torch.rand(images.shape, device=images.device)
        for number in range(attack.steps + 1):
            logits, grad = attack.gradient(model, attack.sent(x), labels)
            if curve is not None:
                curve.append(attack.objective(logits, labels).mean().item())
            if number < attack.steps:
                x = (x + step * grad.sign()).clamp(low, high)
    return attack.sent(x)


def false_labels(
    model: nn.Module, attack: AdaptivePGD, images: Tensor, labels: Tensor, seed: int
) -> Tensor:
    """Does the model read off the attack which label it was given?

    The attack is told a false label and moves away from it. A model that then names this very label
    answers the perturbation, not the image: its training has taught it what attacks look like.

    Args:    images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64, the true ones. seed: of the
             false labels, any class but the true one, and of the attack.
    Returns: (N,) bool: the model named the false label.
    Source:  Kurakin et al. 2017 (label leaking), turned into a test.
    """
    seed = check_seed("seed", seed)
    with under_attack(model, images, labels), torch.no_grad():
        classes = model(images[:1]).shape[1]
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    false = (labels + shift) % classes
    # The attack leaves alone what already differs from its label, so its whole path is walked here.
    x = _walk(model, attack, images, false, seed)
    with under_attack(model, x, false), torch.no_grad():
        return model(x).argmax(1) == false


def binarization_test(
    model: nn.Sequential, attacks: dict[str, AdaptivePGD], images: Tensor, seed: int
) -> dict[str, Tensor]:
    """Does an attack find adversarial examples that are known to be there?

    For each image the last layer gives way to a head with two answers, fitted on the features of
    the layer before it: 256 random points of the image's ball on one side, one corner of the ball
    on the other. So an adversarial example exists, and random points hardly ever are one. An attack
    that misses it would miss others.

    Args:    model: its last layer is linear. attacks: of one eps. images: (N, C, H, W) float32 in
             [0, 1]. seed: of the points and starts.
    Returns: (N,) bool each: "valid", the corner could be told apart; "random", one of 256 fresh
             random points is on the corner's side; and one for each attack, whether it got there.
    Raises:  ValueError: attacks of different eps. FloatingPointError: NaN or infinite features.
    Source:  Zimmermann et al. 2022, with one boundary point.
    """
    check_images(images)
    check_floats(images, torch.zeros(images.shape[:1], dtype=torch.int64, device=images.device))
    check_model(model, images.device)
    seed = check_seed("seed", seed)
    radii = {a.eps_255 for a in attacks.values()}
    if len(radii) != 1:
        raise ValueError(f"the attacks have eps_255 {sorted(radii)}; give attacks of one eps")
    eps = radii.pop() / 255
    found = {n: torch.zeros(len(images), dtype=torch.bool) for n in ("valid", "random", *attacks)}
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    body = model[:-1]
    with eval_mode(model), full_float32():
        for i, image in enumerate(images):
            generator = torch.Generator(images.device).manual_seed(PLANTING + seed + i)
            head = _head(body, image, eps, generator)
            if head is None:
                continue
            found["valid"][i] = True
            marked = nn.Sequential(*body, head).eval()
            with torch.no_grad():
                fresh = _around(image, eps, FRESH, generator)
                found["random"][i] = bool(marked(fresh).argmax(1).any())
            for name, attack in attacks.items():
                x = perturb(marked, attack, image[None], labels[:1], seed + i)
                with torch.no_grad():
                    found[name][i] = bool(marked(x).argmax(1).item())
    return found


def _around(image: Tensor, eps: float, count: int, generator: torch.Generator) -> Tensor:
    shape = (count, *image.shape)
    noise = 2 * torch.rand(shape, generator=generator, device=image.device) - 1
    return (image + eps * noise).clamp(0, 1)


def _head(
    body: nn.Module, image: Tensor, eps: float, generator: torch.Generator
) -> nn.Linear | None:
    """Answers 0 at the image and at random points of its ball, and 1 at one corner of it.

    The direction is Fisher's; the threshold is halfway between the corner and the nearest of the
    others. None where no threshold tells them apart.
    """
    signs = torch.rand(image.shape, generator=generator, device=image.device) < 0.5
    corner = (image + torch.where(signs, -eps, eps)).clamp(0, 1)
    with torch.no_grad():
        inner = torch.cat([image[None], _around(image, eps, INNER, generator)])
        f = body(torch.cat([inner, corner[None]])).double()
        if not f.isfinite().all():
            raise FloatingPointError("the features before the last layer are NaN or infinite")
        others, far = f[:-1], f[-1]
        centred = others - others.mean(0)
        spread = centred.T @ centred / len(others)
        ridge = 1e-3 * spread.diagonal().mean() + 1e-9
        eye = torch.eye(len(far), dtype=f.dtype, device=f.device)
        w = torch.linalg.solve(spread + ridge * eye, far - others.mean(0))
        w /= w.norm().clamp(min=1e-30)
        nearest, reach = (others @ w).max(), far @ w
        if not reach - nearest > 1e-4 * f.abs().max():
            return None
        # An ordinary layer would draw its weights from the global generator first.
        head = nn.utils.skip_init(nn.Linear, len(far), 2, device=f.device)
        unit = 2 / (
            reach - nearest
        )  # the logits differ by 1 at the corner and by -1 at the nearest other
        head.weight.copy_(torch.stack([-w, w]) * unit / 2)
        threshold = (reach + nearest) / 2 * unit / 2
        head.bias.copy_(torch.stack([threshold, -threshold]))
        return head
