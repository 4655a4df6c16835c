"""C&W and ZOO: how far each image is moved, on which network, through which rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reproduce import data, models
from reproduce.attacks import ZOO, CarliniWagner, bpda
from reproduce.evaluation import batch_seed
from reproduce.papers import dqa
from reproduce.papers.units import Norms, OneByOne
from reproduce.quantizers import FixedQuantizer
from reproduce.training import Settings, train

CW = CarliniWagner(steps=8, search_steps=2, lr=0.1, initial_c=1.0)
SMALL_ZOO = ZOO(200, 1, 40, 8.0, lr=0.2, initial_c=100.0)


@pytest.fixture(scope="module")
def learnt():
    """A LeNet with 2 fixed bits, trained for a second, as a unit and as a model; and the digits."""
    unit = dqa.network("digits", "fixed", 2, scale="smoke")
    dataset, model = data.load("digits"), unit.build()
    few = slice(800)
    train(model, dataset.x_train[few], dataset.y_train[few], Settings(epochs=2, lr=5e-3), 0)
    return unit, model.eval(), dataset


def asked(unit, attack, **options) -> Norms:
    common = {"name": "cw/own", "view": OneByOne(), "images": 5, "batch": 3, "seed": 0}
    return Norms(network=unit, attack=attack, **common | options)


def alone(model: torch.nn.Module) -> torch.nn.Module:
    """The network whose quantisers take their maximum over the image."""
    model = models.folded(model).to(memory_format=torch.channels_last)
    for layer in model.modules():
        if isinstance(layer, FixedQuantizer):
            layer.maximum = "image"
    return model


@pytest.mark.parametrize("rule", [None, "zero", "sigmoid"])
def test_cw_attacks_the_network_asked_one_image_at_a_time_through_the_rule_that_is_named(
    learnt, rule
):
    unit, model, dataset = learnt
    temperature = 5.0 if rule == "sigmoid" else None
    measured = asked(unit, CW, backward=rule, temperature=temperature)
    found = measured.outcome({unit: model}, dataset).norms
    expected, judge = [], alone(model)
    for few in (slice(0, 3), slice(3, 5)):
        x, y = data.to_float(dataset.x_test[few]), dataset.y_test[few]
        with bpda(judge, rule or "straight_through", temperature or 1.0):
            expected += CW.run(judge, x, y).norms.tolist()
    assert found.tolist() == expected
    assert found.dtype == torch.float32


def test_a_gradient_of_zero_breaks_less(learnt):
    unit, model, dataset = learnt
    own, blind = (
        asked(unit, CW, backward=rule).outcome({unit: model}, dataset).norms.isinf().sum()
        for rule in (None, "zero")
    )
    assert own < blind


def test_zoo_draws_anew_for_each_batch(learnt):
    unit, model, dataset = learnt
    found = asked(unit, SMALL_ZOO, images=4, seed=7).outcome({unit: model}, dataset).norms
    expected = []
    for number, few in enumerate((slice(0, 3), slice(3, 4))):
        x, y = data.to_float(dataset.x_test[few]), dataset.y_test[few]
        expected += SMALL_ZOO.run(alone(model), x, y, seed=batch_seed(7, number)).norms.tolist()
    assert found.tolist() == expected


def test_the_sigmoid_is_named_by_its_rule_and_the_other_is_the_networks_own():
    suite = dqa.norms(dqa.network("cifar10", "dynamic", 2))
    assert (suite["cw/sigmoid"].backward, suite["cw/sigmoid"].temperature) == ("sigmoid", 5.0)
    assert (suite["cw/own"].backward, suite["cw/own"].temperature) == (None, None)


def test_zoo_s_difference_goes_from_a_ten_thousandth_to_the_radius():
    suite = dqa.norms(dqa.network("cifar10", "dynamic", 2))
    widths = [suite[f"zoo/{h}"].attack.h_255 / 255 for h in dqa.H_255]
    assert widths == pytest.approx([1e-4, 1e-3, 1 / 255, 2 / 255, 4 / 255, 8 / 255])


def test_whatever_decides_a_norm_changes_its_key_and_its_name_does_not():
    suite = dqa.norms(dqa.network("cifar10", "dynamic", 2))
    own = suite["cw/own"]
    others = [
        replace(own, attack=replace(own.attack, steps=11)),
        replace(own, images=3),
        replace(own, backward="tanh"),
        replace(own, attack=SMALL_ZOO),
        replace(own, seed=1),
        replace(own, network=dqa.network("cifar10", "dynamic", 3)),
    ]
    assert len({m.key for m in [own, *others]}) == 7
    assert replace(own, name="another").key == own.key


def test_more_images_steps_and_queries_are_more_work():
    unit = dqa.network("digits", "fixed", 2, scale="smoke")
    least = asked(unit, CW).passes
    for more in (
        asked(unit, CW, images=6),
        asked(unit, replace(CW, steps=9)),
        asked(unit, replace(CW, search_steps=3)),
    ):
        assert more.passes > least
    assert asked(unit, replace(SMALL_ZOO, queries=300)).passes > asked(unit, SMALL_ZOO).passes
