"""Laws of the networks that are trained with the filter in the loop, and of their trials."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reproduce import data, grids, hardened, trials
from reproduce.grids import quantised
from reproduce.trials import Condition


@pytest.fixture(scope="module")
def patterns():
    return data.load("patterns")


@pytest.mark.parametrize("kind", hardened.KINDS)
def test_the_network_sees_an_image_as_the_filter_leaves_it(kind, patterns):
    base = hardened.hardened(*kind, scale="smoke")
    model = base.model().eval()
    x = patterns.x_test[:8]
    with torch.no_grad():
        expected = model[1](quantised(x, *kind))
        torch.testing.assert_close(model(base.prepare(x)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["before/clean", "before/bare", "before/identity"])
def test_its_trial_attacks_what_the_trial_of_the_same_network_attacks(name, patterns):
    base = hardened.hardened(2, True, scale="smoke")
    plain = grids.double_quantization(2, True, scale="smoke")
    trial, other = hardened.trial(base), trials.double_trial(plain)
    model = base.model()
    assert trial.conditions[name] == other.conditions[name]
    with torch.no_grad():  # answers that differ from image to image
        model[1][-1].weight.mul_(30)
    arguments = (None, patterns, lambda: None)
    ours = trial.evaluations(model, *arguments)[name]()
    theirs = other.evaluations(model[1], *arguments)[name]()
    assert torch.equal(ours, theirs)


def test_every_condition_of_its_trial_has_its_noise_before_dithering():
    for kind in hardened.KINDS:
        trial = hardened.trial(hardened.hardened(*kind, scale="paper"))
        assert {c.noise for c in trial.conditions.values()} == {"before"}
        assert "twin" not in {c.sees for c in trial.conditions.values()}
        assert trial.twin() is None


def test_hardened_networks_and_trials_have_keys_of_their_own():
    units = list(hardened.grid())
    plain = [*grids.grid(), *trials.grid()]
    assert len({u.key for u in units}) == len(units) == 3 * 2 * (2 + 6)
    assert not {u.key for u in units} & {u.key for u in plain}
    assert not list(hardened.grid(seed=1))
    assert {u.paper for u in hardened.grid("dqa")} == {"dqa"}
    assert len(list(hardened.grid("double-quantization", "laptop"))) == 4


def test_an_informed_network_differs_from_table_1_in_its_training_attacks_rule_alone():
    base = hardened.informed("dynamic", 2)
    plain = grids.dqa("mnist", "dynamic", 2, mixed=True)
    rule = base.training.attack.backward, base.training.attack.temperature
    main = trials.dqa_trial(plain).main
    assert rule == (main.backward, main.temperature) == ("sigmoid", 5.0)
    attack = replace(base.training.attack, backward=None, temperature=None)
    assert replace(base, training=replace(base.training, attack=attack)) == plain
    assert base.cell == "dynamic-2bit-mixed-informed"


def test_an_informed_network_shares_its_twin_and_its_attacks_with_table_1s():
    informed = trials.dqa_trial(hardened.informed("fixed", 1))
    plain = trials.dqa_trial(grids.dqa("mnist", "fixed", 1, mixed=True))
    assert informed.twin() == plain.twin()
    assert informed.conditions == plain.conditions


def test_relu_has_nothing_to_know():
    with pytest.raises(ValueError, match="'relu'; choose fixed or dynamic"):
        hardened.informed("relu", None)


def test_a_hit_is_counted_where_the_bare_network_is_attacked_alone(patterns):
    base = hardened.hardened(2, True, scale="smoke")
    trial = hardened.trial(base)
    model = base.model()
    condition = Condition(attack=replace(base.attack, steps=1), images=12, sees="bare")
    trial = replace(trial, conditions={"one": condition})
    hits = trial.evaluations(model, None, patterns, lambda: None)["one"]()
    assert hits.shape == (12,) and hits.dtype == torch.bool
