"""Whether all nodes of a cluster see the folders of a grid, checked before anything is submitted."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench.errors import BenchError
from bench.files import nearest_folder
from bench.grid.grid import Resource

_NODE_LOCAL = {"tmpfs", "ramfs", "devtmpfs"}
_MOST_NODES = 32
_WAIT_SECONDS = 5
_LOOK = 'for path; do test -d "$path" || echo "$SLURMD_NODENAME $path"; done'
_CHOOSE = "Choose a --grid, --runs-dir, --results-dir and --data-dir on a disk that all nodes share."


def check_shared(folders: Sequence[Path], nodes: int) -> None:
    """Raise BenchError if one of ``folders`` is in memory of this machine, and the cluster has several ``nodes``."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for path in folders if nodes > 1 else ():
        mount = next((str(each) for each in (path, *path.parents) if str(each) in mounts), "")
        if mounts.get(mount) in _NODE_LOCAL:
            raise BenchError(
                f"{path} is on {mount} ({mounts[mount]}), which only this machine sees, and the cluster has {nodes} "
                f"nodes. {_CHOOSE}"
            )


def check_seen(folders: Sequence[Path], idle: Sequence[str], resources: Mapping[str, Resource]) -> None:
    """Let the ``idle`` nodes look for ``folders``, for a second; without an answer in time, nothing is checked.

    Raises:
        BenchError: a node does not see one of them.
    """
    wanted = list(idle[:_MOST_NODES])
    if not wanted:
        return
    where = [f"--{name}={resources[name]}" for name in ("partition", "account", "qos") if name in resources]
    nodes = [f"--nodelist={','.join(wanted)}", f"--nodes={len(wanted)}", "--ntasks-per-node=1", "--time=1"]
    paths = list(dict.fromkeys(str(nearest_folder(path)) for path in folders))
    command = ["srun", f"--immediate={_WAIT_SECONDS}", "--quiet", "--chdir=/", *nodes, *where]
    words, limit = [*command, "sh", "-c", _LOOK, "sh", *paths], 4 * _WAIT_SECONDS
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return
    blind = [line.partition(" ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    if blind:
        nodes_without = sorted({node for node, _, _ in blind})
        raise BenchError(f"{', '.join(nodes_without)} cannot see {blind[0][2]}. {_CHOOSE}")
