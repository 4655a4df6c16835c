"""What an audit has found so far, in a file if one is named: it can be stopped and resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reproduce import storage
from reproduce.auditing.inputs import answers
from reproduce.auditing.result import Audit, Found
from reproduce.auditing.suites import Target


class State:
    """The finished attacks of an audit.

    Args:   path: of the checkpoint, or None. asked: what the audit was asked for, beside its
            networks and images; a checkpoint of anything else is not taken.
    Raises: Damaged: a checkpoint that is none, or of another audit. OSError: its folder cannot be
            written to.
    """

    def __init__(self, found: Audit, target: Target, path: str | Path | None, asked: list) -> None:
        self.found, self.target = found, target
        self.path = None if path is None else Path(path)
        self.best = target.images.clone()
        if self.path is not None:
            storage.check_writable(self.path.parent)
            self.token = _token(target, asked)
            if self.path.exists():
                self._restore(self.path)

    def add(
        self, name: str, made: Tensor, tried: np.ndarray, *, family: str, seconds: float
    ) -> None:
        """Judge what an attack made, and keep the images that are the first to fall.

        Args: made: (n, C, H, W), for the images that were right. tried: (n,) bool, which of them
              it was tried on; the others have fallen before.
        """
        right = self.found.right
        hit = self.target.right(made)
        fell = torch.from_numpy(self.found.survives[right] & ~hit).to(made.device)
        self.best[fell] = made[fell]
        bits = {"bits": np.zeros_like(right), "tried": np.zeros_like(right)}
        bits["bits"][right], bits["tried"][right] = hit & tried, tried
        self.found.attacks[name] = Found(family=family, **bits, seconds=seconds)
        if self.path is not None:
            kept = {
                f"{part}/{n}": torch.from_numpy(getattr(f, part))
                for n, f in self.found.attacks.items()
                for part in ("bits", "tried")
            }
            about = {n: [f.family, f.seconds] for n, f in self.found.attacks.items()}
            meta = {"token": self.token, "attacks": about}
            storage.save_tensors(self.path, kept | {"best": self.best}, meta)

    def _restore(self, path: Path) -> None:
        tensors, meta = storage.load_tensors(path)
        if meta.get("token") != self.token:
            raise storage.Damaged(f"{path} is of another audit; delete it to start afresh")
        for name, (family, seconds) in meta["attacks"].items():
            bits = {part: tensors[f"{part}/{name}"].numpy() for part in ("bits", "tried")}
            self.found.attacks[name] = Found(family=family, **bits, seconds=seconds)
        self.best = tensors["best"].to(self.best.device)

    def finish(self, images: Tensor, labels: Tensor) -> None:
        """The adversarial images of all, and which images survive them in an 8-bit file."""
        right = torch.from_numpy(self.found.right).to(images.device)
        best = images.clone()
        best[right] = self.best
        whole = (best * 255).round() / 255
        said = answers(self.target.model, whole, labels, self.target.batch_size)
        self.found.adversarial = best.cpu().numpy()
        self.found.rounded = (right & (said == labels)).cpu().numpy()


def _token(target: Target, asked: list) -> str:
    """A hash of what decides the outcome: networks, images, and what was asked."""
    digest = hashlib.sha256()
    for model in (target.model, target.seen, target.source):
        if isinstance(model, nn.Module):
            digest.update(f"{model} {storage.tensors_sha256(model.state_dict())}".encode())
    for tensor in (target.images, target.labels):
        digest.update(tensor.cpu().numpy().tobytes())
    digest.update(f"{target.eps} {target.batch_size} {target.seed}".encode())
    digest.update(" ".join(map(_stable, asked)).encode())
    return digest.hexdigest()


def _stable(value: object) -> str:
    """A value's text, the same in every process where the value tells what it is."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_stable(name)}: {_stable(v)}" for name, v in value.items())
    name, code = (getattr(value, part, None) for part in ("__qualname__", "__code__"))
    if code is not None:  # two functions may have one name
        return f"{name} {code.co_code.hex()} {code.co_consts}"
    return f"{value.__module__}.{name}" if name else repr(value)
