"""A substitute learns what its target says; what is made on it is shown to both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reproduce import data, records
from reproduce.attacks import perturb
from reproduce.evaluation import batch_seed
from reproduce.papers import dqa, registry
from reproduce.papers.dqa import Substitute
from reproduce.training import Settings, train

BRIEF = Settings(epochs=2, batch_size=20, lr=2e-3)


def tiny(architecture: str = "alexnet") -> Substitute:
    target = replace(
        dqa.network("patterns", "dynamic", 1, scale="smoke"),
        width=2,
        train_images=40,
        training=BRIEF,
    )
    return replace(dqa.substitute(target, architecture), training=BRIEF)


@pytest.fixture(scope="module", params=dqa.ARCHITECTURES)
def pair(request):
    """(substitute, its models by unit, patterns), both trained for a second."""
    made, dataset = tiny(request.param), data.load("patterns")
    models = {unit: unit.build() for unit in (made.target, made)}
    for model in models.values():
        few = slice(120)
        train(model, dataset.x_train[few], dataset.y_train[few], BRIEF, 0)
        model.eval()
    return made, models, dataset


def test_a_substitute_s_labels_are_the_answers_of_its_target_to_the_images_it_trains_on(pair):
    made, models, dataset = pair
    with torch.no_grad():
        said = models[made.target](data.to_float(dataset.x_train[:40])).argmax(1)
    assert torch.equal(made.labels(dataset, models), said)
    assert not torch.equal(said, dataset.y_train[:40])
    assert made.needs() == (made.target,)


@pytest.mark.parametrize("condition", ["clean", "fgsm", "pgd"])
def test_what_is_made_on_the_substitute_is_shown_to_it_and_to_its_target(pair, condition):
    made, models, dataset = pair
    suite = dqa.transfer(made)
    x, y = data.to_float(dataset.x_test[:12]), dataset.y_test[:12]
    attack = dqa.table_attacks(made.target)[condition]
    if attack is not None:
        batches = zip(x.split(5), y.split(5), strict=True)
        parts = [perturb(models[made], attack, *b, batch_seed(0, i)) for i, b in enumerate(batches)]
        x = torch.cat(parts)
    answers = {}
    for who, unit in (("substitute", made), ("defense", made.target)):
        short = replace(suite[f"{who}/{condition}"], images=12, batch=5)
        assert short.network is unit
        with torch.no_grad():
            answers[who] = models[unit](x).argmax(1)
        assert torch.equal(short.outcome(models, dataset).bits, answers[who] == y)
    both = replace(suite["agreement"], images=12, batch=5)
    if condition == "clean":
        same = answers["substitute"] == answers["defense"]
        assert torch.equal(both.outcome(models, dataset).bits, same)


def test_the_target_s_clean_images_are_those_of_its_table():
    made = dqa.substitute(dqa.network("cifar10", "dynamic", 2), "vgg16")
    clean = dqa.transfer(made)["defense/clean"]
    assert clean.key == dqa.table(made.target)["clean"].key
    assert dqa.transfer(made)["defense/pgd"].key != dqa.table(made.target)["pgd"].key


def test_running_a_substitute_trains_its_target_first_and_then_on_these_labels(
    folders, monkeypatch
):
    from reproduce import runner

    monkeypatch.setattr(runner, "device", lambda: torch.device("cpu"))
    made, asked = tiny(), []

    def labels(self, dataset, trained):
        asked.append(trained)
        return dataset.y_train[:40]  # not what the target says

    with runner.Stop() as stop:
        learnt = runner.run(made, stop)
        assert records.find(made.target) is not None
        target = runner.trained(made.target)
        (folders / "results").rename(folders / "first")
        monkeypatch.setattr(Substitute, "labels", labels)
        misled = runner.run(made, stop)
    assert learnt.weights_sha256 != misled.weights_sha256
    (trained,) = asked
    for one, other in zip(trained[made.target].parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)


def test_there_are_two_substitutes_for_each_dynamic_network_of_table_2():
    found = [n for n in registry.networks("dqa", "paper") if isinstance(n, Substitute)]
    assert len(found) == 5 * 3 * 2
    assert {s.cell for s in found} == {
        f"dynamic-{b}bit-{a}" for b in (1, 2, 3) for a in ("vgg16", "alexnet")
    }
    assert all(s.width == 64 and s.training.attack is None for s in found)
    smoke = [n for n in registry.networks("dqa", "smoke") if isinstance(n, Substitute)]
    assert len(smoke) == 6
    assert not [n for n in registry.networks("double-quantization") if isinstance(n, Substitute)]


def test_a_substitute_is_for_a_resnet_of_table_2_and_of_a_known_architecture():
    with pytest.raises(ValueError, match="architecture is 'resnet'"):
        dqa.substitute(dqa.network("cifar10", "dynamic", 2), "resnet")
    with pytest.raises(ValueError, match="for ResNets of Table 2"):
        dqa.substitute(dqa.network("mnist", "dynamic", 2), "vgg16")


@pytest.mark.parametrize("architecture", dqa.ARCHITECTURES)
def test_the_width_decides_every_layer_of_a_substitute(architecture):
    sizes = [
        [p.numel() for p in m.parameters() if p.dim() > 1 and p.shape[0] != 10][1:]
        for m in (replace(tiny(architecture), width=w).build() for w in (32, 16))
    ]
    assert sizes[0] and all(4 * half == full for full, half in zip(*sizes, strict=True))


def test_another_target_is_another_substitute():
    one = tiny()
    assert replace(one, target=replace(one.target, seed=1)).key != one.key
    assert replace(one, width=4).macs > one.macs
