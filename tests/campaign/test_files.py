"""Files that are not what was written, disks that are full, and processes that are killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduce import records, runner, storage
from reproduce.papers.units import Outcome
from reproduce.runner import Stop
from tests.campaign import figures
from tests.test_runner import attacked, tiny

pytestmark = pytest.mark.usefixtures("folders")


class Shown(type(attacked())):
    """A measurement that has bits and arrays."""

    def outcome(self, trained, dataset):
        bits = super().outcome(trained, dataset).bits
        return Outcome(bits=bits, arrays={"grid": np.arange(4)})


def measurement():
    plain = attacked(tiny(), images=6, batch=6)
    return Shown(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def work() -> None:
    """A training and a measurement, as they stand or from the start."""
    runner.run(measurement(), Stop())


def outcome() -> dict:
    """What was found, without what differs from run to run: seconds and dates."""
    work()
    network, measured = tiny(), measurement()
    one, two = records.find(network), records.find(measured)
    return {
        "weights": one.weights_sha256, "bits": two.bits.tolist(), "curves": one.values,
        "arrays": two.arrays["grid"].tolist(), "of": two.weights_sha256,
    }  # fmt: skip


def left_behind() -> list[str]:
    """What neither a record nor a whole file is, in results and in the cache."""
    every = [p for root in (records.root(), storage.cache()) for p in root.rglob("*")]
    return [p.name for p in every if p.name.startswith(".") or "checkpoints" in p.parts[-2]]


# --- Readers --------------------------------------------------------------------------------------


def record_file(tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    work()
    file = records.path(tiny())
    return file, lambda: records.read(file)


def evaluation_file(tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    work()
    file = records.path(measurement())
    return file, lambda: records.read(file)


def arrays_file(tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    file, read = evaluation_file(tmp_path)
    return file.with_suffix(".npz"), read


def weights_file(tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    work()
    return runner.weights_files(tiny())[0], lambda: runner.trained(tiny()).state_dict()


def checkpoint_file(tmp_path: Path) -> tuple[Path, Callable[[], object]]:
    file = tmp_path / "checkpoint.safetensors"
    meta = {"key": "x", "step": 3, "curves": {"loss": [1.0, 0.5]}}
    storage.save_tensors(file, {"model.x": torch.arange(4.0)}, meta)
    return file, lambda: storage.load_tensors(file)


FILES = {
    "record": record_file,
    "evaluation": evaluation_file,
    "arrays": arrays_file,
    "weights": weights_file,
    "checkpoint": checkpoint_file,
}
every_file = pytest.mark.parametrize("make", FILES.values(), ids=FILES)


def nested(path: Path) -> None:
    path.write_text("[" * 200_000)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


IN_ITS_PLACE = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "5 GB of nothing": sparse,
    "200,000 brackets": nested,
    "nothing": lambda path: path.touch(),
    "a text": lambda path: path.write_text("no record\n"),
}


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)


def refusal(read: Callable[[], object], before: object) -> str:
    """How reading ended: "refused" in one line, "same" as before, or what else."""
    try:
        with figures.patience(10):
            found = read()
    except figures.Hung:
        return "hung"
    except (ValueError, OSError) as error:
        return "refused" if "\n" not in str(error) and str(error) else "unclear"
    return "same" if same(found, before) else "wrong"


@every_file
@pytest.mark.parametrize("put", IN_ITS_PLACE.values(), ids=IN_ITS_PLACE)
def test_what_is_no_such_file_is_refused_in_one_line(make, put, tmp_path):
    file, read = make(tmp_path)
    before = read()
    file.unlink()
    put(file)
    found = refusal(read, before)
    figures.count("files", f"{make.__name__} {put}", found)
    assert found == "refused"


@every_file
def test_a_changed_bit_or_a_missing_end_is_refused_or_changes_nothing(make, tmp_path, whole):
    file, read = make(tmp_path)
    before, content = read(), file.read_bytes()
    few = min(len(content), 20_000)
    step = max(1, len(content) // few) if whole else max(1, len(content) // 40)
    for at in range(0, len(content), step):
        cut = content[:at]
        flipped = bytearray(content)
        for bit in range(8) if whole and len(content) < 4_000 else (at % 8,):
            flipped[at] = content[at] ^ (1 << bit)
            file.write_bytes(flipped)
            found = refusal(read, before)
            figures.count("bits", f"{make.__name__} {at} {bit}", found)
            assert found in ("refused", "same"), (at, bit)
        file.write_bytes(cut)
        found = refusal(read, before)
        figures.count("cuts", f"{make.__name__} {at}", found)
        assert found in ("refused", "same"), at


# --- Full disks and kills -------------------------------------------------------------------------

CALLS = [(os, "fsync"), (os, "link"), (os, "replace"), (os, "chmod"), (os, "mkdir"),
         (os, "unlink"), (tempfile, "mkstemp")]  # fmt: skip


def at_call(monkeypatch, number: int, act: Callable[[], None], after: bool = False) -> list[str]:
    """Let `act` happen before, or after, the file call of this number; the names of all calls."""
    seen: list[str] = []

    def wrapped(name: str, call: Callable):
        def one(*args, **options):
            seen.append(name)
            turn = len(seen) == number
            if turn and not after:
                act()
            try:
                return call(*args, **options)
            finally:
                if turn and after:
                    act()

        return one

    for module, name in CALLS:
        monkeypatch.setattr(module, name, wrapped(name, getattr(module, name)))
    return seen


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fresh(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("REPRODUCE_RESULTS", str(folder / "results"))
    monkeypatch.setenv("REPRODUCE_CACHE", str(folder / "cache"))


def numbers(monkeypatch, tmp_path, whole: bool) -> tuple[dict, list[int]]:
    """(the outcome in peace, which file calls are tried)"""
    fresh(monkeypatch, tmp_path / "peace")
    with monkeypatch.context() as patch:
        seen = at_call(patch, 0, full)
        expected = outcome()
    count = len(seen)
    return expected, list(range(1, count + 1) if whole else range(count // 2, count + 1, count))


def test_a_full_disk_at_any_file_call_loses_nothing_and_leaves_nothing(
    monkeypatch, tmp_path, whole
):
    expected, tried = numbers(monkeypatch, tmp_path, whole)
    for number in tried:
        fresh(monkeypatch, tmp_path / str(number))
        with monkeypatch.context() as patch:
            seen = at_call(patch, number, full)
            try:
                work()
            except OSError as error:
                assert "\n" not in str(error)
        call = seen[number - 1]
        figures.count("full disks", call, "refused")
        assert outcome() == expected, (number, call)
        if call != "unlink":  # what could not be removed is there
            assert not left_behind(), (number, call)


KILLED = 9


def die_at(number: int, after: bool) -> None:
    """Work, and end at once before or after the file call of this number."""
    at_call(pytest.MonkeyPatch(), number, lambda: os._exit(KILLED), after)
    work()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_file_call_loses_nothing_and_leaves_nothing_for_ever(
    monkeypatch, tmp_path, whole, after
):
    expected, tried = numbers(monkeypatch, tmp_path, whole)
    monkeypatch.setattr(storage, "ORPHANED_S", -1.0)  # as an hour later
    for number in tried:
        fresh(monkeypatch, tmp_path / str(number))
        code = f"from tests.campaign import test_files; test_files.die_at({number}, {after})"
        root = Path(__file__).parents[2]  # a process of its own: torch's threads outlive no fork
        assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == KILLED
        assert outcome() == expected, number
        storage.sweep(records.root())
        storage.sweep(storage.cache())
        figures.count("kills", str(number), "resumed")
        assert not left_behind(), number


def test_two_writers_of_one_record_leave_one_whole_record(tmp_path):
    work()
    file = records.path(measurement())
    record = records.read(file)
    file.unlink()
    file.with_suffix(".npz").unlink()
    children = []
    for _ in range(8):
        child = os.fork()
        if not child:
            try:
                records.write(record)
                os._exit(0)
            except FileExistsError:
                os._exit(3)
            finally:
                os._exit(4)
        children.append(child)
    ends = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert ends == [0, *[3] * 7]
    assert same(records.read(file), record) and not left_behind()
