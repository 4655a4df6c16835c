"""The trials: trained networks of both papers under attacks that know the defence.

A trial takes the finished network of an experiment, trains nothing, and stores a Record of its own.
The attacks, their budgets and their numbers of images are all part of its configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import data, grids, models, results
from reproduce.attacks import (
    NES,
    PGD,
    AdaptivePGD,
    Attack,
    AutoAttack,
    HopSkipJump,
    Noise,
    Square,
    diagnostics,
)
from reproduce.evaluation import correct
from reproduce.grids import DQA, DoubleQuantization, Experiment, configuration, quantised
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import FixedQuantizer, filter_radius


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One attack on the first images of the test set.

    Args: attack: None for clean images. images: how many. sees: the network that the attack works
          on: "itself", what is deployed; "bare", the network without the filter before it; "twin",
          the full-precision network (DQA) or the 8-bit model (Double quantization) that was trained
          in the same way. noise: for Double quantization, "before" or "after" dithering. rounding:
          of the second quantisation.
    """

    attack: Attack | None = None
    images: int
    sees: Literal["itself", "bare", "twin"] = "itself"
    noise: Literal["before", "after"] | None = None
    rounding: Literal["nearest"] | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A finished experiment's network and the conditions that it is put to.

    Args: base: the experiment that trained it. conditions: {name: condition}, in this order.
          batch: images attacked at a time. limit_s: seconds after which conditions that are not
          `essential` are left out; None for all, however long.
    """

    base: Experiment
    conditions: dict[str, Condition]
    batch: int = 250
    limit_s: float | None = None

    @property
    def paper(self) -> str:
        return self.base.paper

    @property
    def dataset(self) -> str:
        return self.base.dataset

    @property
    def scale(self) -> str:
        return self.base.scale

    @property
    def seed(self) -> int:
        return self.base.seed

    @property
    def cell(self) -> str:
        return self.base.cell

    @property
    def name(self) -> str:
        return f"{self.base.name}-trial"

    @property
    def slug(self) -> str:
        return f"{self.scale}-{self.cell}-seed{self.seed}"

    @property
    def key(self) -> str:
        return results.key(configuration(self))

    def essential(self, condition: str) -> bool:
        """Whether the tables or the checks cannot do without a condition."""
        return True

    def twin(self) -> Experiment | None:
        """The experiment whose network serves as the source of transferred attacks, if any."""
        return None

    def evaluations(
        self,
        model: nn.Module,
        twin: nn.Module | None,
        dataset: data.Dataset,
        check_stop: Callable[[], None],
    ) -> dict[str, Callable[[], Tensor]]:
        """{condition: what gives its (N,) bool, correct or not}, the essential ones first."""
        return {
            name: functools.partial(
                self._hits, self.conditions[name], model, twin, dataset, check_stop
            )
            for name in sorted(self.conditions, key=self.essential, reverse=True)
        }

    def _hits(self, condition: Condition, model, twin, dataset, check_stop) -> Tensor:
        raise NotImplementedError

    def arrays(
        self, model: nn.Module, dataset: data.Dataset, check_stop: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        """Sanity checks and what figures need."""
        return {}


@dataclass(frozen=True, kw_only=True)
class DQATrial(Trial):
    """DQA's network, asked one image at a time, under attacks that know its quantisers.

    One image at a time: max|y| of Eq. 2 is taken over the image. The tables take it over the batch,
    as the paper writes it; there an image's answer depends on its neighbours, and "the worst case
    for each image" would have no meaning.

    Args: main: the attack that the sanity checks examine. own: the table's own attack, likewise.
          examined: images of the checks. planted: images of the planted test.
    """

    base: DQA
    main: AdaptivePGD
    own: AdaptivePGD
    examined: int = 100
    planted: int = 50

    def essential(self, condition):
        return not condition.startswith(DEAR)

    def twin(self) -> DQA | None:
        if self.base.activation == "relu":
            return None
        # What is said of quantisers is nothing to ReLU: all readings of them have one twin.
        training = replace(self.base.training, thresholds=None)
        if training.attack is not None:
            plain = replace(training.attack, backward=None, temperature=None)
            training = replace(training, attack=plain)
        return replace(
            self.base, activation="relu", bits=None, maximum="batch", source="x", training=training
        )

    @staticmethod
    def deployed(model: nn.Module) -> nn.Module:
        """A copy that answers one image at a time, its batch normalisation folded."""
        model = folded(model)
        for layer in model.modules():
            if isinstance(layer, FixedQuantizer):
                layer.maximum = "image"
        return model

    def _hits(self, condition, model, twin, dataset, check_stop):
        few = slice(condition.images)
        return correct(
            self.deployed(model),
            dataset.x_test[few],
            dataset.y_test[few],
            condition.attack,
            batch_size=self.batch,
            seed=self.seed,
            source_model=folded(twin) if condition.sees == "twin" else None,
        )

    def arrays(self, model, dataset, check_stop):
        model = self.deployed(model)
        device = next(model.parameters()).device
        x = data.to_float(dataset.x_test[: self.examined].to(device))
        y = dataset.y_test[: self.examined].to(device)
        arrays = {f"flags/{n}": np.array(v) for n, v in diagnostics.flags(model, x).items()}
        attacks = {"own": self.own, "main": self.main}
        for name, attack in attacks.items():
            check_stop()
            shares = diagnostics.zero_gradients(model, attack, x, y)
            arrays |= {f"zero_gradients/{name}/{n}": np.array(v) for n, v in shares.items()}
            curve = diagnostics.loss_by_step(model, attack, x, y, self.seed)
            arrays[f"loss/{name}"] = np.array(curve)
            named = diagnostics.false_labels(model, attack, x, y, self.seed)
            arrays[f"false_label/{name}"] = named.cpu().numpy()
        found = diagnostics.binarization_test(model, attacks, x[: self.planted], self.seed)
        return arrays | {f"planted/{n}": hit.numpy() for n, hit in found.items()}


@dataclass(frozen=True, kw_only=True)
class DoubleTrial(Trial):
    """Double quantization with the noise before or after dithering, under attacks that know it."""

    base: DoubleQuantization

    def twin(self) -> DoubleQuantization | None:
        if self.base.bits == 8:
            return None
        return replace(self.base, bits=8, dithered=False)

    def _hits(self, condition, model, twin, dataset, check_stop):
        bits, dithered = self.base.bits, self.base.dithered
        rounding = condition.rounding or "floor"
        device = next(model.parameters()).device
        x = dataset.x_test[: condition.images].to(device)
        y = dataset.y_test[: condition.images]
        bare, seen = folded(model), folded(twin)
        if condition.noise == "after":
            x = (quantised(x, bits, dithered) * 255).round().byte()
            guard = DoubleQuantizer(bits, False, rounding)
        else:
            guard = DoubleQuantizer(bits, dithered, rounding)
        whole = nn.Sequential(guard, bare).eval()
        source = {"itself": None, "bare": bare, "twin": seen}[condition.sees]
        options = {"batch_size": self.batch, "seed": self.seed}
        return correct(whole, x, y, condition.attack, source_model=source, **options)


def folded(model: nn.Module | None) -> nn.Module | None:
    """A copy whose batch normalisation is part of its convolutions, in channels_last."""
    if model is None:
        return None
    return models.folded(model).to(memory_format=torch.channels_last)


# --- The conditions -------------------------------------------------------------------------------

# The dearest attacks; each only takes more from the worst case. They come last, by worth.
DEAR = ("autoattack", "square", "restarts/", "nes/", "hopskipjump", "steps/long")

# The middle temperature of the ladder and a quarter of the radius as step, for every network alike.
MAIN_RULE = {"backward": "sigmoid", "temperature": 5.0}


def _rules(quantized: bool) -> dict[str, dict]:
    if not quantized:
        return {"own": {}}
    return {
        "zero": {"backward": "zero"},
        "straight_through": {"backward": "straight_through"},
        "tanh": {"backward": "tanh"},
        **{f"sigmoid-{t}": {"backward": "sigmoid", "temperature": float(t)} for t in (1, 5, 10)},
    }


def dqa_trial(base: DQA) -> DQATrial:
    """The trial of one network of DQA, at its scale: attacks that know more and more."""
    table = base.attacks["pgd"]
    budget = _BUDGETS[base.scale] | _BUDGETS.get(f"{base.scale}, {base.dataset}", {})
    eps, few, many = table.eps_255, *budget["images"]
    quantized = base.activation != "relu"
    rule = MAIN_RULE if quantized else {}
    strong = AdaptivePGD(eps_255=eps, step_255=eps / 4, steps=budget["steps"], **rule)
    own = AdaptivePGD(eps_255=eps, step_255=table.step_255, steps=table.steps)
    plan: dict[str, tuple[Attack | None, int]] = {"clean": (None, many)}
    plan |= {f"table/{n}": (a, many) for n, a in base.attacks.items() if a is not None}
    for name, options in _rules(quantized).items():
        plan[f"rule/{name}"] = (
            AdaptivePGD(eps_255=eps, step_255=table.step_255, steps=table.steps, **options),
            many,
        )
    plan["main"] = (strong, many)
    plan["steps/twice"] = (replace(strong, steps=2 * budget["steps"]), many)
    for steps in (7, 20):
        plan[f"steps/{steps}"] = (replace(strong, steps=steps), many)
    plan["step/2"] = (replace(strong, step_255=2.0), many)
    for loss in ("margin", "dlr"):
        plan[f"loss/{loss}"] = (replace(strong, loss=loss), many)
    plan["scaled"] = (replace(strong, scaled=True), many)
    if quantized:
        plain = replace(strong, backward="straight_through", temperature=None)
        plan["scaled/straight_through"] = (replace(plain, scaled=True), many)
    for share in (0, 0.25, 0.5, 2):
        at = replace(strong, eps_255=eps * share, step_255=eps * share / 4)
        plan[f"eps/{share:g}"] = (at, many)
    plan["eps/unbounded"] = (replace(strong, eps_255=255.0, step_255=255 / 4), many)
    auto = AutoAttack(eps_255=eps, **budget["auto"])
    plan["autoattack"] = (replace(auto, backward="straight_through") if quantized else auto, few)
    if quantized:
        plan["autoattack/sigmoid"] = (replace(auto, **MAIN_RULE), few)
    plan["square"] = (Square(eps_255=eps, queries=budget["queries"]), few)
    for restarts in budget["restarts"]:
        plan[f"restarts/{restarts}"] = (replace(strong, restarts=restarts, loss="margin"), many)
    for samples in budget["samples"]:
        nes = NES(eps_255=eps, step_255=eps / 8, steps=20, samples=samples, sigma_255=eps / 8)
        plan[f"nes/{samples}"] = (nes, few)
    plan["hopskipjump"] = (HopSkipJump(eps_255=eps, steps=budget["walk"]), budget["walkers"])
    plan["steps/long"] = (replace(strong, steps=budget["long"]), few)
    plan["noise"] = (Noise(eps_255=eps, draws=budget["draws"]), budget["noisy"])
    conditions: dict[str, Condition] = {}
    for name, (attack, count) in plan.items():
        condition = Condition(attack=attack, images=count)
        if condition not in conditions.values():  # at a radius of 8, eps / 4 is a step of 2
            conditions[name] = condition
    if quantized:
        # The whole walk, not to the first point that the twin gets wrong: that hardly crosses over.
        walk = PGD(eps, eps / 10, budget["steps"])
        conditions["transfer"] = Condition(attack=walk, images=many, sees="twin")
    return DQATrial(
        base=base,
        conditions=conditions,
        main=strong,
        own=own,
        limit_s=budget["limit_s"],
        **budget["checks"],
    )


def double_trial(base: DoubleQuantization) -> DoubleTrial:
    """The trial of one model of Double quantization, at its scale."""
    few, many = _BUDGETS[base.scale]["images"]
    budget = _BUDGETS[base.scale]
    radius, nearest = (filter_radius(base.bits, r) for r in ("floor", "nearest"))
    after = functools.partial(Condition, noise="after", images=many)
    conditions = {"clean": after()}
    for eps in (2, 4, 8, 16, 24, 32):
        paper = replace(base.attack, eps_255=eps)
        conditions[f"after/{eps}"] = after(attack=paper, sees="bare")
    paper = replace(base.attack, eps_255=8)
    conditions["after/nearest"] = after(attack=paper, sees="bare", rounding="nearest")

    def jump(eps: float) -> AdaptivePGD:
        """Knows the filter: from one side of the ball to the other in a single step."""
        return AdaptivePGD(eps_255=eps, step_255=2.0 * eps, steps=20, loss="margin")

    conditions["after/inside"] = after(attack=jump(radius))
    conditions["after/outside"] = after(attack=jump(radius + 1))
    # One less than the radius: dithered images hold whole grey values (see filter_radius).
    inside = max(0, nearest - 1)
    conditions["after/nearest-inside"] = after(attack=jump(inside), rounding="nearest")
    conditions["after/nearest-outside"] = after(attack=jump(nearest + 1), rounding="nearest")

    before = functools.partial(Condition, noise="before", images=few)
    conditions["before/clean"] = before(images=many)
    conditions["before/bare"] = before(attack=paper, sees="bare", images=many)
    known = AdaptivePGD(eps_255=8, step_255=2, steps=20)
    conditions["before/identity"] = before(attack=known)
    averaged = replace(known, loss="margin", samples=8, noise_255=4.0)
    conditions["before/averaged"] = before(attack=averaged)
    strong = replace(averaged, steps=budget["steps"], restarts=budget["restarts"][-1] // 2)
    conditions["before/strong"] = before(attack=strong)
    conditions["before/square"] = before(attack=Square(eps_255=8, queries=budget["queries"] // 5))
    if base.bits < 8:
        conditions["before/transfer"] = before(attack=paper, sees="twin")
    batch = 1_000 if base.scale == "paper" else 100
    return DoubleTrial(base=base, conditions=conditions, batch=batch)


_BUDGETS = {
    "smoke": {
        "images": (8, 20), "steps": 10, "long": 20, "restarts": (2,), "queries": 50, "walk": 2,
        "walkers": 4, "draws": 20, "samples": (4,), "checks": {"examined": 10, "planted": 4},
        "auto": {"steps": 10, "queries": 50}, "noisy": 20, "limit_s": None,
    },
    "laptop": {
        "images": (100, 500), "steps": 100, "long": 1_000, "restarts": (5, 20), "queries": 5_000,
        "walk": 20, "walkers": 100, "draws": 1_000, "samples": (20, 100), "noisy": 500,
        "checks": {}, "auto": {}, "limit_s": None,
    },
    "paper": {
        "images": (1_000, 10_000), "steps": 100, "long": 1_000, "restarts": (5, 20),
        "queries": 5_000, "walk": 64, "walkers": 1_000, "draws": 10_000,
        "samples": (20, 100, 500), "checks": {"examined": 500, "planted": 200},
        "auto": {}, "noisy": 1_000, "limit_s": 1_200.0,
    },
    "workstation": {
        "images": (200, 500), "steps": 100, "long": 1_000, "restarts": (5, 20), "queries": 5_000,
        "walk": 20, "walkers": 100, "draws": 1_000, "samples": (20, 100), "noisy": 500,
        "checks": {}, "auto": {}, "limit_s": None,
    },
    # Small enough for a CPU, on which these networks are trained: more images than at laptop scale,
    # and the same attacks, so that what they leave can be compared.
    "paper, mnist": {
        "images": (500, 2_000), "samples": (20, 100), "walk": 20, "walkers": 500, "draws": 1_000,
        "noisy": 2_000, "limit_s": None,
    },
    # ResNet-18 takes over a thousand times the operations of LeNet.
    "paper, cifar10": {"images": (1_000, 2_000), "noisy": 500},
}  # fmt: skip


def trial(base: Experiment) -> Trial:
    """The trial of a finished experiment."""
    return dqa_trial(base) if isinstance(base, DQA) else double_trial(base)


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Trial]:
    """A trial for every network of both papers, filtered as grids.grid."""
    for base in grids.grid(paper, scale, seed):
        if getattr(base, "halftone", None) is None:  # those are ours
            yield trial(base)


def work(trial: Trial) -> float:
    """About how many multiply-adds a trial takes if no image falls."""
    passes = 0.0
    for condition in trial.conditions.values():
        a = condition.attack
        each = 1
        for name in ("steps", "restarts", "samples", "queries", "draws"):
            each *= getattr(a, name, 1)
        passes += condition.images * (9_000 if isinstance(a, AutoAttack) else each)
    return 3 * grids.macs(trial.base) * passes
