"""Running a unit: train a network or measure one and store the record, or find the one there is."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import filelock
import torch
from torch import nn

from reproduce import __version__, data, records, storage
from reproduce.attacks import full_float32
from reproduce.checks import flag, of_kind, shown
from reproduce.checks import number as check_number
from reproduce.papers.units import Measurement, Models, Network
from reproduce.records import Record, Run
from reproduce.training import Interrupted, Progress, has_bfloat16, training_steps

Unit = Network | Measurement
# Bytes of weights that may stand beside their record: a ResNet-18 of a quarter of the width has 2.8
# million, of full width 45 million.
KEPT = 4_000_000


class Busy(RuntimeError):
    """Another process is at this unit. Args: unit: which."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        super().__init__(f"{unit.folder} {unit.name} is being run by another process")


class NoWeights(FileNotFoundError):
    """The record of a network is there, the network itself is not."""


class Stop:
    """Ends the work at a signal or a deadline, where it can be resumed.

    Training asks `asked` between two steps. A measurement holds nothing worth saving: within
    `anywhere` it is broken off by Interrupted wherever it stands. The second Ctrl-C ends at once.

    Args: budget_s: seconds until the deadline; None for none.
    """

    SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM")

    def __init__(self, budget_s: float | None = None) -> None:
        if budget_s is not None:
            check_number("budget_s", budget_s, 0, 366 * 86_400)
        self.asked, self._anywhere, self._budget_s = False, False, budget_s

    def __enter__(self) -> Stop:
        numbers = [getattr(signal, name) for name in self.SIGNALS if hasattr(signal, name)]
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        if self._budget_s is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self._budget_s, 1e-3))
        return self

    def __exit__(self, *_) -> None:
        if self._budget_s is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame) -> None:
        if self.asked and number == signal.SIGINT:
            os._exit(130)
        self.asked = True
        if self._anywhere:
            raise Interrupted

    def check(self) -> None:
        """Raise Interrupted if the end was asked for."""
        if self.asked:
            raise Interrupted

    @contextlib.contextmanager
    def anywhere(self) -> Iterator[None]:
        self.check()
        self._anywhere = True
        try:
            yield
        finally:
            self._anywhere = False


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(autocast: bool = False) -> str:
    """What records call this machine's device.

    Args: autocast: whether bfloat16 is asked for; the name says so where float32 takes its place.
    """
    flag("autocast", autocast)
    without = ", no bfloat16" if autocast and not has_bfloat16(device()) else ""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}{without}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return f"{cpu}, {torch.get_num_threads()} thread(s){without}"


def default_threads() -> int:
    """The cores that this process may use: of its affinity and of its container's quota."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


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


def weights_files(network: Network) -> tuple[Path, Path]:
    """Where a network's weights may stand: beside its record, or in the cache."""
    file = Path(network.folder) / "weights.safetensors"
    return records.root() / file, storage.cache() / "weights" / file


def trained(network: Network) -> nn.Module:
    """The network of a finished training, on the CPU, in eval mode.

    Raises: FileNotFoundError: no record. NoWeights: no weights. Damaged: none that are whole and
            those that the record names.
    """
    record = records.find(network)
    if record is None:
        raise FileNotFoundError(f"no record of {network.folder}; run it first")
    model = network.pretrained()
    if model is not None:
        if storage.tensors_sha256(model.state_dict()) != record.weights_sha256:
            raise storage.Damaged(f"{network.folder}: the weights are not what its record names")
        return model
    files = weights_files(network)
    reasons = []
    for file in files:
        try:
            tensors, _ = storage.load_tensors(file)
        except FileNotFoundError:
            continue
        except storage.Damaged as error:
            reasons.append(str(error))
            continue
        if storage.tensors_sha256(tensors) != record.weights_sha256:
            reasons.append(f"{file} is not what the record names")
            continue
        model = network.build()
        model.load_state_dict(tensors)
        return model.eval()
    remedy = "restore them, or move the network's folder away and train again"
    if reasons:
        raise storage.Damaged(f"{'; '.join(reasons)}: {remedy}")
    raise NoWeights(f"no weights of {network.folder}, neither {files[0]} nor {files[1]}: {remedy}")


Report = Callable[[Unit, Progress | None], None]


def run(unit: Unit, stop: Stop, report: Report = lambda unit, progress: None) -> Record:
    """The stored Record of a unit; where there is none, train or measure, and store one.

    The networks that it needs are trained first, where they have not been.

    Args:    report: called before each unit with None, and after each training step with where the
             training stands.
    Returns: the Record, which is on disk.
    Raises:  Busy: another process is at it, or at a network that it needs. Interrupted: by `stop`;
             a later call resumes. OSError: no data, or no room to write. NoWeights: of a network
             that was trained elsewhere. Whatever else made it fail, after a record of that.
    """
    of_kind("unit", unit, (Network, Measurement))
    of_kind("stop", stop, Stop)
    if not callable(report):
        raise TypeError(f"report is {shown(report)}; give a function of a unit and its progress")
    record = records.find(unit)
    if record is not None:
        if isinstance(unit, Network):
            _keep_weights(unit)  # a process may have been killed between the record and these
            _checkpoint(unit).unlink(missing_ok=True)
        return record
    for network in unit.needs():
        run(network, stop, report)
    try:
        with _locked(unit):
            return records.find(unit) or _run(unit, stop, report)
    except FileExistsError:  # another machine, with another cache, was faster
        if (record := records.find(unit)) is None:
            raise
        return record


@contextlib.contextmanager
def _locked(unit: Unit) -> Iterator[None]:
    locks = storage.cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(locks / f"{unit.key}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Busy(unit) from None
    try:
        yield
    finally:
        lock.release()


def _run(unit: Unit, stop: Stop, report: Report) -> Record:
    stop.check()
    report(unit, None)
    storage.check_writable(records.root())
    models = {network: trained(network).to(device()) for network in unit.needs()}
    network = unit if isinstance(unit, Network) else unit.network
    dataset = data.load(network.dataset)
    commit, dirty = _source()
    run_ = Run(
        wall_s=0.0,
        device=device_name(isinstance(unit, Network) and unit.asks_for_bfloat16),
        versions=versions(),
        commit=commit,
        dirty=dirty,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
    )
    record = Record(
        folder=unit.folder,
        name=unit.name,
        configuration=records.configuration(unit),
        dataset={"name": dataset.name, "sha256": dataset.sha256},
        run=run_,
    )
    started = time.perf_counter()
    try:
        if isinstance(unit, Network):
            _train(unit, models, dataset, record=record, stop=stop, report=report)
        else:
            _measure(unit, models, dataset, record=record, stop=stop)
            _spent(record, time.perf_counter() - started)
    except Exception as error:
        if not _of_the_unit(error):
            raise
        _spent(record, time.perf_counter() - started)
        record.error = f"{type(error).__name__}: {error}"
        record.bits = record.norms = None
        record.values, record.arrays = {}, {}
        records.write(record)
        raise
    records.write(record)
    if isinstance(unit, Network):
        _keep_weights(unit)
        _checkpoint(unit).unlink(missing_ok=True)
    return record


def _of_the_unit(error: Exception) -> bool:
    """Whether a failure says something of the unit, not of this machine at this moment."""
    elsewhere = (OSError, MemoryError, storage.Damaged)
    # After a fault the device can run nothing else in this process.
    if isinstance(error, (*elsewhere, torch.OutOfMemoryError, torch.AcceleratorError)):
        return False
    return "DefaultCPUAllocator" not in str(error)  # PyTorch's own words for too little memory


def _spent(record: Record, seconds: float) -> None:
    record.run = Run(**{**vars(record.run), "wall_s": seconds})


def _checkpoint(network: Network) -> Path:
    return storage.cache() / "checkpoints" / f"{network.key}.safetensors"


def _train(network: Network, needed: Models, dataset, *, record, stop: Stop, report) -> None:
    model = network.pretrained()
    if model is not None:
        record.weights_sha256 = storage.tensors_sha256(model.state_dict())
        return
    labels = network.labels(dataset, needed)
    model = network.build().to(device())
    steps = training_steps(
        model,
        dataset.x_train[: network.train_images],
        labels,
        network.training,
        seed=network.seed,
        prepare=network.prepare,
        checkpoint=_checkpoint(network),
        key=network.key,
    )
    with contextlib.closing(steps):
        for progress in steps:
            report(network, progress)
            if progress.step < progress.total:
                stop.check()
    record.values = progress.curves
    _spent(record, progress.seconds)
    weights = {name: t.cpu().contiguous() for name, t in model.state_dict().items()}
    target = weights_files(network)[1]
    record.weights_sha256 = storage.save_tensors(target, weights, {"folder": network.folder})


def _keep_weights(network: Network) -> None:
    """Move small weights beside the record that names them.

    Only after that record is there: of two machines that train one network, one is too late, and
    must not put its own in the place of the other's.
    """
    kept, cached = weights_files(network)
    if kept.exists() or not cached.exists() or cached.stat().st_size > KEPT:
        return
    tensors, _ = storage.load_tensors(cached)
    if storage.tensors_sha256(tensors) == records.find(network).weights_sha256:
        storage.write_bytes(kept, cached.read_bytes())
        cached.unlink()


def _measure(unit: Measurement, models: Models, dataset, *, record: Record, stop: Stop) -> None:
    with stop.anywhere(), full_float32():
        outcome = unit.outcome(models, dataset)
    record.bits = None if outcome.bits is None else outcome.bits.numpy()
    record.norms = None if outcome.norms is None else outcome.norms.numpy()
    record.values, record.arrays = dict(outcome.values or {}), dict(outcome.arrays or {})
    record.weights_sha256 = records.find(unit.network).weights_sha256
