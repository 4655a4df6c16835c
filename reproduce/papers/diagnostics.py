"""Measurements of the attacks themselves, and of what networks hold, for the checks and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from reproduce import data
from reproduce.attacks import AdaptivePGD, Attack, diagnostics, full_float32, perturb
from reproduce.evaluation import batch_seed
from reproduce.papers import features
from reproduce.papers.units import Measurement, Outcome


@dataclass(frozen=True, kw_only=True)
class Diagnostics(Measurement):
    """Whether attacks work: flags, zero gradients, the loss step by step, binarisation test.

    Args:   attacks: {name: attack}, of one eps. binarised: images of the binarisation test.
            label_leaking: whether to ask which label an attack was given; None for no.
    Source: Carlini et al. 2019; Zimmermann et al. 2022.
    """

    attacks: dict[str, AdaptivePGD]
    binarised: int
    label_leaking: bool | None = None

    kind: ClassVar[str] = "diagnostics"

    def outcome(self, trained, dataset):
        model = self.view.judge(trained[self.network])
        device = next(model.parameters()).device
        x, y = (t.to(device) for t in self.first(dataset))
        x = data.to_float(x)
        with full_float32():
            values = {"flags": diagnostics.flags(model, x), "zero_gradients": {}, "loss": {}}
            for name, attack in self.attacks.items():
                values["zero_gradients"][name] = diagnostics.zero_gradients(model, attack, x, y)
                values["loss"][name] = diagnostics.loss_by_step(model, attack, x, y, self.seed)
                if self.label_leaking:
                    named = diagnostics.false_labels(model, attack, x, y, self.seed)
                    values.setdefault("false_label", {})[name] = named.tolist()
            few = x[: self.binarised]
            found = diagnostics.binarization_test(model, self.attacks, few, self.seed)
        values["binarization"] = {name: hit.tolist() for name, hit in found.items()}
        return Outcome(values=values)

    @property
    def passes(self):
        steps = sum(a.passes for a in self.attacks.values())
        return super().passes * steps * 2 + self.binarised * (steps + 600)


@dataclass(frozen=True, kw_only=True)
class AttackedImages(Measurement):
    """The first images of the first test batch as attacked there, and what the network says.

    Args: attacks: {name: attack}, None for clean images. shown: how many images.
    """

    attacks: dict[str, Attack | None]
    shown: int

    kind: ClassVar[str] = "attacked-images"

    def outcome(self, trained, dataset):
        model = self.view.judge(trained[self.network])
        device = next(model.parameters()).device
        x, y = (t[: self.batch].to(device) for t in self.first(dataset))
        arrays = {"labels": y[: self.shown].cpu().numpy()}
        for name, attack in self.attacks.items():
            images = data.to_float(x)
            if attack is not None:
                images = perturb(model, attack, images, y, batch_seed(self.seed, 0))
            with torch.no_grad(), full_float32():
                said = model(images).argmax(1)
            arrays[f"prediction/{name}"] = said[: self.shown].cpu().numpy()
            shown = (images[: self.shown] * 255).round().byte()
            arrays[f"image/{name}"] = shown.cpu().numpy()
        return Outcome(arrays=arrays)

    @property
    def passes(self):
        return self.batch * sum(1 if a is None else a.passes for a in self.attacks.values())


@dataclass(frozen=True, kw_only=True)
class Features(Measurement):
    """What Fig. 2 and 3 of DQA show: levels of a first layer, and how far classes stay together.

    Args: attack: under which the features are taken once more. maps: keep the features and their
          t-SNE maps beside the numbers that sum them up; None for no.
    """

    attack: Attack
    maps: bool | None = None

    kind: ClassVar[str] = "features"

    def outcome(self, trained, dataset):
        model = self.view.judge(trained[self.network])
        x, y = self.first(dataset)
        with full_float32():
            found = features.measure(
                model,
                x,
                y,
                self.attack,
                batch_size=self.batch,
                seed=self.seed,
                maps=bool(self.maps),
            )
        values = {name: a.item() for name, a in found.items() if not a.ndim}
        return Outcome(values=values, arrays={n: a for n, a in found.items() if a.ndim})

    @property
    def passes(self):
        return super().passes * (2 + self.attack.passes)
