"""Locks between processes: who holds one, and what becomes of it when its holder is killed."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.run.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from bench.run.locks import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


class BusyError(Exception):
    pass


def refuse(holder: str) -> None:
    raise BusyError(holder)


def test_a_lock_names_its_holder_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=f"another process .{child.pid} on {platform.node()}."), locked(path, refuse):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    with locked(path, refuse):
        assert path.read_text().startswith(f"{os.getpid()}\n")


def test_a_disk_without_locks_has_the_file_itself_and_a_dead_holders_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    path = tmp_path / ".lock"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path.write_text(f"{ended.pid}\n{platform.node()}\n")
    os.utime(path, (0, 0))
    with pytest.warns(UserWarning, match="flock not supported"), locked(path, refuse):
        assert path.read_text().startswith(f"{os.getpid()}\n")
    assert not path.exists()


def test_a_lock_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot lock .*choose another --runs-dir"), locked(tmp_path, refuse):
        pass
