"""Several processes on one grid: a job is run by one of them, and the others wait and say so."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from filelock import FileLock
from grid_jobs import grid_in, leaving, statuses

from bench.errors import BenchError, BusyRunError, CheckFailedError
from bench.grid import Device, grid_status, run_local, work
from bench.grid import local as local_module
from bench.grid import worker as worker_module
from bench.grid.grid import JobState, now


def test_a_job_of_another_command_is_left_to_it(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"a": [], "b": []})
    folder.job("a").path.mkdir(parents=True)
    with FileLock(folder.job("a").lock):
        assert work(folder, "a", Event(), launch=leaving(folder, [])) == "busy"
        folder.job("a").write(JobState(status="running", began=now()))
        assert statuses(folder) == {"a": "running", "b": "waiting"}
    found = {each.name: each for each in grid_status(folder)}
    assert found["a"].status == "failed", "its worker has ended without a word"
    with pytest.raises(BenchError, match="has no job 'c'"):
        work(folder, "c", Event())


def test_a_job_of_another_command_is_said_once_and_starts_when_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "_LOOK_AGAIN_SECONDS", 0.0)
    folder = grid_in(tmp_path, {"a": [], "b": []})
    own = folder.job("a")
    own.path.mkdir(parents=True)
    said: list[str] = []
    other, outcomes = FileLock(own.lock, thread_local=False), list[str]()

    def counted(*given: Any, **named: Any) -> Any:
        outcomes.append(work(*given, **named))
        if outcomes.count("busy") == 3:
            other.release()
        return outcomes[-1]

    monkeypatch.setattr(local_module, "work", counted)
    with other:
        run_local(folder, [Device("cpu", 2, 2**30)], Event(), said.append, leaving(folder, []))
    assert [line for line in said if line.startswith("a: ")] == [
        "a: another process works on it; waiting",
        "a: starts on cpu",
        "a: done",
    ]


@pytest.mark.parametrize("finishes", [True, False])
def test_the_command_of_a_killed_worker_counts_as_running_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool
) -> None:
    made, end = tmp_path / "grid" / "made" / "a", tmp_path / "end"
    program = tmp_path / "bench"
    finish = f"mkdir -p {made.parent}\ntouch {made}\n"
    wait = f"echo began\nwhile [ ! -e {end} ]; do sleep 0.05; done\necho ended\n"
    program.write_text(f"#!/bin/sh\n{wait}{finish if finishes else ''}")
    program.chmod(0o755)
    monkeypatch.setattr(worker_module, "program", lambda: [str(program)])
    folder = grid_in(tmp_path / "grid", {"a": []})
    own = folder.job("a")
    worker = multiprocessing.get_context("fork").Process(target=work, args=(folder, "a", Event()))
    worker.start()
    wait_for(lambda: own.log.exists() and own.last_lines() == "began")
    worker.kill()
    worker.join()
    assert statuses(folder) == {"a": "running"}
    assert work(folder, "a", Event()) == "busy"
    end.touch()
    wait_for(lambda: statuses(folder) != {"a": "running"})
    (found,) = grid_status(folder)
    assert found.status == ("done" if finishes else "failed")
    assert finishes or found.reason.endswith("without a word\nbegan\nended")
    program.write_text(f"#!/bin/sh\n{finish}")
    assert work(folder, "a", Event()) == "done"


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_job_that_failed_in_another_command_is_not_run_again(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"first": [], "ssl": [], "deacl": ["ssl"]})
    told: list[str] = []
    leave = leaving(folder, told)

    def beside(command: Sequence[str], *more: Any) -> int:
        folder.job("ssl").write(JobState(status="failed", began=now(), reason="exit code 1, attempt 2"))
        return leave(command, *more)

    run_local(folder, [Device("cpu", 1, 2**30)], Event(), launch=beside)
    assert told == ["first"]
    found = {each.name: (each.status, each.reason) for each in grid_status(folder)}
    assert found["ssl"] == ("failed", "exit code 1, attempt 2")
    assert found["deacl"] == ("failed", "ssl, which it needs, failed")


def test_a_run_of_another_process_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_BUSY_SECONDS", 0.0)
    folder = grid_in(tmp_path, {"a": []}, retries=0)
    told: list[str] = []
    launch = leaving(folder, told, {"a": [BusyRunError.exit_code] * 3})
    assert work(folder, "a", Event(), launch=launch) == "done"
    assert len(told) == 4
    assert BusyRunError.exit_code not in (0, BenchError.exit_code, CheckFailedError.exit_code)
