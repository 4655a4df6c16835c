"""A norm trial stores how far each image was moved, through the rule that it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reproduce import data, grids, norms, units, variants
from reproduce.attacks import PGD, bpda
from reproduce.attacks.carlini_wagner import CarliniWagner
from reproduce.attacks.zoo import ZOO
from reproduce.evaluation import batch_seed
from reproduce.experiments import run, trained
from reproduce.norms import Minimal, NormTrial, norm_trial
from reproduce.trials import DQATrial

CW = CarliniWagner(steps=8, search_steps=2, lr=0.1, initial_c=1.0)
SMALL_ZOO = ZOO(200, 1, 40, 8.0, lr=0.2, initial_c=100.0)


pytestmark = pytest.mark.usefixtures("folders")


def tiny() -> grids.DQA:
    full = grids.dqa("digits", "fixed", 2, 0, "smoke")
    training = replace(full.training, epochs=2, clean_epochs=0, ramp_epochs=0, attack=None)
    attacks = {"clean": None, "fgsm": PGD(2, 2, 1), "pgd": PGD(2, 2, 1)}
    return replace(full, train_images=400, test_images=10, training=training, attacks=attacks)


def test_a_norm_trial_keeps_each_norm_and_counts_as_correct_what_was_never_broken():
    conditions = {
        "cw/own": Minimal(attack=CW, images=5),
        "cw/zero": Minimal(attack=CW, images=5, backward="zero", temperature=1.0),
        "zoo/8": Minimal(attack=SMALL_ZOO, images=4),
    }
    trial = NormTrial(base=tiny(), conditions=conditions, batch=3)
    record = run(trial)
    assert record.name == "dqa-digits-norms"
    model = DQATrial.deployed(trained(trial.base))
    dataset = data.load("digits")
    for name, condition in conditions.items():
        expected = []
        for number, few in enumerate((slice(0, 3), slice(3, condition.images))):
            x, y = data.to_float(dataset.x_test[few]), dataset.y_test[few]
            if name == "zoo/8":
                found = SMALL_ZOO.run(model, x, y, seed=batch_seed(0, number))
            else:
                rule = "zero" if name == "cw/zero" else "straight_through"
                with bpda(model, rule):
                    found = CW.run(model, x, y)
            expected += found.norms.tolist()
        stored = record.arrays[f"norm/{name}"]
        assert stored.tolist() == expected and stored.dtype == np.float32
        counts = {"correct": int(np.isinf(stored).sum()), "total": condition.images}
        assert record.metrics[name] == counts
    assert record.metrics["cw/zero"]["correct"] > record.metrics["cw/own"]["correct"]
    assert torch.is_grad_enabled()


def test_networks_without_adversarial_training_meet_cw_and_those_with_it_zoo_as_well():
    found = {(t.cell, t.seed): t for t in norms.grid(scale="laptop")}
    clean = {f"{c}-clean" for c in ("relu", "fixed-1bit", "fixed-2bit", "fixed-3bit")}
    trained_on = {"relu", "dynamic-1bit", "dynamic-2bit", "dynamic-3bit"}
    assert found.keys() == {(cell, 0) for cell in clean | trained_on}
    for (cell, _), trial in found.items():
        rules = {"cw/own"} | (set() if "relu" in cell else {"cw/sigmoid"})
        steps = set() if cell in clean else {f"zoo/{h}" for h in norms.H_255}
        assert trial.conditions.keys() == rules | steps
        assert all(c.images == 100 for c in trial.conditions.values())


def test_zoo_s_step_width_goes_from_a_ten_thousandth_to_the_radius():
    trial = norm_trial(grids.dqa("cifar10", "dynamic", 2))
    widths = [trial.conditions[f"zoo/{h}"].attack.h_255 / 255 for h in norms.H_255]
    assert widths == pytest.approx([1e-4, 1e-3, 1 / 255, 2 / 255, 4 / 255, 8 / 255])


def test_every_setting_of_an_attack_changes_the_key_and_names_its_kind():
    base = next(e for e in variants.grid(scale="smoke") if e.cell == "fixed-1bit-clean")
    trial = norm_trial(base)
    own = trial.conditions["cw/own"]
    others = [replace(own, attack=replace(own.attack, steps=11)), replace(own, images=3)]
    others += [replace(own, backward="tanh"), replace(own, attack=SMALL_ZOO)]
    keys = {replace(trial, conditions={"cw/own": c}).key for c in [own, *others]}
    assert len(keys) == 5
    plan = grids.configuration(trial)["trial"]["conditions"]["cw/own"]
    assert plan["attack"]["kind"] == "CarliniWagner"


def test_more_images_steps_and_queries_are_more_work():
    def work(attack, images=5):
        conditions = {"one": Minimal(attack=attack, images=images)}
        return units.work(NormTrial(base=tiny(), conditions=conditions))

    assert work(CW) < min(
        work(CW, 6), work(replace(CW, steps=9)), work(replace(CW, search_steps=3))
    )
    assert work(SMALL_ZOO) < work(replace(SMALL_ZOO, queries=300))
