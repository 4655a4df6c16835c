"""Double quantization: do the attacks before dithering work, and what do attacked images look like?

The trial's own results show whether an attack that knows more leaves less. What is measured here
needs attacks of its own: at other radii and lengths, on planted examples, and step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from reproduce import data, grids, trials
from reproduce.attacks import PGD, AdaptivePGD, Noise, diagnostics, perturb
from reproduce.grids import DoubleQuantization, quantised
from reproduce.pipeline import DoubleQuantizer
from reproduce.trials import Condition, DoubleTrial, folded


@dataclass(frozen=True, kw_only=True)
class PipelineChecks(DoubleTrial):
    """Checks of the attack that knows the pipeline, with noise before dithering, and examples.

    Args: main: the attack that is examined. paper_attack: makes the examples, after dithering.
          examined: images of the loss and of the gradients. planted: images of the planted test.
          shown: images of the examples.
    """

    main: AdaptivePGD
    paper_attack: PGD
    examined: int = 100
    planted: int = 50
    shown: int = 10

    @property
    def name(self) -> str:
        return f"{self.base.name}-checks"

    def twin(self) -> None:
        return None

    def arrays(self, model, dataset, check_stop):
        network = folded(model)
        whole = nn.Sequential(DoubleQuantizer(self.base.bits, self.base.dithered), *network).eval()
        device = next(model.parameters()).device
        x = data.to_float(dataset.x_test[: self.examined].to(device))
        y = dataset.y_test[: self.examined].to(device)
        arrays = {f"flags/{n}": np.array(v) for n, v in diagnostics.flags(whole, x).items()}
        check_stop()
        shares = diagnostics.zero_gradients(whole, self.main, x, y)
        arrays |= {f"zero_gradients/main/{n}": np.array(v) for n, v in shares.items()}
        arrays["loss/main"] = np.array(diagnostics.loss_by_step(whole, self.main, x, y, self.seed))
        few = x[: self.planted]
        found = diagnostics.binarization_test(whole, {"main": self.main}, few, self.seed)
        arrays |= {f"planted/{n}": hit.numpy() for n, hit in found.items()}
        return arrays | self._examples(network, dataset, device)

    def _examples(self, network: nn.Module, dataset, device) -> dict[str, np.ndarray]:
        """The first images as sent (dithered, or as they are), attacked, and as received.

        "example/STAGE": (N, C, H, W) uint8. "confidence/STAGE": (N, classes) float32, what the
        network says of them, without any filter but the one that "received" has passed.
        """
        few = slice(self.shown)
        sent = quantised(dataset.x_test[few].to(device), self.base.bits, self.base.dithered)
        # As in the tables: the sent image holds whole grey values.
        sent = data.to_float((sent * 255).round().byte())
        labels = dataset.y_test[few].to(device)
        attacked = perturb(network, self.paper_attack, sent, labels, self.seed)
        with torch.no_grad():
            received = DoubleQuantizer(self.base.bits, False)(attacked)
            stages = {"sent": sent, "attacked": attacked, "received": received}
            said = {n: network(x).softmax(1).cpu().numpy() for n, x in stages.items()}
        arrays = {"labels": labels.cpu().numpy()}
        for name, x in stages.items():
            arrays[f"example/{name}"] = (x * 255).round().byte().cpu().numpy()
            arrays[f"confidence/{name}"] = said[name]
        return arrays


_SIZES = {
    "smoke": {"images": 8, "draws": 10, "sizes": {"examined": 8, "planted": 2, "shown": 4}},
    "laptop": {"images": 100, "draws": 100, "sizes": {}},
    "paper": {"images": 1_000, "draws": 1_000, "sizes": {"examined": 500, "planted": 200}},
}


def checks(base: DoubleQuantization) -> PipelineChecks:
    """The checks of one model, at its scale."""
    main = trials.double_trial(base).conditions["before/averaged"].attack
    eps, sizes = main.eps_255, _SIZES[base.scale]
    attacks = {"clean": None, "main": main, "steps/twice": replace(main, steps=2 * main.steps)}
    for share in (0, 0.25, 0.5, 2):
        at = {"eps_255": eps * share, "step_255": main.step_255 * share}
        attacks[f"eps/{share:g}"] = replace(main, **at)
    attacks["eps/unbounded"] = replace(main, eps_255=255.0, step_255=255 / 4)
    attacks["noise"] = Noise(eps_255=eps, draws=sizes["draws"])
    conditions = {
        name: Condition(attack=attack, images=sizes["images"], noise="before")
        for name, attack in attacks.items()
    }
    paper = replace(base.attack, eps_255=8)
    return PipelineChecks(
        base=base, conditions=conditions, batch=100, main=main, paper_attack=paper, **sizes["sizes"]
    )


def grid(
    paper: str | None = None, scale: str | None = None, seed: int | None = None
) -> Iterator[PipelineChecks]:
    """The checks of every model of Tables I and II, seed 0, filtered as grids.grid."""
    for base in grids.grid(paper, scale, seed):
        if isinstance(base, DoubleQuantization) and base.halftone is None and not base.seed:
            yield checks(base)
