"""Records of finished runs: one JSON a run, with a .npz beside it where a figure needs arrays.

results/<experiment>/<slug>-<key>.json        a finished run; `key` is a hash of its configuration
results/<experiment>/<slug>-<key>-failed-<time>.json       a run that failed, kept
results/weights/<key>.safetensors             weights small enough to keep
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from reproduce.evaluation import wilson
from reproduce.storage import write_bytes

SCHEMA = 1
COLUMNS = [
    "experiment",
    "scale",
    "seed",
    "key",
    "condition",
    "correct",
    "total",
    "accuracy",
    "low",
    "high",
]


def root() -> Path:
    """$REPRODUCE_RESULTS, else results/ beside the package."""
    default = Path(__file__).resolve().parent.parent / "results"
    return Path(os.environ.get("REPRODUCE_RESULTS") or default).expanduser()


def key(configuration: dict) -> str:
    """The first 8 hex digits of the sha256 of a configuration, as canonical JSON."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(kw_only=True)
class Record:
    """One run: what was asked, what came out, on what, and at what cost.

    `metrics` holds {condition: {"correct": int, "total": int, ...}}: counts, never percentages.
    `curves` holds lists with one value an epoch. `arrays` live in the .npz.
    """

    name: str
    slug: str
    experiment: dict
    scale: str
    seed: int
    dataset: dict
    metrics: dict[str, dict]
    curves: dict[str, list]
    wall_s: float
    device: str
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    created: str
    weights_sha256: str | None = None
    error: str | None = None
    arrays_sha256: str | None = None
    schema: int = SCHEMA
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        return key(self.experiment)

    def check(self) -> None:
        """Raise ValueError where a count is impossible or the schema is another."""
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema!r}; this version reads {SCHEMA}")
        for name in ("scale", "seed"):
            if getattr(self, name) != self.experiment.get(name):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not its experiment's")
        for condition, counts in self.metrics.items():
            correct, total = counts.get("correct"), counts.get("total")
            whole = isinstance(correct, int) and isinstance(total, int)
            if not (whole and 0 <= correct <= total > 0):
                raise ValueError(f"{condition} counts {correct!r} correct of {total!r}")


def hits(record: Record, condition: str) -> np.ndarray:
    """(N,) bool of a condition, image by image, in the order of the test set."""
    total = record.metrics[condition]["total"]
    return np.unpackbits(record.arrays[f"correct/{condition}"], count=total).astype(bool)


def percent(record: Record, condition: str) -> float:
    """Accuracy under one condition."""
    counts = record.metrics[condition]
    return 100 * counts["correct"] / counts["total"]


def _file(record: Record) -> Path:
    failed = f"-failed-{record.created.replace(':', '')}" if record.error else ""
    return root() / record.name / f"{record.slug}-{record.key}{failed}.json"


def path(name: str, slug: str, key: str) -> Path:
    """Where the record of a finished run stands, or would stand."""
    return root() / name / f"{slug}-{key}.json"


def save(record: Record) -> Path:
    """Write a record; its arrays first, so that a record that can be read is whole.

    Raises: ValueError: impossible counts. FileExistsError: a record never replaces another.
            OSError: it could not be written; nothing is left half-written.
    """
    record.check()
    target = _file(record)
    if target.exists():
        raise FileExistsError(f"{target} exists; records are append-only, move it away first")
    if record.arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **record.arrays)
        record.arrays_sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        write_bytes(target.with_suffix(".npz"), buffer.getvalue())
    content = asdict(record)
    del content["arrays"]
    write_bytes(target, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return target


def read(file: Path) -> Record:
    """Read one record and its arrays.

    Raises: FileNotFoundError. ValueError: damaged, incomplete, of another schema, with impossible
            counts, with a configuration that does not match its name, or with other arrays.
    """
    known = {f.name for f in fields(Record)} - {"arrays"}
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict) or content.keys() != known:
            raise ValueError("its fields are not those of a record")
        record = Record(**content)
        record.check()
        proper = "/".join(_file(record).parts[-2:])
        if proper != "/".join(file.absolute().parts[-2:]):
            raise ValueError(f"its configuration belongs to {proper}")
        record.arrays = _read_arrays(file.with_suffix(".npz"), record.arrays_sha256)
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, AttributeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"record {file} is damaged: {reason}; restore or remove it") from None
    return record


def _read_arrays(file: Path, sha256: str | None) -> dict[str, np.ndarray]:
    if sha256 is None:
        return {}
    if not file.exists():
        raise ValueError(f"{file.name} is missing")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{file.name} has another sha256")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise ValueError(f"{file.name} is no archive of arrays") from None


def records(experiment: str | None = None, scale: str | None = None) -> list[Record]:
    """All finished records, in the order of their paths; failed runs are in `failures`."""
    stored = map(read, sorted(root().glob(f"{experiment or '*'}/*.json")))
    return [r for r in stored if r.error is None and scale in (None, r.scale)]


def failures() -> list[Record]:
    """All runs that failed and were kept, in the order of their paths."""
    return [r for r in map(read, sorted(root().glob("*/*.json"))) if r.error is not None]


def load(experiment: str | None = None, scale: str | None = None) -> pd.DataFrame:
    """Finished records as a table, one row a condition.

    Args:    experiment: a folder of results/, such as "dqa-mnist". scale: smoke, laptop or paper.
    Returns: columns experiment, scale, seed, key, condition, correct, total, accuracy, low, high
             (Wilson, 95 %; shares in [0, 1]), then the configuration's plain fields, those of
             the training settings as "training.lr" and so on. bits is NaN for ReLU.
    Raises:  ValueError: a damaged record.
    """
    rows = []
    for record in records(experiment, scale):
        plain = _plain(record.experiment) | {
            f"training.{n}": v for n, v in _plain(record.experiment["training"]).items()
        }
        for condition, counts in record.metrics.items():
            correct, total = counts["correct"], counts["total"]
            low, high = wilson(correct, total)
            rows.append(
                {
                    "experiment": record.name,
                    "scale": record.scale,
                    "seed": record.seed,
                    "key": record.key,
                    "condition": condition,
                    "correct": correct,
                    "total": total,
                    "accuracy": correct / total,
                    "low": low,
                    "high": high,
                    **{n: v for n, v in plain.items() if n not in ("scale", "seed", "name")},
                }
            )
    table = pd.DataFrame(rows, columns=None if rows else COLUMNS)
    return table if "bits" in table else table.assign(bits=float("nan"))


def _plain(settings: dict) -> dict:
    return {n: v for n, v in settings.items() if not isinstance(v, dict | list)}
