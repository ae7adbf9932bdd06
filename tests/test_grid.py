"""Grids: order, retries, stops, memory, locks and status, with jobs that take no time."""

import errno
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock, Timer
from typing import Any

import pytest
from grid_jobs import grid_in, leaving, statuses

from bench.errors import BenchError, CheckFailedError, InterruptedRunError
from bench.files import write_json
from bench.grid import Device, Grid, GridFolder, grid_status, run_local, stop_on_signals, to_start, work
from bench.grid import local as local_module
from bench.grid import worker as worker_module
from bench.grid.grid import JobFolder, JobState, now
from bench.grid.nodes import check_shared
from bench.grid.slurm import Batch, batches, check_cluster, script, submissions
from bench.monitor import Monitor
from bench.trackers import tracked

GIB = 2**30


def one_device(at_once: int = 1) -> list[Device]:
    return [Device("cpu", at_once, GIB)]


def test_jobs_run_once_each_after_those_that_they_need(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"deacl": ["ssl"], "simclr": ["ssl"], "ssl": []})
    told: list[str] = []
    for _ in range(2):
        run_local(folder, one_device(), Event(), launch=leaving(folder, told))
    assert told == ["ssl", "deacl", "simclr"]
    assert statuses(folder) == {"deacl": "done", "simclr": "done", "ssl": "done"}
    Path(folder.jobs["simclr"].leaves[0]).unlink()
    assert [job.name for job in to_start(folder, grid_status(folder))] == ["simclr"]


def test_a_failure_is_tried_again_and_then_reported_with_its_last_lines(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"ssl": [], "deacl": ["ssl"], "other": []}, retries=2)
    told: list[str] = []
    said: list[str] = []
    launch = leaving(folder, told, {"ssl": [1, 7, 1], "other": [1]})
    run_local(folder, one_device(), Event(), said.append, launch)
    assert told == ["ssl", "ssl", "ssl", "other", "other"]
    found = {each.name: each for each in grid_status(folder)}
    assert found["other"].status == "done"
    assert (found["ssl"].status, found["ssl"].failures) == ("failed", 3)
    assert found["ssl"].reason == "exit code 1, attempt 3\none\ntwo\nbench: no luck with 1"
    assert (found["deacl"].status, found["deacl"].reason) == ("failed", "ssl, which it needs, failed")
    assert "ssl: failed" in said
    assert not to_start(folder, grid_status(folder))
    for name in ("ssl", "deacl"):
        folder.job(name).forget()
    run_local(folder, one_device(), Event(), launch=leaving(folder, told))
    assert set(statuses(folder).values()) == {"done"}


def test_success_without_the_promised_file_is_a_failure(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"a": []}, retries=0)
    assert work(folder, "a", Event(), launch=lambda *_: 0) == "failed"
    (found,) = grid_status(folder)
    assert found.reason.startswith(f"exit code 0, without {folder.jobs['a'].leaves[0]}, attempt 1")


def test_a_record_that_failed_a_check_is_done(tmp_path: Path) -> None:
    """The run ends with 3, has its record, and another attempt would find the same."""
    folder = grid_in(tmp_path, {"a": []})
    told: list[str] = []
    leave = leaving(folder, told)

    def launch(*arguments: Any) -> int:
        return leave(*arguments) or CheckFailedError.exit_code

    assert work(folder, "a", Event(), launch=launch) == "done"
    assert told == ["a"]


def test_a_stop_is_no_failure_and_the_job_continues(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"a": [], "b": []}, retries=0)
    stop, told = Event(), list[str]()

    def stopped(
        command: Sequence[str], own: JobFolder, environment: Mapping[str, str], stopping: Callable[[], bool]
    ) -> int:
        stop.set()
        assert stopping()
        return -signal.SIGTERM

    run_local(folder, one_device(), stop, launch=stopped)
    assert statuses(folder) == {"a": "stopped", "b": "waiting"}
    run_local(folder, one_device(), Event(), launch=leaving(folder, told))
    assert told == ["a", "b"]
    assert [each.failures for each in grid_status(folder)] == [0, 0]


def test_cancelled_jobs_stop_and_start_again_later(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"a": [], "b": []})
    folder.cancel()
    run_local(folder, one_device(), Event(), launch=leaving(folder, []))
    assert work(folder, "a", Event(), launch=leaving(folder, [])) == "stopped"
    assert set(statuses(folder).values()) == {"cancelled"}
    folder.resume()
    run_local(folder, one_device(), Event(), launch=leaving(folder, []))
    assert set(statuses(folder).values()) == {"done"}


def test_a_command_whose_worker_was_killed_stops_when_its_grid_is_cancelled(tmp_path: Path) -> None:
    folder, monitor = grid_in(tmp_path, {"a": []}), Monitor()
    with tracked(monitor, f"progress:{folder.job('a').progress}", "a"):
        monitor.begin("SA", 8)
        assert not monitor.stop_requested
        folder.cancel()
        monitor.begin("RA", 8)
    assert monitor.stop_requested


def test_jobs_share_a_device_as_far_as_its_memory_goes(tmp_path: Path) -> None:
    sizes = {"a": GIB // 2, "b": GIB // 2, "c": GIB // 2, "large": 5 * GIB, "tiny": 1}
    folder = grid_in(tmp_path, dict.fromkeys(sizes, ()), **sizes)
    lock, present, together = Lock(), set[str](), list[set[str]]()
    inner = leaving(folder, [])

    def watched(
        command: Sequence[str], own: JobFolder, environment: Mapping[str, str], stopping: Callable[[], bool]
    ) -> int:
        with lock:
            present.add(command[1])
            together.append({*present})
        Event().wait(0.1)
        with lock:
            present.remove(command[1])
        return inner(command, own, environment, stopping)

    run_local(folder, one_device(at_once=3), Event(), launch=watched)
    assert set(statuses(folder).values()) == {"done"}
    assert max(map(len, together)) == 2
    assert all(sum(sizes[name] for name in each) <= GIB or each == {"large"} for each in together)


def test_a_job_waits_for_what_it_needs(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"ssl": [], "deacl": ["ssl"]})
    with pytest.raises(BenchError, match=r"deacl needs ssl, which is not finished\. Type bench matrix work"):
        work(folder, "deacl", Event())


def test_a_folder_holds_one_grid(tmp_path: Path) -> None:
    grid_in(tmp_path, {"a": []})
    folder = grid_in(tmp_path, {"b": []})  # nothing has begun
    run_local(folder, one_device(), Event(), launch=leaving(folder, []))
    with pytest.raises(BenchError, match=r"holds another grid, which has begun \(--jobs b there, --jobs c here\)"):
        grid_in(tmp_path, {"c": []})
    with pytest.raises(BenchError, match="there is no grid in"):
        GridFolder.open(tmp_path / "none")


def test_another_grid_is_told_by_its_options(tmp_path: Path) -> None:
    there = {"methods": ["simclr", "deacl"], "tier": "tiny", "own_settings": {"deacl": ["ssl.epochs=1"]}}
    here: dict[str, Any] = {
        "methods": ["simclr"],
        "tier": None,
        "own_settings": {},
        "options": ["--devices", "4", "--no-x"],
    }
    GridFolder.create(tmp_path, Grid(asked={**there, "settings": ["slf.epochs=1", "seed=2"]}, jobs=()))
    GridFolder.open(tmp_path).job("a").write(JobState(status="done", began=now()))
    with pytest.raises(BenchError) as raised:
        GridFolder.planned(tmp_path, Grid(asked=here, jobs=()))
    assert str(raised.value).startswith(
        f"{tmp_path} holds another grid, which has begun (--methods simclr,deacl there, --methods simclr here; no "
        "--run-option there, --run-option devices=4 --run-option no-x here; --set deacl:ssl.epochs=1 there, no --set "
        "METHOD: here; --set slf.epochs=1 --set seed=2 there, no --set here; --tier tiny there, no --tier here)."
    )


def test_a_command_is_asked_to_stop_and_its_output_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bench"
    program.write_text("#!/bin/sh\ntrap 'echo saved; exit 130' TERM\necho $1 $2 $PLACE\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(worker_module, "program", lambda: [str(program)])
    folder = grid_in(tmp_path / "grid", {"a": []})
    stop = Event()
    Timer(0.5, stop.set).start()
    assert work(folder, "a", stop, environment={"PLACE": "here"}) == "stopped"
    assert folder.job("a").log.read_text().splitlines() == ["run a here", "saved"]


@pytest.mark.parametrize("stops", [1, 2])
def test_a_job_that_others_stop_is_tried_again_and_then_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: int
) -> None:
    monkeypatch.setattr(local_module, "_LOOK_AGAIN_SECONDS", 0.0)
    folder = grid_in(tmp_path, {"ssl": [], "deacl": ["ssl"]}, retries=1)
    told: list[str] = []
    stopped = {"ssl": [InterruptedRunError.exit_code] * stops}
    run_local(folder, one_device(), Event(), launch=leaving(folder, told, stopped))
    assert told == (["ssl", "ssl", "deacl"] if stops == 1 else ["ssl", "ssl"])
    found = {each.name: (each.status, each.reason) for each in grid_status(folder)}
    assert found["ssl"] == (("done", "") if stops == 1 else ("failed", "it was stopped from outside, attempt 2"))
    assert found["deacl"][0] == found["ssl"][0]


def test_an_error_of_a_launch_ends_the_job_and_not_the_grid(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"a": [], "b": []})
    leave = leaving(folder, [])

    def full(command: Sequence[str], *more: Any) -> int:
        if command[1] == "a":
            raise OSError(errno.ENOSPC, "No space left on device")
        return leave(command, *more)

    run_local(folder, one_device(), Event(), launch=full)
    found = {each.name: (each.status, each.reason) for each in grid_status(folder)}
    assert found == {"a": ("failed", "OSError: [Errno 28] No space left on device"), "b": ("done", "")}


def test_jobs_start_without_a_bench_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    assert worker_module.program() == [str(python), "-P", "-m", "bench"]
    (tmp_path / "bench").touch()
    assert worker_module.program() == [str(tmp_path / "bench")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_ask_for_a_stop_any_number_of_times(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup the tests begin without SIGHUP
    try:
        with stop_on_signals() as stop:
            for _ in range(3):
                signal.raise_signal(number)
            assert stop.is_set()
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


# What goes to Slurm


def test_arrays_wait_for_what_all_their_jobs_need(tmp_path: Path) -> None:
    needs = {
        "x": ["ssl-1"],
        "ssl-0": [],
        "y": ["ssl-0"],
        "ssl-1": [],
        "z": ["ssl-1"],
        **{f"m{n}": [] for n in range(1500)},
    }
    folder = grid_in(tmp_path, needs)
    found = batches(folder.grid.jobs)
    assert [(len(batch.jobs), batch.needs) for batch in found] == [
        (1000, ()),
        (502, ()),
        (2, ("ssl-1",)),
        (1, ("ssl-0",)),
    ]


def test_files_of_others_among_the_submissions_are_left_out_or_named(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"x": [], "y": []})
    write_json(folder.slurm / "7.json", {"jobs": ["x", "y"]})
    write_json(folder.slurm / "notes.json", {"jobs": ["z"]})
    assert list(submissions(folder)) == [("7", ["x", "y"])]
    write_json(folder.slurm / "8.json", [])
    with pytest.raises(BenchError, match=r"8\.json"):
        list(submissions(folder))


def test_the_script_asks_for_what_was_given(tmp_path: Path) -> None:
    folder = grid_in(tmp_path, {"ssl": [], "deacl": ["ssl"]})
    resources = {"partition": "gpu", "gpus": 2, "cpus": 4, "time": "12:00:00", "mail-user": "me@here", "grace": 30}
    grid = folder.grid.model_copy(update={"resources": resources})
    folder = GridFolder.create(tmp_path, grid)
    text = script(folder, Batch((folder.jobs["deacl"],), ("ssl",)), "afterok:12_0")
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert asked >= {
        *("partition=gpu", "gpus-per-node=2", "cpus-per-task=4", "time=12:00:00", "mail-user=me@here", "requeue"),
        *("signal=TERM@30", "dependency=afterok:12_0", "kill-on-invalid-dep=yes", "array=0-0%1"),
    }
    assert "JOBS=(deacl)" in text
    assert f'matrix work {tmp_path} "${{JOBS[$SLURM_ARRAY_TASK_ID]}}"' in text


def test_without_slurm_the_message_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="there is no Slurm here: sbatch is not on the PATH"):
        check_cluster({})


def test_a_folder_in_memory_is_not_shared() -> None:
    check_shared([Path("/dev/shm/grid")], nodes=1)
    with pytest.raises(BenchError, match="which only this machine sees, and the cluster has 2 nodes"):
        check_shared([Path("/"), Path("/dev/shm/grid")], nodes=2)
