"""Double quantization (AprilPyone et al. 2019): dithered training images, a filter at test time.

From top to bottom: the networks and their recipes, how a test image reaches them, what the tables
print, the trial, its checks, and the networks that were trained against an attacker who knows it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from reproduce import data, models
from reproduce.attacks import PGD, AdaptivePGD, Noise, Square, full_float32, perturb
from reproduce.checks import check_fields, choice, flag, shown, whole
from reproduce.dither import bayer, floyd_steinberg, jarvis_judice_ninke
from reproduce.papers.diagnostics import Diagnostics
from reproduce.papers.units import (
    AsTrained,
    Evaluation,
    Measurement,
    Network,
    Outcome,
    check_where,
    seeded_build,
)
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import Rounding, filter_radius, linear_quantize
from reproduce.training import Settings

KINDS = (*((b, d) for b in range(1, 8) for d in (False, True)), (8, False))
HALFTONES = {None: floyd_steinberg, "bayer": bayer, "jjn": jarvis_judice_ninke}


def _check_kind(bits: int, dithered: bool, halftone: str | None = None) -> None:
    whole("bits", bits, 1, 8)
    flag("dithered", dithered)
    choice("halftone", halftone, Literal["bayer", "jjn"], optional=True)


def kind_name(bits: int, dithered: bool, halftone: str | None = None) -> str:
    """One of the 15 kinds of image, "1bit", "1bit-dithered", ... "8bit", or such as "1bit-jjn"."""
    _check_kind(bits, dithered, halftone)
    return f"{bits}bit" + (f"-{halftone or 'dithered'}" if dithered else "")


def quantised(images: Tensor, bits: int, dithered: bool, halftone: str | None = None) -> Tensor:
    """Images as the network sees them: dithered or not, then on the levels k / (2**bits - 1).

    Args:    images: (N, C, H, W) uint8. bits: 1..8; 8 bits cannot be dithered. halftone: None for
             Floyd and Steinberg's as released, else one of HALFTONES.
    Returns: (N, C, H, W) float32 in [0, 1].
    """
    _check_kind(bits, dithered, halftone)
    if dithered:
        images = HALFTONES[halftone](images, bits)
    return linear_quantize(data.to_float(images), bits)


# --- The networks ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ImageNetwork(Network):
    """ResNet-20 trained on quantised or dithered images.

    Args:   bits: 1..8 of the training images. dithered: by Floyd-Steinberg, else linearly.
            halftone: how to dither instead, one of HALFTONES.
    Source: Double quantization, section IV-A; other halftones are ours.
    """

    bits: int
    dithered: bool
    halftone: str | None = None

    kind: ClassVar[str] = "double-quantization"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_kind(self.bits, self.dithered, self.halftone)

    paper: ClassVar[str] = "double-quantization"

    @property
    def cell(self):
        return kind_name(self.bits, self.dithered, self.halftone)

    def build(self):
        return seeded_build(models.resnet20, self.seed)

    def prepare(self, images):
        return quantised(images, self.bits, self.dithered, self.halftone)

    @property
    def macs(self):
        return 41e6

    @property
    def plain(self) -> ImageNetwork | None:
        """The network that was trained in the same way on 8-bit images; None for itself."""
        if self.bits == 8:
            return None
        return replace(self, bits=8, dithered=False)


@dataclass(frozen=True, kw_only=True)
class HardenedNetwork(ImageNetwork):
    """The whole pipeline as one network; images go in as they are, and are attacked so.

    Source: the training of Madry et al. 2018, with the filter of Double quantization in the loop.
    """

    kind: ClassVar[str] = "double-quantization-hardened"

    @property
    def cell(self):
        return f"{super().cell}-hardened"

    def build(self):
        return nn.Sequential(DoubleQuantizer(self.bits, self.dithered), super().build())

    def prepare(self, images):
        return data.to_float(images)


def _recipe(dataset: str, epochs: int, schedule: str, train_images: int | None = None) -> dict:
    training = Settings(
        epochs=epochs,
        optimizer="sgd",
        lr=0.1,
        weight_decay=1e-4,
        schedule=schedule,
        augment=True,
        autocast=True,
    )
    return {"dataset": dataset, "training": training, "train_images": train_images}


RECIPES = {
    "smoke": _recipe("patterns", 2, "one_cycle", train_images=500),
    "laptop": _recipe("cifar10", 15, "one_cycle"),
    "paper": _recipe("cifar10", 160, "step"),
}


def network(
    bits: int,
    dithered: bool,
    *,
    seed: int = 0,
    scale: str = "laptop",
    halftone: str | None = None,
) -> ImageNetwork:
    """A row of Tables I and II, or a network for another halftone.

    Raises: ValueError: bits outside 1..8, 8 bits dithered, an unknown scale or halftone, a halftone
            without dithering.
    """
    check_where(scale, seed)
    if scale not in RECIPES:
        raise ValueError(f"scale is {scale!r}; choose one of {', '.join(RECIPES)}")
    proper = type(bits) is int and type(dithered) is bool  # True is 1 and 2.0 is 2 in Python
    if not proper or (bits, dithered) not in KINDS:
        raise ValueError(
            f"bits={shown(bits)}, dithered={shown(dithered)} is none of the 15 models; "
            "bits is 1..7 with or without dithering, or 8 without"
        )
    text_ = halftone is None or isinstance(halftone, str)
    if not text_ or halftone not in HALFTONES or (halftone and not dithered):
        others = ", ".join(filter(None, HALFTONES))
        raise ValueError(
            f"halftone is {shown(halftone)} with dithered={dithered!r}; "
            f"give None, or {others} with dithered=True"
        )
    what = {"bits": bits, "dithered": dithered, "halftone": halftone}
    return ImageNetwork(scale=scale, seed=seed, **what, **RECIPES[scale])


HARDENED_KINDS = ((2, True), (8, False))  # the best of the paper's, and its control
_HARDENED = {"smoke": (1, 200), "laptop": (15, 10_000), "paper": (60, None)}  # epochs, images


def hardened(bits: int, dithered: bool, *, seed: int = 0, scale: str = "laptop") -> HardenedNetwork:
    """A network that sees the filter's output in adversarial training.

    Raises: ValueError: as `network`.
    """
    plain = network(bits, dithered, seed=seed, scale=scale)
    epochs, train_images = _HARDENED[scale]
    training = replace(
        plain.training,
        epochs=epochs,
        schedule="one_cycle",
        attack=PGD(8, 2, 7),
        clean_epochs=min(1, epochs - 1),
    )
    where = {n: getattr(plain, n) for n in ("dataset", "scale", "seed", "bits", "dithered")}
    return HardenedNetwork(training=training, train_images=train_images, **where)


SEEDS = {"smoke": 1, "laptop": 3, "paper": 5}


def networks(scale: str, seed: int) -> Iterator[ImageNetwork]:
    """The 15 models of Tables I and II."""
    check_where(scale, seed)
    if scale in RECIPES:
        for bits, dithered in KINDS:
            yield network(bits, dithered, seed=seed, scale=scale)


def halftone_networks(scale: str, seed: int) -> Iterator[ImageNetwork]:
    """Two depths with each other halftone, for seed 0."""
    check_where(scale, seed)
    if scale in RECIPES and scale != "smoke" and not seed:
        for bits in (1, 2):
            for halftone in filter(None, HALFTONES):
                yield network(bits, True, seed=seed, scale=scale, halftone=halftone)


def hardened_networks(scale: str, seed: int) -> Iterator[HardenedNetwork]:
    """The best kind of the paper's and its control, for seed 0."""
    check_where(scale, seed)
    if scale in RECIPES and not seed:
        for bits, dithered in HARDENED_KINDS:
            yield hardened(bits, dithered, seed=seed, scale=scale)


# --- How a test image reaches a network -----------------------------------------------------------


def _bare(model: nn.Module) -> nn.Module:
    return models.folded(model).to(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Filtered(AsTrained):
    """A network behind the defence's second quantisation.

    Args: bits, dithered, halftone: the kind of test image. noise: "after" dithering, so that the
          attack starts from the dithered image and only the second quantisation follows; "before",
          so that it starts from the image as it is and all of the defence follows. sees: whether
          the attack works on the "network" alone or on the whole "pipeline", with the identity as
          the filter's derivative. rounding: of the second quantisation, "floor" by default.
    """

    bits: int
    dithered: bool
    noise: Literal["before", "after"]
    sees: Literal["network", "pipeline"]
    halftone: str | None = None
    rounding: Rounding | None = None

    kind: ClassVar[str] = "filtered"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_kind(self.bits, self.dithered, self.halftone)

    def judge(self, model):
        dithers = self.dithered and self.noise == "before"
        guard = DoubleQuantizer(self.bits, dithers, self.rounding or "floor")
        return nn.Sequential(guard, *_bare(model)).eval()

    def seen(self, model, source):
        if source is None and self.sees == "pipeline":
            return None
        return _bare(model if source is None else source)

    def sent(self, images):
        if self.noise == "before":
            return images
        kind = self.bits, self.dithered, self.halftone
        return (quantised(images, *kind) * 255).round().byte()


@dataclass(frozen=True, kw_only=True)
class Whole(AsTrained):
    """A network that has the filter inside. Args: sees: as in Filtered."""

    sees: Literal["network", "pipeline"] = "pipeline"

    kind: ClassVar[str] = "whole"

    def judge(self, model):
        return models.folded(model)

    def seen(self, model, source):
        return models.folded(model)[1] if self.sees == "network" else None


# --- Tables I and II ------------------------------------------------------------------------------

PAPER_STEPS = {"smoke": 3, "laptop": 20, "paper": 20, "original": 20}
TABLE_IMAGES = {"smoke": 100}  # else all
ATTACKED_IMAGES = {"smoke": 20, "laptop": 1_000}  # else all
TABLE_BATCH = {"smoke": 125, "laptop": 125, "paper": 1_000}


def paper_attack(scale: str, eps_255: float = 8) -> PGD:
    """The paper's PGD, of 20 steps but in smoke tests."""
    if not isinstance(scale, str) or scale not in PAPER_STEPS:
        raise ValueError(f"scale is {shown(scale)}; choose one of {', '.join(PAPER_STEPS)}")
    return PGD(eps_255, 2, PAPER_STEPS[scale], random_start=False)


def table(base: ImageNetwork) -> dict[str, Measurement]:
    """A row of Tables I and II: all kinds of test image, as they are and under PGD.

    Networks for another halftone are tested on their own kind and on 8 bits as they are.
    """
    options = {"network": base, "batch": TABLE_BATCH[base.scale], "seed": base.seed}
    attack = paper_attack(base.scale)
    images = {"clean": TABLE_IMAGES.get(base.scale), "pgd": ATTACKED_IMAGES.get(base.scale)}
    suite: dict[str, Measurement] = {}
    if isinstance(base, HardenedNetwork):
        for name, one in (("clean", None), ("pgd", attack)):
            view = {"view": Whole(), "images": images[name]}
            suite[name] = Evaluation(name=name, attack=one, **view, **options)
        return suite
    kinds = KINDS if base.halftone is None else ((base.bits, True, base.halftone), (8, False))
    for kind in kinds:
        for condition, one in (("clean", None), ("pgd", attack)):
            if one is None or base.halftone is None or kind != (8, False):
                name = f"{condition}/{kind_name(*kind)}"
                view = Filtered(
                    bits=kind[0],
                    dithered=kind[1],
                    halftone=(*kind, None)[2],
                    noise="after",
                    sees="network",
                )
                how = {"attack": one, "view": view, "images": images[condition]}
                suite[name] = Evaluation(name=name, **how, **options)
    return suite


# --- The trial ------------------------------------------------------------------------------------

FIG4 = (2, 4, 8, 16, 24, 32)


@dataclass(frozen=True)
class Budget:
    """many, few: images under most attacks, under the dear ones. steps, restarts: of the strongest.
    queries: of Square. checked, draws: images and draws of noise of the checks. examined,
    binarised, shown: images of the diagnostics and of the examples."""

    many: int
    few: int
    steps: int = 100
    restarts: int = 10
    queries: int = 1_000
    batch: int = 100
    checked: int = 100
    draws: int = 100
    examined: int = 100
    binarised: int = 50
    shown: int = 10

    def __post_init__(self) -> None:
        check_fields(self)


BUDGETS = {
    "smoke": Budget(
        20, 8, steps=10, restarts=1, queries=10, checked=8, draws=10, examined=8, binarised=2,
        shown=4,
    ),
    "laptop": Budget(500, 100),
    "original": Budget(2_000, 250),
    "paper": Budget(
        10_000, 1_000, batch=1_000, checked=1_000, draws=1_000, examined=500, binarised=200
    ),
}  # fmt: skip
CHECKS_BATCH = 100


def known_attack() -> AdaptivePGD:
    """Knows the whole pipeline, the dithering included."""
    return AdaptivePGD(eps_255=8, step_255=2, steps=20)


def averaged_attack() -> AdaptivePGD:
    """The same, its gradient averaged over noise, on the margin; the checks examine this one."""
    return replace(known_attack(), loss="margin", samples=8, noise_255=4.0)


def _jump(eps: float) -> AdaptivePGD:
    """Knows the filter: from one side of the ball to the other in a single step."""
    return AdaptivePGD(eps_255=eps, step_255=2.0 * eps, steps=20, loss="margin")


def trial(base: ImageNetwork) -> dict[str, Measurement]:
    """Noise after and before dithering, by attacks that know the defence or do not."""
    size = BUDGETS[base.scale]
    suite: dict[str, Measurement] = {}
    kind = {"bits": base.bits, "dithered": base.dithered}

    def add(name, attack=None, *, images=size.many, source=None, **view) -> None:
        whole = isinstance(base, HardenedNetwork)
        how = Whole(sees=view["sees"]) if whole else Filtered(**kind, **view)
        suite[name] = Evaluation(
            name=name,
            network=base,
            view=how,
            attack=attack,
            source=source,
            images=images,
            batch=CHECKS_BATCH if whole else size.batch,
            seed=base.seed,
        )

    paper = functools.partial(paper_attack, base.scale)
    if not isinstance(base, HardenedNetwork):
        after = functools.partial(add, noise="after", sees="pipeline")
        after("clean")
        for eps in FIG4:
            after(f"after/{eps}", paper(eps), sees="network")
        after("after/nearest", paper(), sees="network", rounding="nearest")
        radius, nearest = (filter_radius(base.bits, r) for r in ("floor", "nearest"))
        after("after/inside", _jump(radius))
        after("after/outside", _jump(radius + 1))
        # One less than the radius: dithered images hold whole grey values (see filter_radius).
        after("after/nearest-inside", _jump(max(0, nearest - 1)), rounding="nearest")
        after("after/nearest-outside", _jump(nearest + 1), rounding="nearest")
    before = functools.partial(add, noise="before", sees="pipeline")
    before("before/clean")
    before("before/bare", paper(), sees="network")
    before("before/identity", known_attack(), images=size.few)
    averaged = averaged_attack()
    before("before/averaged", averaged, images=size.few)
    strong = replace(averaged, steps=size.steps, restarts=size.restarts)
    before("before/strong", strong, images=size.few)
    before("before/square", Square(eps_255=8, queries=size.queries), images=size.few)
    if base.plain is not None and not isinstance(base, HardenedNetwork):
        before("before/transfer", paper(), images=size.few, source=base.plain)
    return suite


# --- Did the attacks before dithering work? -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stages(Measurement):
    """The first images as the attack finds them, attacked, and as the network receives them.

    "example/STAGE": (N, C, H, W) uint8, of "sent" (dithered, or as they are, where the noise comes
    before dithering), "attacked" and "received". "confidence/STAGE": (N, classes) float32, what the
    network says of them, without any filter but the one that "received" has passed.
    """

    attack: PGD | AdaptivePGD
    view: Filtered

    kind: ClassVar[str] = "stages"

    def outcome(self, trained, dataset):
        view, model = self.view, _bare(trained[self.network])
        whole = view.judge(trained[self.network])
        seen = view.seen(trained[self.network], None)
        device = next(model.parameters()).device
        x, y = (t.to(device) for t in self.first(dataset))
        # As in the tables: the sent image holds whole grey values.
        sent = data.to_float(view.sent(x))
        attacked = perturb(whole if seen is None else seen, self.attack, sent, y, self.seed)
        with torch.no_grad(), full_float32():
            received = whole[0](attacked)
            stages = {"sent": sent, "attacked": attacked, "received": received}
            said = {name: model(x).softmax(1).cpu().numpy() for name, x in stages.items()}
        arrays = {"labels": y.cpu().numpy()}
        for name, x in stages.items():
            arrays[f"example/{name}"] = (x * 255).round().byte().cpu().numpy()
            arrays[f"confidence/{name}"] = said[name]
        return Outcome(arrays=arrays)

    @property
    def passes(self):
        return super().passes * self.attack.passes


def checks(base: ImageNetwork) -> dict[str, Measurement]:
    """The averaged attack at other radii and lengths, and on planted examples; and two figures'."""
    size, main = BUDGETS[base.scale], averaged_attack()
    view = Filtered(bits=base.bits, dithered=base.dithered, noise="before", sees="pipeline")
    options = {"network": base, "batch": CHECKS_BATCH, "seed": base.seed}
    attacks = {"clean": None, "main": main, "steps/twice": replace(main, steps=2 * main.steps)}
    for share in (0, 0.25, 0.5, 2):
        at = {"eps_255": main.eps_255 * share, "step_255": main.step_255 * share}
        attacks[f"eps/{share:g}"] = replace(main, **at)
    attacks["eps/unbounded"] = replace(main, eps_255=255.0, step_255=255 / 4)
    attacks["noise"] = Noise(eps_255=main.eps_255, draws=size.draws)
    suite: dict[str, Measurement] = {
        name: Evaluation(
            name=f"checks/{name}", view=view, attack=attack, images=size.checked, **options
        )
        for name, attack in attacks.items()
    }
    suite["diagnostics"] = Diagnostics(
        name="diagnostics",
        view=view,
        attacks={"main": main},
        images=size.examined,
        binarised=size.binarised,
        **options,
    )
    after = replace(view, noise="after", sees="network")
    for name, at, attack in (
        ("stages", after, paper_attack(base.scale)),
        ("stages/before", view, known_attack()),
    ):
        suite[name] = Stages(name=name, view=at, attack=attack, images=size.shown, **options)
    return suite
