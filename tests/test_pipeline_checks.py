"""What is stored of the attacks before dithering is what the pipeline itself does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reproduce import data, grids, pipeline_checks, trial_records, trials
from reproduce.experiments import run, trained
from reproduce.grids import quantised
from reproduce.pipeline import DoubleQuantizer
from reproduce.pipeline_checks import checks


@pytest.fixture(scope="module")
def patterns():
    return data.load("patterns")


pytestmark = pytest.mark.usefixtures("folders")


def sharp(kind, patterns):
    """An untrained network whose answers differ from image to image."""
    unit = checks(grids.double_quantization(*kind, scale="smoke"))
    model = unit.base.model().eval()
    with torch.no_grad():
        model[-1].weight.mul_(30)
    return unit, model, unit.arrays(model, patterns, lambda: None)


@pytest.mark.parametrize("kind", [(1, True), (2, False), (8, False)])
def test_the_examples_are_sent_attacked_and_received_as_in_the_tables(kind, patterns):
    unit, model, arrays = sharp(kind, patterns)
    sent = (quantised(patterns.x_test[:4], *kind) * 255).round().byte()
    assert np.array_equal(arrays["example/sent"], sent.numpy())
    attacked = arrays["example/attacked"].astype(int)
    moved = np.abs(attacked - arrays["example/sent"])
    assert 0 < moved.max() <= unit.paper_attack.eps_255 == 8
    with torch.no_grad():
        again = DoubleQuantizer(kind[0], False)(torch.from_numpy(attacked).float() / 255)
        logits = model(data.to_float(sent))
    assert np.array_equal(arrays["example/received"], (again * 255).round().byte().numpy())
    if kind[0] < 3:  # inside the radius the filter takes all of it away
        received = arrays["example/received"].astype(int)
        assert np.abs(received - arrays["example/sent"]).max() <= 1
    said = arrays["confidence/sent"]
    np.testing.assert_allclose(said, logits.softmax(1), atol=1e-4)
    np.testing.assert_allclose([a.sum() for a in said], 1, atol=1e-5)
    assert arrays["labels"].tolist() == patterns.y_test[:4].tolist()


def test_the_main_attack_is_the_trial_s_and_each_condition_moves_one_thing():
    base = grids.double_quantization(2, True)
    unit, plain = checks(base), trials.double_trial(base).conditions
    assert unit.main == plain["before/averaged"].attack
    assert {c.noise for c in unit.conditions.values()} == {"before"}
    attacks = {n: c.attack for n, c in unit.conditions.items()}
    assert attacks["main"] == unit.main
    assert attacks["steps/twice"] == replace(unit.main, steps=2 * unit.main.steps)
    for name, eps in (("0", 0), ("0.25", 2), ("0.5", 4), ("2", 16), ("unbounded", 255)):
        found = attacks[f"eps/{name}"]
        assert replace(found, eps_255=8, step_255=2) == unit.main and found.eps_255 == eps
    assert attacks["noise"].eps_255 == unit.main.eps_255


def test_a_record_has_what_the_checks_read(patterns):
    base = grids.double_quantization(1, True, scale="smoke")
    training = replace(base.training, epochs=1)
    base = replace(base, train_images=100, test_images=20, attacked_images=4, training=training)
    unit = checks(base)
    record = run(unit)
    assert record.name == "double-quantization-patterns-checks"
    found = trial_records.main_checks(record)
    assert found["ε = 0 changes nothing"][0]
    assert all(isinstance(passed, bool) and said for passed, said in found.values())
    whole = torch.nn.Sequential(DoubleQuantizer(1, True), *trained(base)).eval()
    x, y = patterns.x_test[:8], patterns.y_test[:8]
    with torch.no_grad():
        hits = whole(data.to_float(x)).argmax(1) == y
    assert record.metrics["clean"] == {"correct": int(hits.sum()), "total": 8}
    assert len(record.arrays["loss/main"]) == unit.main.steps + 1
    assert record.arrays["planted/main"].shape == (2,)


def test_there_is_one_for_each_model_of_the_tables():
    units = list(pipeline_checks.grid(scale="laptop"))
    assert [u.cell for u in units] == [grids.kind_name(*k) for k in grids.KINDS]
    assert {u.seed for u in units} == {0} and not list(pipeline_checks.grid("dqa"))
    assert not list(pipeline_checks.grid(seed=1))
