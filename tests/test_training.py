from __future__ import annotations

import copy
import itertools
import math
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reproduce import data, models, storage, training
from reproduce.attacks import PGD
from reproduce.papers.double import quantised
from reproduce.quantizers import DynamicQuantizer, activation
from reproduce.training import Progress, Settings, derived_seed, train, training_steps

real = pytest.mark.skipif(
    "REPRODUCE_DATA" not in os.environ,
    reason="REPRODUCE_DATA is not set: the real MNIST/CIFAR-10 are not at hand",
)
ATTACK = PGD(16, 8, 2)


def small_data(n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 4, (n,), generator=generator)


def network(seed: int = 0) -> nn.Module:
    """Convolution, batch normalisation, learnt thresholds: all that carries a state."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), DynamicQuantizer(2), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3), DynamicQuantizer(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def plain(**changes) -> Settings:
    return Settings(**{"epochs": 3, "batch_size": 8, "lr": 0.01} | changes)


def weights_equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def sha256(x: torch.Tensor) -> str:
    return storage.tensors_sha256({"x": x})


def stopped(steps: int, *args, **options) -> None:
    """Train so many steps and no further: closing saves them."""
    with closing(training_steps(*args, **options)) as run:
        for _ in itertools.islice(run, steps):
            pass


# --- Schedules ------------------------------------------------------------------------------------


def rates(s: Settings, steps_per_epoch: int) -> list[float]:
    return [s.lr_at(i, steps_per_epoch) for i in range(s.epochs * steps_per_epoch)]


def test_a_constant_rate_is_constant():
    assert rates(plain(epochs=2, lr=0.3), 4) == [0.3] * 8


def test_one_cycle_rises_over_a_fifth_of_the_steps_and_falls_to_zero():
    s = plain(epochs=2, lr=16.0, schedule="one_cycle")
    assert rates(s, 10) == pytest.approx([4, 8, 12, 16, *range(16, 0, -1)])
    assert rates(plain(epochs=1, lr=3.0, schedule="one_cycle"), 1) == [3]
    assert rates(plain(epochs=1, lr=3.0, schedule="one_cycle"), 4) == pytest.approx([3, 3, 2, 1])


def test_the_step_schedule_divides_the_rate_by_ten():
    s = plain(epochs=5, lr=1.0, schedule="step", step_epochs=2)
    assert rates(s, 2) == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)


def test_the_attack_starts_after_the_clean_epochs_and_grows_over_the_ramp():
    s = plain(epochs=5, attack=PGD(8, 2, 3, random_start=False), clean_epochs=1, ramp_epochs=2)
    attacks = [s.attack_at(i, 2) for i in range(10)]
    assert attacks[:2] == [None, None]
    assert [a.eps_255 for a in attacks[2:]] == pytest.approx([2, 4, 6, 8, 8, 8, 8, 8])
    assert [a.step_255 for a in attacks[2:]] == pytest.approx([0.5, 1, 1.5, 2, 2, 2, 2, 2])
    assert {(a.steps, a.random_start) for a in attacks[2:]} == {(3, False)}


def test_without_a_ramp_the_attack_is_whole_at_once_and_without_attack_there_is_none():
    s = plain(attack=ATTACK)
    assert [s.attack_at(i, 2) for i in range(6)] == [ATTACK] * 6
    assert [plain(clean_epochs=1, ramp_epochs=1).attack_at(i, 2) for i in range(6)] == [None] * 6


def test_a_recipe_whose_attack_never_comes_to_its_full_size_is_refused():
    for few in ({"clean_epochs": 5}, {"clean_epochs": 3, "ramp_epochs": 3}):
        with pytest.raises(ValueError, match=r"epochs is 5; with clean_epochs [53] .* size in 6"):
            plain(epochs=5, attack=ATTACK, **few)
        plain(epochs=6, attack=ATTACK, **few)


def test_the_curves_carry_each_epoch_s_last_rate_and_radius():
    s = plain(epochs=4, schedule="one_cycle", attack=ATTACK, clean_epochs=1, ramp_epochs=2)
    curves = train(linear(), *small_data(), s, 0).curves
    assert curves["lr"] == [s.lr_at(i, 3) for i in (2, 5, 8, 11)]
    assert curves["eps_255"] == pytest.approx([0, 8, 16, 16])


# --- What a step does -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_equals_a_plain_loop(optimizer):
    images, labels = small_data()
    s = plain(optimizer=optimizer, momentum=0.7, weight_decay=0.01, schedule="one_cycle")
    model, expected = network(), network()
    progress = train(model, images, labels, s, 3)
    if optimizer == "adam":
        update = torch.optim.Adam(expected.parameters(), weight_decay=0.01)
    else:
        update = torch.optim.SGD(expected.parameters(), 1.0, momentum=0.7, weight_decay=0.01)
    losses = []
    for epoch in range(3):
        for batch, index in enumerate(data.epoch_order(20, 3, epoch).split(8)):
            update.param_groups[0]["lr"] = s.lr_at(3 * epoch + batch, 3)
            update.zero_grad()
            loss = F.cross_entropy(expected(images[index] / 255), labels[index])
            loss.backward()
            update.step()
            with torch.no_grad():
                for t in expected[2].thresholds, expected[5].thresholds:
                    t.copy_(t.clamp(-1, 1).sort().values)
            losses.append(loss.item() * len(index))
    assert weights_equal(model, expected)
    assert progress.curves["loss"] == [sum(losses[i : i + 3]) / 20 for i in (0, 3, 6)]
    assert progress.step == 9


def test_at_rate_zero_the_curves_are_the_loss_and_accuracy_of_the_whole_set():
    images, labels = small_data()
    model = linear()
    with torch.no_grad():
        logits = model(images / 255)
    curves = train(model, images, labels, plain(lr=0.0, epochs=2), 0).curves
    assert curves["loss"] == pytest.approx([F.cross_entropy(logits, labels).item()] * 2, rel=1e-5)
    assert curves["accuracy"] == [(logits.argmax(1) == labels).sum().item() / 20] * 2


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_the_risk_mixes_clean_and_adversarial_examples(clean_weight):
    images, labels = small_data()
    model = linear()
    x = (images / 255).requires_grad_()
    gradient = torch.autograd.grad(F.cross_entropy(model(x), labels), x)[0]
    delta = 16 / 255 * gradient.sign()
    adversarial = (x + delta).clamp(0, 1).detach()
    clean_loss, adversarial_loss = (
        F.cross_entropy(model(z), labels) for z in (x.detach(), adversarial)
    )
    assert adversarial_loss > clean_loss + 0.05
    risk = clean_weight * clean_loss + (1 - clean_weight) * adversarial_loss
    by_hand = [
        p - 0.5 * g
        for p, g in zip(
            model.parameters(), torch.autograd.grad(risk, model.parameters()), strict=True
        )
    ]
    one_step = PGD(16, 16, 1, random_start=False)
    s = plain(
        epochs=1, batch_size=20, optimizer="sgd", lr=0.5, momentum=0.0, attack=one_step,
        clean_weight=clean_weight,
    )  # fmt: skip
    curves = train(model, images, labels, s, 0).curves
    assert curves["loss"] == pytest.approx([risk.item()], rel=1e-5)
    for after, expected in zip(model.parameters(), by_hand, strict=True):
        assert torch.allclose(after, expected, atol=1e-5)


def test_prepare_gets_the_grey_levels_and_its_result_is_trained_on():
    images, labels = small_data()
    seen = []

    def prepare(x):
        seen.append(x)
        return torch.full_like(x, 0.5, dtype=torch.float32)

    model, expected = linear(), linear()
    train(model, images, labels, plain(epochs=1), 0, prepare=prepare)
    order = data.epoch_order(20, 0, 0)
    assert torch.equal(torch.cat(seen), images[order])
    grey = torch.full_like(images, 0)
    train(expected, grey, labels, plain(epochs=1), 0, prepare=lambda x: (x / 255) + 0.5)
    assert weights_equal(model, expected)


def what_the_network_sees(s: Settings, seed: int, dropout: float, noise: int) -> list[torch.Tensor]:
    """What passes its dropout when it trains on one image, eight times; the weights stay put."""
    image, label = (t[:1] for t in small_data())
    dropout, seen = nn.Dropout(dropout), []
    dropout.register_forward_hook(lambda m, _, out: seen.append(out) if m.training else None)
    model = nn.Sequential(dropout, linear())
    torch.manual_seed(noise)
    train(model, image.repeat(8, 1, 1, 1), label.repeat(8), replace(s, lr=0.0), seed)
    return seen


CHANCE = {
    "augmentation": {"augment": True},
    "random start": {"attack": PGD(16, 0, 1)},
    "dropout": {"dropout": 0.5},
}


@pytest.mark.parametrize("chance", CHANCE)
def test_chance_differs_with_the_image_the_step_and_the_seed_and_with_nothing_else(chance):
    def batches(seed, noise, dropout=0.0, **change):
        return what_the_network_sees(plain(**change), seed, dropout, noise)

    assert len({sha256(x) for x in batches(0, 1)}) == 1
    first = batches(0, 1, **CHANCE[chance])
    every = first + batches(1, 1, **CHANCE[chance])
    assert len({sha256(x) for x in every}) == 6
    assert all(len({sha256(image) for image in x}) > 4 for x in every)
    again = batches(0, 2, **CHANCE[chance])
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_every_step_is_told_with_the_images_it_adds():
    heard = []
    for progress in training_steps(linear(), *small_data(), plain(epochs=2), 0):
        heard.append((progress.step, progress.sums.get("images", 0)))
    assert heard == [(1, 8), (2, 16), (3, 0), (4, 8), (5, 16), (6, 0)]


def test_training_ends_in_training_mode_with_all_weights_trainable():
    model = network().eval()
    train(model, *small_data(), plain(epochs=1, attack=ATTACK), 0)
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_autocast_is_bfloat16_where_that_is_native_and_keeps_its_weights_in_float32(
    autocast, native, monkeypatch
):
    monkeypatch.setattr(training, "has_bfloat16", lambda device: native)
    model, dtypes = network(), []
    model[4].register_forward_hook(lambda _m, _x, out: dtypes.append(out.dtype))
    train(model, *small_data(), plain(epochs=1, autocast=autocast, attack=ATTACK), 0)
    assert set(dtypes) == {torch.bfloat16 if autocast and native else torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model[4].weight.is_contiguous(memory_format=torch.channels_last) == autocast


@pytest.mark.parametrize(
    "machine, avx512_bf16, onednn, native",
    [
        ("x86_64", True, True, True),
        ("x86_64", False, True, False),  # AVX-512 alone: oneDNN takes bfloat16, and emulates it
        ("AMD64", False, False, False),
        ("aarch64", False, True, True),
        ("aarch64", False, False, False),
    ],
)
def test_a_processor_has_bfloat16_where_it_computes_in_it(
    machine, avx512_bf16, onednn, native, monkeypatch
):
    monkeypatch.setattr(training.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert training.has_bfloat16(torch.device("cpu")) is native
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert training.has_bfloat16(torch.device("cpu")) is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_has_bfloat16_where_it_computes_in_it(native, monkeypatch):
    def supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert training.has_bfloat16(torch.device("cuda")) is native


@pytest.mark.parametrize("autocast", [True, False])
def test_a_run_is_not_resumed_in_another_precision(autocast, tmp_path, monkeypatch):
    file, s = tmp_path / "checkpoint", plain(epochs=1, autocast=autocast)
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    train(linear(), *small_data(), s, 0, checkpoint=file, key="k")
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    expected = pytest.raises(storage.Damaged, match="precision") if autocast else nullcontext()
    with expected:
        train(linear(), *small_data(), s, 0, checkpoint=file, key="k")


def test_thresholds_are_in_the_curves_and_stay_in_order():
    s = plain(epochs=6, lr=0.5, attack=ATTACK)
    model = network()
    start = [m.thresholds.tolist() for m in (model[2], model[5])]
    curves = train(model, *small_data(), s, 0).curves
    assert [len(layer) for layer in curves["thresholds"][0]] == [3, 1]
    assert len(curves["thresholds"]) == 6
    for layers in curves["thresholds"]:
        for thresholds in layers:
            assert [-1, *thresholds, 1] == sorted([-1, *thresholds, 1])
    assert curves["thresholds"][-1] == [m.thresholds.tolist() for m in (model[2], model[5])]
    assert curves["thresholds"][-1] != start, "the thresholds must learn"
    assert "thresholds" not in train(linear(), *small_data(), plain(epochs=1), 0).curves


def test_thresholds_learnt_in_clean_training_stand_still_under_attack():
    s = plain(epochs=4, lr=0.02, clean_epochs=2, attack=ATTACK, thresholds="clean")
    curves = train(network(), *small_data(), s, 0).curves["thresholds"]
    free = train(network(), *small_data(), replace(s, thresholds=None), 0).curves["thresholds"]
    start = [m.thresholds.tolist() for m in network().modules() if hasattr(m, "thresholds")]
    assert curves[0] != start and curves[1] != curves[0]
    assert curves[3] == curves[2] == curves[1] == free[1] != free[2]
    with pytest.raises(ValueError, match="thresholds is 'never'; choose one of clean or None"):
        plain(thresholds="never")


# --- Seeds ----------------------------------------------------------------------------------------

EVERYTHING = plain(attack=ATTACK, clean_epochs=1, augment=True, autocast=True)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    trained = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        model = network()
        torch.manual_seed(noise)
        train(model, *small_data(), EVERYTHING, seed)
        trained.append(model)
    assert weights_equal(trained[0], trained[1])
    assert not weights_equal(trained[0], trained[2])


def test_training_leaves_the_global_generator_alone():
    model = network()
    state = torch.get_rng_state()
    train(model, *small_data(), EVERYTHING, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_derived_seeds_differ_with_every_part_and_fit_a_generator():
    parts = [(0, 1, "attack"), (1, 0, "attack"), (0, 1, "augment"), (1, 11), (11, 1), (111,)]
    seeds = [derived_seed(*p) for p in parts]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


# --- Killed and resumed ---------------------------------------------------------------------------

KINDS = {
    "adam": plain(),
    "sgd": plain(optimizer="sgd", schedule="step", step_epochs=1, weight_decay=1e-3),
    "sgd, no momentum": plain(optimizer="sgd", momentum=0.0),
    "adam, attack": plain(attack=ATTACK, clean_epochs=1, ramp_epochs=1, clean_weight=0.5),
    "sgd, attack": plain(optimizer="sgd", attack=ATTACK, schedule="one_cycle"),
    "adam, augment": plain(augment=True),
    "adam, autocast": plain(autocast=True),
    "adam, everything": EVERYTHING,
    "sgd, everything": replace(EVERYTHING, optimizer="sgd", schedule="one_cycle"),
}
STEPS = 9
uninterrupted: dict[str, tuple[nn.Module, Progress]] = {}


def whole(kind: str) -> tuple[nn.Module, Progress]:
    if kind not in uninterrupted:
        model = network()
        uninterrupted[kind] = model, train(model, *small_data(), KINDS[kind], 5)
    return uninterrupted[kind]


@settings(max_examples=10)
@given(parts=st.lists(st.integers(0, STEPS), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_and_resumed_training_equals_an_uninterrupted_one(kind, parts):
    expected, progress = whole(kind)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "run.safetensors"
        options = {"checkpoint": checkpoint, "key": "k"}
        done = 0
        for steps in parts:
            # Another initialisation each time: everything must come from the checkpoint.
            model = network(99) if checkpoint.exists() else network()
            stopped(steps, model, *small_data(), KINDS[kind], 5, **options)
            done = min(STEPS, done + steps)
            assert checkpoint.exists() == bool(done)
            if done:
                assert storage.load_tensors(checkpoint)[1]["step"] == done
        model = network(99) if checkpoint.exists() else network()
        resumed = train(model, *small_data(), KINDS[kind], 5, **options)
    assert weights_equal(model, expected)
    assert resumed.curves == progress.curves
    assert resumed.step == progress.step == STEPS


class Cut(BaseException):
    """What a signal's handler may raise."""


@pytest.mark.parametrize("when", [0, 4, 7])
def test_an_interruption_within_a_step_loses_that_step_alone(tmp_path, when):
    options = {"checkpoint": tmp_path / "c", "key": "k", "checkpoint_s": 0.0}
    model, calls = network(), []

    def cut(_layer, _args, _grads):
        calls.append(1)
        if len(calls) == when + 1:
            raise Cut

    handle = model[4].register_full_backward_hook(cut)
    with pytest.raises(Cut):
        train(model, *small_data(), plain(attack=None), 5, **options)
    handle.remove()
    exists = (tmp_path / "c").exists()
    assert (storage.load_tensors(tmp_path / "c")[1]["step"] if exists else 0) == when
    straight, resumed = network(), network(99) if exists else network()
    train(straight, *small_data(), plain(), 5)
    train(resumed, *small_data(), plain(), 5, **options)
    assert weights_equal(straight, resumed)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("build", [models.resnet20, lambda: models.lenet(activation("fixed", 2))])
def test_a_real_network_resumes_bit_for_bit_too(tmp_path, build, optimizer):
    dataset = data.load("patterns" if build is models.resnet20 else "digits")
    some = dataset.x_train[:24], dataset.y_train[:24]
    s = plain(epochs=2, augment=True, autocast=True, optimizer=optimizer, weight_decay=1e-4)
    torch.manual_seed(0)
    start = build()
    straight, resumed = copy.deepcopy(start), copy.deepcopy(start)
    expected = train(straight, *some, s, 0)
    options = {"checkpoint": tmp_path / "c"}
    for steps in (2, 1):
        stopped(steps, resumed, *some, s, 0, **options)
        resumed = copy.deepcopy(start)
    progress = train(resumed, *some, s, 0, **options)
    assert progress.curves == expected.curves
    assert weights_equal(straight, resumed)


def test_stopping_saves_and_a_finished_run_resumes_to_itself(tmp_path):
    checkpoint = tmp_path / "c"
    options = {"checkpoint": checkpoint, "key": "k"}
    stopped(4, network(), *small_data(), plain(), 0, **options)
    assert storage.load_tensors(checkpoint)[1]["step"] == 4
    model = network()
    progress = train(model, *small_data(), plain(), 0, **options)
    again = network(1)
    (resumed,) = training_steps(again, *small_data(), plain(), 0, **options)
    assert weights_equal(again, model)
    assert resumed.curves == progress.curves
    assert resumed.seconds == progress.seconds > 0


def test_the_seconds_are_those_at_work(tmp_path, monkeypatch):
    clock = [0.0]

    def prepare(x):
        clock[0] += 1
        return data.to_float(x)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    options = {"checkpoint": tmp_path / "c", "prepare": prepare}
    stopped(4, linear(), *small_data(), plain(), 0, **options)
    clock[0] += 1000
    progress = train(linear(), *small_data(), plain(), 0, **options)
    assert progress.seconds == progress.prepare_s == STEPS


@pytest.mark.parametrize(
    ("every_s", "saved"),
    [
        (300.0, [None, None, 3, 3, 3, 6, 6, 6, 9]),
        (2.0, [None, 2, 3, 3, 5, 6, 6, 8, 9]),
        (0.0, [*range(1, 10)]),
    ],
)
def test_an_epoch_s_end_and_the_time_are_saved_without_being_asked(
    tmp_path, monkeypatch, every_s, saved
):
    clock = [0.0]

    def prepare(x):
        clock[0] += 1
        return data.to_float(x)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    path, seen = tmp_path / "c", []
    options = {"checkpoint": path, "prepare": prepare, "checkpoint_s": every_s}
    for _ in training_steps(linear(), *small_data(), plain(), 0, **options):
        seen.append(storage.load_tensors(path)[1]["step"] if path.exists() else None)
    assert seen == saved


def test_without_a_checkpoint_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRODUCE_CACHE", str(tmp_path))
    stopped(5, linear(), *small_data(), plain(), 0)
    assert list(tmp_path.iterdir()) == []


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    import test_training as t

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    steps = t.training_steps(
        t.network(), *t.small_data(), t.EVERYTHING, 5, checkpoint=Path({checkpoint!r}), key="k"
    )
    for progress in steps:
        if "mid-epoch" == {when!r} and progress.step == 5:
            die()
        if "while saving" == {when!r} and progress.step == 3:
            os.replace = die
"""


@pytest.mark.parametrize("when", ["mid-epoch", "while saving"])
def test_a_process_that_was_killed_hard_resumes_to_the_same_result(tmp_path, when):
    checkpoint = tmp_path / "c"
    script = KILLED.format(tests=str(Path(__file__).parent), when=when, checkpoint=str(checkpoint))
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=600)
    assert killed.returncode == -9
    assert storage.load_tensors(checkpoint)[1]["step"] == 3, "the last whole epoch"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected, model = network(), network(1)
        straight = train(expected, *small_data(), EVERYTHING, 5)
        resumed = train(model, *small_data(), EVERYTHING, 5, checkpoint=checkpoint, key="k")
    finally:
        torch.set_num_threads(threads)
    assert weights_equal(model, expected)
    assert resumed.curves == straight.curves


# --- Bad checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "run.safetensors"
    stopped(4, linear(), *small_data(), plain(), 0, checkpoint=path, key="k")
    return path


def refused(path: Path, key: str = "k") -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="delete it to start afresh") as caught:
        train(linear(), *small_data(), plain(), 0, checkpoint=path, key=key)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused(checkpoint):
    refused(checkpoint, key="other")


@pytest.mark.parametrize("place", [3, 40, 0.5, -3])
def test_a_damaged_checkpoint_is_refused(checkpoint, place):
    content = bytearray(checkpoint.read_bytes())
    content[int(len(content) * place) if isinstance(place, float) else place] ^= 4
    checkpoint.write_bytes(content)
    refused(checkpoint)
    checkpoint.write_bytes(content[: len(content) // 2])
    refused(checkpoint)


def test_weights_in_the_place_of_a_checkpoint_are_refused(checkpoint):
    storage.save_tensors(checkpoint, linear().state_dict(), {"slug": "weights"})
    refused(checkpoint)


def test_a_failed_save_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "c"
    with pytest.raises(OSError, match="No space left"):
        for progress in training_steps(linear(), *small_data(), plain(), 0, checkpoint=path):
            if progress.step == 4:
                monkeypatch.setattr(os, "fsync", full)
    assert storage.load_tensors(path)[1]["step"] == 3
    assert list(tmp_path.iterdir()) == [path]


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_the_weights(value):
    model = linear()
    images, labels = small_data()
    before = copy.deepcopy(model)
    calls = []

    def prepare(x):
        calls.append(1)
        return data.to_float(x) * (value if len(calls) == 5 else 1)

    # Infinite inputs make infinite logits of both signs, and so a loss that is no number.
    with pytest.raises(FloatingPointError, match=r"at step 4 of 9; lower lr \(0.01\)") as caught:
        train(model, images, labels, plain(), 0, prepare=prepare)
    assert "\n" not in str(caught.value)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not weights_equal(model, before)


def test_a_rate_that_is_far_too_high_is_told():
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(linear(), *small_data(), plain(optimizer="sgd", lr=1e38), 0)


@pytest.mark.parametrize(("n_images", "n_labels"), [(3, 2), (2, 3), (0, 0)])
def test_unequal_or_no_images_and_labels_are_refused(n_images, n_labels):
    images, labels = small_data(3)
    with pytest.raises(ValueError, match=f"{n_images} images and .*label"):
        train(linear(), images[:n_images], labels[:n_labels], plain(), 0)


def test_images_that_are_not_grey_levels_are_refused():
    images, labels = small_data()
    with pytest.raises(TypeError, match="uint8"):
        train(linear(), images / 255, labels, plain(), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((n, v) for n in ("epochs", "batch_size", "step_epochs") for v in (0, -1)),
        *((n, -1) for n in ("lr", "momentum", "weight_decay", "clean_epochs", "ramp_epochs")),
        *((n, 1.5) for n in ("epochs", "batch_size", "step_epochs", "clean_epochs", "ramp_epochs")),
        ("epochs", True),
        ("lr", math.inf),
        ("lr", math.nan),
        ("weight_decay", math.nan),
        ("clean_weight", -0.1),
        ("clean_weight", 1.1),
        ("clean_weight", math.nan),
        ("optimizer", "adamw"),
        ("schedule", "cosine"),
        ("thresholds", "frozen"),
        ("momentum", 5),
        ("lr", True),
        ("lr", "0.1"),
        ("epochs", "3"),
        ("epochs", None),
        ("weight_decay", [0.1]),
        ("augment", "false"),
        ("autocast", 1),
        ("optimizer", None),
        ("attack", "pgd"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(name, value):
    names = re.escape(f"{name} is {value!r}")
    with pytest.raises((ValueError, TypeError), match=names) as caught:
        plain(**{name: value})
    assert "\n" not in str(caught.value)


def test_the_time_spent_preparing_images_is_counted_and_kept_over_a_stop(tmp_path):
    images, labels = small_data()
    steps, pause = 9, 0.01

    def slow(x: torch.Tensor) -> torch.Tensor:
        time.sleep(pause)
        return data.to_float(x)

    options = {"prepare": slow, "checkpoint": tmp_path / "c"}
    stopped(4, linear(), images, labels, plain(), 0, **options)
    progress = train(linear(), images, labels, plain(), 0, **options)
    assert progress.step == steps
    assert steps * pause <= progress.prepare_s < progress.seconds


# --- Real data ------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("autocast", [True, False])
def test_a_few_real_steps_on_mnist_lower_the_loss(autocast):
    dataset = data.load("mnist")
    torch.manual_seed(0)
    s = Settings(epochs=12, batch_size=64, lr=5e-3, autocast=autocast)
    curves = train(models.lenet(), dataset.x_train[:64], dataset.y_train[:64], s, 0).curves
    assert curves["loss"][-1] < 0.8 * curves["loss"][0]


@real
def test_a_few_real_steps_on_dithered_cifar10_lower_the_loss():
    dataset = data.load("cifar10")
    torch.manual_seed(0)
    s = Settings(epochs=6, batch_size=64, optimizer="sgd", lr=0.05, autocast=True)
    model = models.resnet20()
    images, labels = dataset.x_train[:64], dataset.y_train[:64]
    curves = train(model, images, labels, s, 0, prepare=lambda x: quantised(x, 2, True)).curves
    assert curves["loss"][-1] < 0.8 * curves["loss"][0]


class PlainFixed(nn.Module):
    """Eq. 1-3 with one bit, straight-through."""

    def forward(self, x):
        soft = torch.tanh(x) / torch.tanh(x).abs().amax().detach()
        return soft + (torch.where(soft < 0, -1.0, 1.0) - soft).detach()


class PlainDynamic(nn.Module):
    """Eq. 9, straight-through."""

    def __init__(self):
        super().__init__()
        self.thresholds = nn.Parameter(torch.tensor([-2 / 3, 0, 2 / 3]))

    def forward(self, x):
        low, _, high = t = self.thresholds
        jumps = low + 1, high - low, 1 - high
        ramps = [(x - t[j]).clamp(-1, 1) for j in range(3)]
        signs = [r + (torch.sign(x - t[j]) - r).detach() for j, r in enumerate(ramps)]
        return sum(jump / 2 * sign for jump, sign in zip(jumps, signs, strict=True))


def plain_lenet(act) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), act(),
        nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), act(), nn.Flatten(),
        nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10),
    )  # fmt: skip


def plain_loop(model: nn.Module, images, labels, s: Settings) -> list[float]:
    """Adversarial training as one would write it down, in float32; the loss of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), s.lr)
    steps = -(-len(images) // s.batch_size)
    total, losses = s.epochs * steps, []
    for epoch in range(s.epochs):
        lost = 0.0
        for b, index in enumerate(data.epoch_order(len(images), 0, epoch).split(s.batch_size)):
            k = epoch * steps + b
            optimizer.param_groups[0]["lr"] = s.lr * min(
                (k + 1) / (total // 5), (total - k) / (total - total // 5)
            )
            x, y = images[index] / 255, labels[index]
            loss = F.cross_entropy(model(x), y)
            part = min(1, (k - s.clean_epochs * steps + 1) / (s.ramp_epochs * steps))
            if part > 0:
                eps, step = (part * v / 255 for v in (s.attack.eps_255, s.attack.step_255))
                moved = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
                for _ in range(s.attack.steps):
                    moved.requires_grad_()
                    (grad,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
                    moved = (
                        (moved.detach() + step * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
                    )
                attacked = F.cross_entropy(model(moved), y)
                loss = s.clean_weight * loss + (1 - s.clean_weight) * attacked
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for m in model.modules():
                if isinstance(m, PlainDynamic):
                    m.thresholds.data = m.thresholds.data.clamp(-1, 1).sort().values
            lost += loss.item() * len(index)
        losses.append(lost / len(images))
    return losses


@real
@pytest.mark.parametrize(
    ("act", "kind"),
    [(nn.ReLU, ("relu",)), (PlainFixed, ("fixed", 1)), (PlainDynamic, ("dynamic", 2))],
)
def test_training_on_mnist_is_that_of_a_plain_float32_loop(act, kind):
    dataset = data.load("mnist")
    images, labels = dataset.x_train[:1_280], dataset.y_train[:1_280]
    s = Settings(
        epochs=3, batch_size=64, lr=5e-3, schedule="one_cycle", autocast=True,
        attack=PGD(76.5, 25.5, 3), clean_epochs=1, ramp_epochs=1, clean_weight=0.5,
    )  # fmt: skip
    torch.manual_seed(1)
    start = models.lenet(activation(*kind))
    by_hand = plain_lenet(act)
    by_hand.load_state_dict(start.state_dict())
    expected = plain_loop(by_hand, images, labels, s)
    losses = train(start, images, labels, s, 0).curves["loss"]
    assert losses == pytest.approx(expected, rel=0.05), "other random starts move it by 3 %"
