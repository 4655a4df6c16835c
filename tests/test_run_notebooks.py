"""The notebooks that run units: what they take, what they refuse, and that they wait."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import nbformat
import numpy as np
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from reproduce import notebook, records, runner, storage
from reproduce.papers import double, dqa, registry
from tests.test_runner import attacked, checkpoint, tiny

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
RUN = sorted(NOTEBOOKS.glob("run_*.ipynb"))

pytestmark = pytest.mark.usefixtures("folders")


def parameters(path: Path) -> str:
    (cell,) = [
        c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])
    ]
    return cell.source


def namespace(path: Path, *injected: str) -> dict:
    """What a kernel holds when the parameters are checked."""
    cells = [parameters(path), *injected]
    found: dict = {"In": ["", *cells, "check_parameters(globals())"]}
    for cell in cells:
        exec(compile(cell, "cell", "exec", flags=0, dont_inherit=True), found)
    return found


@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_every_parameter_has_a_type_and_a_comment_that_papermill_shows(path):
    shown = papermill.inspect_notebook(str(path))
    declared = namespace(path)["__annotations__"]
    assert shown.keys() == declared.keys() and shown
    for name, one in shown.items():
        assert one["inferred_type_name"] == declared[name].__name__ and one["help"], name


@pytest.mark.parametrize("path", RUN, ids=lambda p: p.stem)
def test_the_defaults_are_taken(path):
    notebook.check_parameters(namespace(path))


@pytest.mark.parametrize(
    ("injected", "says"),
    [
        ("bit = 1", "no parameter 'bit'; there are: paper, dataset, activation, bits, "),
        ("bits = 1\nSeed = 3", "no parameter 'Seed'"),
        ("mixed = 'false'", "mixed is 'false'; it must be True or False"),
        ("mixed = 0", "mixed is 0; it must be True or False"),
        ("bits = True", "bits is True; it must be a whole number"),
        ("bits = 1.0", r"bits is 1\.0; it must be a whole number"),
        ("bits = '1'", "bits is '1'"),
        ("seed = None", "seed is None"),
        ("scale = 3", "scale is 3; it must be a text"),
    ],
)
def test_a_misspelt_or_mistyped_parameter_is_refused_in_one_line(injected, says):
    with pytest.raises(TypeError, match=says) as caught:
        notebook.check_parameters(namespace(NOTEBOOKS / "run_network.ipynb", injected))
    assert "\n" not in str(caught.value)


def test_what_was_given_is_taken_whatever_is_defined_later():
    path = NOTEBOOKS / "run_network.ipynb"
    given = namespace(path, "bits = 1\nmixed = True\nactivation = 'fixed'")
    notebook.check_parameters(given | {"helper": 3})


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("run_network", {"bit": 1}, "no parameter 'bit'"),
        ("run_key", {"key": 12345678}, "key is 12345678; it must be a text"),
    ],
)
def test_the_notebook_itself_refuses_it_before_anything_is_run(name, given, says, folders):
    with pytest.raises(PapermillExecutionError, match=says):
        papermill.execute_notebook(
            str(NOTEBOOKS / f"{name}.ipynb"), None, given, kernel_name="python3", progress_bar=False
        )
    assert not (folders / "results").exists()


def test_a_network_is_the_one_that_is_named():
    shared = {"scale": "smoke", "seed": 3}
    of_dqa = {"activation": "fixed", "mixed": True, "dithered": True, "halftone": "jjn"}
    found = notebook.network("dqa", "digits", bits=2, **of_dqa, **shared)
    assert found == dqa.network("digits", "fixed", 2, mixed=True, **shared)
    relu = notebook.network("dqa", "digits", bits=0, **of_dqa | {"activation": "relu"}, **shared)
    assert (relu.activation, relu.bits) == ("relu", None)
    image = notebook.network("double-quantization", "digits", bits=2, **of_dqa, **shared)
    assert (image.cell, image.seed, image.dataset) == ("2bit-jjn", 3, "patterns")
    with pytest.raises(ValueError, match="paper is 'third'; choose dqa or double-quantization"):
        notebook.network("third", "digits", bits=2, **of_dqa, **shared)


def test_a_key_names_a_network_or_a_measurement():
    network = dqa.network("digits", "fixed", 1, scale="smoke")
    one = registry.suites(network)["trial"]["noise"]
    assert notebook.by_key(network.key) == network
    assert (notebook.by_key(one.key).key, notebook.by_key(one.key).folder) == (one.key, one.folder)
    with pytest.raises(ValueError, match="no unit has the key '0badcafe'"):
        notebook.by_key("0badcafe")


def test_a_unit_at_which_another_process_is_is_waited_for(capsys, monkeypatch):
    locks = storage.cache() / "locks"
    locks.mkdir(parents=True)
    lock, naps = filelock.FileLock(locks / f"{tiny().key}.lock"), []
    lock.acquire()

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            lock.release()

    monkeypatch.setattr(notebook.time, "sleep", nap)
    found = notebook.run([attacked()], wait_s=7)
    assert found.keys() == {"pgd"} and naps == [7, 7, 7]
    assert capsys.readouterr().out.count(f"waiting for another process at {tiny().folder}") == 1


def test_an_interrupt_saves_what_is_done_and_the_next_call_goes_on(monkeypatch):
    genuine, steps = notebook.Shown.__call__, []

    def shown(self, unit, progress):
        genuine(self, unit, progress)
        if progress is not None:
            steps.append(progress.step)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(notebook.Shown, "__call__", shown)
    with pytest.raises(KeyboardInterrupt, match="run the cell again"):
        notebook.run([tiny()])
    assert steps == [1, 2] and list(records.every()) == []
    assert notebook.run([tiny()]).keys() == {"network"} and steps == [1, 2, 3, 4, 5, 6]


def test_a_bar_is_drawn_although_a_notebook_is_no_terminal(capsys):
    notebook.run([tiny()])
    err = capsys.readouterr().err
    assert "smoke-dynamic-1bit-seed0" in err and "/6" in err and "begun" not in err


def test_outcomes_and_curves_are_tables_of_what_is_in_the_records():
    record = runner.run(tiny(), runner.Stop())
    frame = notebook.curves(record)
    assert list(frame.index) == [1, 2] and list(frame["loss"]) == record.values["loss"]
    assert list(frame["accuracy %"]) == [100 * a for a in record.values["accuracy"]]
    hits = runner.run(attacked(), runner.Stop())
    norms = records.Record(**{**vars(hits), "bits": None,
                              "norms": np.array([0, 1, 3, np.inf], np.float32)})  # fmt: skip
    table = notebook.outcomes({"pgd": hits, "cw": norms, "network": record})
    assert list(table[""]) == ["pgd", "cw"] and list(table["images"]) == [24, 4]
    share = 100 * hits.correct / 24
    assert table["%"][0].startswith(f"{share:.1f} (")
    assert table["%"][1].startswith("25.0 (") and table["median norm"][1] == 2
    assert list(table["counted"]) == ["right", "withstood"]


def test_the_suites_that_are_offered_are_those_that_its_networks_have():
    lines = parameters(NOTEBOOKS / "run_network.ipynb").splitlines()
    (offered,) = [x.partition("# ")[2] for x in lines if x.startswith("suite")]
    kinds = dqa.ActivationNetwork, double.ImageNetwork
    there = {s for n in registry.networks() if type(n) in kinds for s in registry.suites(n)}
    assert sorted(offered.replace(" or ", " ").split(", ")) == sorted({"network"} | there)
    (text,) = [c.source for c in nbformat.read(NOTEBOOKS / "run_network.ipynb", 4).cells[:1]]
    assert {x for x in re.findall(r"`(\w+)`", text) if x != "papermill"} == {"network"} | there


def test_every_scale_that_is_offered_has_networks_and_suites():
    lines = parameters(NOTEBOOKS / "run_network.ipynb").splitlines()
    (offered,) = [x.partition("# ")[2] for x in lines if x.startswith("scale")]
    everywhere, _, rest = offered.partition("; of dqa on cifar10 ")
    assert (everywhere, rest) == ("smoke, laptop, paper", "workstation, too")
    kind = {"activation": "fixed", "mixed": False, "dithered": True, "halftone": ""}
    real = ("mnist", "cifar10")
    sets = {scale: real for scale in everywhere.split(", ")} | {"smoke": ("digits", "patterns")}
    wanted = [(p, d, s) for p in registry.PAPERS for s, some in sets.items() for d in some]
    for paper, dataset, scale in (*wanted, ("dqa", "cifar10", "workstation")):
        one = notebook.network(paper, dataset, bits=2, scale=scale, seed=0, **kind)
        assert one.scale == scale and "table" in registry.suites(one)


# --- papermill as a process of its own ------------------------------------------------------------

SHARED = dqa.network("digits", "relu", None, scale="smoke")
GIVEN = {"dataset": "digits", "activation": "relu", "bits": 0}


def in_the_background(module: str, *words: str) -> subprocess.Popen:
    """On a CPU and in one thread; it can be interrupted even where pytest itself cannot."""
    environment = os.environ | {
        "PYTHONPATH": str(NOTEBOOKS.parent), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def papermill_of(suite: str, out: Path) -> subprocess.Popen:
    words = [w for name, value in (GIVEN | {"suite": suite}).items() for w in ("-p", name, value)]
    return in_the_background(
        "papermill", str(NOTEBOOKS / "run_network.ipynb"), str(out), *map(str, words)
    )


def until(there, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.02)


def contents(root: Path) -> dict[str, dict]:
    """{path: content} of all records, without when, where and how fast they came about."""
    found = {}
    for file in root.glob("*/*/*.json"):
        content = json.loads(file.read_text())
        del content["run"], content["digest"]
        found[str(file.relative_to(root))] = content
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, dict]:
    """The records of the shared network and all its suites, of one plain run."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRODUCE_RESULTS", str(root / "results"))
        patch.setenv("REPRODUCE_CACHE", str(root / "cache"))
        words = {"scale": "smoke", "dataset": "digits", "cell": SHARED.cell, "seed": "0"}
        one = in_the_background("reproduce", "run", *(f"--{k}={v}" for k, v in words.items()))
        assert one.wait(300) == 0
    return contents(root / "results")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_papermill_that_is_stopped_keeps_its_work_and_the_same_command_goes_on(
    number, folders, undisturbed
):
    out = folders / "out.ipynb"
    first = papermill_of("file", out)
    until(checkpoint(SHARED).exists)
    at_an_epochs_end = storage.load_tensors(checkpoint(SHARED))[1]
    time.sleep(0.3)  # two steps
    first.send_signal(number)
    assert first.wait(60) != 0
    with filelock.FileLock(storage.cache() / "locks" / f"{SHARED.key}.lock", timeout=60):
        stopped = storage.load_tensors(checkpoint(SHARED))[1]
    assert at_an_epochs_end["step"] < stopped["step"] < stopped["total"]
    assert list(records.every()) == []
    executed = [c.execution_count for c in nbformat.read(out, 4).cells if c.cell_type == "code"]
    assert executed[:3] == [1, 2, 3]  # the parameters, those given, and what they mean

    assert papermill_of("file", out).wait(120) == 0
    found = contents(folders / "results")
    assert len(found) == 1 + len(registry.suites(SHARED)["file"])
    assert found == {path: undisturbed[path] for path in found}
    cells = nbformat.read(out, 4).cells
    assert all(c.execution_count for c in cells if c.cell_type == "code")


def test_three_papermills_at_once_share_one_network_from_nothing(folders, undisturbed):
    suites = "table", "trial", "file"
    started = [papermill_of(suite, folders / f"{suite}.ipynb") for suite in suites]
    assert [one.wait(240) for one in started] == [0, 0, 0]
    units = {SHARED.key} | {m.key for suite in suites for m in registry.measurements(SHARED, suite)}
    found = contents(folders / "results")
    assert len(found) == len(units) and found == {path: undisturbed[path] for path in found}
