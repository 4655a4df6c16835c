"""Units as real SLURM jobs, three of which are cut short: the records are those of a plain run.

Takes some minutes; `make test-engine`. Needs Debian's slurm-wlm and munge (or the like) and the
extra `engine`, whose snakemake is looked for beside this Python and in PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reproduce import records
from reproduce.papers import dqa, registry
from tests.engine import cluster

ROOT = Path(__file__).resolve().parent.parent.parent
SNAKEMAKE = shutil.which("snakemake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
ABSENT = cluster.missing() + ([] if SNAKEMAKE else ["snakemake"])

pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")

NETWORKS = [dqa.network("digits", *kind, scale="smoke") for kind in (("relu", None), ("fixed", 1))]
UNITS = [u for n in NETWORKS for u in (n, *registry.measurements(n, "table"))]


@pytest.fixture
def short(monkeypatch) -> Iterator[Path]:
    """A folder with a short name, as sockets want it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        yield Path(name)


@dataclass(frozen=True)
class Worker:
    """A process `python -m reproduce run --key … --suite …`, and the job that it is of."""

    pid: int
    network: str
    suite: str
    job: str


def workers() -> Iterator[Worker]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        environment = dict(p.split("=", 1) for p in pairs if "=" in p)
        if words[1:5] == ["-m", "reproduce", "run", "--key"] and "SLURM_JOB_ID" in environment:
            yield Worker(int(folder.name), words[5], words[7], environment["SLURM_JOB_ID"])


@dataclass
class Cut:
    """One job to be cut short: which, when, and how. done: the worker that it was done to."""

    network: str
    suite: str
    when: Callable[[], bool]
    how: Callable[[Worker], object]
    done: Worker | None = None


def cut_short(process: subprocess.Popen, cuts: list[Cut], seconds: float) -> None:
    """Do to the workers what is to be done to them, until a process ends."""
    ends = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < ends, "it takes too long"
        open_ = [cut for cut in cuts if cut.done is None]
        for worker in workers() if open_ else ():
            for cut in open_:
                if (worker.network, worker.suite) == (cut.network, cut.suite) and cut.when():
                    cut.how(worker)
                    cut.done = worker
        time.sleep(0.05 if open_ else 1)


def contents(root: Path) -> dict[str, dict]:
    """{path: content} of all records, without when, where and how fast they came about."""
    found = {}
    for file in sorted(root.glob("*/*/*.json")):
        content = json.loads(file.read_text())
        del content["run"], content["digest"]
        found[str(file.relative_to(root))] = content
    return found


def test_a_killed_job_a_killed_worker_and_a_time_limit_leave_the_records_of_a_plain_run(
    short, monkeypatch
):
    one, other = NETWORKS
    for name in ("results", "cache"):
        monkeypatch.setenv(f"REPRODUCE_{name.upper()}", str(short / name))
    stored = short / "results" / one.folder
    checkpoints = short / "cache" / "checkpoints"

    def begun(network):
        return lambda: (short / "cache" / "locks" / f"{network.key}.lock").exists()

    def kill(number: int):
        return lambda worker: os.kill(worker.pid, number)

    with cluster.running(short) as environment:
        cancelled = Cut(one.key, "network", begun(one), lambda worker: subprocess.run(
            ["scancel", worker.job], env=environment, check=True))  # fmt: skip
        killed = Cut(one.key, "table", lambda: len(list(stored.glob("*.json"))) > 1,
                     kill(signal.SIGKILL))  # fmt: skip
        stopped = Cut(other.key, "network", begun(other), kill(signal.SIGSTOP))  # to the limit
        command = [
            SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", short,
            "--profile", ROOT / "profiles" / "slurm",
            *(f"table_{network.key}" for network in NETWORKS),
            "--slurm-status-command", "squeue", "--slurm-no-account",
            "--slurm-init-seconds-before-status-checks", "5",
            "--seconds-between-status-checks", "5",
            "--slurm-logdir", short / "logs", "--slurm-keep-successful-logs",
            "--default-resources", "runtime=2", "mem_mb=6000",
            "--config", f"python={sys.executable}", "scale=smoke", "dataset=digits", "seed=0",
        ]  # fmt: skip
        started = time.monotonic()
        with (short / "snakemake.out").open("wb") as out:
            engine = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            cut_short(engine, [cancelled, killed, stopped], 1_500)
        finally:
            if engine.poll() is None:
                engine.terminate()
                engine.wait()
        said = (short / "snakemake.out").read_text()
        history = subprocess.run(
            ["squeue", "-h", "-t", "all", "-o", "%i %T %M"], env=environment,
            capture_output=True, text=True,
        ).stdout  # fmt: skip
    print(said[-6_000:], history, f"{time.monotonic() - started:.0f} s", sep="\n")
    assert engine.returncode == 0
    assert all(cut.done is not None for cut in (cancelled, killed, stopped))
    states = {line.split()[0]: line.split()[1] for line in history.splitlines()}
    assert states[cancelled.done.job] == "CANCELLED"
    assert states[stopped.done.job] == "TIMEOUT"
    assert states[killed.done.job] == "FAILED"
    assert sum(state == "COMPLETED" for state in states.values()) == 4, "two networks, two suites"
    assert not list(checkpoints.glob("*.safetensors")), "what was finished needs none"

    through_slurm = contents(short / "results")
    monkeypatch.setenv("REPRODUCE_RESULTS", str(short / "plain"))
    monkeypatch.setenv("REPRODUCE_CACHE", str(short / "plain-cache"))
    for network in NETWORKS:
        plain = ["-m", "reproduce", "run", "--quiet", "--key", network.key, "--suite", "table"]
        subprocess.run([sys.executable, *plain], check=True)
    assert through_slurm == contents(short / "plain")
    assert len(through_slurm) == len(UNITS) == 10
    assert not any(r.error for r in records.every())
