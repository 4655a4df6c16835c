"""A substitute learns what the target says; what is made on it is shown to both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reproduce import data, experiments, grids, substitutes, units, variants
from reproduce.attacks import FGSM, PGD, perturb
from reproduce.evaluation import batch_seed
from reproduce.experiments import run, trained
from reproduce.substitutes import Substitute, substitute
from reproduce.training import Interrupted

pytestmark = pytest.mark.usefixtures("folders")


def tiny(network: str = "alexnet") -> Substitute:
    full = grids.dqa("patterns", "dynamic", 1, 0, "smoke")
    training = replace(
        full.training, epochs=1, clean_epochs=0, batch_size=20, attack=PGD(8, 4, 1), autocast=False
    )
    attacks = {"clean": None, "fgsm": FGSM(8), "pgd": PGD(8, 4, 2)}
    base = replace(
        full, width=2, train_images=40, test_images=12, eval_batch=5,
        training=training, attacks=attacks,
    )  # fmt: skip
    made = substitute(base, network)
    return replace(made, training=replace(made.training, batch_size=20, autocast=False, epochs=2))


@pytest.mark.parametrize("network", substitutes.NETWORKS)
def test_a_substitute_learns_the_answers_of_its_target_and_both_meet_its_attacks(
    monkeypatch, network
):
    seen, kept, genuine = [], [], experiments.train

    def watched(model, images, labels, *args, **kwargs):
        seen.append((images, labels))
        kept.append(model)
        return genuine(model, images, labels, *args, **kwargs)

    monkeypatch.setattr(experiments, "train", watched)
    trial = tiny(network)
    record = run(trial)
    target, made = trained(trial.base), kept[-1].eval()
    dataset = data.load("patterns")
    x, labels = seen[-1]
    assert torch.equal(x, dataset.x_train[:40])
    with torch.no_grad():
        assert torch.equal(labels, target(data.to_float(x)).argmax(1))
    x, y = data.to_float(dataset.x_test[:12]), dataset.y_test[:12]
    for name, attack in trial.base.attacks.items():
        parts = []
        for i, (few, own) in enumerate(zip(x.split(5), y.split(5), strict=True)):
            hit = few if attack is None else perturb(made, attack, few, own, batch_seed(0, i))
            parts.append(hit)
        for who, judge in (("substitute", made), ("defense", target)):
            with torch.no_grad():
                right = torch.cat([judge(part).argmax(1) for part in parts]) == y
            assert record.metrics[f"{who}/{name}"] == {"correct": int(right.sum()), "total": 12}
            stored = np.unpackbits(record.arrays[f"correct/{who}/{name}"], count=12)
            assert stored.tolist() == right.int().tolist()
    with torch.no_grad():
        same = (made(x).argmax(1) == target(x).argmax(1)).sum().item()
    assert record.metrics["agreement"] == {"correct": same, "total": 12}
    assert len(record.curves["loss"]) == 2
    assert record.weights_sha256 == experiments.load(trial.base).weights_sha256


def test_a_stopped_substitute_resumes_to_the_same_record(folders):
    trial = tiny()
    expected = run(trial)
    (folders / "results" / trial.name).rename(folders / "first")
    calls = iter([*range(3), None])

    def stop():
        if next(calls, 1) is None:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(trial, check_stop=stop)
    record = run(trial)
    assert record.metrics == expected.metrics and record.curves == expected.curves


def test_the_grid_has_two_substitutes_for_each_dynamic_network_of_table_2():
    found = list(substitutes.grid(scale="paper"))
    assert len(found) == 5 * 3 * 2
    assert {s.cell for s in found} == {
        f"dynamic-{b}bit-{network}" for b in (1, 2, 3) for network in ("vgg16", "alexnet")
    }
    assert all(s.width == 64 and s.training.attack is None for s in found)
    assert len(list(substitutes.grid(scale="smoke"))) == 6
    assert not list(substitutes.grid("double-quantization"))


def test_the_width_decides_every_layer_of_a_substitute():
    for network in substitutes.NETWORKS:
        full, half = (replace(tiny(network), width=w).model() for w in (32, 16))
        sizes = [
            [p.numel() for p in m.parameters() if p.dim() > 1 and p.shape[0] != 10][1:]
            for m in (full, half)
        ]
        assert all(4 * b == a for a, b in zip(*sizes, strict=True))


def test_a_wider_substitute_more_epochs_and_more_steps_are_more_work():
    less = tiny()
    steps = replace(less.conditions["pgd"], attack=PGD(8, 4, 20))
    for more in (
        replace(less, width=4),
        replace(less, training=replace(less.training, epochs=5)),
        replace(less, conditions=less.conditions | {"pgd": steps}),
    ):
        assert units.work(more) > units.work(less) > 0


def test_every_unit_has_a_key_and_a_file_of_its_own():
    every = list(units.grid())
    assert len({u.key for u in every}) == len({(u.name, u.slug) for u in every}) == len(every)
    assert all(units.work(u) > 0 for u in every)


def test_variants_are_the_networks_of_table_3_without_attack_and_the_readings_of_table_1():
    def cells(**of):
        return {e.cell for e in variants.grid(**of)}

    clean = {"relu-clean", *(f"fixed-{b}bit-clean" for b in (1, 2, 3))}
    assert cells(scale="paper") == clean
    assert cells(scale="laptop") == cells(scale="smoke") == clean | set(variants.READINGS)
    assert {e.seed for e in variants.grid()} == {0}
    assert not cells(scale="laptop", seed=1)
    for e in variants.grid(scale="laptop"):
        table = {t.cell: t for t in grids.grid("dqa", "laptop", 0) if t.name == e.name}
        twin = table[e.cell.rsplit("-", 1)[0]]
        assert twin.training.clean_weight == (0.5 if e.name == "dqa-mnist" else 0)
        assert (e.training.attack is None) == (e.name == "dqa-cifar10")
        assert e.attacks == twin.attacks and e.key != twin.key
