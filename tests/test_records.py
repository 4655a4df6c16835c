"""Records are whole or absent, never replaced, and damage to them is noticed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reproduce import records, storage
from reproduce.records import Record, Run

pytestmark = pytest.mark.usefixtures("folders")

NETWORK = {"kind": "dqa", "dataset": "mnist", "bits": 2}
FOLDER = f"dqa-mnist/laptop-fixed-2bit-seed3-{records.key(NETWORK)}"


def run(**changes) -> Run:
    fields = {
        "wall_s": 12.345678901234567, "device": "a device", "versions": {"python": "3.11"},
        "commit": "c0ffee", "dirty": False, "created": "2025-01-02T03:04:05.000001+00:00",
    }  # fmt: skip
    return Run(**fields | changes)


def record(**changes) -> Record:
    fields = {
        "folder": FOLDER,
        "name": "rule/sigmoid-5",
        "configuration": {"kind": "evaluation", "network": records.key(NETWORK), "images": 9},
        "dataset": {"name": "mnist", "sha256": "ab"},
        "run": run(),
        "weights_sha256": "cd",
        "bits": np.array([1, 0, 1, 1, 0, 0, 1, 0, 1], bool),
    }
    return Record(**fields | changes)


def network(**changes) -> Record:
    curves = {"loss": [1 / 3, 0.1], "thresholds": [[[-0.5, 0.25]], [[0.0, 1e-300]]]}
    fields = {"name": "network", "configuration": NETWORK, "bits": None, "values": curves}
    return record(**fields | changes)


def arrays() -> dict[str, np.ndarray]:
    return {
        "image/pgd": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "empty": np.zeros((0, 3)),
        "float": np.array([np.nan, np.inf, -0.0, 1e-300]),
    }


def files() -> list[Path]:
    return [f for f in records.root().rglob("*") if f.is_file()]


def refused(file: Path, reason: str = "is damaged") -> None:
    """Reading ends in a Damaged of one line that names the file, and so does a listing."""
    for call in (lambda: records.read(file), lambda: list(records.every())):
        with pytest.raises(storage.Damaged, match=reason) as caught:
            call()
        said = str(caught.value)
        assert said.startswith(f"record {file} is damaged: ") and "restore or remove it" in said
        assert "\n" not in said and len(said) < 500


# --- Round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "original",
    [
        record(arrays=arrays()),
        record(bits=None, norms=np.array([0, 0.1, np.inf, 1e-30], np.float32)),
        record(bits=None, values={"flags": {"a": 1}, "loss": [[0.1, 1 / 3]]}),
        record(weights_sha256=None, run=run(commit=None, dirty=None, shared_by=7)),
        network(),
        record(bits=None, error="ValueError: it broke"),
    ],
    ids=["bits and arrays", "norms", "values", "little", "network", "failed"],
)
def test_a_record_survives_a_round_trip(original):
    back = records.read(records.write(original))
    assert back.name == records.slug(original.name)
    plain = [{n: v for n, v in vars(r).items() if n not in {"name", "bits", "norms", "arrays"}}
             for r in (original, back)]  # fmt: skip
    assert plain[0] == plain[1] and back.key == original.key
    for field in ("bits", "norms"):
        ours, theirs = getattr(original, field), getattr(back, field)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert theirs.dtype == ours.dtype and theirs.tobytes() == ours.tobytes()
    assert back.arrays.keys() == original.arrays.keys()
    for name, array in original.arrays.items():
        assert back.arrays[name].dtype == array.dtype and back.arrays[name].shape == array.shape
        np.testing.assert_array_equal(back.arrays[name], array)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
def test_bits_come_back_in_their_order_and_number(count):
    bits = np.random.default_rng(count).random(count) < 0.5
    back = records.read(records.write(record(bits=bits)))
    assert back.bits.tolist() == bits.tolist()
    assert (back.correct, back.total) == (sum(bits.tolist()), count)
    assert back.accuracy == pytest.approx(100 * sum(bits.tolist()) / count)


def test_the_file_is_json_that_others_can_read():
    file = records.write(record(arrays=arrays()))
    assert file == records.root() / FOLDER / f"rule-sigmoid-5-{record().key}.json"
    content = json.loads(file.read_text())
    packed = base64.b64decode(content["bits"]["base64"])
    assert [packed[i // 8] >> (7 - i % 8) & 1 for i in range(9)] == record().bits.tolist()
    npz = file.with_suffix(".npz").read_bytes()
    assert content["arrays_sha256"] == hashlib.sha256(npz).hexdigest()
    digest = content.pop("digest")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_record_is_found_by_the_key_of_its_unit_whatever_its_name():
    class Unit:
        folder, name, key = FOLDER, "another/name", record().key

    assert records.find(Unit()) is None
    records.write(record())
    records.write(record(configuration=record().configuration | {"images": 8}, name="other"))
    assert records.find(Unit()).bits.tolist() == record().bits.tolist()
    assert records.found({"here": Unit()}).keys() == {"here"}
    records.write(record(bits=None, error="x", configuration=record().configuration | {"n": 1}))
    Unit.key = records.key(record().configuration | {"n": 1})
    assert records.find(Unit()) is None, "a failed run is no record"


def test_a_network_s_records_are_those_of_its_folder():
    records.write(network())
    records.write(record())
    other = NETWORK | {"bits": 3}
    folder = f"dqa-mnist/laptop-{records.key(other)}"
    records.write(network(folder=folder, configuration=other))
    assert [r.name for r in records.of(network())] == ["network", "rule-sigmoid-5"]
    assert len(list(records.every())) == 3


def test_results_stand_beside_the_package_unless_the_environment_says_otherwise(
    monkeypatch, folders
):
    assert records.root() == folders / "results"
    for unset in "", None:
        monkeypatch.delenv("REPRODUCE_RESULTS", raising=False)
        if unset is not None:
            monkeypatch.setenv("REPRODUCE_RESULTS", unset)
        assert records.root() == Path(records.__file__).parents[1] / "results"


def test_shared_seconds_are_divided():
    assert run(wall_s=30.0, shared_by=4).own_s == 7.5


# --- Never over another ---------------------------------------------------------------------------


def test_a_record_never_replaces_another():
    file = records.write(record(arrays=arrays()))
    before = {f: f.read_bytes() for f in files()}
    for other in (record(run=run(wall_s=1.0)), record(arrays={"a": np.zeros(3)})):
        with pytest.raises(FileExistsError, match="append-only") as caught:
            records.write(other)
        assert "\n" not in str(caught.value) and str(file.with_suffix("")) in str(caught.value)
    assert {f: f.read_bytes() for f in files()} == before


def test_of_many_threads_that_write_one_record_exactly_one_wins():
    def attempt(number: int) -> int | None:
        try:
            pad = {"values": {"pad": [number] * 999}, "arrays": {"a": np.full(9, number)}}
            records.write(record(run=run(wall_s=float(number)), **pad))
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        (winner,) = (n for n in pool.map(attempt, range(64)) if n is not None)
    (file,) = (f for f in files() if f.suffix == ".json")
    found = records.read(file)
    assert len(files()) == 2 and found.run.wall_s == winner
    assert found.values == {"pad": [winner] * 999} and found.arrays["a"].tolist() == [winner] * 9


def test_of_two_processes_that_write_one_record_exactly_one_wins(tmp_path):
    code = (
        "import sys, time; from tests.test_records import record, records, run\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: records.write(record(run=run(wall_s=float(sys.argv[1]))))\n"
        "except FileExistsError: sys.exit(3)\n"
    )
    root = Path(__file__).resolve().parent.parent
    here = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(n)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here, cwd=root,
        )
        for n in range(2)
    ]  # fmt: skip
    for process in started:
        assert process.stdout.readline() == b"ready\n"
    for process in started:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 3]
    (file,) = files()
    assert records.read(file).run.wall_s == codes.index(0)


def test_failed_runs_are_kept_each_beside_the_finished_one():
    failed = record(bits=None, error="ValueError: it broke")
    later = replace(failed, run=run(created="2025-01-02T03:04:05.000002+00:00"))
    written = {records.write(r) for r in (failed, later, record())}
    assert len(written) == 3 and len({f.parent for f in written}) == 1
    assert sorted(str(r.error) for r in records.every()) == ["None", *[failed.error] * 2]


# --- Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", ["../elsewhere/x-12345678", "a/../../b-12345678", "/tmp/elsewhere/x-12345678"]
)
def test_a_folder_outside_results_is_refused(folder, folders):
    with pytest.raises(ValueError, match="must lie below") as caught:
        records.write(record(folder=folder, arrays=arrays()))
    assert "\n" not in str(caught.value) and not list(folders.rglob("*.*"))


def test_arrays_of_objects_are_refused_before_anything_is_written(folders):
    with pytest.raises(ValueError, match=r"arrays odd.* objects"):
        records.write(record(arrays=arrays() | {"odd": np.array([{}], object)}))
    assert not list(folders.rglob("*.*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused_and_leaves_nothing(value):
    with pytest.raises(ValueError, match="JSON"):
        records.write(record(values={"loss": [value]}, arrays=arrays()))
    assert files() == []


def test_arrays_that_a_killed_process_left_do_not_bar_their_record():
    file = records.write(record(arrays=arrays()))
    npz, whole = file.with_suffix(".npz"), file.with_suffix(".npz").read_bytes()
    file.unlink()
    assert records.write(record(arrays=arrays())) == file and npz.read_bytes() == whole
    file.unlink()
    npz.write_bytes(b"of another run")
    with pytest.raises(FileExistsError):
        records.write(record(arrays=arrays()))  # another machine may be about to write its record
    assert npz.read_bytes() == b"of another run" and not file.exists()
    os.utime(npz, (0, 0))
    assert records.read(records.write(record(arrays=arrays()))).arrays.keys() == arrays().keys()


class Crash(BaseException):
    """As a Ctrl-C or an exit at the worst moment."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Crash()])
@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_failing_write_leaves_no_record_and_a_second_try_a_whole_one(
    monkeypatch, call, number, error
):
    genuine, calls = getattr(os, call), []

    def crash(*args):
        calls.append(args)
        if len(calls) == number + 1:
            raise error
        return genuine(*args)

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(type(error)):
        records.write(record(arrays=arrays()))
    assert list(records.every()) == [] and files() == []
    monkeypatch.setattr(os, call, genuine)
    assert records.read(records.write(record(arrays=arrays()))).arrays.keys() == arrays().keys()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(mask, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from reproduce import storage\n"
        "storage.create_bytes(Path(sys.argv[1]), b'x')\n"
    )
    file = tmp_path / "file"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, umask=mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask


# --- Damage ---------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused_or_reads_the_same():
    file = records.write(record(values={}, dataset={"name": "a", "sha256": "b"}))
    content, original = file.read_bytes(), vars(records.read(file))
    same = 0
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            try:
                found = vars(records.read(file))
            except storage.Damaged:
                continue
            same += 1
            assert {n: str(v) for n, v in found.items()} == {
                n: str(v) for n, v in original.items()
            }, f"bit {bit} of byte {place}"
    assert same < len(content), "blanks between words may change, and nothing else"


def test_every_flipped_bit_of_the_arrays_is_refused():
    file = records.write(record(arrays={"a": np.arange(3)}))
    npz = file.with_suffix(".npz")
    content = npz.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        npz.write_bytes(flipped)
        with pytest.raises(storage.Damaged, match="another sha256"):
            records.read(file)


def edit(file: Path, change, honest: bool = True) -> None:
    """Change a record's content and, if `honest`, its digest."""
    content = json.loads(file.read_text())
    change(content)
    if honest:
        del content["digest"]
        content["digest"] = hashlib.sha256(records.canonical(content)).hexdigest()
    file.write_text(json.dumps(content))


EDITS = {
    "another configuration": (lambda c: c["configuration"].update(images=3), "belongs to"),
    "another network": (lambda c: c["configuration"].update(network="12345678"), "belongs to"),
    "no network": (lambda c: c["configuration"].pop("network"), "belongs|network"),
    "a missing field": (lambda c: c.pop("dataset"), "dataset"),
    "an unknown field": (lambda c: c.update(accuracy=0.99), "accuracy"),
    "another schema": (lambda c: c.update(schema=3), "schema 2"),
    "no schema": (lambda c: c.pop("schema"), "schema"),
    "made a failure": (lambda c: c.update(error="x"), "belongs to"),
    "arrays disowned": (lambda c: c.update(arrays_sha256="0" * 64), "sha256"),
    "too few bits": (lambda c: c["bits"].update(total=17), "2 bytes for 17"),
    "too many bits": (lambda c: c["bits"].update(total=8), "2 bytes for 8"),
    "no images": (lambda c: c["bits"].update(total=0, base64=""), "for 0"),
    "half an image": (lambda c: c["bits"].update(total=9.0), "for 9.0"),
    "a truth for a number": (lambda c: c["bits"].update(total=True, base64="gA=="), "True"),
    "no base64": (lambda c: c["bits"].update(base64="?"), "base64|padd"),
    "bits of another kind": (lambda c: c.update(bits=[1, 0]), "list"),
    "norms of 3 bytes": (lambda c: c.update(norms={"total": 1, "base64": "AAAA"}), "3 bytes"),
    "a run without seconds": (lambda c: c["run"].pop("wall_s"), "wall_s"),
    "no run": (lambda c: c.update(run=None), "mapping"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_record_is_refused_although_its_digest_was_edited_too(name):
    change, reason = EDITS[name]
    file = records.write(record(arrays=arrays()))
    edit(file, change)
    refused(file, reason)


def test_an_edit_that_forgets_the_digest_is_refused_and_none_is_no_damage():
    file = records.write(record())
    edit(file, lambda c: None, honest=False)
    assert records.read(file).correct == record().correct
    edit(file, lambda c: c["run"].update(wall_s=1), honest=False)
    refused(file, "differs from its digest")


@pytest.mark.parametrize(
    "target",
    [
        "other-12345678.json",
        "rule-sigmoid-5-12345678.json",
        "network.json",
        "notes.json",
        f"../x-12345678/rule-sigmoid-5-{record().key}.json",
        f"rule-sigmoid-5-{record().key}-failed-2025.json",
    ],
)
def test_a_record_in_another_place_is_refused(target):
    file = records.write(record())
    moved = (file.parent / target).resolve()
    moved.parent.mkdir(exist_ok=True)
    file.rename(moved)
    refused(moved)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'"a"', b"{}", b"[" * 10**5, b'{"a":' * 10**5],
    ids=lambda c: repr(c[:6]),
)
def test_what_is_no_record_is_refused_in_one_line(content):
    file = records.write(record())
    file.write_bytes(content)
    refused(file)


def test_a_record_cut_at_any_length_is_refused():
    file = records.write(record())
    content = file.read_bytes()
    for length in range(len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(storage.Damaged):
            records.read(file)


def replaced(kind: str) -> Path:
    """A record's place, taken by something else."""
    file = records.write(record())
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as sparse:
            sparse.truncate(2**40)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("pipe", "no regular file"), ("folder", "no regular file"), ("huge", "1099511627776 bytes")],
)
def test_what_is_no_small_file_is_refused_without_being_read(kind, reason):
    refused(replaced(kind), reason)


def test_arrays_that_are_a_pipe_are_refused():
    file = records.write(record(arrays=arrays()))
    npz = file.with_suffix(".npz")
    npz.unlink()
    os.mkfifo(npz)
    refused(file, "no regular file")


def test_a_record_that_is_in_place_keeps_its_arrays_whatever_fails_after_it(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda _path: (_ for _ in ()).throw(OSError(28, "full")))
        file = records.write(record(arrays=arrays()))
    assert records.read(file).arrays.keys() == arrays().keys()
    link = os.link

    def interrupted(one, other) -> None:
        link(one, other)
        if str(other).endswith(".json"):
            raise KeyboardInterrupt

    other = record(arrays=arrays())
    other.configuration = other.configuration | {"images": 8}
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", interrupted)
        with pytest.raises(KeyboardInterrupt):
            records.write(other)
    assert records.read(other.path).arrays.keys() == arrays().keys()


def test_missing_arrays_are_told():
    file = records.write(record(arrays=arrays()))
    file.with_suffix(".npz").unlink()
    refused(file, "npz is missing")


def with_arrays(content: bytes) -> Path:
    """Arrays exchanged by someone who knows about the digests."""
    file = records.write(record(arrays=arrays()))
    file.with_suffix(".npz").write_bytes(content)
    edit(file, lambda c: c.update(arrays_sha256=hashlib.sha256(content).hexdigest()))
    return file


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_pickled_arrays_are_refused_and_never_run(tmp_path):
    buffer, sprung = io.BytesIO(), tmp_path / "sprung"
    np.savez(buffer, a=np.array([_Trap(str(sprung))], dtype=object), allow_pickle=True)
    refused(with_arrays(buffer.getvalue()))
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense", b"PK\x03\x04" + bytes(40)])
def test_arrays_that_are_no_archive_are_refused(content):
    refused(with_arrays(content), "no archive of arrays")


def test_an_absent_record_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        records.read(tmp_path / "absent.json")
