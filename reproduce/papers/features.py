"""What inner layers hold, and how far classes stay together there (DQA, Fig. 2 and 3)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from reproduce.attacks import PGD, perturb
from reproduce.checks import (
    check_images,
    check_module,
    check_uint8,
    flag,
    kind,
    of_kind,
    shown,
    whole,
)
from reproduce.data import to_float
from reproduce.evaluation import batch_seed
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer

NEIGHBOURS = 10


def _check(features: np.ndarray, labels: np.ndarray | None = None, least: int = 2) -> None:
    """Raise TypeError, ValueError: no finite (N, D), N at least so many, or labels not one each."""
    of_kind("features", features, np.ndarray)
    if features.ndim != 2 or len(features) < least or features.dtype.kind not in "fiu":
        raise ValueError(f"features are {shown(features)}; give numbers (N, D), N from {least} on")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity")
    if labels is not None:
        of_kind("labels", labels, np.ndarray)
        if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {shown(labels)}; give {len(features)} whole numbers")


def _check_images(name: str, images: Tensor) -> None:
    check_images(images)
    if images.ndim != 4:
        raise ValueError(f"{name}: {kind(images)}; they must be (N, C, H, W)")


def first_levels(model: nn.Module, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The levels that the first quantiser's output takes on one image, and how often each.

    Args:    image: (1, C, H, W) float32 in [0, 1].
    Returns: levels (L,), ascending, rounded to 4 places; counts (L,). Both empty without quantiser.
    Source:  DQA, Fig. 2.
    """
    _check_images("image", image)
    layers = (m for m in model.modules() if isinstance(m, FixedQuantizer | DynamicQuantizer))
    seen = []
    for layer in list(layers)[:1]:
        handle = layer.register_forward_hook(lambda _m, _x, out: seen.append(out))
        try:
            with torch.no_grad():
                model(image)
        finally:
            handle.remove()
    values = seen[0].flatten().cpu().numpy() if seen else np.empty(0, np.float32)
    return np.unique(values.round(4) + 0.0, return_counts=True)  # -0 is 0


def last_inputs(model: nn.Module, images: Tensor) -> Tensor:
    """The last linear layer's input (N, D) for images (N, C, H, W), float32 in [0, 1]."""
    _check_images("images", images)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    seen = []
    handle = last.register_forward_pre_hook(lambda _m, x: seen.append(x[0]))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return seen[0]


def knn_agreement(features: np.ndarray, labels: np.ndarray, k: int = NEIGHBOURS) -> float:
    """How many of a point's k nearest neighbours, itself left out, share its label, on average.

    Args:    features: (N, D). labels: (N,). k: 1..N - 1.
    Returns: in [0, 1]; with C equally frequent labels about 1 / C where features say nothing.
    """
    _check(features, labels)
    k = whole("k", k, 1, len(features) - 1)
    nearest = NearestNeighbors(n_neighbors=k).fit(features.astype(np.float64))
    index = nearest.kneighbors(return_distance=False)
    return float((labels[index] == labels[:, None]).mean())


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """The mean silhouette, (b - a) / max(a, b): a is a point's mean distance to its own class, b
    that to the nearest other class.

    Args:    features: (N, D). labels: (N,), at least two of them.
    Returns: in [-1, 1]; about 0 where classes overlap.
    Source:  Rousseeuw 1987.
    """
    _check(features, labels)
    if not 1 < len(np.unique(labels)) < len(labels):
        raise ValueError(f"labels hold {len(np.unique(labels))} classes; give 2 to N - 1")
    return float(silhouette_score(features.astype(np.float64), labels))


def tsne(features: np.ndarray) -> np.ndarray:
    """Two coordinates a point (N, 2), float32; all zero where the features do not differ.

    They are stored, since another machine's rounding leads to another map.

    Args:   features: (N, D), N at least 4.
    Source: van der Maaten and Hinton 2008.
    """
    _check(features, least=4)
    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2), np.float32)
    perplexity = min(30.0, (len(features) - 1) / 3)
    fit = TSNE(perplexity=perplexity, init="random", random_state=0)
    return fit.fit_transform(features.astype(np.float32)).astype(np.float32)


def measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    *,
    batch_size: int,
    seed: int,
    maps: bool,
) -> dict[str, np.ndarray]:
    """What Fig. 2 and 3 show: levels of the first image, and features clean and under `attack`.

    Args:    images: (N, C, H, W) uint8. labels: (N,) int64. batch_size, seed: as in
             evaluation.correct, so that the attacked images are those that are evaluated.
             maps: keep the features and their maps beside the numbers that sum them up.
    Returns: "first/levels", "first/counts"; "knn/*", "silhouette/*" for * in clean and pgd; with
             `maps` also "features/*" (N, D) float16, "tsne/*" (N, 2) and "features/labels" (N,).
    """
    check_uint8(images, labels)
    batch_size, maps = whole("batch_size", batch_size, 1, 2**31), flag("maps", maps)
    check_module("model", model)
    device = next(model.parameters()).device
    levels, counts = first_levels(model, to_float(images[:1].to(device)))
    seen: dict[str, list[Tensor]] = {"clean": [], "pgd": []}
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for number, (x, y) in enumerate(batches):
        x = to_float(x.to(device))
        attacked = perturb(model, attack, x, y.to(device), batch_seed(seed, number))
        seen["clean"].append(last_inputs(model, x))
        seen["pgd"].append(last_inputs(model, attacked))
    found = {"first/levels": levels, "first/counts": counts}
    y = labels.numpy()
    for name, parts in seen.items():
        # The numbers are those of what is stored; float16 ends at 65504.
        features = torch.cat(parts).clamp(-6e4, 6e4).half().cpu().numpy()
        found[f"knn/{name}"] = np.array(knn_agreement(features, y))
        found[f"silhouette/{name}"] = np.array(silhouette(features, y))
        if maps:
            found[f"features/{name}"] = features
            found[f"tsne/{name}"] = tsne(features)
            found["features/labels"] = y
    return found
