from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce import data, records, storage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
    torch.bool,
)  # fmt: skip


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(2, 3, generator=generator),
        "step": torch.tensor(7.0),
        "labels": torch.tensor([3, 1, 2]),
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "file.safetensors"
    storage.save_tensors(path, some_tensors(), {"key": "a", "step": 12, "curve": [0.5, 0.25]})
    return path


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a
    )


def refused(path: Path) -> None:
    """Loading ends in a ValueError of one line that names the file and says what to do."""
    with pytest.raises(ValueError, match="delete it") as caught:
        storage.load_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=30)
@given(
    meta=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    kinds=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=4
    ),
    seed=st.integers(0, 2**31),
)
def test_tensors_and_meta_survive_a_round_trip(meta, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"layer.{i}": torch.randint(0, 2, shape, generator=generator).to(dtype)
        for i, (dtype, shape) in enumerate(kinds)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deeper" / "file.safetensors"
        sha256 = storage.save_tensors(path, tensors, meta)
        loaded, loaded_meta = storage.load_tensors(path)
    assert same(loaded, tensors)
    assert loaded_meta == meta
    assert storage.tensors_sha256(loaded) == sha256


def test_the_sha256_is_of_the_values_whatever_their_order_and_memory_layout():
    tensors = {"a": torch.arange(24.0).reshape(1, 2, 3, 4), "b": torch.ones(2)}
    expected = storage.tensors_sha256(tensors)
    reordered = {"b": tensors["b"], "a": tensors["a"].to(memory_format=torch.channels_last)}
    assert storage.tensors_sha256(reordered) == expected


def test_the_sha256_changes_with_a_value_a_name_a_dtype_and_a_shape():
    one = torch.zeros(4)
    others = [
        {"a": one},
        {"b": one},
        {"a": one.int()},
        {"a": one.reshape(2, 2)},
        {"a": torch.tensor([0.0, 0.0, 0.0, 1e-40])},
        {"a": one[:2], "b": one[2:]},
        {"a": -one},
        {},
    ]
    assert len({storage.tensors_sha256(t) for t in others}) == len(others)


def test_a_saved_tensor_is_a_copy_without_its_gradient(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    storage.save_tensors(tmp_path / "w", {"w": weight}, {})
    with torch.no_grad():
        weight.zero_()
    loaded = storage.load_tensors(tmp_path / "w")[0]["w"]
    assert torch.equal(loaded, torch.ones(3)) and not loaded.requires_grad


def test_a_file_cut_at_any_length_is_refused(saved):
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        refused(saved)


def test_a_file_with_bytes_appended_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved)


def test_any_flipped_bit_is_refused_or_changes_nothing(saved):
    content = saved.read_bytes()
    tensors, meta = storage.load_tensors(saved)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        saved.write_bytes(flipped)
        try:
            loaded, loaded_meta = storage.load_tensors(saved)
        except ValueError:
            refused(saved)
        else:
            assert same(loaded, tensors) and loaded_meta == meta, f"byte {place}"


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        refused(path)


def test_safetensors_without_our_header_are_refused(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file(some_tensors(), tmp_path / "foreign")
    refused(tmp_path / "foreign")


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_is_refused_and_never_run(tmp_path, write):
    sprung = tmp_path / "sprung"
    write({"weight": _Trap(sprung)}, tmp_path / "file")
    refused(tmp_path / "file")
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["absent", "dangling"])
def test_what_is_no_file_is_not_found(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        storage.load_tensors(tmp_path / name)


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)) as caught:
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_write_that_the_system_cuts_short_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="cannot write") as caught:
            storage.write_bytes(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OSError, match="choose another folder") as caught:
        storage.write_bytes(tmp_path / "taken" / "file", b"new")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_the_new_file_grows_beside_the_old_one_so_that_the_swap_is_atomic(tmp_path, monkeypatch):
    genuine, moves = os.replace, []

    def watch(source, target):
        moves.append((Path(source), Path(target), Path(source).read_bytes()))
        genuine(source, target)

    monkeypatch.setattr(os, "replace", watch)
    storage.write_bytes(tmp_path / "file", b"new")
    ((source, target, content),) = moves
    assert source.parent == target.parent == tmp_path and content == b"new"


def test_a_write_replaces_and_lets_others_read(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"first", b""):
        storage.write_bytes(path, content)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRODUCE_CACHE", str(tmp_path))
    assert storage.cache() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        monkeypatch.delenv("REPRODUCE_CACHE", raising=False)
        if unset is not None:
            monkeypatch.setenv("REPRODUCE_CACHE", unset)
        assert storage.cache() == tmp_path / ".cache" / "reproduce"


def test_folders_may_be_named_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, folder in (("CACHE", storage.cache), ("RESULTS", records.root), ("DATA", data.root)):
        monkeypatch.setenv(f"REPRODUCE_{name}", "~/here")
        assert folder() == tmp_path / "here"
