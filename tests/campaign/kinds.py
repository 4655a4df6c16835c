"""Kinds of argument: a good value of each, and which odd values are right there after all."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn

from reproduce.attacks import PGD, AdaptivePGD, CarliniWagner
from reproduce.names import PAPERS, SCALES
from reproduce.papers import double, dqa, originals, registry
from reproduce.papers.units import AsTrained
from reproduce.report.claims.evidence import Activations, Evidence, Images
from reproduce.training import Settings


def never(_value: object) -> bool:
    return False


@dataclass(frozen=True)
class Kind:
    """good: makes a value that is right. allows: an oracle for odd values. odd: which are tried."""

    good: Callable[[], object]
    allows: Callable[[object], bool] = never
    odd: str = "plain"

    def optional(self) -> Kind:
        return Kind(self.good, lambda v: v is None or self.allows(v), self.odd)


def is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool | complex)
    return real and abs(value) < 1e308 and math.isfinite(value)


def whole(good: int, least: int, most: float = math.inf) -> Kind:
    return Kind(lambda: good, lambda v: is_whole(v) and least <= v <= most)


def number(good: float, low: float, high: float = math.inf, *, inside: bool = False) -> Kind:
    def allows(value):
        return is_number(value) and (low < value < high if inside else low <= value <= high)

    return Kind(lambda: good, allows)


def choice(*allowed: object) -> Kind:
    return Kind(lambda: allowed[0], lambda v: type(v) in map(type, allowed) and v in allowed)


FLAG = Kind(lambda: True, lambda v: isinstance(v, bool | np.bool_))
TEXT = Kind(lambda: "text", lambda v: isinstance(v, str))
SEED = whole(1, 0, 2**63 - 1)
SMALL_SEED = whole(0, 0, 10**6)
NATURAL = whole(2, 0)


def object_(good: Callable[[], object], kind: type | tuple) -> Kind:
    return Kind(good, lambda v: isinstance(v, kind), "objects")


# --- Tensors, arrays and models -------------------------------------------------------------------


def images_u8() -> torch.Tensor:
    return torch.randint(0, 256, (4, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()


def images_f() -> torch.Tensor:
    return images_u8() / 255


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()


def is_dense(value: object) -> bool:
    proper = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return proper and value.device.type == "cpu"


def is_u8(value: object) -> bool:
    return is_dense(value) and value.dtype == torch.uint8 and value.ndim == 4


def is_float_images(value: object) -> bool:
    proper = is_dense(value) and value.dtype == torch.float32 and value.ndim == 4
    return proper and (not value.numel() or bool(((value >= 0) & (value <= 1)).all()))


def is_floating(value: object) -> bool:
    return is_dense(value) and value.is_floating_point()


def is_labels(value: object) -> bool:
    proper = is_dense(value) and value.dtype == torch.int64 and value.ndim == 1
    return (
        proper and len(value) == 4 and value.ndim == 1 and bool(((value >= 0) & (value < 10)).all())
    )


def is_bits(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == bool and value.ndim == 1 and len(value)


U8 = Kind(images_u8, is_u8, "tensors")
FLOATS = Kind(images_f, is_float_images, "tensors")
EITHER = Kind(images_f, lambda v: is_u8(v) or is_float_images(v), "tensors")
LABELS = Kind(lambda: torch.tensor([0, 1, 2, 3]), is_labels, "tensors")
LOGITS = Kind(lambda: torch.eye(4, 10), lambda v: is_floating(v) and v.shape == (4, 10), "tensors")
ARRAY_BITS = Kind(lambda: np.array([True, False, True, True]), is_bits, "arrays")
FEATURES = Kind(
    lambda: np.random.default_rng(0).normal(size=(20, 3)),
    lambda v: isinstance(v, np.ndarray) and v.ndim == 2 and len(v) >= 4 and np.isfinite(v).all(),
    "arrays",
)
MODEL = object_(model, nn.Module)
DEVICE = object_(lambda: torch.device("cpu"), torch.device)
PATH = Kind(lambda: Path("/nonexistent/file"), lambda v: isinstance(v, str | Path), "objects")

# --- What the package itself makes ----------------------------------------------------------------


def dqa_network():
    return dqa.network("mnist", "fixed", 1)


def resnet():
    return dqa.network("cifar10", "dynamic", 1)


def image_network():
    return double.network(2, True)


def evaluation():
    return registry.suites(dqa_network())["table"]["clean"]


def dqa_results():
    from reproduce.report.results import Results

    return Results(dqa_network())


def double_results():
    from reproduce.report.results import Results

    return Results(image_network())


def table_frame():
    from reproduce.report import double as report

    return report.published_table("II")


NETWORK = object_(dqa_network, dqa.Network)
EVALUATION = object_(evaluation, (dqa.Network, dqa.Measurement))
ATTACK = object_(lambda: AdaptivePGD(eps_255=8, step_255=2, steps=1), (PGD, AdaptivePGD))
PGD_KIND = object_(lambda: PGD(8, 2, 1), PGD)
FRAME = object_(table_frame, pd.DataFrame)
ANY = Kind(lambda: 1, lambda v: True, "objects")
BACKWARD = choice("tanh", "zero", "straight_through", "sigmoid")
CALLABLE = Kind(lambda: nn.ReLU, callable, "objects")

# By annotation, then by name, then by "module.function.name": the last that is there counts.
BY_ANNOTATION = {
    "int": NATURAL,
    "float": number(0.5, 0),
    "bool": FLAG,
    "str": TEXT,
    "Path": PATH,
    "str | Path": PATH,
    "nn.Module": MODEL,
    "nn.Sequential": object_(model, nn.Sequential),
    "torch.device": DEVICE,
    "torch.Generator": object_(torch.Generator, torch.Generator),
    "Backward": BACKWARD,
    "Rounding": choice("floor", "nearest"),
    "Loss": choice("cross_entropy", "margin", "dlr"),
    "File": choice("uint8"),
    "Activation": choice("fixed", "dynamic", "relu"),
    "ActivationFactory": CALLABLE,
    "Callable[[Tensor], Tensor]": CALLABLE,
    "Network": NETWORK,
    "Unit": EVALUATION,
    "ActivationNetwork": object_(resnet, dqa.ActivationNetwork),
    "ImageNetwork": object_(image_network, double.ImageNetwork),
    "OriginalNetwork": object_(lambda: originals.original(1, True), originals.OriginalNetwork),
    "Attack": ATTACK,
    "AdaptivePGD": object_(ATTACK.good, AdaptivePGD),
    "PGD": PGD_KIND,
    "CarliniWagner | ZOO": object_(lambda: CarliniWagner(1, 1, 0.1, 1.0), CarliniWagner),
    "PGD | AdaptivePGD": ATTACK,
    "Settings": object_(lambda: Settings(epochs=1), Settings),
    "AsTrained": object_(AsTrained, AsTrained),
    "Evidence": object_(Evidence, Evidence),
    "Activations": object_(lambda: Activations("mnist", "fixed", 1), Activations),
    "Images": object_(lambda: Images(2, True), Images),
    "Subject": object_(lambda: Images(2, True), (Images, Activations)),
    "pd.DataFrame": FRAME,
    "Kind": Kind(
        lambda: (2, True), lambda v: isinstance(v, tuple) and v in double.KINDS, "objects"
    ),
}
LABELS_ARRAY = Kind(
    lambda: np.arange(20) % 3, lambda v: isinstance(v, np.ndarray) and v.shape == (20,), "arrays"
)
SCALE = choice(*SCALES)
POSITIVE = number(0.5, 0, inside=True)
BY_NAME = {
    "activation": choice("fixed", "dynamic", "relu"),
    "architecture": choice("vgg16", "alexnet"),
    "attacked": ARRAY_BITS,
    "augment": FLAG,
    "backward": BACKWARD,
    "batch": whole(4, 1),
    "batch_size": whole(4, 1),
    "binarised": NATURAL,
    "bits": whole(2, 1, 7),
    "channels_in": whole(16, 1),
    "channels_out": whole(16, 1),
    "checkpoint_s": number(1, 0),
    "clean_epochs": whole(0, 0),
    "clean_weight": number(0.5, 0, 1),
    "confidence": number(0.5, 0),
    "coordinates": whole(1, 1),
    "correct": whole(1, 0, 4),
    "dataset": choice("mnist", "cifar10", "digits", "patterns"),
    "eps": number(0.1, 0, 1, inside=True),
    "eps_255": number(8, 0),
    "features": FEATURES,
    "file": PATH,
    "generator": object_(torch.Generator, torch.Generator),
    "halftone": choice("bayer", "jjn").optional(),
    "images": FLOATS,
    "image": FLOATS,
    "initial_c": POSITIVE,
    "k": whole(3, 1, 19),
    "key": TEXT,
    "labels": LABELS,
    "logits": LOGITS,
    "lr": number(0.1, 0),
    "make": CALLABLE,
    "maximum": choice("batch", "image"),
    "mean": Kind(lambda: (0.5,), lambda v: False),
    "momentum": number(0.9, 0, 1),
    "noise": choice("after", "before"),
    "norm": choice("Linf"),
    "num_classes": whole(10, 2, 100_000),
    "number": NATURAL,
    "one": ARRAY_BITS,
    "other": ARRAY_BITS,
    "paper": choice(*PAPERS),
    "queries": whole(500, 1),
    "ramp_epochs": NATURAL,
    "root": Kind(PATH.good, PATH.allows),
    "scale": SCALE,
    "search_steps": whole(1, 1),
    "seed": SEED,
    "sees": choice("network", "pipeline"),
    "source": choice("x", "tanh"),
    "step_255": number(2, 0),
    "std": Kind(lambda: (0.5,), lambda v: False),
    "stride": choice(1, 2),
    "suite": TEXT,
    "target": object_(resnet, dqa.ActivationNetwork),
    "temperature": POSITIVE,
    "total": whole(4, 1),
    "train_images": whole(8, 1).optional(),
    "training": object_(lambda: dqa_network().training, Settings),
    "unit": EVALUATION,
    "width": whole(8, 1, 4096),
    "x": Kind(images_f, is_floating, "tensors"),
}

# What the package makes itself and takes again: of a wrong one, Python's words at the line that
# met it will do.
OWN = Kind(list, never, "objects")
CONTAINERS = ("Mapping", "dict", "Sequence", "Iterable", "list", "tuple")
NOT_ASKED = {
    "__main__": "by the command lines",
    "cli": "by the command lines",
    "attacks.base.afterwards": "takes a function alone",
    "attacks.carlini_wagner.check_settings": "checks the attack that is being made",
    "attacks.carlini_wagner.smallest_perturbations": "by CarliniWagner.run and ZOO.run",
    "auditing.checkpoint.State": "by audit",
    "auditing.result": "what audit gives",
    "auditing.signs.check": "by audit",
    "checks": "what all others are held to; tests/test_checks.py",
    "data.Dataset": "what load gives",
    "evaluation.batches": "by correct",
    "kernels": "compiled formulas; by the quantisers and models",
    "records.Record": "what run gives; write checks it",
    "records.decoded": "by read",
    "records.encoded": "by write",
    "records.Run": "what run gives",
    "records.canonical": "takes anything",
    "training.Progress": "what train gives",
    "runner.Busy": "an error",
}


def is_asked(function: str) -> bool:
    return not any(function == n or function.startswith(f"{n}.") for n in NOT_ASKED)


def dqa_results_by_name():
    from reproduce.report import dqa as report

    return report.find("mnist", "laptop")


SAMPLES = {
    "Results": lambda place: double_results() if "double" in place else dqa_results(),
    "Sequence[Results]": lambda place: [double_results() if "double" in place else dqa_results()],
    "Iterable[Results]": lambda place: [dqa_results()],
    "Mapping[str, Results]": lambda place: dqa_results_by_name(),
    "Mapping[str, Sequence[Results]]": lambda place: {
        n: [r] for n, r in dqa_results_by_name().items()
    },
    "Mapping[str, pd.DataFrame]": lambda place: {"one": table_frame()},
    "Mapping[type[nn.Module], str | Function]": lambda place: {nn.ReLU: "straight_through"},
    "dict[str, AdaptivePGD]": lambda place: {"one": ATTACK.good()},
    "dict[str, Attack | None]": lambda place: {"one": ATTACK.good()},
    "Filtered": lambda place: double.Filtered(bits=2, dithered=True, noise="after", sees="network"),
    "tuple[int, ...]": lambda place: (2,),
    "dict[str, Tensor]": lambda place: {"x": torch.zeros(2)},
    "dict": lambda place: {},
    "bytes": lambda place: b"x",
    "Stop": lambda place: __import__("reproduce.runner").runner.Stop(),
}
BY_PLACE = {
    **{
        f"{place}.images": U8
        for place in (
            "training.train",
            "training.training_steps",
            "dither.floyd_steinberg",
            "dither.bayer",
            "dither.jarvis_judice_ninke",
            "data.to_float",
            "data.crop_and_flip",
            "papers.double.quantised",
            "papers.units.answers",
            "papers.features.measure",
            "checks.check_uint8",
        )
    },
    **{f"{place}.images": EITHER for place in ("evaluation.correct", "auditing.run.audit")},
    **{f"papers.{b}": NATURAL for b in ("dqa.Budget.queries", "double.Budget.queries")},
    "papers.double.Budget.batch": NATURAL,
    "data.epoch_order.seed": whole(0, 0),  # it is hashed: as large as one likes
    "storage.write_bytes.content": Kind(
        lambda: b"x", lambda v: isinstance(v, bytes | np.ndarray), "own"
    ),
    "records.plain_number.value": number(8.0, -math.inf),
    "training.derived_seed.parts": Kind(lambda: 1, lambda v: isinstance(v, int | str)),
    "runner.run.report": CALLABLE,
    "records.configuration.unit": Kind(evaluation, lambda v: True, "objects"),
    "papers.features.knn_agreement.labels": LABELS_ARRAY,
    "papers.features.silhouette.labels": LABELS_ARRAY,
}


def annotation(parameter: inspect.Parameter) -> str:
    text = parameter.annotation
    if text is inspect.Parameter.empty:
        return ""
    return re.sub(r"^ForwardRef\('(.*)'\)$", r"\1", str(text))


def kind_of(function: str, parameter: inspect.Parameter) -> Kind:
    """The kind of an argument: by its place, its name or its annotation; OWN of all others."""
    place = f"{function}.{parameter.name}"
    if place in BY_PLACE:
        return BY_PLACE[place]
    text = annotation(parameter)
    plain = text.removesuffix(" | None")
    found = BY_NAME.get(parameter.name)
    if plain == "int" and parameter.name == "images":
        found = whole(2, 1)
    if plain.startswith("Literal["):
        found = choice(*get_args(eval(plain, {"Literal": Literal})))
    elif found is None or plain not in ("", "int", "float", "bool", "str", "Tensor", "np.ndarray"):
        found = BY_ANNOTATION.get(plain)
    if found is None:
        sample = SAMPLES.get(plain, lambda place: [])
        found = Kind(lambda: sample(place), lambda v: plain.startswith(CONTAINERS), "own")
    return found.optional() if text.endswith(" | None") else found
