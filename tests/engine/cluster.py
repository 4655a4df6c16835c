"""A SLURM cluster of one node with one core, on this machine, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path

SBIN = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")

# Where the machine has less memory or more cores than this says, SLURM is not to mind.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 RealMemory=64000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs of SLURM and munge that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd in a folder, and stop them; gives the environment in which
    SLURM's commands find them.

    Args:   folder: with a short name, since a socket's may have 107 characters.
    Raises: RuntimeError: the node does not come up.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(folder=folder, host=host, user=getuser(), ports=_free_ports(2))
    (folder / "slurm.conf").write_text(text)
    _shim(folder)
    path = f"{folder}/bin{os.pathsep}{SBIN}"
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    files = [f"--{n}={folder}/munge.{n.partition('-')[0]}"
             for n in ("socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
    daemons = [
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c", "-N", host],
    ]
    with contextlib.ExitStack() as stack:
        for command in daemons:
            stack.enter_context(_daemon(command, environment, folder))
            time.sleep(1)
        _wait_until_idle(environment, folder)
        yield environment


def _shim(folder: Path) -> None:
    """An srun that finds the configuration: Snakemake's plugin hands jobs no SLURM_ variable, and
    /etc/slurm is nobody's here."""
    shim = folder / "bin" / "srun"
    shim.parent.mkdir()
    genuine = shutil.which("srun", path=SBIN)
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {genuine} "$@"\n')
    shim.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        asked = ["sinfo", "-h", "-o", "%T"]
        found = subprocess.run(asked, env=environment, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = [file.read_text()[-1500:] for file in sorted(folder.glob("*.log"))]
    logs += [file.read_text()[-500:] for file in sorted(folder.glob("*.out"))]
    raise RuntimeError("\n".join(["SLURM's node does not come up", *logs]))
