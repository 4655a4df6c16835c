"""The papers' trials and `audit` are one evaluation: the same attacks give the same bits."""

from __future__ import annotations

import os

import pytest

from reproduce import audit, data, records, runner
from reproduce.evaluation import correct
from reproduce.papers import dqa
from reproduce.papers.units import OneByOne

ATTACKS = ("table/pgd", "rule/zero", "main", "loss/margin", "scaled")
IMAGES = 43  # the first that the network misjudges as it is comes after these


@pytest.mark.skipif("REPRODUCE_DATA" not in os.environ, reason="REPRODUCE_DATA names no MNIST")
def test_an_audit_of_a_committed_network_finds_what_its_trial_has_recorded():
    network = dqa.network("mnist", "fixed", 2, mixed=True, scale="paper")
    trial = dqa.trial(network)
    found = records.found({name: trial[name] for name in ("clean", *ATTACKS)})
    recorded = {name: record.judged[:IMAGES] for name, record in found.items()}
    assert recorded["clean"].all() and recorded["table/pgd"].all()
    assert 10 < recorded["main"].sum() < 40

    model = OneByOne().judge(runner.trained(network))
    test = data.load("mnist")
    images, labels = data.to_float(test.x_test[:IMAGES]), test.y_test[:IMAGES]
    suite, main = {name: trial[name].attack for name in ATTACKS}, trial["main"].attack
    options = {"eps": main.eps_255 / 255, "suite": suite, "seed": network.seed}
    audited = audit(model, images, labels, **options, progress=False).attacks
    here = correct(model, images, labels, main, batch_size=IMAGES, seed=network.seed)
    assert (audited["main"].bits == here.numpy()).all()
    for name in ATTACKS:  # another processor, or batch, may round one image over a step
        assert (audited[name].bits != recorded[name]).sum() <= 1, name
