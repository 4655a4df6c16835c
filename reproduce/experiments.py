"""Running an experiment: train, evaluate, store a Record; or find the Record that is there."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import nn

from reproduce import __version__, data, results, storage
from reproduce.attacks import full_float32
from reproduce.grids import Experiment, configuration
from reproduce.results import Record
from reproduce.substitutes import Substitute
from reproduce.training import Interrupted, Progress, Settings, has_bfloat16
from reproduce.training import training_steps as train
from reproduce.trials import Trial


class Busy(RuntimeError):
    """Another process is running this experiment, or the network of this trial.

    key: of the one that it is running.
    """

    def __init__(self, experiment: Experiment | Trial) -> None:
        self.key = experiment.key
        super().__init__(f"{experiment.slug} ({self.key}) is being run by another process")


class _TimeUp(Exception):
    """The time of a trial is up, and the condition under way may be left out."""


class _Clock:
    """check_stop of a trial: also raises _TimeUp once the limit of seconds has passed.

    spent: seconds, of earlier calls too. essential: whether what is under way must be finished.
    """

    def __init__(self, check_stop: Callable[[], None], limit_s: float | None = None) -> None:
        self.check_stop, self.limit_s = check_stop, limit_s
        self.essential, self.started, self.before = True, time.perf_counter(), 0.0

    @property
    def spent(self) -> float:
        return self.before + time.perf_counter() - self.started

    def __call__(self) -> None:
        self.check_stop()
        if not self.essential and self.limit_s is not None and self.spent > self.limit_s:
            raise _TimeUp


@contextlib.contextmanager
def _asking(check_stop: Callable[[], None]) -> Iterator[None]:
    """Call check_stop before every layer that is asked, whoever asks it."""
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *_: check_stop())
    try:
        yield
    finally:
        handle.remove()


class NoWeights(FileNotFoundError):
    """The record of a network is there, the network itself is not."""


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(training: Settings | None = None) -> str:
    """What the records call this machine's device.

    Args: training: what is done on it, if anything is trained; the name says so where float32 takes
          the place of bfloat16.
    """
    without = ""
    if training is not None and training.autocast and not has_bfloat16(device()):
        without = ", no bfloat16"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}{without}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return f"{cpu}, {torch.get_num_threads()} thread(s){without}"


@functools.cache
def _source() -> tuple[str | None, bool | None]:
    """The commit of the code and whether the package differs from it, when first asked.

    Outside a checkout REPRODUCE_COMMIT names the commit, and whether it differs is not known.
    """
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", str(folder)])
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("REPRODUCE_COMMIT"), None
    return commit.decode().strip(), bool(changed.strip())


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    own = {"python": platform.python_version(), "reproduce": __version__}
    return own | {name: version(name) for name in ("torch", "torchvision", "torchattacks", "numpy")}


def load(experiment: Experiment | Trial) -> Record | None:
    """The stored Record of an experiment, or None. Raises ValueError where it is damaged."""
    file = results.path(experiment.name, experiment.slug, experiment.key)
    return results.read(file) if file.exists() else None


def stored(units: Mapping[Hashable, Experiment | Trial]) -> dict[Hashable, Record]:
    """The stored Records of named units, without those that have none."""
    found = {name: load(unit) for name, unit in units.items()}
    return {name: record for name, record in found.items() if record is not None}


def weights_files(experiment: Experiment) -> tuple[Path, Path]:
    """Where an experiment's weights may stand: kept with the results, or in the cache."""
    name = f"{experiment.key}.safetensors"
    return results.root() / "weights" / name, storage.cache() / "weights" / name


def trained(experiment: Experiment) -> nn.Module:
    """The trained network of a finished experiment, on the CPU, in eval mode.

    Raises: FileNotFoundError: no record. NoWeights: no weights. ValueError: weights that are
            damaged, or not those that the record names.
    """
    record = load(experiment)
    if record is None:
        raise FileNotFoundError(f"no record of {experiment.slug}; run it first")
    kept, cached = weights_files(experiment)
    files = [file for file in (kept, cached) if file.exists()]
    if not files:
        raise NoWeights(
            f"no weights of {experiment.name} {experiment.slug}: put them at {cached}, "
            "or move its record away, with those of its trials, and run again"
        )
    for file in files:
        tensors, _ = storage.load_tensors(file)
        if storage.tensors_sha256(tensors) == record.weights_sha256:
            model = experiment.model()
            model.load_state_dict(tensors)
            return model.eval()
    raise ValueError(
        f"{' and '.join(map(str, files))}: not what the record names; restore the weights, or "
        "move the record away, with those of its trials, and run again"
    )


def run(
    experiment: Experiment | Trial,
    *,
    check_stop: Callable[[], None] = lambda: None,
    report: Callable[[Progress, int], None] = lambda progress, images: None,
    announce: Callable[[str], None] = lambda condition: None,
) -> Record:
    """The stored Record of an experiment; where there is none, train, evaluate and store one.

    What a trial attacks is run first, where it has not been.

    Args:    check_stop: called often; may raise Interrupted, after which a later call resumes.
             report: called after each training step with the progress and the images just done.
             announce: called before each evaluation with its condition and number.
    Returns: the Record, which is on disk.
    Raises:  Busy: another process runs it. Interrupted. OSError: no data, or no room to write.
             NoWeights: of a trial whose network was trained elsewhere.
             Whatever else made the run fail, after a record marked failed was stored.
    """
    record = load(experiment)
    if record is not None:
        return record
    locks = storage.cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(locks / f"{experiment.key}.lock", timeout=0):
            return load(experiment) or _run(experiment, check_stop, report, announce)
    except FileExistsError:  # another machine, with another cache, was faster
        if (record := load(experiment)) is None:
            raise
        # The network trained here is not the one that the record names.
        weights_files(experiment)[1].unlink(missing_ok=True)
        return record
    except filelock.Timeout:
        raise Busy(experiment) from None


def _run(experiment: Experiment | Trial, check_stop, report, announce) -> Record:
    networks = []
    if isinstance(experiment, Trial):  # what fails there is not this one's failure
        for needed in filter(None, (experiment.base, experiment.twin())):
            run(needed, check_stop=check_stop, report=report, announce=announce)
            networks.append(trained(needed).to(device()))
    dataset = data.load(experiment.dataset)
    commit, dirty = _source()
    checkpoint = storage.cache() / "checkpoints" / f"{experiment.key}.safetensors"
    partial = checkpoint.with_suffix(".evaluations.safetensors")
    record = Record(
        name=experiment.name,
        slug=experiment.slug,
        experiment=configuration(experiment),
        scale=experiment.scale,
        seed=experiment.seed,
        dataset={"name": dataset.name, "sha256": dataset.sha256},
        metrics={},
        curves={},
        wall_s=0.0,
        device=device_name(getattr(experiment, "training", None)),
        versions=versions(),
        commit=commit,
        dirty=dirty,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
    )
    started = time.perf_counter()
    try:
        options = check_stop, report, announce, checkpoint, partial
        if isinstance(experiment, Trial):
            _put_to_trial(experiment, networks, dataset, *options, record)
        else:
            _train_and_test(experiment, dataset, *options, record)
        results.save(record)
    # No property of the experiment; after a fault the device can run nothing else in this process.
    except (Interrupted, OSError, MemoryError, storage.Damaged):
        raise
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # PyTorch's own words for too little memory
            raise
        record.error = f"{type(error).__name__}: {error}"
        record.wall_s = time.perf_counter() - started
        record.metrics, record.curves, record.arrays, record.arrays_sha256 = {}, {}, {}, None
        results.save(record)
        raise
    checkpoint.unlink(missing_ok=True)
    partial.unlink(missing_ok=True)
    return record


def _network(
    unit: Experiment | Substitute, dataset, labels, check_stop, report, checkpoint: Path
) -> tuple[nn.Module, Progress]:
    """The network of a unit, trained to give these labels to the first training images."""
    model = unit.model().to(device())
    options = {"prepare": unit.prepare, "checkpoint": checkpoint, "key": unit.key}
    images = dataset.x_train[: unit.train_images]
    steps = train(model, images, labels, unit.training, unit.seed, **options)
    size, n = unit.training.batch_size, len(images)
    check_stop()
    with contextlib.closing(steps):
        for progress in steps:
            report(progress, min(size, n - (progress.step - 1) % -(-n // size) * size))
            check_stop()
    return model.to(memory_format=torch.contiguous_format), progress


def _train_and_test(
    experiment: Experiment,
    dataset,
    check_stop,
    report,
    announce,
    checkpoint: Path,
    partial: Path,
    record: Record,
) -> None:
    labels = dataset.y_train[: experiment.train_images]
    model, progress = _network(experiment, dataset, labels, check_stop, report, checkpoint)
    record.curves = progress.curves
    jobs = experiment.evaluations(model, dataset, check_stop)
    seconds = _evaluate(jobs, model, announce, partial, record, _Clock(check_stop))
    with full_float32():
        record.arrays |= experiment.arrays(model, dataset)
    record.wall_s = progress.seconds + seconds
    weights = {name: t.cpu() for name, t in model.state_dict().items()}
    target = weights_files(experiment)[1]
    record.weights_sha256 = storage.save_tensors(target, weights, {"slug": experiment.slug})


def _put_to_trial(
    trial: Trial,
    networks: list[nn.Module],
    dataset,
    check_stop,
    report,
    announce,
    checkpoint: Path,
    partial: Path,
    record: Record,
) -> None:
    model, twin = (*networks, None)[:2]
    spent = 0.0
    if isinstance(trial, Substitute):
        with full_float32():
            labels = trial.answers(model, dataset.x_train[: trial.train_images])
        twin, progress = _network(trial, dataset, labels, check_stop, report, checkpoint)
        record.curves, spent = progress.curves, progress.seconds
    clock = _Clock(check_stop, trial.limit_s)
    jobs = trial.evaluations(model, twin, dataset, clock)
    networks = nn.ModuleList([model, twin]) if isinstance(trial, Substitute) else model
    seconds = _evaluate(jobs, networks, announce, partial, record, clock, trial.essential)
    started = time.perf_counter()
    with full_float32():
        with _asking(check_stop):
            record.arrays |= trial.arrays(model, dataset, check_stop)
    record.wall_s = spent + seconds + time.perf_counter() - started
    record.weights_sha256 = load(trial.base).weights_sha256


def _evaluate(
    jobs: dict[str, Callable[[], torch.Tensor]],
    model: nn.Module,
    announce: Callable[[str], None],
    partial: Path,
    record: Record,
    clock: _Clock,
    essential: Callable[[str], bool] = lambda condition: True,
) -> float:
    """Put the counts and the bits of every condition into the record; the seconds it took.

    Each finished condition is kept in `partial`, for these very weights, in case of a stop. What is
    not essential is left out once the clock's time is up.
    """
    done: dict[str, torch.Tensor] = {}
    weights = storage.tensors_sha256(model.state_dict())
    if partial.exists():
        stored, meta = storage.load_tensors(partial)
        if meta.get("weights") == weights:
            done, clock.before = stored, meta["seconds"]
    for number, (condition, job) in enumerate(jobs.items(), 1):
        if condition not in done:
            announce(f"{condition} ({number} of {len(jobs)})")
            clock.essential = essential(condition)
            try:
                if not clock.essential:
                    clock()
                with _asking(clock):
                    done[condition] = job()
            except _TimeUp:
                continue
            storage.save_tensors(partial, done, {"weights": weights, "seconds": clock.spent})
        hit = done[condition]
        if hit.is_floating_point():  # norms; inf where no attack succeeded
            record.arrays[f"norm/{condition}"] = hit.numpy()
            hit = hit.isinf()
        record.metrics[condition] = {"correct": int(hit.sum()), "total": len(hit)}
        record.arrays[f"correct/{condition}"] = np.packbits(hit.numpy())
    return clock.spent


def default_threads(jobs: int) -> int:
    """Threads for each of `jobs` processes side by side, of the cores that this one may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone
    return max(1, (len(allowed(0)) if allowed else os.cpu_count() or 1) // jobs)
