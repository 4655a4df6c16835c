"""Carlini and Wagner's L2 attack, and the search over its constant c that ZOO shares.

torchattacks has neither: its CW keeps c fixed, cannot move a pixel that is exactly 0 or 1, and
stops a whole batch at once; a zero gradient then looks like a successful defence.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduce.attacks.base import margin, under_attack
from reproduce.checks import check_floats, number, settle, whole
from reproduce.quantizers import FixedQuantizer

# Pixels are drawn this much towards 1/2, so that 0 and 1 have a finite arctanh and can move.
SHRINK = 1e-4
# A lead this small beside the logits may be rounding, and gone in a batch of another size.
EDGE = 1e-4


class Adversarial(NamedTuple):
    """What an attack found: the smallest successful perturbation of each image.

    images: (N, C, H, W) float32 in [0, 1], the clean image where there was no success.
    success: (N,) bool. norms: (N,) float32 l2 distances to the clean image, inf without success.
    queries: (N,) int64 forward passes that each image took.
    """

    images: Tensor
    success: Tensor
    norms: Tensor
    queries: Tensor


def shortfall(logits: Tensor, labels: Tensor, confidence: float) -> Tensor:
    """What the best other class lacks to lead by `confidence`: z_y - max_{j != y} z_j + confidence.

    Args:    logits: (N, K), or log-probabilities, which give the same: their normaliser cancels.
    Returns: (N,), at most 0 where an image is adversarial. The lead must exceed rounding (EDGE).
    """
    return confidence - margin(logits, labels) + EDGE * logits.detach().abs().amax(1)


class Searching(Protocol):
    """Settings of a search for c."""

    @property
    def search_steps(self) -> int: ...
    @property
    def initial_c(self) -> float: ...


def check_settings(attack: object) -> None:
    """Check the fields that both attacks have."""
    settle(attack, whole, "search_steps", least=1)
    settle(attack, number, "lr", "initial_c", inside=True)
    settle(attack, number, "confidence")


class Search:
    """The smallest perturbation of each image so far, and where its search for c stands.

    c grows tenfold until the image falls, and is then halved between failure and success.
    """

    def __init__(self, images: Tensor, labels: Tensor, initial_c: float) -> None:
        n = len(images)
        self.images, self.labels = images, labels
        self.best = images.clone()
        self.norms = images.new_full((n,), math.inf)
        self.queries = torch.zeros_like(labels)
        self.c = images.new_full((n,), initial_c)
        self.low, self.high = torch.zeros_like(self.c), torch.full_like(self.c, math.inf)
        self.fell = torch.zeros_like(labels, dtype=torch.bool)  # at this c
        self.done = torch.zeros_like(self.fell)

    def note(self, index: Tensor, candidates: Tensor, adversarial: Tensor) -> None:
        """Keep those candidates, (n, C, H, W) or (n, D), of images `index` that beat the best."""
        candidates = candidates.view_as(self.images[index])
        norms = (candidates - self.images[index]).flatten(1).norm(dim=1)
        better = adversarial & (norms < self.norms[index])
        self.norms[index] = torch.where(better, norms, self.norms[index])
        keep = better.view(-1, *[1] * (candidates.dim() - 1))
        self.best[index] = torch.where(keep, candidates, self.best[index])
        self.fell[index] |= adversarial

    def next_c(self) -> None:
        self.high = torch.where(self.fell, self.c, self.high)
        self.low = torch.where(self.fell, self.low, self.c)
        self.c = torch.where(self.high.isinf(), 10 * self.c, (self.low + self.high) / 2)
        self.fell = torch.zeros_like(self.fell)


def predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """(N, K) logits, at most `batch_size` images at a time."""
    return torch.cat([model(x) for x in images.split(batch_size)])


@contextlib.contextmanager
def image_by_image(
    model: nn.Module, images: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """base.under_attack, for attacks that want logits which are an image's own."""
    if any(isinstance(m, FixedQuantizer) and m.maximum == "batch" for m in model.modules()):
        raise ValueError(
            "maximum is 'batch' in a FixedQuantizer: an image has no logits of its own; "
            "set maximum to 'image' to attack the network"
        )
    with under_attack(model, images, labels) as ready:
        if not len(images):
            raise ValueError("0 images; give at least one")
        yield ready


def smallest_perturbations(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Searching,
    minimise: Callable[[Search, Tensor], None],
    *,
    batch_size: int,
) -> Adversarial:
    """Call minimise(search, index) at one c after another, for the images that are still in play.

    See CarliniWagner.run for the rest.
    """
    with image_by_image(model, images, labels) as (images, labels):
        search = Search(images, labels, attack.initial_c)
        wrong = predict(model, images, batch_size).argmax(1) != labels
        search.queries += 1
        search.done = wrong.clone()
        search.norms[wrong] = 0
        for _ in range(attack.search_steps):
            index = (~search.done).nonzero().squeeze(1)
            if len(index):
                minimise(search, index)
                search.next_c()
        # What is returned is what is judged, whatever the search believed.
        success = predict(model, search.best, batch_size).argmax(1) != labels
    keep = success.view(-1, *[1] * (images.dim() - 1))
    return Adversarial(
        torch.where(keep, search.best, images),
        success,
        torch.where(success, search.norms, math.inf),
        search.queries,
    )


@dataclass(frozen=True)
class CarliniWagner:
    """Untargeted l2 attack: minimise |x' - x|^2 + c max(z_y - max_{j != y} z_j + kappa, 0).

    x' = (tanh w + 1) / 2 keeps x' in the box; w is moved by Adam. c is searched for image by image.
    An image without any gradient is given up; one whose loss stands still is not, as the original
    does: on a staircase the loss rises with |x' - x|^2 until x' comes to the next step.

    Args:   steps: of Adam, for each c. search_steps: values of c. lr: of Adam, on w. initial_c: the
            first c. confidence: kappa, the lead in logits that counts as success.
    Raises: ValueError: steps or search_steps below 1, lr or initial_c not above 0, a negative
            confidence, an infinite number.
    Source: Carlini and Wagner 2017, sections V and VI-A; DQA, Table 3.
    """

    kind: ClassVar[str] = "carlini-wagner"
    family: ClassVar[str] = "gradient"

    steps: int
    search_steps: int
    lr: float
    initial_c: float
    confidence: float = 0.0

    def __post_init__(self) -> None:
        settle(self, whole, "steps", least=1)
        check_settings(self)

    @property
    def passes(self) -> int:
        return self.steps * self.search_steps

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Adversarial:
        """Attack all `images` as one batch, with `model` in eval mode meanwhile.

        An image that is misclassified as it stands counts as a success of norm 0. On a terminal a
        bar shows the progress.

        Args:   images: (N, C, H, W) float32 in [0, 1]. labels: (N,) int64.
        Returns: for each image the smallest perturbation that was found.
        Raises: TypeError, ValueError, FloatingPointError: as perturb. ValueError: no images, a
                FixedQuantizer whose maximum runs over the batch.
        """
        check_floats(images, labels)
        total = self.search_steps * self.steps
        with tqdm(total=total, desc="C&W", unit="step", disable=None, leave=False) as bar:
            minimise = partial(self._minimise, model, bar.update)
            return smallest_perturbations(
                model, images, labels, self, minimise, batch_size=max(1, len(images))
            )

    def _minimise(
        self, model: nn.Module, begin: Callable[[], object], search: Search, index: Tensor
    ) -> None:
        start = torch.atanh((2 * search.images[index] - 1) * (1 - SHRINK))
        w, origin = start, (torch.tanh(start) + 1) / 2
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        for step in range(1, self.steps + 1):
            begin()
            w.requires_grad_()
            x = (torch.tanh(w) + 1) / 2
            lack = shortfall(model(x), search.labels[index], self.confidence)
            loss = search.c[index] * lack.relu() + (x - origin).square().flatten(1).sum(1)
            (gradient,) = torch.autograd.grad(loss.sum(), w)
            search.note(index, x.detach(), lack.detach() <= 0)
            search.queries[index] += 1
            mean.lerp_(gradient, 0.1)
            square.lerp_(gradient.square(), 0.001)
            size = self.lr * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            w = w.detach() - size * mean / (square.sqrt() + 1e-12)
            if step == 1:
                # No gradient at the image itself: it will never move, whatever c is.
                moving = (w != start).flatten(1).any(1)
                search.done[index[~moving]] = True
                if not moving.any():
                    return
                index, w, origin = index[moving], w[moving], origin[moving]
                mean, square = mean[moving], square[moving]
