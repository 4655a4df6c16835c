"""Trials that look for the smallest perturbation: Carlini and Wagner's attack, and ZOO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from reproduce import data, grids, variants
from reproduce.attacks import ZOO, CarliniWagner, bpda
from reproduce.evaluation import batch_seed
from reproduce.grids import DQA
from reproduce.quantizers import Backward
from reproduce.trials import DQATrial, Trial

H_255 = {"1e-4": 0.0255, "1e-3": 0.255, "1/255": 1.0, "2/255": 2.0, "4/255": 4.0, "8/255": 8.0}
RULES = {"own": {}, "sigmoid": {"backward": "sigmoid", "temperature": 5.0}}


@dataclass(frozen=True, kw_only=True)
class Minimal:
    """An attack on the first images of the test set, as long as it takes.

    Args: images: how many. backward, temperature: what it takes for the quantisers' derivative;
          None for the network's own rule.
    """

    attack: CarliniWagner | ZOO
    images: int
    backward: Backward | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class NormTrial(Trial):
    """How far each image must be moved, in l2, before DQA's network errs.

    One image at a time, as in DQATrial. An image that is misclassified as it stands has norm 0, one
    that was never broken inf.

    Source: DQA, Tables 3 and 5.
    """

    base: DQA
    conditions: dict[str, Minimal]
    batch: int = 100

    @property
    def name(self) -> str:
        return f"{self.base.name}-norms"

    def _hits(self, condition, model, twin, dataset, check_stop):
        """(N,) float32: the norms; correct is where they are inf."""
        model = DQATrial.deployed(model)
        device = next(model.parameters()).device
        norms = []
        with bpda(model, condition.backward, condition.temperature):
            for number, start in enumerate(range(0, condition.images, self.batch)):
                few = slice(start, min(start + self.batch, condition.images))
                x = data.to_float(dataset.x_test[few].to(device))
                y = dataset.y_test[few].to(device)
                is_zoo = isinstance(condition.attack, ZOO)  # the other draws nothing
                seed = {"seed": batch_seed(self.seed, number)} if is_zoo else {}
                found = condition.attack.run(model, x, y, **seed)
                norms.append(found.norms.cpu())
        return torch.cat(norms)


_BUDGETS = {
    "smoke": {
        "cw": (CarliniWagner(steps=10, search_steps=2, lr=0.05, initial_c=1.0), 4),
        "zoo": (ZOO(300, 1, 128, 1.0, lr=0.06, initial_c=100.0), 2),
    },
    "laptop": {
        "cw": (CarliniWagner(steps=200, search_steps=6, lr=0.01, initial_c=0.1), 100),
        "zoo": (ZOO(8_000, 1, 128, 1.0, lr=0.06, initial_c=100.0), 100),
    },
    "paper": {
        "cw": (CarliniWagner(steps=1_000, search_steps=9, lr=0.01, initial_c=0.01), 1_000),
        "zoo": (ZOO(50_000, 2, 128, 1.0, lr=0.02, initial_c=10.0), 200),
    },
}


def norm_trial(base: DQA) -> NormTrial:
    """C&W through every rule; ZOO at every step width, on networks trained on adversarial ones."""
    attack, images = _BUDGETS[base.scale]["cw"]
    rules = RULES if base.activation != "relu" else {"own": {}}
    conditions = {
        f"cw/{name}": Minimal(attack=attack, images=images, **options)
        for name, options in rules.items()
    }
    if base.training.attack is not None:
        attack, images = _BUDGETS[base.scale]["zoo"]
        for name, h in H_255.items():
            conditions[f"zoo/{name}"] = Minimal(attack=replace(attack, h_255=h), images=images)
    return NormTrial(base=base, conditions=conditions)


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[NormTrial]:
    """The networks of Tables 3 and 5, seed 0, filtered as grids.grid."""
    of = (paper, scale, seed)
    for base in (*grids.grid(*of), *variants.grid(*of)):
        resnet = isinstance(base, DQA) and base.dataset in ("patterns", "cifar10")
        if (
            resnet
            and base.scale in _BUDGETS
            and not base.seed
            and (base.training.attack is None or base.activation != "fixed")
        ):
            yield norm_trial(base)


def work(trial: NormTrial) -> float:
    """About how many multiply-adds a trial takes, forward and backward passes alike."""
    passes = 0.0
    for c in trial.conditions.values():
        a = c.attack
        each = a.queries / 3 if isinstance(a, ZOO) else a.steps * a.search_steps
        passes += c.images * each
    return 3 * grids.macs(trial.base) * passes
