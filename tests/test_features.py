"""Features and the numbers that sum them up, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reproduce import data, models
from reproduce.attacks import PGD, perturb
from reproduce.evaluation import batch_seed
from reproduce.papers import features
from reproduce.quantizers import DynamicQuantizer, activation

RANDOM = np.random.default_rng(3)
POINTS = RANDOM.normal(size=(40, 5)).astype(np.float16)
LABELS = RANDOM.integers(0, 3, 40)


def distances(points: np.ndarray) -> np.ndarray:
    wide = points.astype(np.float64)
    return np.linalg.norm(wide[:, None] - wide[None], axis=2)


@pytest.mark.parametrize("k", [1, 10])
def test_agreement_is_the_share_of_nearest_neighbours_of_ones_own_class(k):
    far = distances(POINTS)
    np.fill_diagonal(far, np.inf)
    same = [
        np.mean(LABELS[np.argsort(row)[:k]] == own) for row, own in zip(far, LABELS, strict=True)
    ]
    assert features.knn_agreement(POINTS, LABELS, k) == pytest.approx(np.mean(same))


def test_agreement_is_1_of_clusters_apart_and_a_classs_share_where_features_say_nothing():
    labels = np.repeat([0, 1], 20)
    assert features.knn_agreement(labels[:, None] + POINTS / 100, labels) == 1
    blind = RANDOM.normal(size=(2_000, 3))
    assert features.knn_agreement(blind, RANDOM.integers(0, 4, 2_000)) == pytest.approx(
        0.25, abs=0.02
    )


def test_the_silhouette_compares_the_own_class_with_the_nearest_other_one():
    far, each = distances(POINTS), []
    for i, own in enumerate(LABELS):
        mates = (LABELS == own) & (np.arange(40) != i)
        a = far[i, mates].mean()
        b = min(far[i, LABELS == other].mean() for other in {0, 1, 2} - {own})
        each.append((b - a) / max(a, b))
    assert features.silhouette(POINTS, LABELS) == pytest.approx(np.mean(each))


def test_a_map_keeps_clusters_apart_and_is_the_same_each_time():
    labels = np.repeat([0, 1], 20)
    points = (20 * labels[:, None] + POINTS).astype(np.float16)
    found = features.tsne(points)
    assert found.shape == (40, 2) and found.dtype == np.float32
    assert features.knn_agreement(found, labels, 5) == 1
    assert np.array_equal(found, features.tsne(points))


def test_features_that_do_not_differ_have_a_map_of_one_point():
    assert not features.tsne(np.ones((9, 4), np.float16)).any()


def network(name: str, bits: int | None) -> nn.Module:
    torch.manual_seed(1)
    return models.resnet18(activation(name, bits), width=4).eval()


PATTERNS = data.load("patterns")
X, Y = PATTERNS.x_test[:12], PATTERNS.y_test[:12]


@pytest.mark.parametrize(("name", "bits"), [("fixed", 1), ("fixed", 2), ("dynamic", 2)])
def test_levels_are_those_of_the_first_quantiser_and_all_outputs_are_counted(name, bits):
    model = network(name, bits)
    levels, counts = features.first_levels(model, data.to_float(X[:1]))
    layer = next(m for m in model.modules() if hasattr(m, "bits"))
    start = model[:3](data.to_float(X[:1]))
    expected = layer(start)
    assert counts.sum() == expected.numel() == 4 * 32 * 32
    for level, count in zip(levels, counts, strict=True):
        assert ((expected - level).abs() < 1e-3).sum() == count
    if isinstance(layer, DynamicQuantizer):
        assert set(levels) <= set(layer.levels().detach().numpy().round(4))


def test_relu_has_no_levels():
    assert all(len(part) == 0 for part in features.first_levels(network("relu", None), X[:1] / 255))


def test_features_are_what_the_last_layer_turns_into_logits():
    model, x = network("dynamic", 2), data.to_float(X)
    kept = features.last_inputs(model, x)
    assert torch.allclose(model[-1](kept), model(x))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("whole", [True, False])
def test_stored_numbers_are_those_of_the_stored_features_of_the_evaluated_images(whole):
    model, attack = network("fixed", 2), PGD(8, 4, 2)
    options = {"batch_size": 5, "seed": 3}
    found = features.measure(model, X, Y, attack, **options, maps=True)
    few = features.measure(model, X, Y, attack, **options, maps=whole)
    assert {n for n in found if n.startswith(("features", "tsne"))} >= set(found) - set(few)
    assert ("features/pgd" in few) == ("tsne/pgd" in few) == whole
    for name in ("clean", "pgd"):
        stored = found[f"features/{name}"]
        assert stored.dtype == np.float16
        assert few[f"knn/{name}"] == features.knn_agreement(stored, Y.numpy())
        assert few[f"silhouette/{name}"] == features.silhouette(stored, Y.numpy())
    x = [data.to_float(part) for part in X.split(5)]
    y = Y.split(5)
    attacked = [perturb(model, attack, x[i], y[i], batch_seed(3, i)) for i in range(3)]
    expected = torch.cat([features.last_inputs(model, part) for part in attacked]).half()
    assert np.array_equal(found["features/pgd"], expected.numpy())
