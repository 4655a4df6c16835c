"""Decoupled direction and norm, by foolbox: a second search for the smallest l2 perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reproduce.attacks.base import seeded
from reproduce.attacks.black_box import quiet_foolbox
from reproduce.attacks.carlini_wagner import Adversarial, image_by_image
from reproduce.checks import check_floats, number, settle, whole
from reproduce.checks import seed as check_seed


@dataclass(frozen=True)
class DDN:
    """Untargeted l2 attack: along the gradient, on a sphere that shrinks while the image is
    adversarial and grows while it is not.

    There is no constant to search for, so that it stops where C&W's search over c may not.

    Args:   steps: of the walk. init_eps: the first norm, in [0, 1] units. gamma: by how much of
            itself the norm changes in a step.
    Raises: ValueError: steps below 1, init_eps not above 0, gamma outside (0, 1).
    Source: Rony et al. 2019.
    """

    kind: ClassVar[str] = "ddn"
    family: ClassVar[str] = "gradient"

    steps: int
    init_eps: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        settle(self, whole, "steps", least=1)
        settle(self, number, "init_eps", inside=True)
        settle(self, number, "gamma", high=1, inside=True)

    @property
    def passes(self) -> int:
        return self.steps

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int) -> Adversarial:
        """As CarliniWagner.run, with its errors.

        Args: seed: of the direction that an image without a gradient takes.
        """
        check_floats(images, labels)
        seed = check_seed("seed", seed)
        with image_by_image(model, images, labels) as (images, labels):
            with torch.no_grad():
                right = model(images).argmax(1) == labels
            best = images.clone()
            if right.any():
                with seeded(seed, images.device):
                    best[right] = self._walk(model, images[right], labels[right])
            with torch.no_grad():
                success = model(best).argmax(1) != labels
        keep = success.view(-1, *[1] * (images.dim() - 1))
        best = torch.where(keep, best, images)
        norms = (best - images).flatten(1).norm(dim=1)
        queries = torch.where(right, 1 + self.steps, 1)
        return Adversarial(best, success, norms.where(success, math.inf), queries)

    def _walk(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        options = {"init_epsilon": self.init_eps, "gamma": self.gamma}
        with (
            quiet_foolbox() as foolbox,
            tqdm(total=self.steps, desc="DDN", unit="step", disable=None, leave=False) as bar,
        ):
            target = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
            handle = model.register_forward_hook(lambda *_: bar.update())
            try:
                walk = foolbox.attacks.DDNAttack(steps=self.steps, **options)
                return walk.run(target, images, labels)
            finally:
                handle.remove()
