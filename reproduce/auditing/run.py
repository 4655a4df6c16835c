"""The audit: flags first, then the attacks, then whether these attacks worked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduce import checks
from reproduce.auditing import inputs, signs
from reproduce.auditing.checkpoint import State
from reproduce.auditing.result import Audit
from reproduce.auditing.stand_ins import Function, find_head, with_stand_ins
from reproduce.auditing.suites import Target, named_attacks
from reproduce.evaluation import Seeded


def audit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    suite: str | Sequence[object] | Mapping[str, object] = "standard",
    surrogates: Mapping[type[nn.Module], str | Function] | None = None,
    differentiable: nn.Module | None = None,
    source: nn.Module | None = None,
    head: str | None = None,
    norm: str = "Linf",
    batch_size: int = 100,
    seed: int = 0,
    time_budget_s: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Audit:
    """Attack a model with the knowledge of what it is made of, and check the attacks.

    Args:    model: from images to logits (N, K), in eval mode; it is left as it is. images:
             (N, C, H, W) float32 in [0, 1], or uint8; they go where the model is. labels: (N,)
             int64. eps: radius in [0, 1] units. suite: "quick" or "standard" (noise and scores are
             then asked of those images alone that are still right), or attacks of one's own, in a
             list or by name: of this package, of foolbox, of torchattacks (which attack the
             network that they were built on), or functions of (images, labels). surrogates:
             what stands in for the gradient of layers that have none (see with_stand_ins).
             differentiable: instead of these, a copy of the model that lets gradients through.
             source: another network, to transfer from. head: name of the last linear layer, where
             it is not the one asked last. norm: "Linf", the only one so far. batch_size: images at
             a time. seed: of all that is drawn. time_budget_s: seconds after which attacks are not
             begun any more, but named. checkpoint: a file that keeps each finished attack, to go on
             from. progress: a bar; None for one on terminals only.
    Returns: Audit. Where gradients are zero and nothing stands in for them, no attack is run, and
             its verdict says what to give.
    Raises:  TypeError, ValueError: one line each, before any attack runs; an attack that left the
             ball, by name. FloatingPointError: logits or gradients that are no numbers. Damaged,
             OSError: of the checkpoint.
    Source:  Carlini et al. 2019; Croce and Hein 2020; Zimmermann et al. 2022.
    """
    if not isinstance(norm, str) or norm != "Linf":
        raise ValueError(f"norm is {checks.shown(norm)}; only 'Linf' is attacked so far")
    if surrogates and differentiable is not None:
        raise ValueError("surrogates and differentiable are both given; give one of them")
    eps = inputs.checked_eps(eps)
    batch_size, seed = checks.whole("batch_size", batch_size, 1, 2**31), checks.seed("seed", seed)
    if time_budget_s is not None:
        checks.number("time_budget_s", time_budget_s)
    with torch.inference_mode(False):
        images, labels, notes = inputs.checked_images(model, images, labels)
        right = inputs.answers(model, images, labels, batch_size) == labels
        if not right.any():
            raise ValueError(f"none of {len(images)} images is judged rightly; nothing to attack")
        found = Audit(eps=eps, right=right.cpu().numpy(), notes=notes)
        mine = images[right], labels[right]
        seen = _seen(found, model, *mine, surrogates=surrogates, differentiable=differentiable)
        if source is not None:
            inputs.check_other("source", source, images, labels)
        head = find_head(model, head, images[:1])
        target = Target(
            model=model,
            seen=seen,
            source=source,
            images=mine[0],
            labels=mine[1],
            eps=eps,
            batch_size=batch_size,
            seed=seed,
        )
        with torch.no_grad():
            attacks = named_attacks(suite, eps, classes=model(images[:1]).shape[1])
        ready = {name: target.ready(name, attack, eps) for name, attack in attacks.items()}
        if source is not None:
            ready["transfer"] = target.transfer(source)
        if found.flags["zero_gradients"]:
            return found
        state = State(found, target, checkpoint, [attacks, surrogates])
        # What queries do is dear: of our suites they are run on what gradients have left.
        spared = ("score", "noise") if isinstance(suite, str) else ()
        late = _run(state, ready, spared, budget_s=time_budget_s, progress=progress)
        state.finish(images, labels)
        if late():
            found.skipped.append("the checks")
        else:
            signs.check(found, target, _head_of(seen, head, images[:1]))
        _note(found)
    return found


def _seen(
    found: Audit,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    surrogates: Mapping[type[nn.Module], str | Function] | None,
    differentiable: nn.Module | None,
) -> nn.Module:
    """The network that gradients are taken of, with the flags of both in `found`."""
    flat = inputs.look(found, model, images, labels)
    if surrogates:
        if not isinstance(surrogates, Mapping):
            raise TypeError(f"surrogates is a {type(surrogates).__name__}; give {{Layer: rule}}")
        seen = with_stand_ins(model, surrogates, flat)
    elif differentiable is not None:
        inputs.check_other("differentiable", differentiable, images, labels)
        said = inputs.answers(differentiable, images, labels)
        same = int((said == labels).sum())
        found.notes.append(
            f"The differentiable copy answers as the model does at {same} of {len(images)} images."
        )
        seen = differentiable
    else:
        return model
    inputs.look(found, model, images, labels, seen)
    return seen


def _head_of(seen: nn.Module, head: str | None, image: Tensor) -> str | None:
    """The head's name in the network that gradients are taken of."""
    names = [name for name, m in seen.named_modules() if isinstance(m, nn.Linear)]
    return head if head in names else find_head(seen, None, image)


def _run(
    state: State,
    ready: Mapping[str, tuple[str, Seeded]],
    spared: Sequence[str],
    *,
    budget_s: float | None,
    progress: bool | None,
) -> Callable[[], bool]:
    """Run what is missing; returns a function that says whether the time is over.

    Args: spared: families that are run on the images alone that are still right.
    """
    found, started = state.found, time.monotonic()

    def late() -> bool:
        return budget_s is not None and time.monotonic() - started >= budget_s

    hidden = None if progress is None else not progress
    for name, (family, run) in tqdm(ready.items(), desc="audit", unit="attack", disable=hidden):
        if name in found.attacks:
            continue
        if late():
            found.skipped.append(name)
            continue
        left = found.survives[found.right]
        tried = left if family in spared else np.ones_like(left)
        made, seconds = state.target.attacked(name, run, found.eps, tried)
        state.add(name, made, tried, family=family, seconds=seconds)
    return late


def _note(found: Audit) -> None:
    if found.attacks and found.rounded is not None:
        found.notes.append(
            f"The adversarial images leave {int(found.survives.sum())} right as they are, "
            f"and {int(found.rounded.sum())} once rounded to whole grey values."
        )
