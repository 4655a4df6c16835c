"""ZOO: Carlini and Wagner's objective minimised from the model's outputs alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduce.attacks.carlini_wagner import (
    Adversarial,
    Search,
    check_settings,
    predict,
    shortfall,
    smallest_perturbations,
)
from reproduce.checks import check_floats, number, settle, whole
from reproduce.checks import seed as check_seed

Lack = Callable[[Tensor, Tensor], Tensor]  # of pixels (m, D) of images (m,): the shortfall (m,)


class _Descent:
    """Images `index` of a search on their way down, with Adam's state for each coordinate."""

    def __init__(self, search: Search, index: Tensor) -> None:
        self.search, self.index = search, index
        self.x = search.images[index].flatten(1)
        self.mean, self.square, self.count = (torch.zeros_like(self.x) for _ in range(3))

    @property
    def moved(self) -> Tensor:
        """(n, D): x' - x."""
        return self.x - self.search.images[self.index].flatten(1)

    def step(self, columns: Tensor, slope: Tensor, lr: float) -> None:
        """One step of Adam in the (n, k) coordinates `columns`, then back into the box."""
        gradient = self.search.c[self.index, None] * slope + 2 * self.moved.gather(1, columns)
        count = self.count.gather(1, columns) + 1
        mean = self.mean.gather(1, columns).lerp(gradient, 0.1)
        square = self.square.gather(1, columns).lerp(gradient.square(), 0.001)
        size = mean / (1 - 0.9**count) / ((square / (1 - 0.999**count)).sqrt() + 1e-12)
        x = (self.x.gather(1, columns) - lr * size).clamp(0, 1)
        for name, values in (("count", count), ("mean", mean), ("square", square), ("x", x)):
            getattr(self, name).scatter_(1, columns, values)

    def keep(self, rows: Tensor) -> None:
        for name in ("index", "x", "mean", "square", "count"):
            setattr(self, name, getattr(self, name)[rows])


@dataclass(frozen=True)
class ZOO:
    """Zeroth-order optimisation: C&W's attack with measured derivatives, coordinate by coordinate.

        df/dx_i = (f(x + h e_i) - f(x - h e_i)) / 2h

    for f = max(z_y - max_{j != y} z_j + kappa, 0), which is the same of logits z and of
    log-probabilities. Each image goes through its pixels in a random order of its own,
    `coordinates` at a time; each pixel has its own moments of Adam. |x' - x|^2 is not measured.

    The box is kept by projection: under the original's tanh, h would be a different number of grey
    levels for every pixel, and none for one at 0 or 1. There the difference becomes one-sided.
    The original's reduced attack space and importance sampling serve large images; left out.

    Args:   queries: forward passes that an image may take in all. search_steps: values of c, which
            share them evenly. coordinates: pixels measured and moved at once. h_255: in grey levels
            (1/255); it must be large enough to cross a quantiser's threshold. lr: of Adam, in
            [0, 1] units. initial_c, confidence: see CarliniWagner.
    Raises: ValueError: coordinates below 1, fewer queries than a step of each search takes, h_255
            outside 0.001..255 (below it drowns in rounding), others as in CarliniWagner.
    Source: Chen et al. 2017, sections 3.2 to 3.4, algorithm 2; DQA, Table 5.
    """

    kind: ClassVar[str] = "zoo"
    family: ClassVar[str] = "score"

    queries: int
    search_steps: int
    coordinates: int
    h_255: float
    lr: float
    initial_c: float
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        settle(self, whole, "coordinates", "queries", least=1)
        settle(self, number, "h_255", low=0.001, high=255)
        least = 1 + self.search_steps * (2 * self.coordinates + 1)
        if self.queries < least:
            raise ValueError(
                f"queries is {self.queries}; {self.search_steps} searches of "
                f"{self.coordinates} coordinates take at least {least}"
            )

    @property
    def passes(self) -> int:
        return self.queries // 3  # forward passes alone

    def run(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        batch_size: int = 1024,
    ) -> Adversarial:
        """Attack all `images` at once, with `model` in eval mode meanwhile.

        Args:   seed: of the order of the coordinates. batch_size: of the forward passes. The rest
                as in CarliniWagner.run.
        Returns: for each image the smallest perturbation that was found.
        Raises: as CarliniWagner.run. TypeError, ValueError: a bad batch_size or seed.
        """
        check_floats(images, labels)
        batch_size, seed = whole("batch_size", batch_size, 1), check_seed("seed", seed)
        generator = torch.Generator(images.device).manual_seed(seed)

        def lack(x: Tensor, index: Tensor) -> Tensor:
            """The shortfall (m,) of pixels (m, D), which belong to images `index`."""
            logits = predict(model, x.view(-1, *images.shape[1:]), batch_size)
            return shortfall(logits, labels[index], self.confidence)

        with tqdm(total=self.queries, desc="ZOO", unit="query", disable=None, leave=False) as bar:
            options = {"batch_size": batch_size, "generator": generator, "bar": bar}
            minimise = partial(self._minimise, lack, **options)
            return smallest_perturbations(
                model, images, labels, self, minimise, batch_size=batch_size
            )

    def _minimise(
        self,
        lack: Lack,
        search: Search,
        index: Tensor,
        *,
        batch_size: int,
        generator: torch.Generator,
        bar: tqdm,
    ) -> None:
        left = (self.queries - 1) // self.search_steps
        descent, first = _Descent(search, index), True
        while len(descent.index):
            # Drawn for every image, so that no image's order hangs on who is still in play.
            size = len(search.images), descent.x.shape[1]
            order = torch.rand(size, generator=generator, device=generator.device).argsort(1)
            for columns in order[descent.index].split(self.coordinates, 1):
                cost = 2 * columns.shape[1] + 1
                left -= cost
                if left < 0:
                    return
                slope = self._slope(lack, batch_size, descent, columns)
                descent.step(columns, slope, self.lr)
                fell = lack(descent.x, descent.index) <= 0
                search.note(descent.index, descent.x, fell)
                search.queries[descent.index] += cost
                bar.update(cost)
            if first:
                # All pixels were tried from the image itself and none moved: it will never move,
                # whatever c is.
                moving = (descent.moved != 0).any(1)
                search.done[descent.index[~moving]] = True
                descent.keep(moving)
                first = False

    def _slope(self, lack: Lack, batch_size: int, descent: _Descent, columns: Tensor) -> Tensor:
        """df/dx in the (n, k) coordinates `columns`."""
        h, at = self.h_255 / 255, descent.x.gather(1, columns)
        low, high = (at - h).clamp(min=0), (at + h).clamp(max=1)
        value = torch.cat([low, high], 1).view(-1, 1)
        column = torch.cat([columns, columns], 1).view(-1, 1)
        row = torch.arange(len(at), device=at.device).repeat_interleave(2 * at.shape[1])
        f = []
        for part in torch.arange(len(row), device=at.device).split(batch_size):
            probes = descent.x[row[part]].scatter_(1, column[part], value[part])
            f.append(lack(probes, descent.index[row[part]]).relu())
        f_low, f_high = torch.cat(f).view(len(at), 2, -1).unbind(1)
        return (f_high - f_low) / (high - low)
