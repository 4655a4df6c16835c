"""Files that are whole or absent: atomic writes, and tensors without pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor


class Damaged(ValueError):
    """A file that is not what was written, or not of this run."""


def cache() -> Path:
    """$REPRODUCE_CACHE, else ~/.cache/reproduce: weights, checkpoints and locks."""
    return Path(os.environ.get("REPRODUCE_CACHE") or "~/.cache/reproduce").expanduser()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; parent folders are made.

    Raises: OSError: the disk is full or the folder not writable; whatever stood at `path` remains.
    """
    _put(path, content, os.replace)


def create_bytes(path: Path, content: bytes) -> None:
    """Like write_bytes, but never over something that stands at `path`, however many write at once.

    Raises: FileExistsError. OSError: as write_bytes.
    """
    _put(path, content, os.link)


def _put(path: Path, content: bytes, place: Callable[[str, Path], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path.parent.iterdir())
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_UMASK)
            place(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # it is in place; what is left here is swept
                os.unlink(temporary)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            message = f"{path} exists; records are append-only, move it away first"
            raise FileExistsError(error.errno, message) from None
        reason = error.strerror or str(error)
        message = f"cannot write {path}: {reason}; free space or choose another folder"
        raise OSError(error.errno, message) from None


_PART = ".reproduce-part"  # of a file on its way: nobody else's bears such a name
ORPHANED_S = 3_600.0  # after which nobody is writing a file any more


def sweep(folder: Path) -> None:
    """Remove what killed processes left on its way, an hour ago or earlier, at any depth."""
    _remove_orphans(folder.rglob(".*"))


def _remove_orphans(files: Iterable[Path]) -> None:
    for file in files:
        if file.name.startswith(".") and file.name.endswith(_PART):
            with contextlib.suppress(OSError):  # another one was faster, or it is not ours
                if time.time() - file.stat().st_mtime > ORPHANED_S:
                    file.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # asked once: no thread is there yet that would write with none

LARGEST = 64 * 2**20  # bytes of a file that is read whole


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises: FileNotFoundError. ValueError: a folder, a pipe, or larger than any file written here.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > LARGEST:
        raise ValueError(f"it has {status.st_size} bytes; {LARGEST} are allowed")
    return path.read_bytes()


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: dict) -> str:
    """Save tensors and JSON-able `meta` as safetensors; returns the sha256 of the tensors."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    sha256 = tensors_sha256(tensors)
    text = json.dumps(meta)
    header = {"meta": text, "sha256": _digest(sha256, text)}
    write_bytes(path, safetensors.torch.save(tensors, header))
    return sha256


def _digest(tensors: str, meta: str) -> str:
    return hashlib.sha256(f"{tensors} {meta}".encode()).hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What save_tensors saved: (tensors on the CPU, meta).

    Raises: FileNotFoundError. Damaged: the file is truncated, changed or something else.
    """
    if not path.is_file():
        if path.exists():
            raise Damaged(f"{path} is no regular file; remove it to start afresh")
        raise FileNotFoundError(f"no file {path}")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(header["meta"])
        whole = header["sha256"] == _digest(tensors_sha256(tensors), header["meta"])
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise Damaged(f"{path} is damaged ({reason}); delete it to start afresh") from None
    if not whole:
        raise Damaged(f"{path} is damaged (another sha256); delete it to start afresh")
    return tensors, meta


def check_writable(folder: Path) -> None:
    """Raise OSError, with the reason, where no file can be written to a folder; it is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-", suffix=_PART):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot write to {folder}: {reason}; choose another folder"
        raise OSError(error.errno, message) from None
