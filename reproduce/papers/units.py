"""What both papers' experiments are made of: networks, and measurements of trained networks.

Both are frozen dataclasses whose fields decide the result; records.configuration makes their keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import data, models, records
from reproduce.attacks import DDN, ZOO, Attack, CarliniWagner, bpda, full_float32
from reproduce.attacks.base import check_rule
from reproduce.checks import check_fields, check_module, check_uint8, of_kind, settle, shown, whole
from reproduce.checks import seed as drawn_from
from reproduce.evaluation import batches, correct
from reproduce.names import DATASETS, SCALES
from reproduce.quantizers import Backward, FixedQuantizer
from reproduce.training import Settings, derived_seed

Models = Mapping["Network", nn.Module]  # trained networks on one device, in eval mode


class Outcome(NamedTuple):
    """What a measurement gives; see records.Record."""

    bits: Tensor | None = None
    norms: Tensor | None = None
    values: Mapping | None = None
    arrays: Mapping[str, np.ndarray] | None = None


def check_where(scale: str, seed: int) -> None:
    """Raise ValueError unless a scale is one of SCALES and a seed an int in 0..10**6."""
    if not isinstance(scale, str) or scale not in SCALES:
        raise ValueError(f"scale is {shown(scale)}; choose one of {', '.join(SCALES)}")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raise ValueError unless a seed is an int in 0..10**6."""
    if type(seed) is not int or not 0 <= seed <= 10**6:
        raise ValueError(f"seed is {shown(seed)}; it must be an int in 0..1000000")


class _Keyed:
    def __post_init__(self) -> None:
        check_fields(self)

    @cached_property
    def key(self) -> str:
        return records.key(records.configuration(self))


@dataclass(frozen=True, kw_only=True)
class Network(_Keyed):
    """One training: on what, of what, how, and from which seed.

    Args: dataset: one of names.DATASETS. scale: one of names.SCALES. training: how; None of a
          network that others trained, which `pretrained` reads. train_images: how many, from the
          first on; None for all.
    """

    dataset: str
    scale: str
    seed: int
    training: Settings | None = None
    train_images: int | None = None

    kind: ClassVar[str]
    paper: ClassVar[str]
    name: ClassVar[str] = "network"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_where(self.scale, self.seed)
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset is {shown(self.dataset)}; choose one of {DATASETS}")
        if self.train_images is not None:
            settle(self, whole, "train_images", least=1)

    @property
    def cell(self) -> str:
        """Which network of the paper's tables, such as "fixed-1bit"."""
        raise NotImplementedError

    @property
    def slug(self) -> str:
        """A readable name, the same for all configurations of one cell of a table."""
        return f"{self.scale}-{self.cell}-seed{self.seed}"

    @property
    def folder(self) -> str:
        """Below results/."""
        return f"{self.paper}-{self.dataset}/{self.slug}-{self.key}"

    def build(self) -> nn.Module:
        """The untrained network, initialised from the seed."""
        raise NotImplementedError

    def pretrained(self) -> nn.Module | None:
        """The network as others trained it, in eval mode; None if it is trained here."""
        return None

    def prepare(self, images: Tensor) -> Tensor:
        """From augmented uint8 images to what the network is trained on, float32 in [0, 1]."""
        return data.to_float(images)

    def needs(self) -> tuple[Network, ...]:
        """Networks that must be trained first."""
        return ()

    def labels(self, dataset: data.Dataset, trained: Models) -> Tensor:
        """(N,) int64, the labels that it is trained to give to the first training images."""
        return dataset.y_train[: self.train_images]

    @property
    def asks_for_bfloat16(self) -> bool:
        """Whether it is trained in bfloat16 where the device has it."""
        return self.training is not None and self.training.autocast

    @property
    def macs(self) -> float:
        """About how many multiply-adds one image takes in a forward pass."""
        raise NotImplementedError

    @property
    def training_passes(self) -> float:
        """About how many forward and backward passes of one image its training takes."""
        sizes = {"mnist": 60_000, "cifar10": 50_000}
        s = self.training
        if s is None:
            return 0
        steps = s.attack.steps if s.attack else 0
        each = s.epochs + (s.epochs - s.clean_epochs) * steps
        return (self.train_images or sizes.get(self.dataset, 1_500)) * each


# --- How a trained network is asked ---------------------------------------------------------------


@dataclass(frozen=True)
class AsTrained:
    """The network as its training left it, in the batches of the evaluation."""

    kind: ClassVar[str] = "as-trained"

    def __post_init__(self) -> None:
        check_fields(self)

    def judge(self, model: nn.Module) -> nn.Module:
        """What answers."""
        return model

    def seen(self, model: nn.Module, source: nn.Module | None) -> nn.Module | None:
        """What the attack works on; None for that which answers. source: another network."""
        return source

    def sent(self, images: Tensor) -> Tensor:
        """The images that the attack starts from: uint8, or float32 in [0, 1]. images: uint8."""
        return images


@dataclass(frozen=True)
class OneByOne(AsTrained):
    """DQA's network, asked one image at a time.

    The tables take max|y| of Eq. 2 over the batch, as the paper writes it; an image's answer then
    depends on its neighbours, and "the worst case for each image" has no meaning.
    """

    kind: ClassVar[str] = "one-by-one"

    def judge(self, model):
        model = models.folded(model).to(memory_format=torch.channels_last)
        for layer in model.modules():
            if isinstance(layer, FixedQuantizer):
                layer.maximum = "image"
        return model

    def seen(self, model, source):
        if source is None:
            return None
        return models.folded(source).to(memory_format=torch.channels_last)


# --- Measurements ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measurement(_Keyed):
    """Something that is measured of a trained network.

    Args: network: whose answers count. view: how it is asked. name: readable, in no key. images:
          the first of the test set; None for all. batch: how many at a time. seed: of all that is
          drawn; that of attacks depends on the number of the batch, too.
    """

    network: Network
    name: str = field(compare=False)
    view: AsTrained = AsTrained()
    images: int | None = None
    batch: int
    seed: int

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "batch", least=1)
        settle(self, drawn_from, "seed")
        if self.images is not None:
            settle(self, whole, "images", least=1)

    @property
    def folder(self) -> str:
        return self.network.folder

    def needs(self) -> tuple[Network, ...]:
        """The networks that must have been trained."""
        return (self.network,)

    def outcome(self, trained: Models, dataset: data.Dataset) -> Outcome:
        """Measure it. Args: trained: all that `needs` names."""
        raise NotImplementedError

    @property
    def passes(self) -> float:
        """About how many forward and backward passes of one image it takes."""
        return self.images or 10_000

    def first(self, dataset: data.Dataset) -> tuple[Tensor, Tensor]:
        """The test images (N, C, H, W) uint8 and labels (N,) that it is about."""
        return dataset.x_test[: self.images], dataset.y_test[: self.images]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measurement):
    """Which images a network judges rightly, under an attack or as they are.

    Args: attack: None for clean images. source: the network that the attack works on, if that is
          another.
    """

    attack: Attack | None = None
    source: Network | None = None

    kind: ClassVar[str] = "evaluation"

    def needs(self):
        return (self.network,) if self.source is None else (self.network, self.source)

    def outcome(self, trained, dataset):
        model = trained[self.network]
        x, y = self.first(dataset)
        x = self.view.sent(x.to(next(model.parameters()).device))  # where dithering is fast
        source = None if self.source is None else trained[self.source]
        seen = self.view.seen(model, source)
        bits = correct(
            self.view.judge(model),
            x,
            y,
            self.attack,
            source_model=seen,
            batch_size=self.batch,
            seed=self.seed,
        )
        return Outcome(bits=bits)

    @property
    def passes(self):
        return super().passes * (1 if self.attack is None else self.attack.passes)


@dataclass(frozen=True, kw_only=True)
class Norms(Measurement):
    """How far each image must be moved, in l2, before a network errs; see records.Record.norms.

    Args:   attack: that looks for the smallest perturbation. backward, temperature: what it takes
            for the quantisers' derivative; None for the network's own rule.
    Source: DQA, Tables 3 and 5.
    """

    attack: CarliniWagner | DDN | ZOO
    backward: Backward | None = None
    temperature: float | None = None

    kind: ClassVar[str] = "norms"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.backward, self.temperature)

    def outcome(self, trained, dataset):
        model = self.view.judge(trained[self.network])
        device = next(model.parameters()).device
        images, labels = self.first(dataset)
        found = []
        with bpda(model, self.backward, self.temperature):
            for x, y, drawn in batches(images, labels, self.batch, self.seed):
                seed = {} if isinstance(self.attack, CarliniWagner) else {"seed": drawn}
                x = data.to_float(x.to(device))
                found.append(self.attack.run(model, x, y.to(device), **seed).norms.cpu())
        return Outcome(norms=torch.cat(found))

    @property
    def passes(self):
        return super().passes * self.attack.passes


@dataclass(frozen=True, kw_only=True)
class Agreement(Measurement):
    """For which test images two networks name the same class. Args: other: the second one."""

    other: Network

    kind: ClassVar[str] = "agreement"

    def needs(self):
        return self.network, self.other

    def outcome(self, trained, dataset):
        images, _ = self.first(dataset)
        one, two = (answers(trained[n], images) for n in self.needs())
        return Outcome(bits=one == two)


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64 on the CPU: the classes that a model in eval mode names for (N, C, H, W) uint8."""
    check_module("model", model)
    of_kind("images", images, Tensor)
    check_uint8(images, torch.zeros(images.shape[:1], dtype=torch.int64))
    device = next(model.parameters()).device
    with torch.no_grad(), full_float32():
        parts = [model(data.to_float(x.to(device))).argmax(1) for x in images.split(500)]
    return torch.cat(parts).cpu()


def seeded_build(make, seed: int, part: str = "weights") -> nn.Module:
    """What `make` gives, its weights drawn from a seed of their own."""
    if not callable(make):
        raise TypeError(f"make is {shown(make)}; give what builds the network")
    drawn_from("seed", seed)
    of_kind("part", part, str)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, part))
        return make()
