"""The authors' own 15 networks of Double quantization, tested as their released scripts do it.

The networks are public in the history of their repository, and are read from a folder that
REPRODUCE_AUTHORS names. What is measured of them is recorded; the files themselves are not kept.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import data, models
from reproduce.checks import check_text, number, settle, shown, whole
from reproduce.dither import floyd_steinberg
from reproduce.papers.double import (
    KINDS,
    Filtered,
    ImageNetwork,
    kind_name,
)
from reproduce.papers.units import AsTrained, Evaluation, Measurement, Outcome
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import linear_quantize

REPOSITORY = "https://github.com/fugokidi/one-bit-quantization"
COMMIT = "b491ca8"  # the last that holds the networks
SHA256 = {
    (1, False): "77f9201c931eb11c943ac2d226936bdbc29cf8e86d5aea6c2713c30ce5a33441",
    (1, True): "ac165151d58fa25c15d33d34f592a27d04b7d68bccb2a7f67ce44fceb43e257f",
    (2, False): "eae3cd35923a66d8ef94dcb0923ee9f626e111632bc0d4162354dccaf4f83de6",
    (2, True): "499aa20234bf3c318891dfd5115ac86f2f3cabf520ced86af19cee6ce8910524",
    (3, False): "de6fa08e31505ceb143551d63a94490fa0a360d9d2423355368355bd9b34fa3c",
    (3, True): "72dda38f72933a91d6737361acab863b2cb71b0b7514891e404ad41a47b639f4",
    (4, False): "cbc5c1f7d2900257ad92ef6b04e2be7e9001dff53d63a025dc26ab9df553a3bf",
    (4, True): "f0f2a9ec7586ceea8d59577ad609753c8d2ff8b0f80c29ddf0bb0c845b1a96a9",
    (5, False): "bfaf2046339d41fbd764c5dc449c1dc0e06dfb3ca7cad5e46b01cbae47374aee",
    (5, True): "d13224fb2da0d3e7a4b1cdebe21040113fa41d81dcf695f0235bdb3acf265953",
    (6, False): "6782533eeabaf7274ada63cce2394da5a7384f935cd4084be1d3a71401a17aa2",
    (6, True): "697f02af292d22c60deb628b7b7496e9ae6fe2a9aa8522f0d4a2c1a10048ff2e",
    (7, False): "96fbdc07ab4788f8b88b669d46f197c1c8c2f9e4ffff3eca6d6455958e9c2842",
    (7, True): "2fcff5fbf392c28766a245f8cba7dabed9b7319975e9753598718770cf8618db",
    (8, False): "a6a2759584a6449935621cb303b7d7a745c58f7358e6684a5059b8d6a6374006",
}


class NoAuthors(FileNotFoundError):
    """The authors' files are not there."""


def authors_file(name: str) -> Path:
    """A file of the authors, in the folder that REPRODUCE_AUTHORS names or in one below it.

    Raises: NoAuthors: with the commands that get it.
    """
    check_text("name", name)
    folder = os.environ.get("REPRODUCE_AUTHORS")
    if folder:
        root = Path(folder).expanduser()
        for file in (root / name, root / "trained-models" / name):
            if file.is_file():
                return file
    where = f"{name} is not in {folder}" if folder else "REPRODUCE_AUTHORS names no folder"
    clone = REPOSITORY.rpartition("/")[2]
    raise NoAuthors(
        f"{where}; get the authors' files with: git clone {REPOSITORY}; "
        f"git -C {clone} archive {COMMIT} trained-models results results-update | tar x; "
        "export REPRODUCE_AUTHORS=$PWD"
    )


# --- The networks ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OriginalNetwork(ImageNetwork):
    """One of the networks behind Tables I and II, as its authors trained it.

    Args: sha256: of its file. seed: 0; how they drew is not known.
    """

    sha256: str

    kind: ClassVar[str] = "double-quantization-original"

    @property
    def plain(self):
        return None if self.bits == 8 else original(8, False)

    def pretrained(self):
        """Read it. Raises: NoAuthors. ValueError: the file is another."""
        dither = "-dither" if self.dithered else ""
        file = authors_file(f"resnet20-{self.bits}bit{dither}.pt")
        if hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
            raise ValueError(f"{file} is not the authors' file of commit {COMMIT}: another sha256")
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        model = models.resnet20()
        own = model.state_dict()  # the same tensors in the same order, by other names
        model.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
        return model.eval()


def original(bits: int, dithered: bool) -> OriginalNetwork:
    """A row of Tables I and II. Raises: ValueError: none of the 15."""
    proper = type(bits) is int and type(dithered) is bool
    if not proper or (bits, dithered) not in SHA256:
        both = f"bits={shown(bits)}, dithered={shown(dithered)}"
        raise ValueError(f"{both} is none of the 15 models")
    where = {"dataset": "cifar10", "scale": "original", "seed": 0}
    return OriginalNetwork(bits=bits, dithered=dithered, sha256=SHA256[bits, dithered], **where)


def networks() -> Iterator[OriginalNetwork]:
    """All 15."""
    for bits, dithered in KINDS:
        yield original(bits, dithered)


# --- How their scripts test -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Released(AsTrained):
    """A test image as the released scripts feed it, and what they do to it after an attack.

    A dithered image is fed as it is stored, in whole grey values / 255, which lie up to one below
    their level at 3 and 5 to 7 bits; one that is not dithered, on the exact levels.

    Args: bits, dithered: the kind of image. requantised: to so many bits, before the network sees
          it; None for not at all.
    """

    bits: int
    dithered: bool
    requantised: int | None = None

    kind: ClassVar[str] = "released"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "bits", least=1, most=8)
        if self.requantised is not None:
            settle(self, whole, "requantised", least=1, most=8)

    def judge(self, model):
        model = _unfolded(model)
        if self.requantised is None:
            return model
        return nn.Sequential(DoubleQuantizer(self.requantised, False), *model).eval()

    def seen(self, model, source):
        return _unfolded(model)

    def sent(self, images):
        if self.dithered:
            return data.to_float(floyd_steinberg(images, self.bits))
        return linear_quantize(data.to_float(images), self.bits)


def _unfolded(model: nn.Module) -> nn.Module:
    """Its batch normalisation as it is: folded, its rounding would be another."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ReleasedPGD:
    """The released attack: PGD from the image itself, clipped to [0, 1] first, then to the ball.

    The two orders give the same numbers but for rounding; that is enough to move a pixel over the
    edge of a bin, where a step of 2 grey levels often ends.

    Args:   eps_255, step_255: in grey levels (1/255). steps: at least 1.
    Source: Double quantization, Eq. 2, and the released code.
    """

    eps_255: float
    step_255: float
    steps: int

    kind: ClassVar[str] = "pgd-released"
    family: ClassVar[str] = "gradient"

    def __post_init__(self) -> None:
        settle(self, number, "eps_255", "step_255")
        settle(self, whole, "steps", least=1)

    @property
    def passes(self) -> float:
        return self.steps

    def attack(self, model: nn.Module):
        eps, step = self.eps_255 / 255, self.step_255 / 255

        def run(images: Tensor, labels: Tensor) -> Tensor:
            x = images
            for _ in range(self.steps):
                x = x.detach().requires_grad_(True)
                loss = F.cross_entropy(model(x), labels)
                (gradient,) = torch.autograd.grad(loss, x)
                with torch.no_grad():
                    x = (x + step * gradient.sign()).clamp(0, 1)
                    x = (x - images).clamp(-eps, eps) + images
            return x.detach().clamp(0, 1)

        return run


# --- Tables I and II, and the table behind the table ----------------------------------------------

ATTACK = ReleasedPGD(8, 2, 20)
BATCH = 128  # as released
HEADLINE = (1, 2, 3, 8)  # bits of the networks that are attacked on all test images
OTHERS = 2_000  # test images under attack for the other networks


def table(base: OriginalNetwork) -> dict[str, Measurement]:
    """A row of Tables I and II as released, beside the exact levels, and under the scripts'
    defaults: every attacked image re-quantised to one bit.

    Names: "clean/KIND" and "pgd/KIND" as released; "exact/KIND", dithered images on exact levels;
    "pgd-1bit/KIND", re-quantised to one bit whatever the kind (Table II's 1-bit row on images that
    are not dithered, its 8-bit row on dithered ones), and "clean-1bit/KIND", without an attack.
    """
    options = {"network": base, "batch": BATCH, "seed": 0}
    attacked = {"attack": ATTACK, "images": None if base.bits in HEADLINE else OTHERS}
    suite: dict[str, Measurement] = {}
    for bits, dithered in KINDS:
        kind, what = kind_name(bits, dithered), {"bits": bits, "dithered": dithered}
        suite[f"clean/{kind}"] = Evaluation(name=f"clean/{kind}", view=Released(**what), **options)
        view = Released(requantised=bits if bits < 8 else None, **what)  # those stay as they are
        suite[f"pgd/{kind}"] = Evaluation(name=f"pgd/{kind}", view=view, **attacked, **options)
        if dithered and bits in (3, 5, 6, 7):
            view = Filtered(noise="after", sees="network", **what)
            suite[f"exact/{kind}"] = Evaluation(name=f"exact/{kind}", view=view, **options)
        if (base.bits, dithered) in ((1, False), (8, True)) and not base.dithered:
            view = Released(requantised=1, **what)
            name = f"clean-1bit/{kind}"
            suite[name] = Evaluation(name=name, view=view, **options)
            if bits > 1:
                name = f"pgd-1bit/{kind}"
                suite[name] = Evaluation(name=name, view=view, **attacked, **options)
    suite["files"] = AuthorsFiles(name="files", **options)
    return suite


@dataclass(frozen=True, kw_only=True)
class AuthorsFiles(Measurement):
    """What the authors' result files say of a network: how many of 10,000 images are right.

    {"clean", "first", "released": {kind: count}}: as they are; attacked, in the first version of
    the test, which repeats the dithering in place of the second quantisation; and in the released
    one, of which the files hold the columns of dithered images.
    """

    kind: ClassVar[str] = "authors-files"

    def outcome(self, trained, dataset):
        base = self.network
        stem = f"bit{base.bits}" + ("-dither" if base.dithered else "")
        first = json.loads(authors_file(f"results/{stem}.json").read_text())
        released = json.loads(authors_file(f"results-update/{stem}2.json").read_text())
        values: dict[str, dict[str, int]] = {"clean": {}, "first": {}, "released": {}}
        for bits, dithered in KINDS:
            kind, ending = kind_name(bits, dithered), "dither_errors" if dithered else "errors"
            values["clean"][kind] = _count(first[f"test_{ending}"][bits - 1])
            values["first"][kind] = _count(first[f"adv_test_{ending}"][bits - 1])
            if dithered:
                values["released"][kind] = _count(released["acc"][bits - 1])
        return Outcome(values=values)


def _count(accuracy: float) -> int:
    return round(10_000 * accuracy)
