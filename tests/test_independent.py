"""Another implementation of APGD (ART's) on the trial's own networks, image by image."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from reproduce import data, runner
from reproduce.attacks import bpda
from reproduce.papers import dqa
from reproduce.papers.units import OneByOne
from reproduce.report.results import Results

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

IMAGES = 100


def standing(model: nn.Module, images: np.ndarray, labels: np.ndarray, eps: float) -> np.ndarray:
    """(N,) bool: right as they are, and after ART's APGD on cross-entropy and on DLR."""
    loss, shape = nn.CrossEntropyLoss(), images.shape[1:]
    known = PyTorchClassifier(model, loss, shape, 10, clip_values=(0, 1), device_type="cpu")
    left = known.predict(images).argmax(1) == labels
    for kind in ("cross_entropy", "difference_logits_ratio"):
        rows = np.flatnonzero(left)
        attack = AutoProjectedGradientDescent(
            known, np.inf, eps, 2 * eps, 100, False, 1, IMAGES, kind, verbose=False
        )
        made = attack.generate(images[rows], y=np.eye(10, dtype=np.float32)[labels[rows]])
        assert np.abs(made - images[rows]).max() <= eps + 1e-5
        left[rows] = known.predict(made).argmax(1) == labels[rows]
    return left


@pytest.mark.skipif("REPRODUCE_DATA" not in os.environ, reason="REPRODUCE_DATA names no MNIST")
@pytest.mark.parametrize(("activation", "bits"), [("relu", None), ("fixed", 3)])
def test_another_implementation_leaves_about_as_many_and_breaks_none_that_the_trial_keeps(
    activation, bits
):
    network = dqa.network("mnist", activation, bits, mixed=True, scale="paper")
    results = Results(network)
    attack = results.suite("trial")["autoattack/sigmoid" if bits else "autoattack"]
    recorded, kept = attack.judged[:IMAGES], results.worst_case()[:IMAGES]
    test = data.load("mnist")
    images, labels = data.to_float(test.x_test[:IMAGES]).numpy(), test.y_test[:IMAGES].numpy()
    model = OneByOne().judge(runner.trained(network)).eval()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    rule = (dqa.MAIN_RULE["backward"], dqa.MAIN_RULE["temperature"]) if bits else (None, None)
    with bpda(model, *rule):
        theirs = standing(model, images, labels, dqa.table_attacks(network)["pgd"].eps_255 / 255)
    assert theirs.sum() < IMAGES - 5, "some are broken, or this says nothing"
    assert not (kept & ~theirs).any()
    # The recorded one has targeted losses, FAB and Square besides.
    assert -1 <= int(theirs.sum()) - int(recorded.sum()) <= 5
