from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from reproduce import results
from reproduce.results import Record


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("REPRODUCE_RESULTS", str(tmp_path))
    return tmp_path


def record(**changes) -> Record:
    experiment = {
        "paper": "dqa", "dataset": "mnist", "activation": "fixed", "bits": 2, "seed": 3,
        "scale": "laptop", "training": {"epochs": 6, "attack": None}, "width": None,
    }  # fmt: skip
    fields = {
        "name": "dqa-mnist",
        "slug": "laptop-fixed-2bit-seed3",
        "experiment": experiment,
        "scale": "laptop",
        "seed": 3,
        "dataset": {"name": "mnist", "sha256": "ab"},
        "metrics": {
            "clean": {"correct": 9876, "total": 10000},
            "pgd": {"correct": 3, "total": 7, "eps_255": 76.5},
        },
        "curves": {"loss": [1 / 3, 0.1], "thresholds": [[[-0.5, 0.25]], [[0.0, 1e-300]]]},
        "wall_s": 12.345678901234567,
        "device": "a device",
        "versions": {"python": "3.11"},
        "commit": "c0ffee",
        "dirty": False,
        "created": "2025-01-02T03:04:05+00:00",
        "weights_sha256": "cd",
    }
    return Record(**fields | changes)


def arrays() -> dict[str, np.ndarray]:
    return {
        "image/pgd": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "correct/clean": np.packbits([True, False, True]),
        "empty": np.zeros((0, 3)),
        "float": np.array([np.nan, np.inf, -0.0, 1e-300]),
    }


def without_arrays(r: Record) -> dict:
    return {n: v for n, v in vars(r).items() if n != "arrays"}


def damaged(file: Path, reason: str = "") -> None:
    """Reading ends in a ValueError of one line that names the file; a listing ends in the same."""
    for call in (lambda: results.read(file), results.records, results.failures, results.load):
        with pytest.raises(ValueError, match=f"{file.name} is damaged: .*{reason}") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value) and "restore or remove it" in str(caught.value)


# --- Round trip -----------------------------------------------------------------------------------


def test_a_record_survives_a_round_trip():
    original = record(arrays=arrays())
    file = results.save(original)
    back = results.read(file)
    assert without_arrays(back) == without_arrays(original)
    assert back.key == original.key
    assert back.arrays.keys() == original.arrays.keys()
    for name, array in original.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(back.arrays[name], array)


def test_a_record_without_arrays_is_one_file(root):
    file = results.save(record())
    assert [f for f in root.rglob("*") if f.is_file()] == [file]
    assert results.read(file).arrays == {}


def test_the_file_is_where_path_says_and_json_that_others_can_read():
    r = record(arrays=arrays())
    file = results.save(r)
    assert file == results.path("dqa-mnist", "laptop-fixed-2bit-seed3", r.key)
    content = json.loads(file.read_text())
    assert content["metrics"] == r.metrics and content["experiment"] == r.experiment
    assert content["schema"] == 1 and "arrays" not in content
    npz = file.with_suffix(".npz").read_bytes()
    assert content["arrays_sha256"] == hashlib.sha256(npz).hexdigest()


def test_the_same_record_is_the_same_bytes(root, monkeypatch):
    first = results.save(record(arrays=arrays()))
    monkeypatch.setenv("REPRODUCE_RESULTS", str(root / "other"))
    second = results.save(record(arrays=arrays()))
    assert first.read_bytes() == second.read_bytes() and first != second


def test_the_key_is_the_sha256_of_the_configuration_whatever_the_order():
    canonical = '{"a":1,"b":[true,null,0.5]}'
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    assert results.key({"b": [True, None, 0.5], "a": 1}) == expected
    assert record().key == results.key(record().experiment)


def test_results_stand_beside_the_package_unless_the_environment_says_otherwise(monkeypatch, root):
    assert results.root() == root
    monkeypatch.delenv("REPRODUCE_RESULTS")
    assert results.root() == Path(results.__file__).parents[1] / "results"


# --- A crash --------------------------------------------------------------------------------------


class Crash(BaseException):
    """As a Ctrl-C or an exit at the worst moment."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Crash()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_crash_while_saving_leaves_no_record_and_a_second_try_a_whole_one(
    root, monkeypatch, call, number, error
):
    genuine, calls = getattr(os, call), []

    def crash(*args):
        calls.append(args)
        if len(calls) == number + 1:
            raise error
        return genuine(*args)

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(type(error)):
        results.save(record(arrays=arrays()))
    assert results.records() == [] and results.failures() == []
    assert not list(root.rglob("*.json")) and not list(root.rglob(".*"))
    monkeypatch.setattr(os, call, genuine)
    file = results.save(record(arrays=arrays()))
    assert results.read(file).arrays.keys() == arrays().keys()


def test_a_record_never_replaces_another():
    file = results.save(record())
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="append-only") as caught:
        results.save(record(wall_s=1.0, arrays=arrays()))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert file.read_bytes() == before and not file.with_suffix(".npz").exists()


# --- Tampering ------------------------------------------------------------------------------------


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


EDITS = {
    "a count above its total": (lambda c: c["metrics"]["clean"].update(correct=10001), "clean"),
    "a negative count": (lambda c: c["metrics"]["clean"].update(correct=-1), "clean"),
    "a count that is no int": (lambda c: c["metrics"]["pgd"].update(correct=2.5), "pgd"),
    "a count that is a text": (lambda c: c["metrics"]["pgd"].update(correct="3"), "pgd"),
    "a total that is missing": (lambda c: c["metrics"]["pgd"].pop("total"), "pgd"),
    "a total of none": (lambda c: c["metrics"]["pgd"].update(correct=0, total=0), "pgd"),
    "metrics that are a list": (lambda c: c.update(metrics=[1]), ""),
    "another number of bits": (lambda c: c["experiment"].update(bits=3), "belongs to"),
    "another number of epochs": (lambda c: c["experiment"]["training"].update(epochs=7), "belongs"),
    "a further field": (lambda c: c["experiment"].update(extra=1), "belongs to"),
    "another slug": (lambda c: c.update(slug="laptop-relu-seed3"), "belongs to"),
    "another name": (lambda c: c.update(name="dqa-cifar10"), ""),
    "another seed": (lambda c: c.update(seed=4), ""),
    "another scale": (lambda c: c.update(scale="paper"), ""),
    "a missing field": (lambda c: c.pop("device"), "fields"),
    "an unknown field": (lambda c: c.update(accuracy=0.99), "fields"),
    "another schema": (lambda c: c.update(schema=2), "schema is 2"),
    "made a failure": (lambda c: c.update(error="x"), "belongs to"),
    "arrays disowned": (lambda c: c.update(arrays_sha256="0" * 64), "sha256"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_record_is_refused(name):
    change, reason = EDITS[name]
    file = results.save(record(arrays=arrays()))
    edit(file, change)
    damaged(file, reason)


def test_rewriting_a_record_unchanged_is_no_damage():
    file = results.save(record(arrays=arrays()))
    edit(file, lambda c: None)
    assert results.read(file).metrics == record().metrics


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'"a"'])
def test_what_is_no_record_is_refused(content):
    file = results.save(record())
    file.write_bytes(content)
    damaged(file)


def test_a_record_cut_at_any_length_is_refused():
    file = results.save(record())
    content = file.read_bytes()
    for length in range(0, len(content) - 1, 7):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged"):
            results.read(file)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_tampered_arrays_are_refused(place):
    file = results.save(record(arrays=arrays()))
    npz = file.with_suffix(".npz")
    content = bytearray(npz.read_bytes())
    content[int(len(content) * place) if place == 0.5 else place] ^= 1
    npz.write_bytes(content)
    damaged(file, "npz has another sha256")


def test_missing_arrays_are_told():
    file = results.save(record(arrays=arrays()))
    file.with_suffix(".npz").unlink()
    damaged(file, "npz is missing")


def _with_arrays(file: Path, content: bytes) -> None:
    """Arrays exchanged by someone who knows about the sha256."""
    file.with_suffix(".npz").write_bytes(content)
    edit(file, lambda c: c.update(arrays_sha256=hashlib.sha256(content).hexdigest()))


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_pickled_arrays_are_refused_and_never_run(tmp_path):
    file = results.save(record(arrays=arrays()))
    buffer = io.BytesIO()
    sprung = tmp_path / "sprung"
    np.savez(buffer, a=np.array([_Trap(str(sprung))], dtype=object), allow_pickle=True)
    _with_arrays(file, buffer.getvalue())
    damaged(file)
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense", b"PK\x03\x04" + bytes(40)])
def test_arrays_that_are_no_archive_are_refused(content):
    file = results.save(record(arrays=arrays()))
    _with_arrays(file, content)
    damaged(file)


def test_an_absent_record_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "metrics", [{"clean": {"correct": 2, "total": 1}}, {"clean": {"correct": 0.99, "total": 1}}]
)
def test_impossible_counts_are_never_written(root, metrics):
    with pytest.raises(ValueError, match="clean counts"):
        results.save(record(metrics=metrics, arrays=arrays()))
    assert list(root.rglob("*")) == []


# --- Failed runs ----------------------------------------------------------------------------------


def failed(created: str = "2025-01-02T03:04:05+00:00") -> Record:
    error = "ValueError: it broke"
    return record(metrics={}, curves={}, error=error, created=created, weights_sha256=None)


def test_failed_runs_are_kept_each_beside_the_finished_one():
    files = {
        results.save(failed()),
        results.save(failed("2025-01-02T03:04:06+00:00")),
        results.save(record()),
    }
    assert len(files) == 3 and len({f.parent for f in files}) == 1
    assert [r.error for r in results.failures()] == ["ValueError: it broke"] * 2
    assert [r.error for r in results.records()] == [None]
    assert set(results.load()["condition"]) == {"clean", "pgd"}


def test_a_failed_run_does_not_take_the_finished_one_s_place():
    results.save(failed())
    assert not results.path("dqa-mnist", "laptop-fixed-2bit-seed3", record().key).exists()
    assert results.records() == [] and len(results.load()) == 0


# --- The table ------------------------------------------------------------------------------------


def other_records() -> None:
    smoke = record().experiment | {"scale": "smoke", "seed": 0}
    results.save(record(scale="smoke", seed=0, slug="smoke-fixed-2bit-seed0", experiment=smoke))
    cifar = record().experiment | {"dataset": "cifar10"}
    results.save(record(name="dqa-cifar10", experiment=cifar))


def test_the_table_has_one_row_a_condition_with_counts_shares_and_intervals():
    results.save(record(arrays=arrays()))
    table = results.load().set_index("condition")
    assert sorted(table.index) == ["clean", "pgd"]
    row = table.loc["pgd"]
    assert (row.correct, row.total, row.accuracy) == (3, 7, 3 / 7)
    expected = binomtest(3, 7).proportion_ci(method="wilson")
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
    assert (row.experiment, row.scale, row.seed) == ("dqa-mnist", "laptop", 3)
    assert row.key == record().key
    assert (row.paper, row.dataset, row.activation, row.bits) == ("dqa", "mnist", "fixed", 2)
    assert row["training.epochs"] == 6
    assert row.width is None or np.isnan(row.width)


COLUMNS = (
    "experiment", "scale", "seed", "key", "condition", "correct", "total", "accuracy", "low", "high"
)  # fmt: skip


def test_the_columns_are_those_promised_and_in_that_order():
    results.save(record())
    table = results.load()
    assert tuple(table.columns[:10]) == COLUMNS
    plain = {"paper", "dataset", "activation", "bits", "width"}
    assert set(table.columns[10:]) == plain | {"training.epochs", "training.attack"}


def test_the_table_has_a_column_of_bits_where_all_networks_use_relu():
    relu = {n: v for n, v in record().experiment.items() if n != "bits"} | {"activation": "relu"}
    results.save(record(experiment=relu))
    assert results.load()["bits"].isna().all()


def test_an_empty_table_has_its_columns_all_the_same():
    table = results.load()
    assert len(table) == 0 and tuple(table.columns[:10]) == COLUMNS


def test_records_are_chosen_by_experiment_and_scale():
    results.save(record())
    other_records()

    def keys(**filters):
        return [(r.name, r.scale) for r in results.records(**filters)]

    everything = [("dqa-cifar10", "laptop"), ("dqa-mnist", "laptop"), ("dqa-mnist", "smoke")]
    assert keys() == everything
    assert keys(experiment="dqa-mnist") == everything[1:]
    assert keys(scale="laptop") == everything[:2]
    assert keys(experiment="dqa-mnist", scale="smoke") == everything[2:]
    assert keys(experiment="dqa") == keys(scale="paper") == []
    assert len(results.load(experiment="dqa-mnist", scale="smoke")) == 2
    assert set(results.load(scale="laptop")["experiment"]) == {"dqa-mnist", "dqa-cifar10"}
