"""Records: one folder a trained network, one file a measurement of it, each with its own digest.

results/<paper>-<dataset>/<slug>-<key>/network.json            what was trained, how, at what cost
                                      /weights.safetensors     if small enough to keep
                                      /<name>-<key>.json       a measurement: asked, and found
                                      /<name>-<key>.npz        arrays that only a figure needs
                                      /<name>-<key>-failed-<time>.json     a run that failed, kept

A key is a hash of what was asked for. Counts are not stored: they follow from the bits.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np

from reproduce import storage
from reproduce.checks import number, of_kind
from reproduce.storage import Damaged, create_bytes, read_bytes

SCHEMA = 2


class Unit(Protocol):
    """What has a record: a network, or a measurement of one.

    kind: of the unit, part of its configuration. folder: the network's, below results/. name: a
    readable name of the file, which no key depends on.
    """

    kind: str
    folder: str
    name: str
    key: str


def root() -> Path:
    """$REPRODUCE_RESULTS, else results/ of the checkout, or of where one works without one."""
    above = Path(__file__).resolve().parent.parent
    home = above if (above / "pyproject.toml").is_file() else Path.cwd()
    return Path(os.environ.get("REPRODUCE_RESULTS") or home / "results").expanduser()


def configuration(unit: object) -> dict:
    """What a unit asks for, as JSON-able values.

    A dataclass becomes its fields, with the `kind` that its class names. A network inside a
    measurement stands as its key. Fields that are None, or do not take part in comparison, are left
    out: a new optional field leaves older keys alone. 8.0 is 8.

    >>> from reproduce.attacks import PGD
    >>> configuration(PGD(8.0, 2, 7))["eps_255"], configuration(PGD(8, 2, 7))["kind"]
    (8, 'pgd')
    """

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            if value is not unit and hasattr(value, "key"):
                return value.key
            kind = {"kind": value.kind} if hasattr(value, "kind") else {}
            named = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
            return kind | {n: plain(v) for n, v in named.items() if v is not None}
        if isinstance(value, dict):
            return {name: plain(v) for name, v in value.items()}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return plain_number(value) if isinstance(value, float) else value

    return plain(unit)


def plain_number(value: float) -> float:
    """A number as configurations hold it: 8.0 is 8."""
    number("value", value, -math.inf)
    return int(value) if float(value).is_integer() else value


def canonical(content: object) -> bytes:
    """JSON with sorted keys and without spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def key(configuration: dict) -> str:
    """The first 8 hex digits of the sha256 of a configuration, as canonical JSON.

    >>> key({"b": 1, "a": [True]}) == key({"a": [True], "b": 1})
    True
    """
    return hashlib.sha256(canonical(configuration)).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Run:
    """At what cost, on what and with what something was measured.

    wall_s: seconds, of everything that was measured in one go. shared_by: how many records share
    these seconds. commit: of the code, None outside a checkout. dirty: whether the package differed
    from it, None where that is not known. created: UTC, ISO 8601.
    """

    wall_s: float
    shared_by: int = 1
    device: str
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    created: str

    @property
    def own_s(self) -> float:
        """This record's part of the seconds."""
        return self.wall_s / self.shared_by


@dataclass(kw_only=True)
class Record:
    """What came out.

    configuration: what was asked. dataset: {"name", "sha256"}. weights_sha256: of the network.
    bits: (N,) bool, image by image in the order of the test set: judged rightly. norms: (N,)
    float32 l2 norms, 0 where an image is misjudged as it stands, inf where no attack succeeded.
    values: numbers and lists of numbers, such as curves with one value an epoch. arrays: in the
    .npz. error: why the run failed.
    """

    folder: str
    name: str
    configuration: dict
    dataset: dict[str, str]
    run: Run
    weights_sha256: str | None = None
    bits: np.ndarray | None = None
    norms: np.ndarray | None = None
    values: dict = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    error: str | None = None

    @property
    def key(self) -> str:
        return key(self.configuration)

    @property
    def judged(self) -> np.ndarray:
        """The bits. Raises: ValueError: there are none."""
        if self.bits is None:
            raise ValueError(f"{self.folder}: {self.name} does not judge images")
        return self.bits

    @property
    def correct(self) -> int:
        return int(self.judged.sum())

    @property
    def total(self) -> int:
        return len(self.judged)

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * float(self.judged.mean())

    @property
    def counted(self) -> tuple[str, np.ndarray] | None:
        """What is counted of the images, and (N,) bool, of which it is true; None: nothing is.

        "right"; "agreed", where two networks are asked; of the smallest perturbations "withstood",
        where none was found.
        """
        if self.norms is not None:
            return "withstood", np.isinf(self.norms)
        if self.bits is None:
            return None
        return "agreed" if self.configuration["kind"] == "agreement" else "right", self.bits

    @property
    def path(self) -> Path:
        """Where its file stands, or would stand."""
        stem = self.name if self.name == "network" else f"{slug(self.name)}-{self.key}"
        if self.error is not None:
            stem += f"-failed-{self.run.created.replace(':', '')}"
        return root() / self.folder / f"{stem}.json"


def slug(name: str) -> str:
    """A name as part of a file's.

    >>> slug("rule/sigmoid-5")
    'rule-sigmoid-5'
    """
    of_kind("name", name, str)
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)


def encoded(values: np.ndarray | None, dtype: str) -> dict | None:
    if values is None:
        return None
    content = np.packbits(values) if dtype == "bool" else values.astype(dtype)
    return {"total": len(values), "base64": base64.b64encode(content.tobytes()).decode()}


@overload
def decoded(stored: None, dtype: str) -> None: ...
@overload
def decoded(stored: dict, dtype: str) -> np.ndarray: ...
def decoded(stored: dict | None, dtype: str) -> np.ndarray | None:
    if stored is None:
        return None
    content = np.frombuffer(base64.b64decode(stored["base64"], validate=True), np.uint8)
    total = stored["total"]
    expected = -(-total // 8) if dtype == "bool" else np.dtype(dtype).itemsize * total
    if type(total) is not int or total < 1 or len(content) != expected:
        raise ValueError(f"{len(content)} bytes for {total!r} images")
    if dtype == "bool":
        return np.unpackbits(content, count=total).astype(bool)
    return content.view(dtype).astype(np.float32)


def write(record: Record) -> Path:
    """Write a record; its arrays first, so that a record that can be read is whole.

    Raises: ValueError: arrays of objects, values that JSON does not know, a folder outside
            results/. FileExistsError: a record never replaces another. OSError: it could not be
            written. Nothing is left half-written.
    """
    target = record.path
    if not target.resolve().is_relative_to(root().resolve()):
        raise ValueError(f"folder is {record.folder!r}; it must lie below {root()}")
    packed = _packed(record.arrays)
    content = {
        "schema": SCHEMA,
        "configuration": record.configuration,
        "dataset": record.dataset,
        "run": vars(record.run),
        "weights_sha256": record.weights_sha256,
        "bits": encoded(record.bits, "bool"),
        "norms": encoded(record.norms, "<f4"),
        "values": record.values or None,
        "arrays_sha256": hashlib.sha256(packed).hexdigest() if packed else None,
        "error": record.error,
    }
    content = {name: v for name, v in content.items() if v is not None}
    content["digest"] = hashlib.sha256(canonical(content)).hexdigest()
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    if packed:
        _create_arrays(target.with_suffix(".npz"), packed)
    try:
        create_bytes(target, f"{text}\n".encode())
    except BaseException:
        if packed and not target.exists():  # an interruption may come just after it was put there
            target.with_suffix(".npz").unlink()
        raise
    return target


def _create_arrays(file: Path, packed: bytes) -> None:
    """Put arrays where their record will stand.

    Arrays without a record are what a killed process has left. The same ones will do; others may be
    a record that another machine is about to write, unless they are an hour old.
    """
    if file.exists() and not file.with_suffix(".json").exists():
        if read_bytes(file) == packed:
            return
        if time.time() - file.stat().st_mtime > storage.ORPHANED_S:
            file.unlink(missing_ok=True)
    create_bytes(file, packed)


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    """As an .npz; empty where there are none."""
    objects = [name for name, a in arrays.items() if a.dtype.hasobject]
    if objects:
        raise ValueError(f"arrays {', '.join(objects)} hold objects; give numbers or booleans")
    buffer = io.BytesIO()
    if arrays:
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(file: Path) -> Record:
    """Read one record and its arrays.

    Raises: FileNotFoundError. Damaged: not what was written, of another schema, in another place
            than its configuration says, or with other arrays.
    """
    of_kind("file", file, Path)
    try:
        content = json.loads(read_bytes(file))
        if not isinstance(content, dict):
            raise ValueError("it is no record")
        digest = content.pop("digest", None)
        if digest != hashlib.sha256(canonical(content)).hexdigest():
            raise ValueError("it differs from its digest")
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"this version reads schema {SCHEMA}")
        folder = "/".join(file.absolute().parts[-3:-1])
        arrays_sha256 = content.pop("arrays_sha256", None)
        stem = re.fullmatch(r"(network|.+?-[0-9a-f]{8})(-failed-\S+)?", file.stem)
        if stem is None:
            raise ValueError("its name is not that of a record")
        name = stem[1] if stem[1] == "network" else stem[1][:-9]
        record = Record(
            folder=folder,
            name=name,
            run=Run(**content.pop("run")),
            bits=decoded(content.pop("bits", None), "bool"),
            norms=decoded(content.pop("norms", None), "<f4"),
            **content,
        )
        if record.path.name != file.name or _network_key(record) != folder[-8:]:
            raise ValueError(f"its configuration belongs to {record.key}")
        record.arrays = _read_arrays(file.with_suffix(".npz"), arrays_sha256)
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(f"record {file} is damaged: {reason}; restore or remove it") from None
    return record


def _network_key(record: Record) -> str:
    return record.key if record.name == "network" else record.configuration["network"]


def _read_arrays(file: Path, sha256: str | None) -> dict[str, np.ndarray]:
    if sha256 is None:
        return {}
    if not file.exists():
        raise ValueError(f"{file.name} is missing")
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{file.name} has another sha256")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise ValueError(f"{file.name} is no archive of arrays") from None


def path(unit: Unit) -> Path:
    """Where the record of a unit stands, under whatever name, or would stand."""
    folder = root() / unit.folder
    if unit.name == "network":
        return folder / "network.json"
    there = sorted(folder.glob(f"*-{unit.key}.json"))
    return there[0] if there else folder / f"{slug(unit.name)}-{unit.key}.json"


def find(unit: Unit) -> Record | None:
    """The record of a unit, or None. Raises Damaged."""
    file = path(unit)
    return read(file) if file.exists() else None


def found(units: dict) -> dict:
    """The records of named units, without those that have none."""
    records = {name: find(unit) for name, unit in units.items()}
    return {name: record for name, record in records.items() if record is not None}


def of(network: Unit) -> Iterator[Record]:
    """All records of a network, failed ones too, in the order of their names. Raises Damaged."""
    for file in sorted((root() / network.folder).glob("*.json")):
        yield read(file)


def every() -> Iterator[Record]:
    """All records below results/, failed ones too, in the order of their paths. Raises Damaged."""
    for file in sorted(root().glob("*/*/*.json")):
        yield read(file)
