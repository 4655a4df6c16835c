"""The experiments of both papers: what is trained, on what, how, and how it is evaluated.

An experiment is one trained model and all its evaluations. Everything that decides its result is a
field, so that the hash of its configuration is its key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import data, embedding, models, results
from reproduce.attacks import FGSM, PGD, perturb
from reproduce.dither import bayer, floyd_steinberg, jarvis_judice_ninke
from reproduce.evaluation import batch_seed, correct
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import activation, linear_quantize
from reproduce.training import Settings, derived_seed

SCALES = ("smoke", "laptop", "workstation", "paper")
PAPERS = ("dqa", "double-quantization")
EXAMPLES, FEATURES = 10, 1_000


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What both papers' experiments share.

    Args: dataset: a name of reproduce.data. train_images, test_images: how many, from the first on;
          None for all. eval_batch: images evaluated at a time. scale: one of SCALES.
    """

    dataset: str
    scale: str
    seed: int
    training: Settings
    train_images: int | None = None
    test_images: int | None = None
    eval_batch: int = 125

    paper = ""

    @property
    def name(self) -> str:
        """The folder in results/."""
        return f"{self.paper}-{self.dataset}"

    @property
    def slug(self) -> str:
        """A readable name, the same for all configurations of one cell of a table."""
        return f"{self.scale}-{self.cell}-seed{self.seed}"

    @property
    def cell(self) -> str:
        raise NotImplementedError

    @property
    def key(self) -> str:
        return results.key(configuration(self))

    def model(self) -> nn.Module:
        """The untrained network, initialised from the seed."""
        raise NotImplementedError

    def prepare(self, images: Tensor) -> Tensor:
        """From augmented uint8 images to what the network is trained on, float32 in [0, 1]."""
        return data.to_float(images)

    def evaluations(
        self, model: nn.Module, dataset: data.Dataset, check_stop: Callable[[], None]
    ) -> dict[str, Callable[[], Tensor]]:
        """{condition: what gives its (N,) bool, correct or not}, in the order to run them."""
        raise NotImplementedError

    def arrays(self, model: nn.Module, dataset: data.Dataset) -> dict[str, np.ndarray]:
        """What figures need beside the counts."""
        return {}


def configuration(experiment: Experiment) -> dict:
    """All fields as JSON-able values; an attack carries its kind.

    A field that is None is left out: it does not apply, and a new optional field leaves the keys of
    older records alone.
    """

    def plain(value):
        if is_dataclass(value):
            is_attack = any(callable(getattr(value, name, None)) for name in ("attack", "run"))
            kind = {"kind": type(value).__name__} if is_attack else {}
            named = {f.name: (f.type, getattr(value, f.name)) for f in fields(value)}
            return kind | {
                name: float(v) if annotation.startswith("float") else plain(v)  # 8 is 8.0
                for name, (annotation, v) in named.items()
                if v is not None
            }
        if isinstance(value, dict):
            return {name: plain(v) for name, v in value.items()}
        return value

    settings = {"paper": experiment.paper} | plain(experiment)
    base = settings.pop("base", None)  # a trial's: the experiment whose network it takes
    return settings if base is None else base | {"trial": settings}


# --- DQA ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DQA(Experiment):
    """A network with ReLU, fixed or dynamic activations, and its accuracy under each attack.

    Args:   activation: relu, fixed or dynamic. bits: 1..3, None for relu. maximum, source: the
            readings of Eq. 2 and Eq. 8 (reproduce.quantizers). width: of ResNet-18.
            attacks: {condition: attack}, None for clean images.
    Source: DQA, Tables 1 and 2.
    """

    activation: str
    bits: int | None
    attacks: dict[str, FGSM | PGD | None]
    maximum: str = "batch"
    source: str = "x"
    width: int | None = None

    paper = "dqa"

    @property
    def cell(self) -> str:
        name = dqa_cell(self.activation, self.bits)
        endings = {
            "mixed": self.training.clean_weight,
            "clean": self.training.attack is None,
            "frozen": self.training.thresholds == "clean",
            "informed": getattr(self.training.attack, "backward", None),
            "image": self.maximum == "image",
            "tanh": self.source == "tanh",
        }
        return "-".join([name, *(ending for ending, applies in endings.items() if applies)])

    def layer(self) -> Callable[[], nn.Module]:
        """The factory of its activation. Raises ValueError or TypeError for a bad name or bits."""
        options = {
            "fixed": {"maximum": self.maximum},
            "dynamic": {"source": self.source},
        }.get(self.activation, {})
        return activation(self.activation, self.bits, **options)

    def model(self) -> nn.Module:
        layer = self.layer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "weights"))
            if self.width is None:
                return models.lenet(layer)
            return models.resnet18(layer, width=self.width)

    def evaluations(self, model, dataset, check_stop):
        x, y = dataset.x_test[: self.test_images], dataset.y_test[: self.test_images]
        options = {"batch_size": self.eval_batch, "seed": self.seed}
        return {
            name: functools.partial(correct, model, x, y, attack, **options)
            for name, attack in self.attacks.items()
        }

    def arrays(self, model, dataset):
        """The first images of the first test batch, as attacked there, and what the model says.

        Of a ResNet also what Fig. 2 and 3 show; the features themselves for seed 0 alone.
        """
        first = slice(min(self.eval_batch, self.test_images or self.eval_batch))
        x, y = dataset.x_test[first], dataset.y_test[first]
        device = next(model.parameters()).device
        model.eval()
        arrays = {"labels": y[:EXAMPLES].numpy()}
        for name, attack in self.attacks.items():
            images = data.to_float(x.to(device))
            if attack is not None:
                seed = batch_seed(self.seed, 0)
                images = perturb(model, attack, images, y.to(device), seed)
            with torch.no_grad():
                prediction = model(images).argmax(1)[:EXAMPLES]
            arrays[f"prediction/{name}"] = prediction.cpu().numpy()
            arrays[f"image/{name}"] = (images[:EXAMPLES] * 255).round().byte().cpu().numpy()
        if self.width is None:
            return arrays
        few = slice(min(FEATURES, self.test_images or FEATURES))
        x, y = dataset.x_test[few], dataset.y_test[few]
        options = {"batch_size": self.eval_batch, "seed": self.seed, "whole": self.seed == 0}
        return arrays | embedding.arrays(model, x, y, self.attacks["pgd"], **options)


def dqa_cell(activation: str, bits: int | None) -> str:
    """A network of Tables 1 and 2: "relu", "fixed-1bit", ... "dynamic-3bit"."""
    return activation + (f"-{bits}bit" if bits else "")


def dqa(
    dataset: str,
    activation: str,
    bits: int | None,
    seed: int = 0,
    scale: str = "laptop",
    mixed: bool = False,
) -> DQA:
    """A cell of Table 1 (mnist) or Table 2 (cifar10); digits and patterns are their smoke tests.

    Args:   activation: relu, fixed or dynamic. bits: 1..3, None for relu. mixed: train on clean and
            adversarial examples in equal parts, as the paper's text says; by default on adversarial
            examples alone, as Eq. 7 says.
    Raises: ValueError: a data set that the scale does not have, or a bad activation, bits or seed.
            TypeError: bits that are no int.
    """
    _seed_and_scale(seed, scale)
    recipe = _DQA_RECIPES.get((dataset, scale))
    if recipe is None:
        have = ", ".join(f"{d} at {s}" for d, s in _DQA_RECIPES)
        raise ValueError(f"no DQA experiment on {dataset!r} at scale {scale!r}; there are: {have}")
    if mixed:
        recipe = recipe | {"training": replace(recipe["training"], clean_weight=0.5)}
    experiment = DQA(
        dataset=dataset, scale=scale, seed=seed, activation=activation, bits=bits, **recipe
    )
    experiment.layer()
    return experiment


def _mnist(epochs: int, clean_epochs: int, ramp_epochs: int, training_attack: PGD, **options):
    return {
        "training": Settings(
            epochs=epochs,
            clean_epochs=clean_epochs,
            ramp_epochs=ramp_epochs,
            schedule="one_cycle",
            lr=5e-3,
            attack=training_attack,
            **options,
        ),
        "attacks": {"clean": None, "fgsm": FGSM(76.5), "pgd": PGD(76.5, 2.55, 40)},
    }


def _cifar10(epochs: int, clean_epochs: int, width: int, **options):
    eps, step = 8, 2
    return {
        "training": Settings(
            epochs=epochs,
            clean_epochs=clean_epochs,
            optimizer="sgd",
            lr=0.1,
            weight_decay=5e-4,
            schedule="one_cycle",
            augment=True,
            autocast=True,
            attack=PGD(eps, step, 7),
        ),
        "attacks": {"clean": None, "fgsm": FGSM(eps), "pgd": PGD(eps, step, 7)},
        "width": width,
        **options,
    }


_DQA_RECIPES = {
    ("digits", "smoke"): _mnist(4, 1, 2, PGD(76.5, 25.5, 5)),
    ("mnist", "laptop"): _mnist(6, 1, 3, PGD(76.5, 25.5, 5), autocast=True),
    ("mnist", "paper"): _mnist(25, 5, 5, PGD(76.5, 2.55, 40), autocast=True),
    ("patterns", "smoke"): _cifar10(2, 1, 8, train_images=500, test_images=100),
    ("cifar10", "laptop"): _cifar10(15, 3, 16, train_images=10_000, test_images=1_000),
    # All but the last 1,000 training images, on which the readings of the risk are compared.
    ("cifar10", "workstation"): _cifar10(15, 3, 32, train_images=49_000),
    ("cifar10", "paper"): _cifar10(30, 5, 64),
}


# --- Double quantization --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DoubleQuantization(Experiment):
    """ResNet-20 trained on quantised or dithered images, tested on all 15 kinds of test image.

    Args:   bits: 1..8 of the training images. dithered: by Floyd-Steinberg, else linearly.
            attack: of the adversarial test. attacked_images: how many it is run on. halftone: how
            to dither instead, one of HALFTONES; tested on its own kind and on 8 bits alone.
    Source: Double quantization, section IV, Tables I and II; other halftones are ours.
    """

    bits: int
    dithered: bool
    attack: PGD
    attacked_images: int | None = None
    halftone: str | None = None

    paper = "double-quantization"

    @property
    def cell(self) -> str:
        return kind_name(self.bits, self.dithered, self.halftone)

    @property
    def tests(self) -> list[tuple[str, tuple, PGD | None]]:
        """(condition, kind of test image, attack), in the order to run them."""
        kinds = KINDS
        if self.halftone is not None:
            kinds = ((self.bits, self.dithered, self.halftone), (8, False))
        tests = [
            (f"{condition}/{kind_name(*kind)}", kind, attack)
            for kind in kinds
            for condition, attack in (("clean", None), ("pgd", self.attack))
        ]
        return tests if self.halftone is None else tests[:-1]

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "weights"))
            return models.resnet20()

    def prepare(self, images: Tensor) -> Tensor:
        return quantised(images, self.bits, self.dithered, self.halftone)

    def evaluations(self, model, dataset, check_stop):
        x, y = dataset.x_test[: self.test_images], dataset.y_test[: self.test_images]
        options = {"batch_size": self.eval_batch, "seed": self.seed}
        fast = models.folded(model).to(memory_format=torch.channels_last)
        x = x.to(next(model.parameters()).device)  # where dithering is fast

        def job(kind: tuple, attack: PGD | None) -> Tensor:
            few = slice(self.attacked_images if attack else None)
            images = (quantised(x[few], *kind) * 255).round().byte()
            judge = nn.Sequential(DoubleQuantizer(kind[0], False), fast).eval()
            return correct(judge, images, y[few], attack, source_model=fast, **options)

        return {name: functools.partial(job, *test) for name, *test in self.tests}


KINDS = (*((b, d) for b in range(1, 8) for d in (False, True)), (8, False))
HALFTONES = {None: floyd_steinberg, "bayer": bayer, "jjn": jarvis_judice_ninke}


def kind_name(bits: int, dithered: bool, halftone: str | None = None) -> str:
    """One of the 15 kinds of image, "1bit", "1bit-dithered", ... "8bit", or such as "1bit-jjn"."""
    return f"{bits}bit" + (f"-{halftone or 'dithered'}" if dithered else "")


def quantised(images: Tensor, bits: int, dithered: bool, halftone: str | None = None) -> Tensor:
    """Images as the network sees them: dithered or not, then on the levels k / (2**bits - 1).

    Args:    images: (N, C, H, W) uint8. bits: 1..8; 8 bits cannot be dithered. halftone: None for
             Floyd and Steinberg's as released, else one of HALFTONES.
    Returns: (N, C, H, W) float32 in [0, 1].
    """
    if dithered:
        images = HALFTONES[halftone](images, bits)
    return linear_quantize(data.to_float(images), bits)


def double_quantization(
    bits: int,
    dithered: bool,
    seed: int = 0,
    scale: str = "laptop",
    halftone: str | None = None,
) -> DoubleQuantization:
    """A row of Tables I and II, or a network for another halftone.

    Raises: ValueError: bits outside 1..8, 8 bits dithered, an unknown scale or halftone, a halftone
            without dithering.
    """
    _seed_and_scale(seed, scale)
    proper = type(bits) is int and type(dithered) is bool  # True is 1 and 2.0 is 2 in Python
    if not proper or (bits, dithered) not in KINDS:
        raise ValueError(
            f"bits={bits!r}, dithered={dithered!r} is none of the 15 models; "
            "bits is 1..7 with or without dithering, or 8 without"
        )
    if halftone not in HALFTONES or (halftone and not dithered):
        others = ", ".join(filter(None, HALFTONES))
        raise ValueError(
            f"halftone is {halftone!r} with dithered={dithered!r}; "
            f"give None, or {others} with dithered=True"
        )
    return DoubleQuantization(
        scale=scale,
        seed=seed,
        bits=bits,
        dithered=dithered,
        halftone=halftone,
        **_DOUBLE_RECIPES[scale],
    )


def _double(dataset: str, epochs: int, schedule: str, attack_steps: int, **options):
    return {
        "dataset": dataset,
        "training": Settings(
            epochs=epochs,
            optimizer="sgd",
            lr=0.1,
            weight_decay=1e-4,
            schedule=schedule,
            augment=True,
            autocast=True,
        ),
        "attack": PGD(8, 2, attack_steps, random_start=False),
        **options,
    }


_DOUBLE_RECIPES = {
    "smoke": _double(
        "patterns", 2, "one_cycle", 3, train_images=500, test_images=100, attacked_images=20
    ),
    "laptop": _double("cifar10", 15, "one_cycle", 20, attacked_images=1_000),
    "paper": _double("cifar10", 160, "step", 20, eval_batch=1_000),
}


# --- The grids ------------------------------------------------------------------------------------


def _seed_and_scale(seed: int, scale: str) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; choose one of {', '.join(SCALES)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be an int, at least 0")


DQA_CELLS = (("relu", None), *((kind, b) for b in (1, 2, 3) for kind in ("fixed", "dynamic")))
_SEEDS = {"smoke": 1, "laptop": 3, "workstation": 1, "paper": 5}


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[Experiment]:
    """Every experiment of the book, filtered.

    Raises: ValueError: an unknown paper or scale.
    """
    if paper is not None and paper not in PAPERS:
        raise ValueError(f"paper is {paper!r}; choose one of {', '.join(PAPERS)}")
    if scale is not None:
        _seed_and_scale(0, scale)
    for chosen in SCALES if scale is None else (scale,):
        for number in range(_SEEDS[chosen]) if seed is None else (seed,):
            if paper in (None, "dqa"):
                yield from _dqa_grid(chosen, number)
            if paper in (None, "double-quantization") and chosen in _DOUBLE_RECIPES:
                for bits, dithered in KINDS:
                    yield double_quantization(bits, dithered, number, chosen)
                if chosen != "smoke" and number == 0:
                    for bits in (1, 2):
                        for halftone in filter(None, HALFTONES):
                            yield double_quantization(bits, True, number, chosen, halftone)


def _dqa_grid(scale: str, seed: int) -> Iterator[DQA]:
    """Tables 1 and 2; Table 1, and Table 2 at workstation scale, in both readings of the risk."""
    for dataset, recipe_scale in _DQA_RECIPES:
        if recipe_scale == scale:
            both = dataset == "mnist" or scale == "workstation"
            for mixed in (False, True) if both else (False,):
                for kind, bits in DQA_CELLS:
                    yield dqa(dataset, kind, bits, seed, scale, mixed)


def work(experiment: Experiment) -> float:
    """About how many multiply-adds an experiment takes, forward and backward passes alike."""
    sizes = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
    n_train, n_test = sizes.get(experiment.dataset, (1_500, 400))
    n_train = experiment.train_images or n_train
    n_test = experiment.test_images or n_test
    s = experiment.training
    attack_steps = s.attack.steps if s.attack else 0
    passes = n_train * (s.epochs + (s.epochs - s.clean_epochs) * attack_steps)
    if isinstance(experiment, DQA):
        passes += n_test * sum(getattr(a, "steps", 1) for a in experiment.attacks.values())
    else:
        attacked = experiment.attacked_images or n_test
        passes += sum(a.steps * attacked if a else n_test for _, _, a in experiment.tests)
    return 3 * macs(experiment) * passes


def macs(experiment: Experiment) -> float:
    """About how many multiply-adds one image takes in a network's forward pass."""
    if not isinstance(experiment, DQA):
        return 41e6
    return 0.42e6 if experiment.width is None else 557e6 * (experiment.width / 64) ** 2
