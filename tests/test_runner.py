"""Running: once, resumable anywhere, and what is on disk is whole."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import filelock
import numpy as np
import pytest
import torch

from reproduce import data, records, runner, storage, training
from reproduce.attacks import PGD
from reproduce.evaluation import correct
from reproduce.papers import double, dqa, registry
from reproduce.papers.units import Evaluation, Measurement, Outcome
from reproduce.runner import Busy, NoWeights, Stop, run, trained
from reproduce.training import Interrupted

pytestmark = pytest.mark.usefixtures("folders")

STEPS = 6


def tiny(activation: str = "dynamic", bits: int | None = 1, seed: int = 0):
    """Six training steps."""
    full = dqa.network("digits", activation, bits, scale="smoke", seed=seed)
    settings = replace(
        full.training,
        epochs=2,
        clean_epochs=1,
        ramp_epochs=0,
        batch_size=16,
        attack=PGD(76.5, 38.0, 2),
    )
    return replace(full, train_images=48, training=settings)


def attacked(network=None, **changes) -> Evaluation:
    shared = {"name": "pgd", "attack": PGD(20, 10, 2), "images": 24, "batch": 10, "seed": 3}
    return Evaluation(network=network or tiny(), **shared | changes)


def doing(stop=None, report=lambda unit, progress: None):
    """A unit's runner with a Stop that nobody has asked for."""
    return lambda unit: run(unit, stop or Stop(), report)


do = doing()


class StopAfter(Stop):
    """Asked for at the n-th training step."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def step(self, _unit, progress) -> None:
        if progress is not None:
            self.left -= 1
            self.asked = self.left <= 0


@pytest.fixture
def trainings(monkeypatch) -> list:
    """Which trainings were begun."""
    calls, genuine = [], runner.training_steps

    def counted(*args, **kwargs):
        calls.append((args, kwargs))
        return genuine(*args, **kwargs)

    monkeypatch.setattr(runner, "training_steps", counted)
    return calls


@pytest.fixture
def clean_room(monkeypatch, folders):
    """Other results and another cache, for comparison."""

    def enter(name: str) -> None:
        monkeypatch.setenv("REPRODUCE_RESULTS", str(folders / name / "results"))
        monkeypatch.setenv("REPRODUCE_CACHE", str(folders / name / "cache"))

    return enter


def checkpoint(network) -> Path:
    return storage.cache() / "checkpoints" / f"{network.key}.safetensors"


def failures() -> list:
    return [r for r in records.every() if r.error is not None]


# --- One run --------------------------------------------------------------------------------------


def test_a_network_is_trained_once_and_then_found(trainings):
    first, second = do(tiny()), do(tiny())
    assert len(trainings) == 1 and first.run == second.run == records.find(tiny()).run
    assert [r.key for r in records.every()] == [tiny().key]


def test_a_record_says_what_was_asked_on_what_and_what_came_out():
    heard = []
    do_ = doing(report=lambda unit, progress: heard.append(progress and progress.step))
    do_(tiny())
    assert heard == [None, *range(1, STEPS + 1)]
    stored = records.find(tiny())
    assert stored.configuration == records.configuration(tiny())
    assert stored.dataset == {"name": "digits", "sha256": data.load("digits").sha256}
    curves = ("loss", "accuracy", "lr", "eps_255", "thresholds")
    assert {n: len(v) for n, v in stored.values.items()} == dict.fromkeys(curves, 2)
    assert stored.run.wall_s > 0 and stored.run.shared_by == 1
    assert stored.run.device == runner.device_name() and "bfloat16" not in stored.run.device
    assert stored.run.versions["numpy"] == np.__version__
    assert {"python", "reproduce", "torch", "torchattacks"} <= stored.run.versions.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", stored.run.created)
    assert stored.bits is None and stored.error is None


def test_training_takes_the_first_images_and_the_networks_own_settings(trainings):
    do(tiny())
    ((_, images, labels, settings), options) = trainings[0]
    digits = data.load("digits")
    assert torch.equal(images, digits.x_train[:48]) and torch.equal(labels, digits.y_train[:48])
    assert settings == tiny().training
    assert (options["seed"], options["key"]) == (0, tiny().key)
    assert torch.equal(options["prepare"](images), images / 255)


def test_progress_knows_how_far_it_has_to_go():
    totals = set()
    doing(report=lambda unit, p: totals.add(p.total) if p else None)(tiny())
    assert totals == {STEPS}


def test_small_weights_stand_beside_their_record_and_nothing_is_left_in_the_cache():
    record = do(tiny())
    kept, cached = runner.weights_files(tiny())
    assert kept == records.root() / tiny().folder / "weights.safetensors"
    assert storage.tensors_sha256(storage.load_tensors(kept)[0]) == record.weights_sha256
    assert not cached.exists() and not checkpoint(tiny()).exists()
    assert {f.name for f in kept.parent.iterdir()} == {"network.json", "weights.safetensors"}


def test_weights_that_a_killed_process_left_in_the_cache_move_at_the_next_call(monkeypatch):
    network = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_keep_weights", lambda network: None)  # it came no further
        do(network)
    kept, cached = runner.weights_files(network)
    assert cached.exists() and not kept.exists()
    do(network)
    assert kept.exists() and not cached.exists()
    storage.write_bytes(cached, b"of another training, or cut")
    do(network)
    assert kept.exists(), "what is there stays"


def test_large_weights_stay_in_the_cache(monkeypatch):
    monkeypatch.setattr(runner, "KEPT", 1000)
    record = do(tiny())
    kept, cached = runner.weights_files(tiny())
    assert cached.is_relative_to(storage.cache()) and not kept.exists()
    assert storage.tensors_sha256(storage.load_tensors(cached)[0]) == record.weights_sha256
    assert not trained(tiny()).training


def test_a_measurement_trains_what_it_needs_first_and_is_of_those_weights(trainings):
    order = []
    unit = attacked(source=tiny("relu", None))
    record = doing(report=lambda u, p: order.append(u) if p is None else None)(unit)
    assert order == [tiny(), tiny("relu", None), unit] and len(trainings) == 2
    assert record.weights_sha256 == records.find(tiny()).weights_sha256
    digits = data.load("digits")
    expected = correct(
        trained(tiny()), digits.x_test[:24], digits.y_test[:24], PGD(20, 10, 2),
        batch_size=10, seed=3, source_model=trained(tiny("relu", None)),
    )  # fmt: skip
    assert record.bits.tolist() == records.find(unit).bits.tolist() == expected.tolist()
    order.clear()
    assert do(unit).run == record.run and order == []


def test_every_kind_of_measurement_runs_and_is_found():
    """Once, the cheapest of its suite."""
    image = double.network(1, True, scale="smoke")
    short = replace(image.training, epochs=1, batch_size=8)
    image = replace(image, train_images=8, training=short)
    networks = {tiny("fixed"): ("table", "trial", "shown"), image: ("table", "checks")}
    seen = set()
    for network, suites in networks.items():
        for suite in suites:
            members = registry.suites(network)[suite].values()
            for one in sorted(members, key=lambda m: m.passes):
                if one.kind not in seen:
                    seen.add(one.kind)
                    record = do(one)
                    assert records.find(one).key == record.key == one.key
                    assert record.bits is not None or record.values or record.arrays
    assert seen == {"evaluation", "attacked-images", "diagnostics", "stages"}


def test_a_substitute_is_trained_on_the_answers_of_its_target(trainings):
    settings = replace(tiny().training, attack=None, clean_epochs=0, batch_size=8, epochs=1)
    target = dqa.network("patterns", "dynamic", 1, scale="smoke")
    target = replace(target, width=2, train_images=16, training=settings)
    made = replace(dqa.substitute(target, "alexnet"), training=settings)
    record = do(made)
    (_, labels), (x, answers) = (call[0][1:3] for call in trainings)
    assert torch.equal(labels, data.load("patterns").y_train[:16])
    with torch.no_grad():
        assert torch.equal(answers, trained(target)(x / 255).argmax(1))
    agreement = registry.suites(made)["transfer"]["agreement"]
    with torch.no_grad():
        few = data.load("patterns").x_test[: agreement.images] / 255
        same = trained(made)(few).argmax(1) == trained(target)(few).argmax(1)
    assert do(agreement).bits.tolist() == same.tolist() and record.error is None


def test_outside_a_checkout_the_commit_is_that_of_the_environment(monkeypatch):
    def absent(*_args, **_kwargs):
        raise FileNotFoundError("git")

    runner._source.cache_clear()
    monkeypatch.setattr(runner.subprocess, "check_output", absent)
    monkeypatch.setenv("REPRODUCE_COMMIT", "0123abc")
    try:
        assert runner._source() == ("0123abc", None)
    finally:
        runner._source.cache_clear()


@pytest.mark.parametrize("native", [True, False])
def test_a_record_says_where_float32_took_the_place_of_bfloat16(native, monkeypatch):
    monkeypatch.setattr(runner, "has_bfloat16", lambda device: native)
    monkeypatch.setattr(training, "has_bfloat16", lambda device: native)
    wanted = replace(tiny(), training=replace(tiny().training, autocast=True))
    plain = do(tiny()).run.device
    assert plain == runner.device_name()
    assert do(wanted).run.device == plain + ("" if native else ", no bfloat16")


def test_threads_are_the_cores_that_are_allowed(monkeypatch):
    monkeypatch.setattr(runner, "Path", lambda _: Path("/nonexistent"))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7}, raising=False)
    assert runner.default_threads() == 4
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runner.default_threads() == 64


# --- Stopped and resumed --------------------------------------------------------------------------


@functools.cache
def whole() -> records.Record:
    """An uninterrupted run."""
    return do(tiny())


@pytest.mark.parametrize("n", range(1, STEPS))
def test_a_stopped_training_resumes_to_the_same_network_bit_for_bit(clean_room, n):
    clean_room("stopped")
    stop = StopAfter(n)
    with pytest.raises(Interrupted):
        run(tiny(), stop, stop.step)
    assert list(records.every()) == []
    assert storage.load_tensors(checkpoint(tiny()))[1]["step"] == n
    steps = []
    resumed = doing(report=lambda unit, p: steps.append(p.step) if p else None)(tiny())
    assert steps == list(range(n + 1, STEPS + 1))
    assert not checkpoint(tiny()).exists()
    clean_room("whole")
    assert resumed.weights_sha256 == whole().weights_sha256
    assert resumed.values == whole().values


def test_a_run_that_is_stopped_at_every_step_gets_done():
    for _ in range(STEPS + 1):
        stop = StopAfter(1)
        with contextlib.suppress(Interrupted):
            run(tiny(), stop, stop.step)
            break
    assert [r.name for r in records.every()] == ["network"]


def test_the_cost_of_a_stopped_training_counts_all_its_parts(monkeypatch):
    clock = [0.0]

    def step(_unit, progress):
        clock[0] += 0 if progress is None else 10

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    stop = StopAfter(3)

    def step_and_stop(unit, progress):
        step(unit, progress)
        stop.step(unit, progress)

    with pytest.raises(Interrupted):
        run(tiny(), stop, step_and_stop)
    clock[0] += 10_000
    wall_s = run(tiny(), Stop(), step).run.wall_s
    assert 10 * (STEPS - 2) <= wall_s <= 10 * STEPS


def test_a_stop_that_was_asked_for_starts_nothing(trainings):
    stop = Stop()
    stop.asked = True
    for unit, there in ((tiny(), []), (attacked(), ["network"])):
        with pytest.raises(Interrupted):
            run(unit, stop)
        assert [r.name for r in records.every()] == there and not trainings[len(there) :]
        do(tiny())


# --- Signals --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Endless(Measurement):
    """Goes on and on, and takes every Exception for a reason to end. signal: that it sends."""

    name: str = "endless"
    batch: int = 1
    seed: int = 0
    signal: int | None = None
    kind: ClassVar[str] = "endless"

    def outcome(self, trained, dataset):
        try:
            if self.signal is not None:
                os.kill(os.getpid(), self.signal)
            time.sleep(60)
        except Exception:
            pass
        return Outcome(values={"broken off": 1})


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM"])
def test_a_signal_stops_a_training_between_two_steps_and_a_measurement_anywhere(name):
    number = getattr(signal, name)

    def report(_unit, progress):
        if progress is not None and progress.step == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted), Stop() as stop:
        run(tiny(), stop, report)
    assert storage.load_tensors(checkpoint(tiny()))[1]["step"] == 2
    assert list(records.every()) == []
    do(tiny())
    started = time.monotonic()
    with pytest.raises(Interrupted), Stop() as stop:
        run(Endless(network=tiny(), signal=number), stop)
    assert time.monotonic() - started < 30
    assert [r.name for r in records.every()] == ["network"]


def test_a_deadline_stops_a_measurement_anywhere_and_a_training_between_two_steps():
    with pytest.raises(Interrupted), Stop(0.1) as stop:
        run(tiny(), stop, lambda unit, progress: time.sleep(0.2))
    assert list(records.every()) == []
    do(tiny())
    with pytest.raises(Interrupted), Stop(0.1) as stop:
        run(Endless(network=tiny()), stop)
    assert [r.name for r in records.every()] == ["network"]


def test_the_second_ctrl_c_ends_at_once():
    code = (
        "import os, signal; from reproduce.runner import Stop\n"
        "with Stop() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert stop.asked\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('and here')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert (ended.stdout, ended.returncode) == ("still here\n", 130)


def test_a_stop_leaves_the_handlers_as_they_were():
    numbers = [getattr(signal, name) for name in Stop.SIGNALS]
    before = [signal.getsignal(n) for n in numbers]
    with Stop(100.0):
        assert all(signal.getsignal(n) not in before for n in numbers)
    assert [signal.getsignal(n) for n in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# --- Others at work -------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(unit):
    locks = storage.cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(locks / f"{unit.key}.lock"):
        yield


@pytest.mark.parametrize("unit", [tiny(), attacked()], ids=["itself", "what needs it"])
def test_a_locked_unit_is_busy_and_free_again_afterwards(unit):
    with locked(tiny()):
        with pytest.raises(Busy, match="another process") as caught:
            do(unit)
        assert caught.value.unit == tiny() and "\n" not in str(caught.value)
        assert tiny().folder in str(caught.value)
        assert do(tiny("relu", None)), "another one is not locked"
    assert do(unit)


def test_a_stored_record_is_read_even_while_another_process_holds_the_lock():
    record = do(tiny())
    with locked(tiny()):
        assert do(tiny()).run == record.run


def test_a_record_that_another_process_stores_while_one_waits_is_returned(monkeypatch, trainings):
    record = do(tiny())
    genuine, looks = records.find, []

    def not_yet(unit):
        looks.append(unit)
        return None if len(looks) == 1 else genuine(unit)

    monkeypatch.setattr(records, "find", not_yet)
    assert do(tiny()).run == record.run and len(trainings) == 1


def test_of_two_caches_the_loser_takes_the_record_and_overwrites_no_weights(
    monkeypatch, clean_room
):
    """Another machine, with a cache of its own, trains to slightly other weights, and is faster."""
    genuine = records.write
    kept = runner.weights_files(tiny())[0]
    theirs = {n: t + 1 for n, t in tiny().build().state_dict().items()}

    def late(record):
        sha256 = storage.save_tensors(kept, theirs, {})
        genuine(replace(record, weights_sha256=sha256))
        genuine(record)

    monkeypatch.setattr(records, "write", late)
    record = do(tiny())
    assert failures() == [] and record.weights_sha256 == storage.tensors_sha256(theirs)
    assert storage.tensors_sha256(storage.load_tensors(kept)[0]) == record.weights_sha256
    assert storage.tensors_sha256(trained(tiny()).state_dict()) == record.weights_sha256


# --- Failures -------------------------------------------------------------------------------------


def breaks(*_args, **_kwargs):
    raise ArithmeticError("it broke")


@pytest.mark.parametrize("unit", [tiny(), attacked()], ids=["training", "measurement"])
def test_a_failed_run_is_kept_and_does_not_hide_a_later_success(monkeypatch, unit):
    network = tiny()
    if unit != network:
        do(network)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "training_steps", breaks)
        patch.setattr(Evaluation, "outcome", breaks)
        for _ in range(2):  # both are kept
            with pytest.raises(ArithmeticError, match="it broke"):
                do(unit)
    assert [r.error for r in failures()] == ["ArithmeticError: it broke"] * 2
    for failure in failures():
        assert failure.key == unit.key and failure.run.wall_s >= 0
        assert failure.bits is None and failure.values == {} and failure.arrays == {}
    assert records.find(unit) is None
    assert do(unit).error is None and records.find(unit).error is None
    assert len(failures()) == 2


def test_a_network_that_fails_is_its_own_failure_and_not_its_measurements(monkeypatch):
    monkeypatch.setattr(runner, "training_steps", breaks)
    with pytest.raises(ArithmeticError):
        do(attacked())
    assert [r.key for r in failures()] == [tiny().key]


def test_a_loss_that_explodes_is_a_failed_run_of_one_line():
    wild = replace(tiny().training, optimizer="sgd", lr=1e38, schedule="constant")
    with pytest.raises(FloatingPointError):
        do(replace(tiny("relu", None), training=wild))
    (failure,) = failures()
    assert failure.error.startswith("FloatingPointError: ") and "\n" not in failure.error


def out_of_memory_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def out_of_memory_on_a_cpu():
    torch.empty(10**15)


def out_of_memory_in_numpy():
    np.empty(10**15)


def disk_full():
    raise OSError(28, "No space left on device")


def interrupted():
    raise Interrupted


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (out_of_memory_on_a_gpu, torch.OutOfMemoryError),
        (out_of_memory_on_a_cpu, RuntimeError),
        (out_of_memory_in_numpy, MemoryError),
        (disk_full, OSError),
        (interrupted, Interrupted),
    ],
)
def test_what_this_machine_lacks_is_no_failure_of_the_unit(trouble, error, monkeypatch):
    monkeypatch.setattr(runner, "training_steps", lambda *_args, **_options: trouble())
    with pytest.raises(error):
        do(tiny())
    assert list(records.every()) == []


def test_missing_data_is_no_failed_run(monkeypatch):
    def absent(_name):
        raise FileNotFoundError("mnist is not there")

    monkeypatch.setattr(data, "load", absent)
    with pytest.raises(FileNotFoundError, match="mnist is not there"):
        do(tiny())
    assert list(records.every()) == []


def test_a_damaged_checkpoint_is_no_failure_and_says_what_to_do():
    storage.write_bytes(checkpoint(tiny()), b"no checkpoint")
    with pytest.raises(storage.Damaged, match=r"is damaged .*delete it"):
        do(tiny())
    assert list(records.every()) == []


def test_a_record_that_could_not_be_written_leaves_a_training_that_need_not_be_repeated(
    monkeypatch, trainings
):
    genuine, calls = records.create_bytes, []

    def full_once(path, content):
        if not calls:
            calls.append(path)
            disk_full()
        genuine(path, content)

    monkeypatch.setattr(records, "create_bytes", full_once)
    with pytest.raises(OSError, match="No space left"):
        do(tiny())
    assert list(records.every()) == [] and checkpoint(tiny()).exists()
    steps = []
    assert doing(report=lambda unit, p: steps.append(p) if p else None)(tiny())
    assert len(steps) == 1, "the finished training is taken from its checkpoint"


def test_results_that_cannot_be_written_are_noticed_before_the_first_step(trainings, folders):
    (folders / "results").write_text("a file in the way")
    with pytest.raises(OSError, match=r"cannot write to .*choose another folder") as caught:
        do(tiny())
    assert trainings == [] and "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_results_without_leave_to_write_is_noticed_before_the_first_step(
    trainings, folders
):
    (folders / "results").mkdir(mode=0o555)
    with pytest.raises(PermissionError, match="cannot write to"):
        do(tiny())
    assert trainings == []


# --- Weights --------------------------------------------------------------------------------------


def test_without_a_record_there_is_no_network():
    with pytest.raises(FileNotFoundError, match="run it first"):
        trained(tiny())


def test_a_record_without_weights_says_where_they_belong():
    do(tiny())
    kept, cached = runner.weights_files(tiny())
    kept.unlink()
    for call in (trained, lambda n: do(attacked(n))):
        with pytest.raises(NoWeights) as caught:
            call(tiny())
        said = str(caught.value)
        assert str(kept) in said and str(cached) in said and "\n" not in said
    assert [r.name for r in records.every()] == ["network"], "it is no failed run"


def other_weights() -> dict:
    return {n: t + 1 for n, t in tiny().build().state_dict().items()}


@pytest.mark.parametrize("place", [0, 1], ids=["kept", "cached"])
@pytest.mark.parametrize("kind", ["damaged", "other"])
def test_weights_that_are_not_those_of_the_record_do_not_hide_those_that_are(place, kind):
    record = do(tiny())
    files = runner.weights_files(tiny())
    storage.write_bytes(files[1 - place], files[0].read_bytes())
    if kind == "damaged":
        storage.write_bytes(files[place], b"damaged")
    else:
        storage.save_tensors(files[place], other_weights(), {})
    assert storage.tensors_sha256(trained(tiny()).state_dict()) == record.weights_sha256


def test_no_whole_weights_at_all_are_damage_that_names_every_file():
    do(tiny())
    files = runner.weights_files(tiny())
    storage.write_bytes(files[0], b"damaged")
    storage.save_tensors(files[1], other_weights(), {})
    for call in (trained, lambda n: do(attacked(n))):
        with pytest.raises(storage.Damaged) as caught:
            call(tiny())
        assert all(str(file) in str(caught.value) for file in files)
        assert "\n" not in str(caught.value)
    assert failures() == []


def test_a_damaged_record_is_told_and_not_run_over(trainings):
    record = do(tiny())
    record.path.write_text("{")
    for call in (do, records.find, trained):
        with pytest.raises(storage.Damaged, match="is damaged"):
            call(tiny())
    assert len(trainings) == 1 and record.path.read_text() == "{"


@pytest.mark.skipif(
    "REPRODUCE_DATA" not in os.environ,
    reason="REPRODUCE_DATA is not set: the real MNIST is not at hand",
)
def test_committed_weights_are_as_accurate_as_their_records_say(monkeypatch):
    monkeypatch.delenv("REPRODUCE_RESULTS")
    mnist, checked = data.load("mnist"), 0
    for network in registry.networks("dqa", "laptop", 0):
        if network.dataset == "mnist" and registry.is_of_a_table(network):
            record = records.find(registry.suites(network)["table"]["clean"])
            if record is not None and runner.weights_files(network)[0].exists():
                x, y = mnist.x_test[:1_000], mnist.y_test[:1_000]
                hits = correct(trained(network), x, y, batch_size=125).numpy()
                # Another processor adds in another order, and an image on the edge may fall over.
                assert int((hits != record.bits[:1_000]).sum()) <= 2, network.slug
                checked += 1
    assert checked
