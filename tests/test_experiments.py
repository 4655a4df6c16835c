from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
from collections import Counter
from dataclasses import fields, replace

import filelock
import numpy as np
import pytest
import torch

from reproduce import data, experiments, grids, results, storage, training, units
from reproduce.attacks import FGSM, PGD
from reproduce.dither import bayer, floyd_steinberg, jarvis_judice_ninke
from reproduce.evaluation import correct
from reproduce.experiments import Busy, NoWeights, run, trained
from reproduce.grids import (
    KINDS,
    configuration,
    double_quantization,
    dqa,
    grid,
    kind_name,
    quantised,
)
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer
from reproduce.training import Interrupted, Settings
from reproduce.trials import Trial

pytestmark = pytest.mark.usefixtures("folders")

SMALL_ATTACK = PGD(76.5, 38.0, 2)


def tiny(activation: str = "dynamic", bits: int | None = 1, seed: int = 0) -> grids.DQA:
    """Six training steps and nine batches of evaluation."""
    full = dqa("digits", activation, bits, seed, "smoke")
    training = replace(
        full.training, epochs=2, clean_epochs=1, ramp_epochs=0, batch_size=16, attack=SMALL_ATTACK
    )
    attacks = {"clean": None, "fgsm": FGSM(76.5), "pgd": SMALL_ATTACK}
    return replace(
        full, train_images=48, test_images=24, eval_batch=10, training=training, attacks=attacks
    )


def tiny_double() -> grids.DoubleQuantization:
    full = double_quantization(2, True, 0, "smoke")
    return replace(
        full,
        train_images=16,
        test_images=6,
        attacked_images=4,
        training=replace(full.training, epochs=1, batch_size=8),
        attack=replace(full.attack, steps=2, step_255=8),
    )


STEPS, BATCHES = 6, 9


@pytest.fixture
def trainings(monkeypatch) -> list:
    """Which calls of `train` were made."""
    calls, genuine = [], experiments.train

    def counted(*args, **kwargs):
        calls.append((args, kwargs))
        return genuine(*args, **kwargs)

    monkeypatch.setattr(experiments, "train", counted)
    return calls


class StopEvery:
    """A check_stop that raises at every n-th call."""

    def __init__(self, n: int) -> None:
        self.n, self.count = n, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count % self.n == 0:
            raise Interrupted


class StopAfter:
    """A check_stop that raises from the n-th call on."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted


# --- Keys -----------------------------------------------------------------------------------------

OTHER_SETTINGS = {
    "epochs": 9, "batch_size": 7, "optimizer": "sgd", "lr": 0.5, "momentum": 0.1,
    "weight_decay": 0.2, "schedule": "constant", "step_epochs": 3, "augment": True,
    "autocast": True, "attack": None, "clean_epochs": 0, "ramp_epochs": 3, "clean_weight": 0.5,
    "thresholds": "clean",
}  # fmt: skip
OTHER_PGD = {
    "eps_255": 1.0, "step_255": 2.0, "steps": 9, "random_start": False, "backward": "tanh",
    "temperature": 2.0,
}  # fmt: skip
RULE = {"backward": "sigmoid", "temperature": 5.0}
INFORMED = replace(SMALL_ATTACK, **RULE)
OTHER_SHARED = {
    "dataset": "mnist", "scale": "paper", "seed": 1, "training": Settings(epochs=1),
    "train_images": 47, "test_images": 23, "eval_batch": 9,
}  # fmt: skip
OTHER_DQA = OTHER_SHARED | {
    "activation": "fixed", "bits": 2, "attacks": {"clean": None}, "maximum": "image",
    "source": "tanh", "width": 8,
}  # fmt: skip
OTHER_DOUBLE = OTHER_SHARED | {
    "bits": 3, "dithered": False, "attack": PGD(1, 2, 3), "attacked_images": 3,
    "halftone": "jjn",
}  # fmt: skip


def changed(settings, others: dict) -> list:
    """`settings` with each of its fields changed alone; `others` must know every field."""
    assert others.keys() == {f.name for f in fields(settings)}
    assert all(getattr(settings, name) != value for name, value in others.items())
    return [replace(settings, **{name: value}) for name, value in others.items()]


def test_every_field_of_an_experiment_changes_its_key():
    dqa_, double = tiny(), tiny_double()
    variants = [dqa_, *changed(dqa_, OTHER_DQA), double, *changed(double, OTHER_DOUBLE)]
    assert len({e.key for e in variants}) == len(variants)


def test_every_field_of_the_training_changes_the_key():
    base = replace(tiny(), training=replace(tiny().training, epochs=10))  # enough for every ramp
    trainings = changed(base.training, OTHER_SETTINGS)
    attacks = INFORMED, *changed(INFORMED, OTHER_PGD)
    trainings += [replace(base.training, attack=a) for a in attacks]
    variants = [base, *(replace(base, training=t) for t in trainings)]
    assert len({e.key for e in variants}) == len(variants)


def test_every_field_of_an_evaluation_s_attack_changes_the_key():
    base, double = tiny(), tiny_double()
    attacks = [INFORMED, *changed(INFORMED, OTHER_PGD), FGSM(76.5), FGSM(8.0), None]
    variants = [base, *(replace(base, attacks=base.attacks | {"pgd": a}) for a in attacks)]
    variants += [replace(base, attacks={"clean": None, "other": SMALL_ATTACK})]
    informed, other = replace(double.attack, **RULE), OTHER_PGD | {"random_start": True}
    attacks = informed, *changed(informed, other)
    variants += [double, *(replace(double, attack=a) for a in attacks)]
    assert len({e.key for e in variants}) == len(variants)


def test_equal_experiments_share_their_key():
    reordered = replace(tiny(), attacks=dict(reversed(tiny().attacks.items())))
    whole = replace(tiny_double(), attack=PGD(8.0, 8.0, 2, False))
    for a, b in (tiny(), tiny()), (tiny(), reordered), (tiny_double(), whole):
        assert a == b and a.key == b.key


def test_the_key_is_the_hash_of_a_configuration_that_json_can_hold():
    for experiment in tiny(), tiny_double():
        plain = configuration(experiment)
        assert json.loads(json.dumps(plain)) == plain
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        assert experiment.key == hashlib.sha256(canonical.encode()).hexdigest()[:8]


def test_a_configuration_names_the_paper_the_fields_and_the_kind_of_each_attack():
    plain = configuration(tiny())
    assert plain.keys() == {"paper"} | OTHER_DQA.keys() - {"width"}, "what is None is left out"
    assert plain["paper"] == "dqa"
    assert plain["attacks"] == {
        "clean": None,
        "fgsm": {"kind": "FGSM", "eps_255": 76.5},
        "pgd": {
            "kind": "PGD", "eps_255": 76.5, "step_255": 38.0, "steps": 2, "random_start": True
        },
    }  # fmt: skip
    assert plain["training"].keys() == OTHER_SETTINGS.keys() - {"thresholds"}
    assert plain["training"]["attack"] == plain["attacks"]["pgd"]
    assert configuration(tiny_double())["paper"] == "double-quantization"


# --- The grids ------------------------------------------------------------------------------------


@functools.cache
def every() -> list:
    return list(grid())


def test_the_grid_has_seven_dqa_cells_and_fifteen_kinds_for_each_seed_and_data_set():
    plain = [e for e in every() if getattr(e, "halftone", None) is None]
    seeds = {"smoke": 1, "laptop": 3, "paper": 5}
    # Both readings of how the paper mixes clean and adversarial examples are run on MNIST.
    real = {"dqa-mnist": 2 * 7, "dqa-cifar10": 7, "double-quantization-cifar10": 15}
    datasets = {
        "smoke": {"dqa-digits": 7, "dqa-patterns": 7, "double-quantization-patterns": 15},
        "laptop": real,
        "paper": real,
    }
    expected = {
        (scale, name, seed): count
        for scale, sets in datasets.items()
        for name, count in sets.items()
        for seed in range(seeds[scale])
    }
    assert Counter((e.scale, e.name, e.seed) for e in plain) == expected


def test_the_first_seed_has_two_other_halftones_at_one_and_two_bits_on_real_data():
    others = [e for e in every() if getattr(e, "halftone", None)]
    cells = {f"{bits}bit-{name}" for bits in (1, 2) for name in ("bayer", "jjn")}
    expected = {(s, 0, cell): 1 for s in ("laptop", "paper") for cell in cells}
    assert Counter((e.scale, e.seed, e.cell) for e in others) == expected
    for e in others:
        assert [name for name, _, _ in e.tests] == [
            f"clean/{e.cell}",
            f"pgd/{e.cell}",
            "clean/8bit",
        ]
        assert replace(e, halftone=None) == double_quantization(e.bits, True, 0, e.scale)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((1, False, 0, "laptop"), "7fe85923"),
        ((2, True, 0, "laptop"), "f8e29b34"),
        ((8, False, 4, "paper"), "80b07ce0"),
    ],
)
def test_the_field_for_halftones_left_older_keys_alone(arguments, key):
    assert double_quantization(*arguments).key == key


def test_keys_and_file_names_are_unique_over_the_whole_grid():
    assert len({e.key for e in every()}) == len(every())
    assert len({(e.name, e.slug) for e in every()}) == len(every())


def test_the_cells_are_those_of_the_papers():
    cells = {
        "relu", "fixed-1bit", "fixed-2bit", "fixed-3bit", "dynamic-1bit", "dynamic-2bit",
        "dynamic-3bit",
    }  # fmt: skip
    both = cells | {f"{cell}-mixed" for cell in cells}
    assert {e.cell for e in every() if e.paper == "dqa"} == both
    assert {e.cell for e in every() if e.name == "dqa-cifar10"} == cells
    kinds = {e.cell for e in every() if getattr(e, "halftone", "dqa") is None}
    assert kinds == {f"{b}bit" for b in range(1, 9)} | {f"{b}bit-dithered" for b in range(1, 8)}


def test_mixed_means_equal_parts_of_clean_and_adversarial_examples():
    by_cell = {e.cell: e for e in every() if e.name == "dqa-mnist" and e.seed == 0}
    alone, mixed = by_cell["fixed-2bit"], by_cell["fixed-2bit-mixed"]
    assert (alone.training.clean_weight, mixed.training.clean_weight) == (0.0, 0.5)
    assert replace(mixed, training=alone.training) == alone


def test_filters_leave_what_they_name():
    def names(**filters):
        return [(e.paper, e.scale, e.seed, e.slug) for e in grid(**filters)]

    for filters in (
        {"paper": "double-quantization"},
        {"scale": "smoke"},
        {"paper": "dqa", "scale": "laptop"},
    ):
        expected = [
            (e.paper, e.scale, e.seed, e.slug)
            for e in every()
            if all(getattr(e, n) == v for n, v in filters.items())
        ]
        assert names(**filters) == expected
    assert {e.seed for e in grid("dqa", "smoke", seed=41)} == {41}
    assert len(list(grid("dqa", "smoke", seed=41))) == 14


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"paper": "x"}, "paper is 'x'; choose one of dqa, double-quantization"),
        ({"scale": "x"}, "scale is 'x'; choose one of smoke, laptop, paper"),
        ({"scale": "smoke", "seed": -1}, "seed is -1"),
    ],
)
def test_an_unknown_filter_is_refused_in_one_line(filters, names):
    with pytest.raises(ValueError, match=names) as caught:
        list(grid(**filters))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("nonsense", "relu", None, 0, "smoke"), "'nonsense'.*there are:.*digits at smoke"),
        (("mnist", "relu", None, 0, "smoke"), "'mnist' at scale 'smoke'"),
        (("digits", "relu", None, 0, "huge"), "scale is 'huge'"),
        (("digits", "relu", None, -1, "smoke"), "seed is -1"),
        (("digits", "relu", None, 0.5, "smoke"), r"seed is 0\.5"),
        (("digits", "relu", None, True, "smoke"), "seed is True"),
        (("digits", "gelu", 1, 0, "smoke"), "gelu"),
        (("digits", "relu", 1, 0, "smoke"), "relu takes neither"),
        (("digits", "fixed", 0, 0, "smoke"), "bits is 0"),
        (("digits", "dynamic", 4, 0, "smoke"), "bits is 4"),
        (("digits", "fixed", None, 0, "smoke"), "bits is None"),
        (("digits", "fixed", 1.0, 0, "smoke"), r"bits is 1\.0"),
    ],
)
def test_an_impossible_dqa_cell_is_refused_in_one_line(arguments, names):
    with pytest.raises((ValueError, TypeError), match=names) as caught:
        dqa(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "dithered"),
    [(0, False), (9, False), (8, True), (-1, True), (True, False), (1.0, False), (2, 1), (2, None)],
)
def test_what_is_none_of_the_15_models_is_refused(bits, dithered):
    with pytest.raises((ValueError, TypeError), match=f"{bits!r}|{dithered!r}"):
        double_quantization(bits, dithered, 0, "smoke")


@pytest.mark.parametrize(("dithered", "halftone"), [(True, "ordered"), (False, "jjn"), (True, "")])
def test_a_halftone_that_is_none_or_has_nothing_to_do_is_refused(dithered, halftone):
    with pytest.raises(
        ValueError, match=f"halftone is {halftone!r}.*bayer, jjn with dithered=True"
    ):
        double_quantization(1, dithered, 0, "smoke", halftone)


def test_an_unknown_scale_or_seed_of_double_quantization_is_refused():
    with pytest.raises(ValueError, match="scale is 'huge'"):
        double_quantization(1, True, 0, "huge")
    with pytest.raises(ValueError, match="seed is -1"):
        double_quantization(1, True, -1, "smoke")


def test_the_seed_and_nothing_else_decides_the_initial_weights():
    def weights(seed, noise):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        tensors = storage.tensors_sha256(tiny("fixed", 2, seed).model().state_dict())
        assert torch.equal(torch.get_rng_state(), state)
        return tensors

    assert weights(0, 1) == weights(0, 2)
    assert weights(0, 1) != weights(1, 1)


def test_all_fifteen_models_of_a_seed_start_from_the_same_weights():
    def weights(bits, dithered, seed, noise):
        torch.manual_seed(noise)
        model = double_quantization(bits, dithered, seed, "smoke").model()
        return storage.tensors_sha256(model.state_dict())

    assert weights(1, False, 3, noise=1) == weights(7, True, 3, noise=2)
    assert weights(1, False, 3, noise=1) != weights(1, False, 4, noise=1)


def test_the_network_is_the_one_that_the_fields_describe():
    image = replace(tiny("fixed", 3), maximum="image").model()
    quantizers = [m for m in image.modules() if isinstance(m, FixedQuantizer)]
    assert [(q.bits, q.maximum) for q in quantizers] == [(3, "image")] * 4
    tanh = replace(tiny("dynamic", 2), source="tanh").model()
    quantizers = [m for m in tanh.modules() if isinstance(m, DynamicQuantizer)]
    assert [(q.bits, q.source) for q in quantizers] == [(2, "tanh")] * 4
    assert sum(isinstance(m, torch.nn.ReLU) for m in tiny("relu", None).model().modules()) == 4
    for width in 8, 12:
        wide = replace(dqa("patterns", "relu", None, 0, "smoke"), width=width).model()
        first, *_ = (m for m in wide.modules() if isinstance(m, torch.nn.Conv2d))
        assert first.out_channels == width


def test_more_images_epochs_and_attack_steps_are_more_work():
    base = tiny()
    longer = [
        replace(base, train_images=96),
        replace(base, test_images=48),
        replace(base, training=replace(base.training, epochs=3)),
        replace(base, training=replace(base.training, clean_epochs=0)),
        replace(base, training=replace(base.training, attack=PGD(76.5, 38.0, 4))),
        replace(base, attacks=base.attacks | {"pgd": PGD(76.5, 38.0, 4)}),
    ]
    assert all(grids.work(e) > grids.work(base) > 0 for e in longer)


# --- What images a network sees -------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 8))
def test_quantised_images_are_on_the_levels_of_the_dithering(bits):
    images = data.load("patterns").x_test[:4]
    top = 2**bits - 1
    dithered = quantised(images, bits, True)
    k = (dithered * top).round()
    assert torch.allclose(k / top, dithered, atol=1e-6) and dithered.dtype == torch.float32
    assert torch.equal((k / top * 255 + 1e-3).floor().byte(), floyd_steinberg(images, bits))
    by_hand = (images.int() // 2 ** (8 - bits)).float() / top
    assert torch.allclose(quantised(images, bits, False), by_hand, atol=1e-6)
    # At 7 bits an error is at most 1, and each share of it rounds to nothing.
    assert torch.equal(by_hand, dithered) == (bits == 7)


def test_eight_bits_are_the_images_themselves():
    images = data.load("patterns").x_test[:4]
    assert torch.equal((quantised(images, 8, False) * 255).round().byte(), images)
    with pytest.raises(ValueError, match="bits"):
        quantised(images, 8, True)


# --- Running --------------------------------------------------------------------------------------


def test_a_run_trains_once_and_then_returns_the_stored_record(trainings):
    first = run(tiny())
    second = run(tiny())
    assert len(trainings) == 1
    assert second.metrics == first.metrics and second.created == first.created
    assert [r.key for r in results.records()] == [tiny().key]


def test_a_record_says_what_was_asked_what_came_out_and_on_what():
    heard = []
    record = run(tiny(), report=lambda progress, images: heard.append(images))
    assert heard == [16] * STEPS
    stored = experiments.load(tiny())
    assert stored.experiment == configuration(tiny())
    assert (stored.name, stored.slug) == ("dqa-digits", "smoke-dynamic-1bit-seed0")
    assert stored.dataset == {"name": "digits", "sha256": data.load("digits").sha256}
    assert {n: c["total"] for n, c in stored.metrics.items()} == dict.fromkeys(tiny().attacks, 24)
    assert {n: len(v) for n, v in stored.curves.items()} == dict.fromkeys(
        ("loss", "accuracy", "lr", "eps_255", "thresholds"), 2
    )
    assert stored.wall_s > 0 and stored.device and "\n" not in stored.device
    assert not stored.device.endswith("bfloat16"), "it did not ask for bfloat16"
    assert stored.versions["numpy"] == np.__version__
    assert {"python", "reproduce", "torch", "torchattacks"} <= stored.versions.keys()
    assert stored.error is None and record.metrics == stored.metrics


def test_outside_a_checkout_the_commit_is_that_of_the_environment(monkeypatch):
    def absent(*_args, **_kwargs):
        raise FileNotFoundError("git")

    experiments._source.cache_clear()
    monkeypatch.setattr(experiments.subprocess, "check_output", absent)
    monkeypatch.setenv("REPRODUCE_COMMIT", "0123abc")
    try:
        assert experiments._source() == ("0123abc", None)
    finally:
        experiments._source.cache_clear()


def test_the_counts_are_those_of_the_trained_network_on_the_first_test_images():
    record = run(tiny("fixed", 2))
    model, dataset = trained(tiny("fixed", 2)), data.load("digits")
    assert not model.training
    x, y = dataset.x_test[:24], dataset.y_test[:24]
    with torch.no_grad():
        # Eq. 2 takes its maximum over the batch: the same batches give the same counts.
        hits = torch.cat([model(batch / 255).argmax(1) for batch in x.split(10)]) == y
    assert record.metrics["clean"]["correct"] == int(hits.sum())
    for name, counts in record.metrics.items():
        bits = np.unpackbits(record.arrays[f"correct/{name}"], count=24)
        assert bits.sum() == counts["correct"]
    assert np.unpackbits(record.arrays["correct/clean"], count=24).tolist() == hits.tolist()


def test_what_is_evaluated_is_what_is_stored_bit_for_bit(monkeypatch):
    """Whatever memory layout training used."""
    outputs, x = [], torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def correct(model, images, labels, attack=None, **options):
        with torch.no_grad():
            outputs.append(model.eval()(x))
        assert all(t.is_contiguous() for t in model.state_dict().values())
        return torch.ones(len(images), dtype=torch.bool)

    monkeypatch.setattr(grids, "correct", correct)
    experiment = replace(
        tiny("relu", None), training=replace(tiny().training, autocast=True, attack=None)
    )
    run(experiment)
    assert all(torch.equal(out, trained(experiment)(x)) for out in outputs)


def test_the_examples_are_the_first_test_images_and_stay_in_the_ball():
    arrays = run(tiny("relu", None)).arrays
    dataset = data.load("digits")
    images = dataset.x_test[:10].numpy()
    assert arrays["labels"].tolist() == dataset.y_test[:10].tolist()
    assert np.array_equal(arrays["image/clean"], images)
    for name in "fgsm", "pgd":
        assert arrays[f"image/{name}"].dtype == np.uint8
        distance = np.abs(arrays[f"image/{name}"].astype(int) - images)
        assert 30 < distance.max() <= 77
        assert arrays[f"prediction/{name}"].shape == (10,)


def test_examples_are_made_in_eval_mode_with_the_experiment_s_seed():
    model = torch.nn.Sequential(torch.nn.Dropout(0.9), tiny("relu", None).model())
    dataset = data.load("digits")
    first = tiny("relu", None).arrays(model.train(), dataset)
    again = tiny("relu", None).arrays(model.eval(), dataset)
    other = tiny("relu", None, seed=1).arrays(model, dataset)
    assert all(np.array_equal(first[name], again[name]) for name in first | again)
    assert not np.array_equal(first["image/pgd"], other["image/pgd"])


def test_an_attack_by_whole_grey_levels_is_stored_exactly():
    experiment = replace(tiny("relu", None), attacks={"fgsm": FGSM(8.0)})
    dataset = data.load("digits")
    image = experiment.arrays(experiment.model(), dataset)["image/fgsm"].astype(int)
    clean = dataset.x_test[:10].numpy().astype(int)
    moved = {int(d) for d in np.unique((image - clean)[(8 <= clean) & (clean <= 247)])}
    assert {-8, 8} <= moved <= {-8, 0, 8}


@pytest.fixture
def evaluations(monkeypatch) -> list:
    """What `correct` was asked, in its order; it calls every image right."""
    asked = []

    def correct(model, images, labels, attack=None, **options):
        judge = {"judge": model} if "source_model" in options else {}
        asked.append((images, labels, attack, options | judge))
        return torch.ones(len(images), dtype=torch.bool)

    monkeypatch.setattr(grids, "correct", correct)
    return asked


def test_a_dqa_network_is_evaluated_under_each_attack(evaluations):
    experiment, dataset = tiny(seed=3), data.load("digits")
    stop = StopEvery(1)
    jobs = experiment.evaluations(experiment.model(), dataset, stop)
    assert evaluations == [] and list(jobs) == list(experiment.attacks)
    for job in jobs.values():
        job()
    for (images, labels, attack, options), expected in zip(
        evaluations, experiment.attacks.values(), strict=True
    ):
        assert torch.equal(images, dataset.x_test[:24]) and attack == expected
        assert torch.equal(labels, dataset.y_test[:24])
        assert options == {"batch_size": 10, "seed": 3, "check_stop": stop}


def test_a_double_quantization_network_is_evaluated_on_all_kinds_of_image(evaluations):
    experiment, dataset = replace(tiny_double(), seed=3), data.load("patterns")
    stop = StopEvery(1)
    for job in experiment.evaluations(experiment.model(), dataset, stop).values():
        job()
    x, y = dataset.x_test[:6], dataset.y_test[:6]
    cases = itertools.product(KINDS, ((6, None), (4, experiment.attack)))
    for asked, ((bits, dithered), (count, attack)) in zip(evaluations, cases, strict=True):
        images, labels, seen, options = asked
        grey = floyd_steinberg(x[:count], bits) if dithered else x[:count]
        levels = (grey.int() // 2 ** (8 - bits)).float() / (2**bits - 1)
        assert torch.equal(images, (levels * 255).round().byte())
        assert torch.equal(labels, y[:count]) and seen == attack
        guard, network = options.pop("judge")
        assert network is options.pop("source_model")
        assert torch.allclose(guard(images / 255), levels, atol=1e-6), "it finds the level again"
        assert options == {"batch_size": 125, "seed": 3, "check_stop": stop}


@pytest.mark.parametrize(("name", "dithered_by"), [("bayer", bayer), ("jjn", jarvis_judice_ninke)])
def test_a_network_for_another_halftone_sees_it_in_training_and_test(
    evaluations, name, dithered_by
):
    experiment, dataset = replace(tiny_double(), halftone=name), data.load("patterns")
    x = dataset.x_test[:6]
    expected = dithered_by(x, 2)
    assert torch.equal((experiment.prepare(x) * 255).round().byte(), expected)
    for job in experiment.evaluations(experiment.model(), dataset, StopEvery(1)).values():
        job()
    attacks = None, experiment.attack, None
    for asked, test, attack in zip(evaluations, (expected, expected[:4], x), attacks, strict=True):
        images, _, seen, options = asked
        assert torch.equal(images, test) and seen == attack
        assert torch.equal((options["judge"][0](images / 255) * 255).round().byte(), images)


def test_a_run_takes_the_first_images_and_its_own_settings(trainings):
    run(tiny())
    (_, images, labels, settings, seed), options = trainings[0]
    dataset = data.load("digits")
    assert torch.equal(images, dataset.x_train[:48]) and torch.equal(labels, dataset.y_train[:48])
    assert settings == tiny().training and seed == 0
    assert options["key"] == tiny().key
    assert torch.equal(options["prepare"](images), images / 255)


def test_two_seeds_give_two_records():
    records = [run(tiny("relu", None, seed)) for seed in (0, 1)]
    assert records[0].key != records[1].key
    assert records[0].weights_sha256 != records[1].weights_sha256
    assert len(results.records()) == 2


def test_a_finished_run_leaves_weights_and_no_checkpoint(folders):
    record = run(tiny())
    weights = folders / "cache" / "weights" / f"{tiny().key}.safetensors"
    assert storage.tensors_sha256(storage.load_tensors(weights)[0]) == record.weights_sha256
    assert experiments.weights_files(tiny())[1] == weights
    assert list((folders / "cache" / "checkpoints").iterdir()) == []


def test_a_double_quantization_unit_runs_end_to_end():
    experiment = tiny_double()
    record = run(experiment)
    names = [kind_name(*kind) for kind in KINDS]
    assert len(names) == 15
    totals = {n: c["total"] for n, c in record.metrics.items()}
    assert totals == {f"clean/{n}": 6 for n in names} | {f"pgd/{n}": 4 for n in names}
    for name in "1bit", "1bit-dithered", "2bit", "2bit-dithered":
        # 8 grey levels are inside the filter radius of 1 and 2 bits: not one verdict may change.
        clean = np.unpackbits(record.arrays[f"correct/clean/{name}"], count=6)[:4]
        attacked = np.unpackbits(record.arrays[f"correct/pgd/{name}"], count=4)
        assert clean.tolist() == attacked.tolist()
    assert record.name == "double-quantization-patterns"
    assert record.slug == "smoke-2bit-dithered-seed0"


# --- Stopped and resumed --------------------------------------------------------------------------


@functools.cache
def _whole_run() -> results.Record:
    return run(tiny())


@pytest.mark.parametrize("n", [1, 4, STEPS + 1, STEPS + 3, STEPS + BATCHES])
def test_a_stopped_run_leaves_no_record_and_resumes_to_the_same_one(folders, monkeypatch, n):
    with pytest.raises(Interrupted):
        run(tiny(), check_stop=StopAfter(n - 1))
    assert results.records() == [] and results.failures() == []
    checkpoint = folders / "cache" / "checkpoints" / f"{tiny().key}.safetensors"
    assert storage.load_tensors(checkpoint)[1]["step"] == min(n - 1, STEPS)
    resumed = run(tiny())
    monkeypatch.setenv("REPRODUCE_RESULTS", str(folders / "other results"))
    monkeypatch.setenv("REPRODUCE_CACHE", str(folders / "other cache"))
    whole = _whole_run()
    assert resumed.metrics == whole.metrics and resumed.curves == whole.curves
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        assert np.array_equal(resumed.arrays[name], array), name


def test_a_run_that_is_stopped_again_and_again_gets_done(folders):
    stop = StopEvery(BATCHES - 1)
    for _ in range(12):
        try:
            run(tiny(), check_stop=stop)
            break
        except Interrupted:
            continue
    assert len(results.records()) == 1, "a budget shorter than the evaluation must not repeat it"
    assert list((folders / "cache" / "checkpoints").iterdir()) == []


def test_evaluations_of_other_weights_are_not_taken_over(folders, monkeypatch):
    """Someone deletes a checkpoint, and a second machine trains to slightly other weights."""
    with pytest.raises(Interrupted):
        run(tiny(), check_stop=StopAfter(STEPS + 2 * BATCHES // 3))
    (folders / "cache" / "checkpoints" / f"{tiny().key}.safetensors").unlink()
    genuine = experiments.train

    def elsewhere(model, *args, **kwargs):
        progress = genuine(model, *args, **kwargs)
        with torch.no_grad():
            model[-1].bias.copy_(torch.tensor([1e6] + [0.0] * 9))
        return progress

    monkeypatch.setattr(experiments, "train", elsewhere)
    record = run(tiny())
    zeros = int((data.load("digits").y_test[:24] == 0).sum())
    counts = {name: c["correct"] for name, c in record.metrics.items()}
    assert counts == dict.fromkeys(tiny().attacks, zeros), "these weights always say 0"


def test_the_cost_of_a_stopped_run_counts_all_its_parts(monkeypatch):
    clock, genuine = [0.0], grids.correct

    def evaluation(*args, **kwargs):
        clock[0] += 100
        return genuine(*args, **kwargs)

    def step(_progress, _images):
        clock[0] += 1

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(grids, "correct", evaluation)
    for checks in 2, STEPS - 2 + 2 * BATCHES // 3:
        with pytest.raises(Interrupted):
            run(tiny(), check_stop=StopAfter(checks), report=step)
        clock[0] += 10_000
    assert run(tiny(), report=step).wall_s >= STEPS - 1 + 100 * 3
    assert clock[0] < 30_000


def test_a_locked_run_is_busy_and_free_again_afterwards(folders, trainings):
    locks = folders / "cache" / "locks"
    locks.mkdir(parents=True)
    with filelock.FileLock(locks / f"{tiny().key}.lock"):
        with pytest.raises(Busy, match=f"{tiny().slug}.*another process") as caught:
            run(tiny())
        assert "\n" not in str(caught.value)
        assert run(tiny("relu", None)).metrics, "another experiment is not locked"
    assert len(trainings) == 1 and len(results.records()) == 1
    assert run(tiny()).metrics


def test_a_stored_record_is_read_even_while_another_process_holds_the_lock(folders):
    record = run(tiny())
    with filelock.FileLock(folders / "cache" / "locks" / f"{tiny().key}.lock"):
        assert run(tiny()).created == record.created


def test_a_record_that_another_process_stores_meanwhile_is_returned(monkeypatch, trainings):
    record = run(tiny())
    genuine, looks = experiments.load, []

    def not_yet(experiment):
        looks.append(experiment)
        return None if len(looks) == 1 else genuine(experiment)

    monkeypatch.setattr(experiments, "load", not_yet)
    assert run(tiny()).created == record.created
    assert len(trainings) == 1


# --- Failures -------------------------------------------------------------------------------------


def breaks(*_args, **_kwargs):
    raise ArithmeticError("it broke")


def test_a_failed_run_is_kept_as_failed_and_can_be_run_again(monkeypatch, trainings):
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "train", breaks)
        with pytest.raises(ArithmeticError, match="it broke"):
            run(tiny())
    (failure,) = results.failures()
    assert failure.error == "ArithmeticError: it broke"
    assert failure.metrics == {} and failure.curves == {} and failure.arrays == {}
    assert failure.experiment == configuration(tiny()) and failure.wall_s >= 0
    assert results.records() == [] and experiments.load(tiny()) is None
    assert run(tiny()).error is None
    assert len(results.records()) == len(results.failures()) == 1


def test_two_failures_in_one_second_are_both_kept(monkeypatch):
    monkeypatch.setattr(experiments, "train", breaks)
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="it broke"):
            run(tiny())
    assert len(results.failures()) == 2


def test_a_failed_evaluation_is_a_failed_run_that_keeps_its_checkpoint(monkeypatch, folders):
    monkeypatch.setattr(grids, "correct", breaks)
    with pytest.raises(ArithmeticError, match="it broke"):
        run(tiny())
    assert [r.error for r in results.failures()] == ["ArithmeticError: it broke"]
    checkpoint = folders / "cache" / "checkpoints" / f"{tiny().key}.safetensors"
    assert storage.load_tensors(checkpoint)[1]["step"] == STEPS


def test_a_record_that_could_not_be_written_leaves_readable_results(monkeypatch):
    genuine, calls = results.write_bytes, []

    def full_once(path, content):
        if path.suffix == ".json" and not calls:
            calls.append(path)
            raise OSError(28, "No space left on device")
        genuine(path, content)

    monkeypatch.setattr(results, "write_bytes", full_once)
    with pytest.raises(OSError, match="No space left"):
        run(tiny())
    assert calls
    assert results.records() == []
    assert results.failures() == [], "a full disk is no property of the experiment"
    assert run(tiny()).metrics.keys() == tiny().attacks.keys()


def test_a_record_that_fails_after_its_arrays_leaves_readable_results(monkeypatch):
    genuine, calls = results.write_bytes, []

    def broken_once(path, content):
        if path.suffix == ".json" and not calls:
            calls.append(path)
            raise ArithmeticError("it broke")
        genuine(path, content)

    monkeypatch.setattr(results, "write_bytes", broken_once)
    with pytest.raises(ArithmeticError, match="it broke"):
        run(tiny())
    assert results.records() == []
    assert [r.error for r in results.failures()] == ["ArithmeticError: it broke"]
    assert run(tiny()).metrics.keys() == tiny().attacks.keys()


def test_on_a_full_disk_a_run_says_so_and_leaves_nothing(monkeypatch, folders):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(tiny())
    left = [f for f in folders.rglob("*") if f.is_file() and f.suffix != ".lock"]
    assert left == []


def test_missing_data_is_no_failed_run(monkeypatch):
    def absent(_name):
        raise FileNotFoundError("mnist is not there")

    monkeypatch.setattr(data, "load", absent)
    with pytest.raises(FileNotFoundError, match="mnist is not there"):
        run(tiny())
    assert results.failures() == []


def test_a_loss_that_explodes_is_a_failed_run_of_one_line():
    exploding = replace(
        tiny("relu", None),
        training=replace(tiny().training, optimizer="sgd", lr=1e38, schedule="constant"),
    )
    with pytest.raises(FloatingPointError):
        run(exploding)
    (failure,) = results.failures()
    assert failure.error.startswith("FloatingPointError: the loss is") and "\n" not in failure.error


def test_a_damaged_record_is_told_and_not_run_over(trainings):
    run(tiny())
    file = results.path(tiny().name, tiny().slug, tiny().key)
    file.write_text("{")
    for call in (run, experiments.load, trained):
        with pytest.raises(ValueError, match=f"{file.name} is damaged"):
            call(tiny())
    assert len(trainings) == 1


# --- Trained networks -----------------------------------------------------------------------------


def test_weights_kept_with_the_results_are_preferred(folders):
    record = run(tiny())
    kept = folders / "results" / "weights" / f"{record.key}.safetensors"
    kept.parent.mkdir()
    cached = experiments.weights_files(tiny())[1]
    kept.write_bytes(cached.read_bytes())
    cached.write_bytes(b"damaged")
    weights = trained(tiny()).state_dict()
    assert storage.tensors_sha256(weights) == record.weights_sha256


def test_kept_weights_of_an_earlier_training_do_not_hide_those_that_the_record_names(folders):
    record = run(tiny())
    kept, cached = experiments.weights_files(tiny())
    kept.parent.mkdir()
    earlier = {n: t + 1 for n, t in tiny().model().state_dict().items()}
    storage.save_tensors(kept, earlier, {})
    assert storage.tensors_sha256(trained(tiny()).state_dict()) == record.weights_sha256
    storage.save_tensors(cached, earlier, {})
    with pytest.raises(ValueError, match=f"{kept} and {cached}: not what the record names"):
        trained(tiny())


def test_every_committed_trial_is_of_the_network_whose_record_stands_beside_it(monkeypatch):
    monkeypatch.delenv("REPRODUCE_RESULTS")
    tried = [u for u in units.grid() if isinstance(u, Trial) and experiments.load(u) is not None]
    assert tried
    for unit in tried:
        of, network = experiments.load(unit), experiments.load(unit.base)
        assert of.weights_sha256 == network.weights_sha256, unit.slug


def test_other_weights_than_the_record_names_are_refused():
    run(tiny())
    file = experiments.weights_files(tiny())[1]
    other = {n: t + 1 for n, t in tiny().model().state_dict().items()}
    storage.save_tensors(file, other, {})
    with pytest.raises(ValueError, match=f"{file}.*not what the record names") as caught:
        trained(tiny())
    assert "\n" not in str(caught.value)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        trained(tiny())


def test_weights_without_a_record_and_a_record_without_weights_are_told():
    with pytest.raises(FileNotFoundError, match="run it first"):
        trained(tiny())
    run(tiny())
    experiments.weights_files(tiny())[1].unlink()
    with pytest.raises(FileNotFoundError, match=tiny().key):
        trained(tiny())


@pytest.mark.skipif(
    "REPRODUCE_DATA" not in os.environ,
    reason="REPRODUCE_DATA is not set: the real MNIST/CIFAR-10 are not at hand",
)
def test_the_kept_weights_are_as_accurate_as_their_records_say(monkeypatch):
    monkeypatch.delenv("REPRODUCE_RESULTS")
    mnist = data.load("mnist")
    weights = results.root() / "weights"
    kept = [e for e in grid("dqa", "laptop", 0) if (weights / f"{e.key}.safetensors").exists()]
    assert kept
    for e in kept:
        record = experiments.load(e)
        hits = correct(trained(e), mnist.x_test, mnist.y_test, batch_size=e.eval_batch)
        # Another processor adds in another order, and an image on the edge may fall over it.
        assert abs(int(hits.sum()) - record.metrics["clean"]["correct"]) <= 5, e.slug


def test_a_record_that_another_machine_stored_meanwhile_is_taken(monkeypatch):
    genuine = results.save

    def late(record):
        genuine(record)
        genuine(record)  # as if the other had been faster

    monkeypatch.setattr(results, "save", late)
    record = run(tiny())
    assert record.metrics and [r.key for r in results.records()] == [record.key]
    assert results.failures() == []
    with pytest.raises(NoWeights):  # those trained here are not the ones that the record names
        trained(tiny())


def test_a_file_in_the_way_of_the_record_is_told(monkeypatch):
    def in_the_way(record):
        raise FileExistsError("a file is in the way")

    monkeypatch.setattr(results, "save", in_the_way)
    with pytest.raises(FileExistsError, match="in the way"):
        run(tiny())


def out_of_memory_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def out_of_memory_on_a_cpu():
    torch.empty(10**15)


def out_of_memory_in_numpy():
    np.empty(10**15)


@pytest.mark.parametrize(
    ("too_large", "error"),
    (
        (out_of_memory_on_a_gpu, torch.OutOfMemoryError),
        (out_of_memory_on_a_cpu, RuntimeError),
        (out_of_memory_in_numpy, MemoryError),
    ),
)
def test_too_little_memory_is_no_failure_of_the_experiment(too_large, error, monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *_args, **_options: too_large())
    with pytest.raises(error):
        run(tiny())
    assert results.failures() == [] == results.records()


def test_a_damaged_checkpoint_is_no_failure_of_the_experiment():
    file = storage.cache() / "checkpoints" / f"{tiny().key}.safetensors"
    storage.write_bytes(file, b"no checkpoint")
    with pytest.raises(storage.Damaged, match=f"{file} is damaged .*delete it"):
        run(tiny())
    assert results.failures() == [] == results.records()


def test_threads_are_shared_among_processes_of_the_cores_that_are_allowed(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7}, raising=False)
    assert [experiments.default_threads(jobs) for jobs in (1, 2, 3, 8)] == [4, 2, 1, 1]
    monkeypatch.delattr(os, "sched_getaffinity")
    assert experiments.default_threads(2) == 32


@pytest.mark.parametrize("native", [True, False])
def test_a_record_says_where_float32_took_the_place_of_bfloat16(native, monkeypatch):
    monkeypatch.setattr(experiments, "has_bfloat16", lambda device: native)
    monkeypatch.setattr(training, "has_bfloat16", lambda device: native)
    settings = {wanted: replace(tiny().training, autocast=wanted) for wanted in (True, False)}
    names = {wanted: run(replace(tiny(), training=t)).device for wanted, t in settings.items()}
    assert names[False] == experiments.device_name()
    assert names[True] == names[False] + ("" if native else ", no bfloat16")
