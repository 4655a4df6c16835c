"""The audit: flags first, then the attacks, then whether these attacks worked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduce import data, storage
from reproduce.attacks import (
    FGSM,
    KINDS,
    PGD,
    AdaptivePGD,
    AutoAttack,
    HopSkipJump,
    Noise,
    Square,
    diagnostics,
    full_float32,
    perturb,
    seeded,
)
from reproduce.attacks.black_box import quiet_foolbox
from reproduce.audit.result import Audit, Check, Found
from reproduce.audit.stand_ins import (
    BeforeHead,
    Function,
    find_head,
    flat_layers,
    with_stand_ins,
)
from reproduce.evaluation import batch_seed

SUITES = ("quick", "standard")
SLACK = 0.01  # of the images, at least one: two random attacks may differ by so many
PROBED = 32  # images that the flags look at
BINARISED = 10  # images of the binarisation test


def audit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    suite: str | Sequence | Mapping = "standard",
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
             (N, C, H, W) float32 in [0, 1], or uint8. labels: (N,) int64. eps: radius in [0, 1]
             units. suite: "quick" (a minute for a hundred small images), "standard", or attacks of
             one's own, in a list or by name: of this package, of torchattacks or of foolbox.
             surrogates: what stands in for the gradient of layers that have none (with_stand_ins).
             differentiable: a copy of the model that lets gradients through, instead. source:
             another network, to transfer from. head: name of the last linear layer, where it is not
             the last one named. norm: "Linf", the only one so far. batch_size: images at a time.
             seed: of all that is drawn. time_budget_s: seconds after which attacks are left out,
             and named. checkpoint: a file that keeps each finished attack, to go on from. progress:
             a bar; None for one on terminals only.
    Returns: Audit. Where gradients are zero and nothing stands in for them, no attack is run, and
             its verdict says what to give.
    Raises:  TypeError, ValueError: one line each, before any attack runs. FloatingPointError:
             logits that are no numbers.
    Source:  Carlini et al. 2019; Croce and Hein 2020; Zimmermann et al. 2022.
    """
    images, labels, notes = _validated(model, images, labels, eps=eps, norm=norm)
    if surrogates is not None and differentiable is not None:
        raise ValueError("surrogates and differentiable are both given; give one of them")
    head = find_head(model, head)
    seen = model if differentiable is None else differentiable
    if surrogates is not None:
        seen = with_stand_ins(model, surrogates)
    right = _answers(model, images, batch_size) == labels
    found = Audit(eps=eps, right=right.cpu().numpy(), notes=notes)
    if not right.any():
        raise ValueError(
            f"none of the {len(images)} images is classified rightly; nothing to attack"
        )
    given = differentiable is not None
    _flags(found, model, seen, images, labels, stands_in=given or surrogates is not None)
    attacks = _attacks(suite, eps, classes=_classes(model, images), source=source)
    if found.reasons and found.flags["zero_gradients"]:
        return found
    work = _Work(
        model, seen, images, labels, eps=eps, batch_size=batch_size, seed=seed, source=source
    )
    state = _State(found, checkpoint, work)
    started = time.monotonic()
    for name, attack in tqdm(
        attacks.items(), desc="audit", unit="attack", disable=_quiet(progress)
    ):
        if state.has(name):
            continue
        if time_budget_s is not None and time.monotonic() - started > time_budget_s:
            found.skipped.append(name)
            continue
        state.add(name, *work.attacked(name, attack, eps))
    state.finish()
    _check(found, work, head)
    return found


def _quiet(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


# --- The input ------------------------------------------------------------------------------------


def _validated(model, images, labels, *, eps, norm) -> tuple[Tensor, Tensor, list[str]]:
    if norm != "Linf":
        raise ValueError(f"norm is {norm!r}; only 'Linf' is attacked so far")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps <= 1:
        raise ValueError(
            f"eps is {eps!r}; it is in [0, 1] units and must lie in (0, 1], as 8 / 255"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}; give a torch.nn.Module")
    training = [name or "the model" for name, m in model.named_modules() if m.training]
    if training:
        raise ValueError(f"{training[0]} is in training mode; call model.eval() first")
    wrong = {str(p.dtype) for p in model.parameters() if p.dtype != torch.float32}
    if wrong:
        raise TypeError(f"the model's weights are {', '.join(sorted(wrong))}; give model.float()")
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        shape = tuple(getattr(images, "shape", ()))
        raise ValueError(f"images have the shape {shape}; give a tensor (N, C, H, W), N at least 1")
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
        shape = tuple(getattr(labels, "shape", ()))
        raise ValueError(f"labels have the shape {shape}; give a tensor ({len(images)},)")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are {labels.dtype}; give int64")
    notes = []
    if images.dtype == torch.uint8:
        notes.append("The images were uint8 and were divided by 255.")
        images = data.to_float(images)
    if images.dtype != torch.float32:
        raise TypeError(f"images are {images.dtype}; give float32 in [0, 1], or uint8")
    low, high = (v.item() for v in images.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images hold values from {low:g} to {high:g}; give [0, 1] and let the model normalise"
        )
    device = next((p.device for p in model.parameters()), images.device)
    images, labels = images.to(device), labels.to(device)
    classes = _classes(model, images)
    if not (labels.min() >= 0 and labels.max() < classes):
        span = f"{labels.min().item()} to {labels.max().item()}"
        raise ValueError(f"labels run from {span}; the model has the classes 0 to {classes - 1}")
    return images, labels, notes


def _classes(model: nn.Module, images: Tensor) -> int:
    with torch.no_grad():
        logits = model(images[:1])
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(getattr(logits, "shape", ()))
        raise ValueError(f"the model gives {shape} for one image; give logits (N, K), K at least 2")
    if not logits.isfinite().all():
        raise FloatingPointError("the model's logits are NaN or infinite")
    return logits.shape[1]


def _answers(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad(), full_float32():
        logits = torch.cat([model(x) for x in images.split(batch_size)])
    if not logits.isfinite().all():
        raise FloatingPointError("the model's logits are NaN or infinite")
    return logits.argmax(1)


# --- The flags ------------------------------------------------------------------------------------


def _flags(found: Audit, model, seen, images, labels, *, stands_in: bool) -> None:
    """What makes an evaluation doubtful before it begins, and the reasons for no verdict."""
    few, y = images[:PROBED], labels[:PROBED]
    found.flags |= diagnostics.flags(model, few)
    with torch.no_grad(), full_float32():
        together = model(few)
        alone = torch.cat([model(x[None]) for x in few])
    apart = (together - alone).abs().amax().item()
    found.flags["batch_dependent"] = apart > 1e-3 * together.abs().amax().item() + 1e-6
    probe = few.clone().requires_grad_(True)
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(seen(probe), y, reduction="sum")
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True)
    dead = gradient is None or (gradient == 0).flatten(1).all(1).float().mean().item() > 0.5
    found.flags["zero_gradients"] = bool(dead)
    layers = flat_layers(seen, few) if not stands_in else []
    if dead:
        where = f" ({', '.join(layers)})" if layers else ""
        found.reasons.append(
            f"the gradient at the images is zero{where}; give surrogates={{Layer: rule}} for these "
            "layers, or differentiable=, a copy of the model that lets gradients through"
        )
    elif layers:
        found.reasons.append(
            f"no gradient comes through {', '.join(layers)}; give surrogates={{Layer: rule}}"
        )
    said = {
        "randomised": "its answers change from call to call, and each image was asked once",
        "batch_dependent": "its answer to an image depends on the batch",
    }
    found.reasons += [why for flag, why in said.items() if found.flags[flag]]
    if found.flags["softmax"]:
        found.notes.append("The outputs look like probabilities; logits make stronger attacks.")


# --- The attacks ----------------------------------------------------------------------------------


def _attacks(suite, eps: float, *, classes: int, source) -> dict[str, object]:
    """{name: attack} of a suite, the dear ones last."""
    if isinstance(suite, Mapping):
        return dict(suite)
    if not isinstance(suite, str):
        named: dict[str, object] = {}
        for attack in suite:
            name = type(attack).__name__
            named[name if name not in named else f"{name} {len(named)}"] = attack
        if not named:
            raise ValueError("suite is empty; give attacks, or 'quick' or 'standard'")
        return named
    if suite not in SUITES:
        raise ValueError(f"suite is {suite!r}; choose {' or '.join(SUITES)}, or give attacks")
    e = 255 * eps
    quick = suite == "quick"
    steps = 20 if quick else 100
    strong = AdaptivePGD(eps_255=e, step_255=e / 4, steps=steps)
    attacks = {
        "FGSM": FGSM(e),
        "PGD": PGD(e, e / 4, steps),
        "PGD, margin": replace(strong, loss="margin"),
        "PGD, scaled logits": replace(strong, scaled=True),
        "noise": Noise(eps_255=e, draws=100 if quick else 1_000),
    }
    if not quick:
        attacks["PGD, margin, 5 restarts"] = replace(strong, loss="margin", restarts=5)
    if source is not None:
        attacks["transfer"] = PGD(e, e / 10, steps)
    attacks["Square"] = Square(eps_255=e, queries=1_000 if quick else 5_000)
    if not quick:
        attacks["HopSkipJump"] = HopSkipJump(eps_255=e, steps=20)
        if classes >= 4:
            attacks["AutoAttack"] = AutoAttack(eps_255=e, classes=classes)
    return attacks


class _Work:
    """A model under audit, the network that gradients are taken of, and its images."""

    def __init__(
        self, model, seen, images, labels, *, eps: float, batch_size: int, seed: int, source
    ) -> None:
        self.model, self.seen, self.source, self.eps = model, seen, source, eps
        self.images, self.labels = images, labels
        self.batch_size, self.seed = batch_size, seed

    def right(self, images: Tensor) -> np.ndarray:
        return (
            (_answers(self.model, images, self.batch_size) == self.labels[: len(images)])
            .cpu()
            .numpy()
        )

    def batches(self, count: int | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        parts = zip(
            self.images[:count].split(self.batch_size),
            self.labels[:count].split(self.batch_size),
            strict=True,
        )
        for number, (x, y) in enumerate(parts):
            yield batch_seed(self.seed, number), x, y

    def attacked(self, name: str, attack, eps: float, count: int | None = None):
        """(adversarial images, family, seconds) of one attack on the first images."""
        family, run = self._ready(name, attack)
        started = time.perf_counter()
        made = torch.cat([run(x, y, seed) for seed, x, y in self.batches(count)])
        clean = self.images[:count]
        if not made.isfinite().all() or made.shape != clean.shape:
            raise ValueError(f"{name} made images that are no numbers, or of another shape")
        far, low, high = (made - clean).abs().max().item(), made.min().item(), made.max().item()
        if far > eps + 1e-5 or low < 0 or high > 1:
            raise ValueError(
                f"{name} went {255 * far:.4g}/255 from the images, to values in "
                f"[{low:g}, {high:g}]; allowed are {255 * eps:.4g}/255 and [0, 1]"
            )
        return made, family, time.perf_counter() - started

    def _ready(self, name: str, attack) -> tuple[str, Callable[[Tensor, Tensor, int], Tensor]]:
        device = self.images.device
        if isinstance(attack, KINDS):
            if not hasattr(attack, "eps_255"):
                raise TypeError(f"{name} looks for the smallest perturbation and has no eps")
            if name == "transfer" and self.source is not None:
                return "transfer", lambda x, y, s: perturb(self.source, attack, x, y, s)
            # Attacks that see no gradient work on the model itself, the others on its stand-in.
            blind = attack.family in ("score", "decision", "noise")
            model = self.model if blind else self.seen
            return attack.family, lambda x, y, s: perturb(model, attack, x, y, s)
        if any(kind.__module__.startswith("foolbox.") for kind in type(attack).__mro__):
            return "given", self._foolbox(attack)
        if callable(attack):  # torchattacks: built on a network of the caller's

            def run(x: Tensor, y: Tensor, s: int) -> Tensor:
                with seeded(s, device), torch.enable_grad():
                    return attack(x, y).detach()

            return "given", run
        raise TypeError(
            f"{name} is {type(attack).__name__}; give attacks of torchattacks or foolbox"
        )

    def _foolbox(self, attack) -> Callable[[Tensor, Tensor, int], Tensor]:
        eps = self.eps

        def run(x: Tensor, y: Tensor, s: int) -> Tensor:
            with quiet_foolbox() as foolbox, seeded(s, x.device):
                target = foolbox.PyTorchModel(self.seen, bounds=(0, 1), device=x.device)
                return attack(target, x, y, epsilons=[eps])[1][0].detach()

        return run


class _State:
    """The finished attacks of an audit, in a file if one is named."""

    def __init__(self, found: Audit, checkpoint: str | Path | None, work: _Work) -> None:
        self.found, self.work = found, work
        self.path = None if checkpoint is None else Path(checkpoint)
        self.best = work.images.clone()
        self.standing = torch.from_numpy(found.right.copy()).to(work.images.device)
        self.token = self._token()
        if self.path is not None and self.path.exists():
            self._restore()

    def _token(self) -> str:
        work = self.work
        digest = hashlib.sha256(storage.tensors_sha256(work.model.state_dict()).encode())
        digest.update(work.images.cpu().numpy().tobytes())
        digest.update(work.labels.cpu().numpy().tobytes())
        digest.update(f"{self.found.eps} {work.batch_size} {work.seed}".encode())
        return digest.hexdigest()

    def has(self, name: str) -> bool:
        return name in self.found.attacks

    def add(self, name: str, made: Tensor, family: str, seconds: float) -> None:
        bits = self.work.right(made)
        fell = self.standing & ~torch.from_numpy(bits).to(made.device)
        self.best[fell] = made[fell]
        self.standing &= ~fell
        self.found.attacks[name] = Found(family=family, bits=bits, seconds=seconds)
        if self.path is not None:
            kept = {f"bits/{n}": torch.from_numpy(f.bits) for n, f in self.found.attacks.items()}
            meta = {n: [f.family, f.seconds] for n, f in self.found.attacks.items()}
            kept["best"] = self.best
            storage.save_tensors(self.path, kept, {"token": self.token, "attacks": meta})

    def _restore(self) -> None:
        tensors, meta = storage.load_tensors(self.path)
        if meta.get("token") != self.token:
            raise storage.Damaged(f"{self.path} is of another audit; delete it to start afresh")
        for name, (family, seconds) in meta["attacks"].items():
            bits = tensors[f"bits/{name}"].numpy()
            self.found.attacks[name] = Found(family=family, bits=bits, seconds=seconds)
            self.standing &= torch.from_numpy(bits).to(self.standing.device)
        self.best = tensors["best"].to(self.best.device)

    def finish(self) -> None:
        """The adversarial images, and which images survive these in an 8-bit file."""
        self.found.adversarial = self.best.cpu().numpy()
        whole = (self.best * 255).round() / 255
        self.found.rounded = self.found.right & self.work.right(whole)


# --- Did the attacks work? ------------------------------------------------------------------------


def _check(found: Audit, work: _Work, head: str | None) -> None:
    """The checks, by the main attack (PGD on the margin) and by what the suite found."""
    n, e = len(work.images), 255 * found.eps
    slack = max(1, round(SLACK * n))
    main = AdaptivePGD(eps_255=e, step_255=e / 4, steps=20, loss="margin")

    def left(attack) -> int:
        made, _, _ = work.attacked("a check", attack, attack.eps_255 / 255)
        return int((found.right & work.right(made)).sum())

    right = int(found.right.sum())
    idle = left(replace(main, eps_255=0.0, step_255=0.0))
    _note(found, "eps = 0 changes nothing", idle == right, f"{idle} of {right} right")
    whole = left(replace(main, eps_255=255.0, step_255=255 / 4, steps=40))
    _note(found, "an unbounded eps leaves nothing", whole <= slack, f"{whole} of {right} left")
    one, many, twice = left(FGSM(e)), left(main), left(replace(main, steps=40))
    _note(found, "many steps beat one", many <= one + slack, f"{many} left, one step {one}")
    close = many - twice <= slack or twice <= slack
    worst = int(found.survives.sum())
    close = close or worst <= twice + slack  # the suite's own attacks went further
    _note(found, "more steps change little", close, f"{many} left, twice the steps {twice}")
    sighted = [
        f.bits for f in found.attacks.values() if f.family in ("gradient", "ensemble", "given")
    ]
    blind = [f.bits for f in found.attacks.values() if f.family in ("score", "decision", "noise")]
    if sighted and blind:
        kept = np.all([found.right, *sighted], axis=0)
        missed = int((kept & ~np.all(blind, axis=0)).sum())
        said = f"{missed} of {n} fall to attacks without a gradient alone"
        _note(found, "gradients find what queries find", missed <= slack, said)
    if head is not None:
        _binarisation(found, work, head, main)
    kept = int(found.rounded.sum())
    found.notes.append(
        f"Rounded to whole grey values, the adversarial images leave {kept} of {n} right, "
        f"and {worst} as they are."
    )


def _note(found: Audit, name: str, passed: bool, said: str) -> None:
    found.checks[name] = Check(passed=bool(passed), said=said)


def _binarisation(found: Audit, work: _Work, head: str, main: AdaptivePGD) -> None:
    """Planted adversarial examples that random points miss: does the attack find them?"""
    whole = nn.Sequential(BeforeHead(work.seen, _renamed(work.seen, head)), nn.Identity()).eval()
    few = work.images[:BINARISED]
    hit = diagnostics.binarization_test(whole, {"main": main}, few, work.seed)
    hard = hit["valid"] & ~hit["random"]
    count, reached = int(hard.sum()), int(hit["main"][hard].sum())
    said = f"{reached} of {count} planted examples found"
    _note(found, "planted examples are found", count == 0 or reached >= 0.95 * count, said)


def _renamed(seen: nn.Module, head: str) -> str:
    """The head's name in the network that gradients are taken of."""
    names = [name for name, m in seen.named_modules() if isinstance(m, nn.Linear)]
    return head if head in names else names[-1]
