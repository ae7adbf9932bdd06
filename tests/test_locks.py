"""Locks between processes: who holds one, and what becomes of it when its holder is killed."""

import errno
import fcntl
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from filelock import FileLock

from bench.errors import BenchError
from bench.run.locks import is_held, locked


class BusyError(Exception):
    pass


def refuse(holder: str) -> None:
    raise BusyError(holder)


def hold(path: Path, held: Event) -> None:
    with locked(path, refuse):
        held.set()
        time.sleep(60)


def test_a_lock_names_its_holder_and_is_free_once_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    context = multiprocessing.get_context("fork")
    child = context.Process(target=hold, args=(path, held := context.Event()))
    child.start()
    assert held.wait(60)
    with pytest.raises(BusyError, match=f"another process .{child.pid} on {platform.node()}."), locked(path, refuse):
        pass
    child.kill()
    child.join()
    with locked(path, refuse):
        assert path.read_text().startswith(f"{os.getpid()}\n")
    assert path.read_text() == "", "the next holder is not taken for this one"


def test_a_holder_that_has_not_written_its_name_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with FileLock(path):
        writer = threading.Timer(0.2, path.write_text, args=("123\nthere\n",))
        writer.start()
        with pytest.raises(BusyError, match=r"another process .123 on there."), locked(path, refuse):
            pass
        writer.join()


def test_who_asks_whether_it_is_held_refuses_nobody(tmp_path: Path) -> None:
    path, end = tmp_path / ".lock", threading.Event()
    path.touch()

    def ask() -> None:
        while not end.is_set():
            is_held(path)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for each in askers:
        each.start()
    try:
        for _ in range(300):
            with locked(path, refuse):
                assert is_held(path)
    finally:
        end.set()
        for each in askers:
            each.join()
    assert not is_held(path)


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
