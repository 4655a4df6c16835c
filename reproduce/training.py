"""One loop for standard and adversarial training, which can be stopped anywhere and resumed.

All randomness of a step is a function of (seed, step), so a checkpoint is the weights, the
optimiser's state and the number of steps done; a killed and resumed run equals an uninterrupted
one, bit for bit on the CPU.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce.attacks import PGD, Attack, perturb, seeded
from reproduce.checks import (
    check_module,
    check_uint8,
    choice,
    flag,
    number,
    of_kind,
    settle,
    shown,
    whole,
)
from reproduce.checks import seed as check_seed
from reproduce.data import crop_and_flip, epoch_order, to_float
from reproduce.models import folded
from reproduce.quantizers import DynamicQuantizer
from reproduce.storage import Damaged, load_tensors, save_tensors


class Interrupted(BaseException):
    """Raised, as by a signal's handler, to end a run early; like KeyboardInterrupt it is no fault,
    so that nothing that catches an Exception takes it for one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is trained.

    Epochs 1..clean_epochs see clean images only. After them the risk is

        clean_weight J(x) + (1 - clean_weight) J(x + delta),     delta by `attack`,

    which is Eq. 7 of DQA (Eq. 10 where thresholds are learnt) for clean_weight = 0. Over
    `ramp_epochs` epochs the attack's radius and step grow linearly from 0 to their full size.

    `schedule` is "constant", "one_cycle" (linear to lr over the first fifth of the steps, linear
    to 0 over the rest) or "step" (x 0.1 every `step_epochs`). With `autocast` the forward and
    backward passes are in bfloat16 where the device `has_bfloat16`, weights and optimiser stay
    float32. With thresholds = "clean", those of dynamic quantisers stay as they are once the attack
    begins.

    Raises: TypeError, ValueError: a value of another kind or outside its range, epochs too few for
            the attack to come to its full size.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle", "step"] = "constant"
    step_epochs: int = 40
    augment: bool = False
    autocast: bool = False
    attack: PGD | None = None
    clean_epochs: int = 0
    ramp_epochs: int = 0
    clean_weight: float = 0.0
    thresholds: Literal["clean"] | None = None

    def __post_init__(self) -> None:
        settle(self, whole, "epochs", "batch_size", "step_epochs", least=1)
        settle(self, whole, "clean_epochs", "ramp_epochs", least=0)
        settle(self, number, "lr", "weight_decay")
        settle(self, number, "momentum", "clean_weight", high=1)
        settle(self, flag, "augment", "autocast")
        choice("optimizer", self.optimizer, Literal["adam", "sgd"])
        choice("schedule", self.schedule, Literal["constant", "one_cycle", "step"])
        choice("thresholds", self.thresholds, Literal["clean"], optional=True)
        if not isinstance(self.attack, PGD | None):
            raise TypeError(f"attack is {shown(self.attack)}; it must be a PGD or None")
        before = self.clean_epochs + max(1, self.ramp_epochs)
        if self.attack is not None and self.epochs < before:
            raise ValueError(
                f"epochs is {self.epochs}; with clean_epochs {self.clean_epochs} and ramp_epochs "
                f"{self.ramp_epochs} the attack comes to its full size in {before}"
            )

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of step 0, 1, ..."""
        if self.schedule == "step":
            return self.lr * 0.1 ** (step // (self.step_epochs * steps_per_epoch))
        if self.schedule == "one_cycle":
            total = self.epochs * steps_per_epoch
            peak = max(1, total // 5)
            return self.lr * min((step + 1) / peak, (total - step) / max(1, total - peak))
        return self.lr

    def attack_at(self, step: int, steps_per_epoch: int) -> PGD | None:
        """The training attack of step 0, 1, ...; None while training is on clean images."""
        since = step - self.clean_epochs * steps_per_epoch
        if self.attack is None or since < 0:
            return None
        part = min(1.0, (since + 1) / max(1, self.ramp_epochs * steps_per_epoch))
        return replace(
            self.attack,
            eps_255=self.attack.eps_255 * part,
            step_255=self.attack.step_255 * part,
        )


@dataclass
class Progress:
    """Where a run stands: steps done, seconds spent, per-epoch curves, this epoch's sums.

    total: steps of the whole training. prepare_s: the part of the seconds in which images were
    prepared, as by dithering (on a GPU, in which the work was handed to it).
    """

    step: int
    seconds: float
    curves: dict[str, list]
    sums: dict[str, float]
    prepare_s: float = 0.0
    total: int = 0


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; emulated, it takes several times as long as float32.

    GPUs do from the Ampere generation on, x86 processors with AVX512_BF16 (those with AMX have it,
    too), Arm's with BF16.
    """
    of_kind("device", device, torch.device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):  # oneDNN emulates it with AVX-512 alone
        return torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision(settings: Settings, device: torch.device) -> torch.dtype:
    """In what a device trains: bfloat16 if `autocast` asks for it and the device has it."""
    of_kind("settings", settings, Settings)
    of_kind("device", device, torch.device)
    wanted = settings.autocast and has_bfloat16(device)
    return torch.bfloat16 if wanted else torch.float32


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    for part in parts:
        of_kind("part", part, (int, str))
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _save(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"key": key, **vars(progress)})


def _restore(path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    tensors, meta = load_tensors(path)
    if meta.pop("key", None) != key:
        raise Damaged(
            f"{path} belongs to another run or another precision; delete it to start afresh"
        )
    prefix = "model."
    model.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
    state: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".", 2)
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(**meta)


def _gradients(
    model: nn.Module,
    settings: Settings,
    attack: Attack | None,
    batch: tuple[Tensor, Tensor],
    seed: int,
) -> dict[str, float]:
    """One forward and backward pass on a batch; returns its loss and its number of hits."""
    x, y = batch
    autocast = precision(settings, x.device) == torch.bfloat16
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        if attack is None:
            logits = model(x)
            loss = F.cross_entropy(logits, y)
        else:
            adversarial = perturb(folded(model), attack, x, y, seed)
            logits = model(adversarial)
            loss = F.cross_entropy(logits, y)
            if settings.clean_weight:
                clean = F.cross_entropy(model(x), y)
                loss = settings.clean_weight * clean + (1 - settings.clean_weight) * loss
    loss.backward()
    hits = (logits.argmax(1) == y).sum()
    return {"loss": loss.item() * len(y), "correct": hits.item(), "images": len(y)}


def _end_epoch(
    model: nn.Module, settings: Settings, progress: Progress, lr: float, eps: float
) -> None:
    sums, curves = progress.sums, progress.curves
    curves.setdefault("loss", []).append(sums["loss"] / sums["images"])
    curves.setdefault("accuracy", []).append(sums["correct"] / sums["images"])
    curves.setdefault("lr", []).append(lr)
    curves.setdefault("eps_255", []).append(eps)
    learnt = [m.thresholds.tolist() for m in model.modules() if isinstance(m, DynamicQuantizer)]
    if learnt:
        curves.setdefault("thresholds", []).append(learnt)
    progress.sums = {}


def training_steps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    seed: int,
    *,
    prepare: Callable[[Tensor], Tensor] = to_float,
    checkpoint: Path | None = None,
    key: str = "",
    checkpoint_s: float = 300.0,
) -> Iterator[Progress]:
    """Train `model` in place, on the device where it is, a step for each value that is asked for.

    Close it (contextlib.closing) to stop: the work done is then saved, and the next call goes on
    from there. An exception in the middle of a step saves nothing; the last checkpoint stays.

    Args:   images: (N, C, H, W) uint8. labels: (N,) int64. seed: of the order, the augmentation
            and the attack. prepare: from augmented uint8 to float32 in [0, 1]. checkpoint: file
            to resume from and to save to, after every epoch and when closed; `key` and `precision`
            name the run in it. checkpoint_s: seconds after which it is saved within an epoch, too.
    Yields: after every step the Progress, always the same object, with one value an epoch for loss,
            accuracy on its adversarial examples (on its images, while there is no attack), lr,
            eps_255, and thresholds where there are any. Of a run that was finished before, once.
    Raises: Damaged: a damaged or foreign checkpoint. ValueError, TypeError: images and labels that
            are none, or not one each. FloatingPointError: the loss is no longer finite.
    Source: DQA, Eq. 7 and 10; Double quantization, section IV-A.
    """
    check_uint8(images, labels)
    check_module("model", model)
    of_kind("settings", settings, Settings)
    seed, checkpoint_s = check_seed("seed", seed), number("checkpoint_s", checkpoint_s)
    of_kind("key", key, str)
    if checkpoint is not None:
        of_kind("checkpoint", checkpoint, Path)
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    if settings.autocast:
        model.to(memory_format=torch.channels_last)
    key = f"{key} in {precision(settings, device)}"
    optimizer = _optimizer(model, settings)
    progress = Progress(0, 0.0, {}, {})
    if checkpoint is not None and checkpoint.exists():
        progress = _restore(checkpoint, key, model, optimizer)
    steps_per_epoch = -(-len(images) // settings.batch_size)
    total = settings.epochs * steps_per_epoch
    progress.total = total
    started = time.perf_counter() - progress.seconds
    saved, saved_at = progress.step, progress.seconds

    def save() -> None:
        nonlocal saved, saved_at
        if checkpoint is not None and progress.step != saved:
            _save(checkpoint, key, model, optimizer, progress)
        saved, saved_at = progress.step, progress.seconds

    model.train()
    if progress.step >= total:
        yield progress
    order = None
    while progress.step < total:
        epoch, place = divmod(progress.step, steps_per_epoch)
        if order is None or place == 0:
            order = epoch_order(len(images), seed, epoch).to(device)
        index = order[place * settings.batch_size : (place + 1) * settings.batch_size]
        batch = images[index], labels[index]
        _step(
            model,
            optimizer,
            settings,
            progress,
            batch,
            seed=seed,
            prepare=prepare,
            steps_per_epoch=steps_per_epoch,
        )
        progress.seconds = time.perf_counter() - started
        if progress.step % steps_per_epoch == 0 or progress.seconds - saved_at >= checkpoint_s:
            save()
        try:
            yield progress
        except GeneratorExit:  # closed: between two steps
            save()
            raise


def train(
    model: nn.Module, images: Tensor, labels: Tensor, settings: Settings, seed: int, **options: Any
) -> Progress:
    """All of `training_steps`, which see; returns the last Progress."""
    *_, last = training_steps(model, images, labels, settings, seed, **options)
    return last


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    progress: Progress,
    batch: tuple[Tensor, Tensor],
    *,
    seed: int,
    prepare: Callable[[Tensor], Tensor],
    steps_per_epoch: int,
) -> None:
    """One step on a batch of uint8 images and labels."""
    (x, y), step = batch, progress.step
    device = x.device
    if settings.augment:
        generator = torch.Generator(device).manual_seed(derived_seed(seed, step, "augment"))
        x = crop_and_flip(x, generator)
    lr, attack = settings.lr_at(step, steps_per_epoch), settings.attack_at(step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    before = time.perf_counter()
    x = prepare(x)
    progress.prepare_s += time.perf_counter() - before
    try:
        with seeded(derived_seed(seed, step, "layers"), device):  # dropout
            attack_seed = derived_seed(seed, step, "attack")
            sums = _gradients(model, settings, attack, (x, y), attack_seed)
        if not abs(sums["loss"]) < float("inf"):
            raise FloatingPointError(f"the loss is {sums['loss']}")
    except IndexError:  # PyTorch's of a loss, on a CPU
        raise ValueError(f"a label is {y.max().item()}; the model has fewer classes") from None
    except FloatingPointError as error:
        total = settings.epochs * steps_per_epoch
        raise FloatingPointError(
            f"{error} at step {step} of {total}; lower lr ({settings.lr})"
        ) from None
    dynamic = [m for m in model.modules() if isinstance(m, DynamicQuantizer)]
    if attack is not None and settings.thresholds == "clean":
        for module in dynamic:
            module.thresholds.grad = None  # the optimiser passes over it
    optimizer.step()
    for module in dynamic:
        module.project()
    progress.sums = {n: progress.sums.get(n, 0) + v for n, v in sums.items()}
    progress.step += 1
    if progress.step % steps_per_epoch == 0:
        _end_epoch(model, settings, progress, lr, attack.eps_255 if attack else 0.0)
