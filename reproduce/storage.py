"""Files that are whole or absent: atomic writes, and tensors without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot write {path}: {reason}; free space or choose another folder"
        raise OSError(error.errno, message) from None


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
        raise FileNotFoundError(f"no file {path}")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(header["meta"])
        whole = header["sha256"] == _digest(tensors_sha256(tensors), header["meta"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Damaged(f"{path} is damaged ({reason}); delete it to start afresh") from None
    if not whole:
        raise Damaged(f"{path} is damaged (another sha256); delete it to start afresh")
    return tensors, meta
