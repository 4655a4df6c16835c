"""The attacks of an audit, and what they are run on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from reproduce.attacks import (
    DDN,
    FGSM,
    KINDS,
    PGD,
    ZOO,
    AdaptivePGD,
    AutoAttack,
    CarliniWagner,
    HopSkipJump,
    Noise,
    Square,
    perturb,
    seeded,
)
from reproduce.attacks.base import under_attack
from reproduce.attacks.black_box import quiet_foolbox
from reproduce.auditing.inputs import answers
from reproduce.evaluation import Seeded, adversarial, batches

SUITES = ("quick", "standard")


def named_attacks(
    suite: str | Sequence[object] | Mapping[str, object], eps: float, classes: int
) -> dict[str, object]:
    """{name: attack} of a suite. Raises: TypeError, ValueError: no suite, or an empty one."""
    if isinstance(suite, str):
        if suite not in SUITES:
            raise ValueError(f"suite is {suite!r}; choose {' or '.join(SUITES)}, or give attacks")
        return _standard(255 * eps, classes) if suite == "standard" else _quick(255 * eps)
    if not isinstance(suite, Sequence | Mapping):
        raise TypeError(f"suite is a {type(suite).__name__}; give a list of attacks")
    if not suite:
        raise ValueError("suite is empty; give attacks, or 'quick' or 'standard'")
    if isinstance(suite, Mapping):
        return {str(name): attack for name, attack in suite.items()}
    names: dict[str, object] = {}
    for attack in suite:
        name = kind = getattr(attack, "__name__", type(attack).__name__)
        number = 1
        while name in names:
            number += 1
            name = f"{kind} {number}"
        names[name] = attack
    return names


def _quick(e: float, steps: int = 20) -> dict[str, object]:
    strong = AdaptivePGD(eps_255=e, step_255=e / 4, steps=steps)
    return {
        "FGSM": FGSM(e),
        "PGD": PGD(e, e / 4, steps),
        "PGD, margin": replace(strong, loss="margin"),
        "PGD, scaled logits": replace(strong, scaled=True),
        "noise": Noise(eps_255=e, draws=100),
        "Square": Square(eps_255=e, queries=1_000),
    }


def _standard(e: float, classes: int) -> dict[str, object]:
    restarts = AdaptivePGD(eps_255=e, step_255=e / 4, steps=100, loss="margin", restarts=5)
    attacks = _quick(e, steps=100) | {
        "noise": Noise(eps_255=e, draws=1_000),
        "PGD, margin, 5 restarts": restarts,
        "Square": Square(eps_255=e, queries=5_000),
        "HopSkipJump": HopSkipJump(eps_255=e, steps=20),
    }
    if classes >= 4:  # two of its members aim at every other class, by a loss of four logits
        attacks["AutoAttack"] = AutoAttack(eps_255=e, classes=classes)
    return attacks


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A model under audit, and its images: those that it judges rightly.

    seen: the network that gradients are taken of. source: one to transfer from, or None. images:
    (n, C, H, W). labels: (n,).
    """

    model: nn.Module
    seen: nn.Module
    source: nn.Module | None
    images: Tensor
    labels: Tensor
    eps: float
    batch_size: int
    seed: int

    def right(self, images: Tensor) -> np.ndarray:
        """(n,) bool: which of them the model itself judges rightly."""
        said = answers(self.model, images, self.labels, self.batch_size)
        return (said == self.labels[: len(images)]).cpu().numpy()

    def transfer(self, source: nn.Module) -> tuple[str, Seeded]:
        """PGD on the other network."""
        e = 255 * self.eps
        return "transfer", lambda x, y, s: perturb(source, PGD(e, e / 10, 100), x, y, s)

    def ready(self, name: str, attack: object, eps: float) -> tuple[str, Seeded]:
        """(family, what makes the images). Raises: TypeError, ValueError: not for this ball."""
        if isinstance(attack, KINDS):
            if isinstance(attack, CarliniWagner | DDN | ZOO):
                raise TypeError(f"{name} looks for the smallest perturbation and has no eps")
            if attack.eps_255 > 255 * eps + 1e-3:
                raise ValueError(f"{name} has eps_255 {attack.eps_255:g}; it is {255 * eps:g} here")
            # Attacks that see no gradient work on the model itself, the others on its stand-in.
            blind = attack.family in ("score", "decision", "noise")
            model = self.model if blind else self.seen
            return attack.family, lambda x, y, s: perturb(model, attack, x, y, s)
        if isinstance(attack, type) or not callable(attack):
            what = f"the class {attack.__name__}" if isinstance(attack, type) else repr(attack)
            raise TypeError(f"{name} is {what}; give attacks of reproduce, torchattacks or foolbox")
        if any(kind.__module__.startswith("foolbox.") for kind in type(attack).__mro__):
            return "given", self._foolbox(attack, eps)
        return "given", self._given(attack)

    def _given(self, attack: Callable) -> Seeded:
        """Of torchattacks, built on a network of the caller's, or a function."""
        model = attack.model if isinstance(attack, torchattacks.attack.Attack) else self.seen

        def run(x: Tensor, y: Tensor, s: int) -> Tensor:
            with under_attack(model, x, y), seeded(s, x.device):
                return attack(x, y)

        return run

    def _foolbox(self, attack: Callable, eps: float) -> Seeded:
        def run(x: Tensor, y: Tensor, s: int) -> Tensor:
            with quiet_foolbox() as foolbox, under_attack(self.seen, x, y), seeded(s, x.device):
                target = foolbox.PyTorchModel(self.seen, bounds=(0, 1), device=x.device)
                return attack(target, x, y, epsilons=[eps])[1][0]

        return run

    def attacked(
        self, name: str, run: Seeded, eps: float, tried: np.ndarray | None = None
    ) -> tuple[Tensor, float]:
        """(adversarial images, seconds).

        Args:   tried: (n,) bool, which images to attack; the others come back as they are.
        Raises: ValueError: it left the ball, or [0, 1].
        """
        started = time.perf_counter()
        some = np.ones(len(self.images), bool) if tried is None else tried
        rows = torch.from_numpy(some).to(self.images.device)
        made = self.images.clone()
        if some.any():
            parts = batches(self.images[rows], self.labels[rows], self.batch_size, self.seed)
            made[rows] = torch.cat([x for x, _ in adversarial(name, run, parts, eps)])
        return made, time.perf_counter() - started
