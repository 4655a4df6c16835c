from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import filelock
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproduce import __main__ as cli
from reproduce import data, experiments, grids, results, storage, trials, units
from reproduce.attacks import FGSM, PGD, Noise
from reproduce.grids import dqa, grid
from reproduce.results import Record
from reproduce.training import Interrupted


@pytest.fixture(autouse=True)
def one_thread(monkeypatch, folders):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def restored():
    """The command line sets signal handlers and threads; the tests after it want their own."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


ATTACK = PGD(76.5, 38.0, 2)


def tiny(activation: str, bits: int | None, images: int = 48) -> grids.DQA:
    full = dqa("digits", activation, bits, 0, "smoke")
    training = replace(
        full.training,
        epochs=2,
        clean_epochs=1,
        ramp_epochs=0,
        batch_size=images // 3,
        attack=ATTACK,
    )
    attacks = {"clean": None, "fgsm": FGSM(76.5), "pgd": ATTACK}
    small = {"train_images": images, "test_images": 24, "eval_batch": 10}
    return replace(full, **small, training=training, attacks=attacks)


# Not in the order of their cost.
TINY = (tiny("dynamic", 1, 54), tiny("relu", None, 48), tiny("fixed", 2, 51))
CHEAPEST_FIRST = tuple(
    f"dqa-digits smoke-{cell}-seed0" for cell in ("relu", "fixed-2bit", "dynamic-1bit")
)


@pytest.fixture
def tiny_grid(monkeypatch):
    monkeypatch.setattr(units, "grid", lambda *_filters: iter(TINY))


def tiny_trial(base: grids.DQA, draws: int = 2) -> trials.DQATrial:
    full = trials.trial(base)
    noise = trials.Condition(attack=Noise(eps_255=8, draws=draws), images=6)
    conditions = {"clean": trials.Condition(images=6), "noise": noise}
    return replace(full, conditions=conditions, examined=2, planted=1)


@pytest.fixture
def tiny_trials(tiny_grid, monkeypatch):
    """Beside the experiments, a trial of two of them; that of ReLU is the dearer one."""
    two = (tiny_trial(TINY[1], draws=40), tiny_trial(TINY[2]))
    monkeypatch.setattr(units, "grid", lambda *_filters: iter((*TINY, *two)))
    return two


def finished(capsys) -> list[str]:
    """The names and slugs of which `run` has printed a result."""
    return [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ": " in line]


# --- Durations and other arguments ----------------------------------------------------------------


@given(h=st.integers(0, 99), m=st.integers(0, 999), s=st.integers(0, 9999))
def test_a_duration_is_its_hours_minutes_and_seconds(h, m, s):
    assert cli.seconds(f"{h}h{m}m{s}s") == 3600 * h + 60 * m + s
    assert cli.seconds(f"{h}h") == 3600 * h
    assert cli.seconds(f"{m}m{s}s") == 60 * m + s


@pytest.mark.parametrize(
    "text", ["", "9", "m", "1.5h", "-1m", "5m1h", "1d", " 9m", "9m\n", "9 m", "1h30"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no duration; write 90s"):
        cli.seconds(text)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "required: command"),
        (["walk"], "invalid choice: 'walk'"),
        (["run", "--time-budget", "soon"], "'soon' is no duration"),
        (["run", "--jobs", "0"], "'0' must be at least 1"),
        (["run", "--jobs", "two"], "'two' is not a whole number"),
        (["list", "--seed", "-1"], "--seed"),
        (["list", "--seed", "1.5"], "'1.5' is not a whole number"),
        (["list", "--paper", "third"], "invalid choice: 'third'"),
        (["status", "--scale", "huge"], "invalid choice: 'huge'"),
        (["list", "--dataset", "imagenet"], "invalid choice: 'imagenet'"),
        (["list", "--jobs", "2"], "unrecognized arguments: --jobs"),
    ],
)
def test_a_bad_argument_ends_with_code_2_and_names_itself(capsys, arguments, names):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert names in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["list", "status", "run"])
def test_filters_that_leave_nothing_end_with_code_2_and_one_line(capsys, command):
    code = cli.main([command, "--scale", "smoke", "--dataset", "digits", "--cell", "fixed-9bit"])
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("error: no experiment has") and err.count("\n") == 1
    assert "fixed-9bit" in err and "dynamic-3bit" in err
    assert cli.main([command, "--scale", "smoke", "--name", "dqa-digit"]) == 2
    err = capsys.readouterr().err
    assert "name=dqa-digit;" in err and "dqa-digits-trial" in err and err.count("\n") == 1


# --- list -----------------------------------------------------------------------------------------


def test_list_prints_a_line_for_each_experiment_with_its_name_slug_and_key(capsys):
    assert cli.main(["list", "--scale", "smoke"]) == 0
    lines = [tuple(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [(e.name, e.slug, e.key) for e in units.grid(scale="smoke")]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("--paper dqa --dataset digits", 2 * 7 + 2 * 3 + 2 * 6),
        ("--paper double-quantization", 3 * 15 + 2 * 2),
        ("--cell relu", 2 * 2 + 1),
        ("--cell 2bit-dithered --seed 5", 2),
        ("--dataset patterns --cell fixed-2bit", 2),
        ("--name dqa-digits", 7 + 3 + 6),
        ("--name dqa-digits-trial", 7 + 3 + 6),
        ("--name dqa-digits-trial --cell relu", 1),
    ],
)
def test_list_can_be_filtered(capsys, filters, expected):
    assert cli.main(["list", "--scale", "smoke", *filters.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == expected
    if "--seed" in filters:
        assert all("seed5" in line for line in lines)


# --- status ---------------------------------------------------------------------------------------


def status_line(capsys) -> str:
    assert cli.main(["status"]) == 0
    return " ".join(capsys.readouterr().out.splitlines()[1].split())


def test_status_counts_what_is_done_missing_and_failed(capsys, tiny_grid, monkeypatch):
    assert status_line(capsys) == "dqa-digits smoke 0 / 3 / 0 unknown: nothing of it was run yet"
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "train", breaks)
        with pytest.raises(ArithmeticError):
            experiments.run(TINY[0])
    assert status_line(capsys).startswith("dqa-digits smoke 0 / 3 / 1 ")
    experiments.run(TINY[1])
    assert status_line(capsys).startswith("dqa-digits smoke 1 / 2 / 1 ")
    experiments.run(TINY[2])
    experiments.run(TINY[0])
    assert status_line(capsys) == "dqa-digits smoke 3 / 0 / 0 -"


def store(experiment, wall_s: float) -> None:
    """A record as if the experiment had been run."""
    results.save(
        Record(
            name=experiment.name,
            slug=experiment.slug,
            experiment=grids.configuration(experiment),
            scale=experiment.scale,
            seed=experiment.seed,
            dataset={"name": experiment.dataset, "sha256": ""},
            metrics={"clean": {"correct": 1, "total": 2}},
            curves={},
            wall_s=wall_s,
            device="",
            versions={},
            commit=None,
            dirty=None,
            created="2025-01-02T03:04:05+00:00",
            arrays={"a": np.zeros(1)},
        )
    )


def test_the_time_left_is_the_work_left_at_the_speed_of_what_was_run(capsys, tiny_grid):
    per_unit = grids.work(TINY[1])
    store(TINY[1], wall_s=600.0)
    left = 10 * (grids.work(TINY[0]) + grids.work(TINY[2])) / per_unit
    assert status_line(capsys) == f"dqa-digits smoke 1 / 2 / 0 {left:.0f} min"


def test_a_damaged_record_ends_with_code_2_and_one_line(capsys, tiny_grid):
    store(TINY[1], wall_s=1.0)
    file = results.path(TINY[1].name, TINY[1].slug, TINY[1].key)
    file.write_text(file.read_text()[:100])
    for command in "status", "run":
        assert cli.main([command]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert err.startswith(f"error: record {file} is damaged")


# --- run ------------------------------------------------------------------------------------------


def breaks(*_args, **_kwargs):
    raise ArithmeticError("it broke")


def test_run_works_through_what_is_missing_cheapest_first(capsys, tiny_grid):
    assert cli.main(["run"]) == 0
    assert finished(capsys) == list(CHEAPEST_FIRST)
    assert len(results.records()) == 3
    assert cli.main(["run"]) == 0
    assert finished(capsys) == []


def test_run_prints_the_accuracies_of_the_record(capsys, tiny_grid):
    assert cli.main(["run", "--cell", "relu"]) == 0
    line = capsys.readouterr().out
    (record,) = results.records()
    for condition, counts in record.metrics.items():
        assert f"{condition} {100 * counts['correct'] / counts['total']:.2f}%" in line
    share = float(re.search(r", ([\d.]+)% of the training spent preparing images$", line)[1])
    assert 0 <= share < 100


def test_a_budget_of_nothing_starts_nothing(capsys, tiny_grid, folders):
    assert cli.main(["run", "--time-budget", "0s"]) == 0
    assert "stopped; call again to resume" in capsys.readouterr().out
    assert results.records() == []
    assert not (folders / "cache" / "checkpoints").exists()


def test_budgets_stop_cleanly_and_lose_nothing(capsys, tiny_grid, monkeypatch, folders):
    clock = iter(range(10**9))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    done, calls, stopped_within = [], 0, 0
    while len(done) < 3:
        assert cli.main(["run", "--time-budget", "11s"]) == 0
        out = capsys.readouterr().out
        done += [line.split(":")[0] for line in out.splitlines() if ": " in line]
        assert len(results.records()) == len(done)
        assert ("stopped" in out) == (len(done) < 3)
        stopped_within += len(list((folders / "cache" / "checkpoints").iterdir()))
        calls += 1
        assert calls < 30, "each call must get further"
    assert done == list(CHEAPEST_FIRST) and stopped_within >= 3
    assert results.failures() == []
    assert list((folders / "cache" / "checkpoints").iterdir()) == []


def test_a_failed_experiment_is_told_and_the_others_are_run(capsys, tiny_grid, monkeypatch):
    genuine = experiments.train

    def fails_for_relu(model, *args, **kwargs):
        if any(isinstance(m, torch.nn.ReLU) for m in model.modules()):
            raise RuntimeError("first line\nsecond line")
        return genuine(model, *args, **kwargs)

    monkeypatch.setattr(experiments, "train", fails_for_relu)
    assert cli.main(["run"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == list(CHEAPEST_FIRST[1:])
    (told,) = [line for line in err.splitlines() if "failed" in line]
    assert "dqa-digits smoke-relu-seed0 failed: RuntimeError: first line" in told
    assert "second line" not in err.replace(told, ""), "an error is one line"
    assert len(results.failures()) == 1 and len(results.records()) == 2


def test_missing_data_end_with_code_2_and_one_line(capsys, tiny_grid, monkeypatch):
    def absent(_name):
        raise FileNotFoundError("mnist is not there: set REPRODUCE_DATA")

    monkeypatch.setattr(data, "load", absent)
    assert cli.main(["run", "--cell", "relu"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1] == "error: mnist is not there: set REPRODUCE_DATA"
    )


def test_what_another_process_runs_is_left_to_it(capsys, tiny_grid, folders):
    locks = folders / "cache" / "locks"
    locks.mkdir(parents=True)
    with filelock.FileLock(locks / f"{TINY[1].key}.lock"):
        assert cli.main(["run"]) == 0
    assert finished(capsys) == list(CHEAPEST_FIRST[1:])


def test_a_resumed_run_shows_its_progress_from_where_it_stopped(tiny_grid, monkeypatch):
    bars = []

    class Bar(cli.tqdm):
        def close(self):
            bars.append((self.initial, self.n, self.total))
            super().close()

    monkeypatch.setattr(cli, "tqdm", Bar)
    clock = iter(range(10**9))
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    assert cli.main(["run", "--cell", "relu", "--time-budget", "5s"]) == 0
    assert cli.main(["run", "--cell", "relu"]) == 0
    first, second = dict.fromkeys(bars)
    assert first[0] == 0 and 0 < first[1] < first[2] == second[2] == 96
    assert second[0] == first[1] and second[1] == 96


def test_the_evaluations_are_named_one_by_one(tiny_grid, monkeypatch):
    texts = []

    class Bar(cli.tqdm):
        def set_description(self, desc=None, refresh=True):
            texts.extend([desc] if "," in desc else [])
            super().set_description(desc, refresh)

    monkeypatch.setattr(cli, "tqdm", Bar)
    assert cli.main(["run", "--cell", "relu"]) == 0
    slug = next(e.slug for e in grids.grid() if e.cell == "relu")
    (record,) = results.records()
    named = [f"{name} ({i} of {len(record.metrics)})" for i, name in enumerate(record.metrics, 1)]
    assert texts == [f"{slug}, {name}" for name in named]


def test_a_reader_that_has_seen_enough_is_no_error(folders):
    command = [sys.executable, "-m", "reproduce", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


# --- Trials ---------------------------------------------------------------------------------------


def test_the_bar_starts_anew_for_each_network_that_a_trial_needs(tiny_trials, monkeypatch):
    bars = []

    class Bar(cli.tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(cli, "tqdm", Bar)
    assert cli.main(["run", "--name", "dqa-digits-trial"]) == 0
    trained = [r for r in results.records() if r.name == "dqa-digits"]
    assert len(trained) == 3 and all(n == total for n, total in bars)


def test_a_trial_follows_its_network(capsys, tiny_trials):
    assert trials.work(tiny_trials[0]) > trials.work(tiny_trials[1])
    assert cli.main(["run"]) == 0
    relu, fixed, dynamic = CHEAPEST_FIRST
    its = {e: e.replace("digits", "digits-trial") for e in (relu, fixed)}
    assert finished(capsys) == [relu, its[relu], fixed, its[fixed], dynamic]
    assert len(results.records()) == 3 + 2 + 1, "the twin of one is none of the three"
    assert cli.main(["status"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == ["dqa-digits smoke 3 / 0 / 0 -", "dqa-digits-trial smoke 2 / 0 / 0 -"]


def test_a_trial_asked_for_by_name_runs_what_it_needs_and_nothing_more(capsys, tiny_trials):
    assert cli.main(["run", "--name", "dqa-digits-trial", "--cell", "relu"]) == 0
    assert finished(capsys) == ["dqa-digits-trial smoke-relu-seed0"]
    names = sorted((r.name, r.slug) for r in results.records())
    assert names == [(n, "smoke-relu-seed0") for n in ("dqa-digits", "dqa-digits-trial")]


def test_units_are_run_seed_by_seed_the_tables_first_each_network_before_its_trial():
    order = sorted(units.grid(), key=units.worth)
    place = {u.key: i for i, u in enumerate(order)}
    assert [u.scale for u in order] == sorted((u.scale for u in order), key=grids.SCALES.index)
    for scale in grids.SCALES:
        seeds = [u.seed for u in order if u.scale == scale]
        assert seeds == sorted(seeds)
    paper = [u for u in order if u.scale == "paper" and u.seed == 0]
    names = {"dqa-mnist": 2 * 7, "dqa-cifar10": 7, "double-quantization-cifar10": 15}
    tables = paper[: 2 * sum(names.values())]
    for name, count in names.items():
        assert sum(u.name == name for u in tables) == count
        assert sum(u.name == f"{name}-trial" for u in tables) == count
    for unit in tables:
        if isinstance(unit, trials.Trial):
            assert place[unit.key] == place[unit.base.key] + 1
    rest = [units.work(u) for u in paper[len(tables) :]]
    assert rest == sorted(rest) and rest


def test_a_trial_whose_network_another_process_trains_waits_for_it(
    capsys, tiny_trials, folders, monkeypatch
):
    locks = folders / "cache" / "locks"
    locks.mkdir(parents=True)
    network = filelock.FileLock(locks / f"{TINY[1].key}.lock")
    network.acquire()
    naps = []

    def sleep(s):
        naps.append(s)
        if len(naps) == 2:
            network.release()

    monkeypatch.setattr(cli.time, "sleep", sleep)
    assert cli.main(["run", "--cell", "relu", "--name", "dqa-digits-trial"]) == 0
    assert len(naps) == 2
    assert finished(capsys) == ["dqa-digits-trial smoke-relu-seed0"]


def test_a_fault_of_the_device_ends_the_process_and_is_no_failure_of_the_experiment(
    capsys, tiny_grid, monkeypatch
):
    def fault(*_args, **_kwargs):
        raise torch.AcceleratorError("illegal memory access")

    monkeypatch.setattr(experiments, "train", fault)
    assert cli.main(["run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1] == "error: illegal memory access"
    assert results.failures() == []


def test_the_time_left_of_trials_is_reckoned_from_trials(capsys, tiny_trials):
    dear, cheap = tiny_trials
    store(TINY[1], wall_s=1.0)
    store(cheap, wall_s=600.0)
    left = 10 * trials.work(dear) / trials.work(cheap)
    assert cli.main(["status", "--name", "dqa-digits-trial"]) == 0
    line = " ".join(capsys.readouterr().out.splitlines()[1].split())
    shown = f"{left:.0f} min" if 60 * left < 7200 else f"{left / 60:.1f} h"
    assert line == f"dqa-digits-trial smoke 1 / 1 / 0 {shown}"


def test_a_trial_whose_network_is_not_at_hand_is_told_and_the_others_are_run(capsys, tiny_trials):
    store(TINY[1], wall_s=1.0)
    assert cli.main(["run", "--name", "dqa-digits-trial"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "dqa-digits-trial smoke-fixed-2bit-seed0"
    ]
    told = [line for line in err.splitlines() if "failed: NoWeights: no weights of" in line]
    assert len(told) == 1 and told[0].startswith("dqa-digits-trial smoke-relu-seed0 failed")
    assert results.failures() == []


# --- Processes ------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "reproduce", "run", "--scale", "smoke", "--name", "dqa-digits"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_or_the_deadline_asks_to_stop(number):
    stop = cli._Stop(None)
    stop()
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted):
        stop()
    cli._Stop(3600.0)()
    with pytest.raises(Interrupted):
        cli._Stop(-1.0)()


def test_ctrl_c_leaves_a_checkpoint_and_a_second_call_a_record(folders):
    """The whole smoke unit, so that there is time to stop it in the midst."""
    (experiment,) = [e for e in grid("dqa", "smoke") if e.slug == "smoke-relu-seed0"][:1]
    checkpoint = folders / "cache" / "checkpoints" / f"{experiment.key}.safetensors"
    process = start("--cell", "relu")
    try:
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and out == "stopped; call again to resume\n"
    assert "Traceback" not in err
    assert results.records() == [] and results.failures() == []
    steps = storage.load_tensors(checkpoint)[1]["step"]
    assert 0 < steps < 44
    assert cli.main(["run", "--scale", "smoke", "--name", "dqa-digits", "--cell", "relu"]) == 0
    (record,) = results.records()
    assert len(record.curves["loss"]) == 4 and not checkpoint.exists()


def test_two_jobs_share_the_work_and_each_experiment_is_run_once(folders):
    cells = list(units.grid("dqa", "smoke"))
    missing = {"smoke-relu-seed0", "smoke-fixed-1bit-seed0"}
    for experiment in cells:
        if experiment.name == "dqa-digits" and experiment.slug not in missing:
            store(experiment, wall_s=1.0)
    process = start("--jobs", "2")
    try:
        out, err = process.communicate(timeout=500)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    done = {f"dqa-digits {slug}" for slug in missing}
    assert sorted(line.split(":")[0] for line in out.splitlines()) == sorted(done)
    ours = [r for r in results.records() if r.slug in missing]
    networks = [e for e in cells if e.name == "dqa-digits"]
    assert len(ours) == 2 and len(results.records()) == len(networks)
    assert os.listdir(folders / "cache" / "checkpoints") == []
