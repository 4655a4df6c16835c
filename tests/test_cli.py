"""The command line: what it lists, counts and runs, and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproduce import cli, data, records, runner, storage
from reproduce.attacks import PGD
from reproduce.cli import arguments, running
from reproduce.papers import dqa, registry
from reproduce.papers.units import Evaluation
from reproduce.training import Interrupted

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def alone(monkeypatch, folders):
    """Folders of one's own, one thread, and afterwards the threads that were."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def tiny(activation: str, bits: int | None, images: int = 48):
    full = dqa.network("digits", activation, bits, scale="smoke")
    attack = PGD(76.5, 38.0, 2)
    few = {"epochs": 2, "clean_epochs": 1, "ramp_epochs": 0, "batch_size": 16, "attack": attack}
    return replace(full, train_images=images, training=replace(full.training, **few))


def suite(network) -> dict:
    shared = {"network": network, "images": 12, "batch": 6, "seed": 0}
    dear = Evaluation(name="pgd", attack=PGD(20, 10, 4), **shared)
    return {"pgd": dear, "clean": Evaluation(name="clean", **shared)}


# Not in the order of their cost.
TINY = (tiny("dynamic", 1, 54), tiny("relu", None, 48), tiny("fixed", 2, 51))
CHEAPEST_FIRST = [f"smoke-{cell}-seed0" for cell in ("relu", "fixed-2bit", "dynamic-1bit")]


@pytest.fixture
def few(monkeypatch) -> tuple:
    """A registry of three networks with a suite of two measurements each."""
    monkeypatch.setattr(registry, "networks", lambda *_filters: iter(TINY))
    monkeypatch.setattr(registry, "suites", lambda network: {"table": suite(network)})
    return TINY


def done(capsys) -> list[tuple[str, str]]:
    """(network, what) of each line that `run` has printed."""
    lines = [x for x in capsys.readouterr().out.splitlines() if ": " in x]
    return [(x.split("/")[1].rsplit("-", 1)[0], x.split(": ")[1].split()[0].strip(","))
            for x in lines]  # fmt: skip


def command(*arguments: str, **environment: str) -> subprocess.Popen:
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-m", "reproduce", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


# --- Arguments ------------------------------------------------------------------------------------


@given(h=st.integers(0, 99), m=st.integers(0, 999), s=st.integers(1, 9999))
def test_a_duration_is_its_hours_minutes_and_seconds(h, m, s):
    assert arguments.seconds(f"{h}h{m}m{s}s") == 3600 * h + 60 * m + s
    assert arguments.seconds(f"{m}m{s}s") == 60 * m + s


@pytest.mark.parametrize(
    "text",
    ["", "9", "m", "1.5h", "-1m", "5m1h", "1d", " 9m", "9m\n", "9 m", "1h30", "0s", "9999h", "٣m"],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"write 90s|must lie between"):
        arguments.seconds(text)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "required: command"),
        (["walk"], "invalid choice: 'walk'"),
        (["run", "--time-budget", "soon"], "'soon' is no duration"),
        (["list", "--seed", "-1"], "--seed"),
        (["list", "--seed", "1.5"], "'1.5' is not a whole number"),
        (["list", "--seed", "1000001"], "not a whole number in 0..1000000"),
        (["list", "--paper", "third"], "invalid choice: 'third'"),
        (["status", "--scale", "huge"], "invalid choice: 'huge'"),
        (["list", "--dataset", "imagenet"], "invalid choice: 'imagenet'"),
        (["list", "--suite", "all"], "invalid choice: 'all'"),
        (["run", "--json"], "unrecognized arguments: --json"),
        (["list", "--time-budget", "9m"], "unrecognized arguments"),
        (["list", "--key", "12D8FF7E"], "'12D8FF7E' is no key; give its first 4 to 8 hex digits"),
        (["show"], "required: KEY"),
        (["show", "12d"], "'12d' is no key"),
        (["compare", "12d8ff7e"], "required: KEY"),
        (["export", "--csv", "--latex"], "not allowed with argument"),
    ],
)
def test_a_bad_argument_ends_with_code_2_and_names_itself(capsys, arguments, names):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and names in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["list", "status", "run"])
@pytest.mark.parametrize(
    ("filters", "helps"),
    [(["--cell", "fixed-9bit"], "the cells are "), (["--key", "00000000"], "reproduce list")],
)
def test_filters_that_leave_nothing_end_with_code_2_and_one_line(capsys, command, filters, helps):
    code = cli.main([command, "--scale", "smoke", "--dataset", "digits", *filters])
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("error: nothing has scale='smoke', dataset='digits', ")
    assert filters[1] in err and helps in err
    assert ("dynamic-3bit" in err) == ("--cell" in filters), "a key has nothing to do with cells"


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--version", 0), ("walk", 2)])
def test_what_needs_no_run_loads_the_standard_library_alone(argument, code):
    source = (
        "import sys\nbefore = set(sys.modules)\nfrom reproduce.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(*{n.partition('.')[0] for n in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", source, argument], capture_output=True, text=True)
    *_, ended, loaded = done.stdout.splitlines()
    assert int(ended) == code
    assert set(loaded.split()) - sys.stdlib_module_names == {"reproduce"}


STEERING = "a\x1b[31m\x07\r\nb\u202e"


@pytest.mark.parametrize(
    "arguments",
    [["--cell", STEERING], ["--key", STEERING], ["--paper", STEERING], ["--seed", STEERING],
     [STEERING], [f"--{STEERING}"]],
)  # fmt: skip
def test_what_would_steer_a_terminal_is_not_echoed(capsys, arguments):
    try:
        code = cli.main(["list", "--scale", "smoke", *arguments])
    except SystemExit as caught:
        code = caught.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert "\\x1b[31m" in err and all(c.isprintable() for line in err.splitlines() for c in line)


def test_an_error_of_a_unit_is_told_without_what_steers_a_terminal(capsys, few, monkeypatch):
    def breaks(*_args, **_options):
        raise RuntimeError(f"bad \x1b[31m{STEERING}")

    monkeypatch.setattr(runner, "training_steps", breaks)
    assert cli.main(["run", "--suite", "network"]) == 1
    err = capsys.readouterr().err
    assert err.count("failed: RuntimeError: bad") == 3 and "\x1b" not in err


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "10000"])
def test_a_bad_number_of_threads_ends_with_code_2_and_one_line(capsys, few, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert cli.main(["run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: OMP_NUM_THREADS is {threads!r}")
    assert err.count("\n") == 1 and list(records.every()) == []


def test_threads_are_those_of_the_environment_else_all_that_are_allowed(few, monkeypatch):
    for threads in "3", "":
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr(runner, "default_threads", lambda: 2)
        assert cli.main(["run", "--cell", "relu", "--suite", "network"]) == 0
        assert torch.get_num_threads() == int(threads or 2)


# --- list -----------------------------------------------------------------------------------------


def listed(capsys, *filters: str) -> list[dict]:
    assert cli.main(["list", "--json", *filters]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_list_prints_a_line_for_each_unit_with_its_folder_name_suite_and_key(capsys, few):
    assert cli.main(["list"]) == 0
    lines = {tuple(line.split()) for line in capsys.readouterr().out.splitlines()}
    networks = {(n.folder, n.name, "network", n.key) for n in TINY}
    measured = {(m.folder, m.name, "table", m.key) for n in TINY for m in suite(n).values()}
    assert lines == networks | measured


def test_list_as_json_says_what_a_unit_needs_where_its_files_stand_and_what_it_costs(capsys, few):
    found = {(f["folder"], f["name"]): f for f in listed(capsys)}
    assert len(found) == 9
    for network in TINY:
        own, pgd, clean = (found[network.folder, name] for name in ("network", "pgd", "clean"))
        assert (own["key"], own["suite"], own["needs"]) == (network.key, "network", [])
        assert own["weights"] == [str(f) for f in runner.weights_files(network)]
        assert pgd["needs"] == [network.key] and pgd["dataset"] == "digits"
        assert own["multiply_adds"] > pgd["multiply_adds"] > clean["multiply_adds"] > 0


def test_everything_that_is_needed_is_listed(capsys):
    found = listed(capsys, "--scale", "smoke")
    keys = {f["key"] for f in found}
    assert all(set(f["needs"]) <= keys for f in found)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        # Networks of the tables in two readings, three other readings, six informed ones.
        ("--dataset digits --suite network", 2 * 7 + 3 + 6),
        ("--paper double-quantization --suite network", 15 + 2),
        ("--dataset patterns --cell fixed-2bit --suite table", 5),
        ("--dataset digits --cell relu --suite table", 4),
        ("--cell 2bit-dithered --seed 5 --suite network", 1),
    ],
)
def test_list_can_be_filtered(capsys, filters, expected):
    found = listed(capsys, "--scale", "smoke", *filters.split())
    assert len(found) == expected
    if "--seed" in filters:
        assert all("seed5" in f["folder"] for f in found)


def test_a_key_names_one_unit(capsys, few):
    for unit in (TINY[0], suite(TINY[1])["pgd"]):
        ((only),) = listed(capsys, "--key", unit.key)
        assert (only["key"], only["folder"]) == (unit.key, unit.folder)


def test_a_network_s_key_with_a_suite_names_that_suite_of_that_network(capsys, few):
    found = listed(capsys, "--key", TINY[1].key, "--suite", "table")
    assert {f["key"] for f in found} == {m.key for m in suite(TINY[1]).values()}
    assert {(f["network"], f["suite"]) for f in found} == {(TINY[1].key, "table")}
    (training,) = listed(capsys, "--key", TINY[1].key, "--suite", "network")
    assert training["key"] == TINY[1].key


def test_the_listed_path_is_where_the_record_comes_to_stand_under_whatever_name(capsys, few):
    assert cli.main(["run", "--cell", "relu", "--suite", "table"]) == 0
    capsys.readouterr()
    found = listed(capsys, "--cell", "relu")
    assert all(Path(f["path"]).exists() for f in found) and len(found) == 3
    moved = Path(next(f["path"] for f in found if f["name"] == "pgd"))
    other = moved.rename(moved.with_name(moved.name.replace("pgd", "by-another-name")))
    assert str(other) in {f["path"] for f in listed(capsys, "--cell", "relu")}


def test_what_is_done_already_is_told(capsys, few):
    assert cli.main(["run", "--cell", "relu", "--suite", "network"]) == 0
    assert "nothing is missing" not in capsys.readouterr().out
    assert cli.main(["run", "--cell", "relu", "--suite", "network"]) == 0
    assert capsys.readouterr().out == "nothing is missing of 1\n"


def test_the_reader_of_a_list_may_stop_reading():
    with command("list") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1


# --- status ---------------------------------------------------------------------------------------


def status(capsys) -> dict:
    assert cli.main(["status", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {x["suite"]: (x["done"], x["missing"], x["failed"], x["seconds_left"]) for x in lines}


def test_status_counts_what_is_done_missing_and_failed(capsys, few, monkeypatch):
    assert status(capsys) == {"network": (0, 3, 0, None), "table": (0, 6, 0, None)}
    with monkeypatch.context() as patch:
        patch.setattr(runner, "training_steps", breaks)
        with pytest.raises(ArithmeticError):
            runner.run(TINY[0], runner.Stop())
    assert status(capsys)["network"] == (0, 3, 1, None)
    runner.run(TINY[1], runner.Stop())
    assert status(capsys)["network"][:3] == (1, 2, 1)
    assert cli.main(["run"]) == 0
    capsys.readouterr()
    assert status(capsys) == {"network": (3, 0, 0, 0), "table": (6, 0, 0, 0)}
    assert cli.main(["status"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[2:8] for row in rows] == [
        ["network", "3", "/", "0", "/", "0"], ["table", "6", "/", "0", "/", "0"]
    ]  # fmt: skip


def test_the_time_left_is_the_work_left_at_the_speed_of_what_was_run(capsys, few):
    record = runner.run(TINY[1], runner.Stop())
    record.path.unlink()
    record.run = records.Run(**{**vars(record.run), "wall_s": 1_200.0, "shared_by": 2})
    records.write(record)
    work = [54, 48, 51]  # images; all else is the same
    assert status(capsys)["network"][3] == pytest.approx(600 * (54 + 51) / 48)
    assert cli.main(["status", "--suite", "network"]) == 0
    minutes = 600 * (work[0] + work[2]) / work[1] / 60
    assert capsys.readouterr().out.splitlines()[1].endswith(f"{minutes:.0f} min")


def test_a_damaged_record_ends_with_code_2_and_one_line(capsys, few):
    record = runner.run(TINY[1], runner.Stop())
    record.path.write_text("{")
    for name in "status", "run":
        assert cli.main([name]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"error: record {record.path} is damaged")
        assert err.count("\n") == 1


# --- run ------------------------------------------------------------------------------------------


def breaks(*_args, **_kwargs):
    raise ArithmeticError("it broke")


def test_run_works_through_what_is_missing_cheapest_first(capsys, few):
    assert cli.main(["run"]) == 0
    order = [(cell, what) for cell in CHEAPEST_FIRST for what in ("network", "clean", "pgd")]
    assert done(capsys) == order and len(list(records.every())) == 9
    assert cli.main(["run"]) == 0
    assert done(capsys) == []


def test_what_only_reports_writes_nothing_and_run_removes_what_a_killed_process_left_an_hour_ago(
    capsys, few, folders
):
    names = (".network.json.abcdefgh.reproduce-part", ".network.json.12345678.reproduce-part",
             ".env.template", ".network.json.abcdefgh")  # fmt: skip
    old, new, *others = (records.root() / "x" / name for name in names)
    old.parent.mkdir(parents=True)
    for file in (old, new, *others):
        file.touch()
        if file != new:
            os.utime(file, (0, 0))

    def there() -> dict:
        return {file: file.stat().st_mtime_ns for file in folders.rglob("*")}

    before = there()
    for words in (["status"], ["list"], ["run", "--dry-run"], ["show", few[0].key]):
        assert cli.main(words) == 0
        assert there() == before, words
    assert cli.main(["run", "--suite", "network", "--cell", "relu"]) == 0
    assert not old.exists() and new.exists() and all(file.exists() for file in others)


def test_run_says_what_came_out(capsys, few):
    assert cli.main(["run", "--cell", "relu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(("clean", "pgd"), lines[1:], strict=True):
        record = records.find(suite(TINY[1])[name])
        assert f": {name} {record.correct} of 12 right, " in line


@pytest.mark.parametrize("name", ["pgd", "clean"])
def test_a_measurement_can_be_run_by_its_key_with_what_it_needs(capsys, few, name):
    assert cli.main(["run", "--key", suite(TINY[2])[name].key]) == 0
    assert {r.name for r in records.every()} == {"network", name}
    assert cli.main(["run", "--key", TINY[0].key]) == 0
    assert len(list(records.every())) == 3


def test_run_can_be_kept_to_a_suite(capsys, few):
    assert cli.main(["run", "--suite", "network"]) == 0
    assert done(capsys) == [(cell, "network") for cell in CHEAPEST_FIRST]


def test_a_failed_unit_is_told_and_the_others_are_run(capsys, few, monkeypatch):
    genuine = runner.training_steps

    def fails_for_relu(model, *args, **kwargs):
        if any(isinstance(m, torch.nn.ReLU) for m in model.modules()):
            raise RuntimeError("first line\nsecond line")
        return genuine(model, *args, **kwargs)

    monkeypatch.setattr(runner, "training_steps", fails_for_relu)
    assert cli.main(["run", "--suite", "network"]) == 1
    out, err = capsys.readouterr()
    assert "relu-seed0" in err and "failed: RuntimeError: first line\n" in err
    assert "second line" not in err and out.count("\n") == 2


def test_a_full_disk_ends_the_whole_run(capsys, few, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "training_steps", full)
    assert cli.main(["run"]) == 2
    assert "error: " in (err := capsys.readouterr().err) and err.count("No space left") == 1


def test_without_weights_the_other_units_are_run(capsys, few):
    runner.run(TINY[1], runner.Stop())
    runner.weights_files(TINY[1])[0].unlink()
    assert cli.main(["run"]) == 1
    out, err = capsys.readouterr()
    assert err.count("failed: NoWeights") == 2 and out.count("right") == 4


def test_stopped_with_work_left_the_code_is_75_and_a_second_call_goes_on(capsys, few, monkeypatch):
    genuine, steps = running.Shown.__call__, []

    def third(self, unit, progress):
        genuine(self, unit, progress)
        steps.append(progress)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(running.Shown, "__call__", third)
    assert cli.main(["run"]) == running.LEFT == 75
    assert "call again to resume" in capsys.readouterr().out
    assert list(records.every()) == [] and list((storage.cache() / "checkpoints").iterdir())
    assert cli.main(["run"]) == 0
    assert len(list(records.every())) == 9


def test_a_budget_stops_a_run_with_code_75(capsys, few, monkeypatch):
    def slow(self, unit, progress):
        threading.Event().wait(0.3)

    monkeypatch.setattr(running.Shown, "__call__", slow)
    assert cli.main(["run", "--time-budget", "1s"]) == 75
    assert not any(r.error for r in records.every())


def test_a_unit_that_another_process_runs_is_waited_for_while_others_are_run(
    capsys, few, monkeypatch
):
    locks = storage.cache() / "locks"
    locks.mkdir(parents=True)
    lock = filelock.FileLock(locks / f"{TINY[1].key}.lock")
    lock.acquire()
    naps = []

    def nap(seconds):
        naps.append(len(list(records.every())))
        if len(naps) == 3:
            lock.release()

    monkeypatch.setattr(running.time, "sleep", nap)
    assert cli.main(["run"]) == 0
    assert naps == [6, 6, 6], "what can be run is run first"
    assert capsys.readouterr().err.count("waiting for another process at dqa-digits") == 1


def test_where_the_output_is_no_terminal_progress_comes_in_lines(capsys, few, monkeypatch):
    assert cli.main(["run", "--cell", "relu", "--suite", "network"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err == [f"{TINY[1].folder} network: begun"], "a minute has not passed"
    monkeypatch.setattr(running.Shown, "EVERY_S", 0.0)
    assert cli.main(["run", "--cell", "fixed-2bit", "--suite", "network"]) == 0
    err = capsys.readouterr().err.splitlines()
    steps = [line.split(": ")[1].rpartition(", loss")[0] for line in err[1:]]
    assert steps == [f"step {n} of 8" for n in range(1, 9)]


def test_a_ctrl_c_ends_a_run_cleanly_in_a_process_of_its_own():
    with command("run", "--scale", "smoke", "--paper", "double-quantization") as process:
        assert process.stderr.readline().endswith("network: begun\n")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "call again to resume" in out


def test_missing_data_ends_with_code_2_and_one_line(capsys, few, monkeypatch):
    def absent(_name):
        raise FileNotFoundError("mnist is not there")

    monkeypatch.setattr(data, "load", absent)
    assert cli.main(["run", "--suite", "network"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: mnist is not there"


def test_an_interruption_is_no_failure(few, monkeypatch):
    def stopped(*_args, **_options):
        raise Interrupted

    monkeypatch.setattr(runner, "training_steps", stopped)
    assert cli.main(["run"]) == 75 and list(records.every()) == []
