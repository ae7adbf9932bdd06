"""A real Slurm on this machine, made from nothing in a folder: its own key, ports and state; two nodes.

Debian: ``apt-get install slurm-wlm munge``. By hand: ``python tests/slurm_cluster.py FOLDER`` starts one, prints what
to export, and ends it with Ctrl-C.
"""

import getpass
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
NODES = ("n1", "n2")
_DEADLINE = 60.0

_CONFIGURATION = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=20
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


@contextmanager
def slurm_cluster(folder: Path, hidden: Path | None = None) -> Iterator[dict[str, str]]:
    """Start a cluster of two nodes, each with all cores of this machine, and yield what its users export.

    Args:
        folder: of its files.
        hidden: a folder that the second node sees empty; root alone can hide one.

    Raises:
        RuntimeError: it did not start; the message holds the ends of its logs.
    """
    ports = _free_ports(1 + len(NODES))
    machine = f"NodeHostname={platform.node()} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN"
    nodes = "\n".join(f"NodeName={name} Port={port} {machine}" for name, port in zip(NODES, ports[1:], strict=True))
    (folder / "munge").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in NODES:
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(host=platform.node(), ports=ports, user=getpass.getuser(), folder=folder, nodes=nodes)
    )
    environment = {"SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    with ExitStack() as stack:
        for command in (
            # The folder's parents may be writable by others, as /tmp is.
            ["munged", "--foreground", "--force", "--num-threads=2", f"--socket={folder}/munge/socket", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", NODES[0]],
            [*_hiding(hidden), "slurmd", "-D", "-N", NODES[1]],
        ):
            stack.enter_context(
                _running(command, folder / f"{command[0]}-{command[-1]}.out".replace("/", "_"), environment)
            )
        _wait_until_idle(folder, environment)
        yield environment


def _wait_until_idle(folder: Path, environment: dict[str, str]) -> None:
    command = ["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t"]
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.5)
    logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in (*folder.glob("*.log"), *folder.glob("*.out"))]
    raise RuntimeError("\n".join(["Slurm did not start.", done.stdout, done.stderr, *logs]))


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon in this block, in a session of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_program(command[0]) or command[0], *command[1:]],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _hiding(path: Path | None) -> list[str]:
    """Return the words before a command that sees nothing in ``path``."""
    shell = f'mount -t tmpfs none {path} && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", shell, "sh"] if path else []


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    with slurm_cluster(Path(sys.argv[1]).absolute()) as exported:
        print("\n".join(f"export {name}={value}" for name, value in exported.items()), flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        with suppress(KeyboardInterrupt):
            signal.pause()
