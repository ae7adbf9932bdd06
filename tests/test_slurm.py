"""A grid on a real Slurm: interrupted in every way, it ends with the records of the same runs on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from in_process import Said, say
from slurm_cluster import missing, slurm_cluster
from toy_runs import facts, toy_data

from bench.grid import GridFolder, grid_status
from bench.record import Record, load_record

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())} (slurm-wlm and munge)"),
]
DEADLINE = 600.0
SETTINGS = {
    **{"encoder.width": 1, "slf.epochs": 1, "slf.batch_size": 8, "evaluate.autoattack": "false"},
    **{"evaluate.pgd_steps": 1, "stage1.epochs": 60, "stage1.warmup_epochs": 0, "stage1.batch_size": 64},
}
METHODS = ",".join(f"{Path(__file__).with_name('slow_methods.py')}:{name}" for name in ("First", "Second"))

Bench = Callable[..., Said]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as exported, pytest.MonkeyPatch.context() as patch:
        for name, value in exported.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """The program in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: say(monkeypatch, capsys, *arguments)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return toy_data(tmp_path / "toy.npz", images=(192, 8), contrast=0)


def grid(data: str, name: str, *more: str, **changes: object) -> list[str]:
    words = ["matrix", "--methods", METHODS, "--datasets", data, "--protocols", "slf"]
    words += ["--device", "cpu", "--tier", "tiny"]
    words += ["--grid", name, "--runs-dir", f"{name}/runs", "--results-dir", f"{name}/results"]
    return [*words, *settings(**changes), *more]


def settings(**changes: object) -> list[str]:
    return [f"--set={key}={value}" for key, value in {**SETTINGS, **changes}.items()]


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def shown(number: str, field: str) -> str:
    """Return a field of ``scontrol show job``."""
    words = slurm("scontrol", "show", "job", "--oneliner", number).split()
    return next(word.partition("=")[2] for word in words if word.startswith(f"{field}="))


def wait_for(what: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not what():
        logs = [f"{path}:\n{path.read_text()[-800:]}" for path in folder.rglob("log.txt")]
        assert time.monotonic() < end, "\n".join([slurm("squeue"), *logs])
        time.sleep(0.5)


def records(folder: Path) -> dict[str, Record]:
    found = [load_record(path) for path in (folder / "results").rglob("*.json")]
    return {record.method: record for record in found}


@pytest.mark.usefixtures("doctor")
def test_a_grid_interrupted_in_every_way_ends_as_on_this_machine(
    bench: Bench, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--dataset", data, "--protocols", "slf", "--device", "cpu", "--tier", "tiny"]
    words += ["--runs-dir", "local/runs", "--results-dir", "local/results", *settings()]
    for method in METHODS.split(","):
        done = bench("run", method, *words)
        assert done.code == 0, done.stderr
    interrupting = tmp_path / "interrupting"
    interrupting.touch()
    monkeypatch.setenv("SLOW_WHILE", str(interrupting))
    done = bench(*grid(data, "slurm", "--on", "slurm", "--time", "30", "--slurm", "grace=100"))
    assert "3 jobs submitted" in done.stdout, done.stderr
    folder = GridFolder.open(tmp_path / "slurm")
    stage = next(job.name for job in folder.grid.jobs if not job.needs)

    def status(name: str = stage) -> str:
        return next(each.status for each in grid_status(folder) if each.name == name)

    def trained() -> int:
        found = next(each for each in grid_status(folder) if each.name == stage)
        fresh = found.status == "running" and found.progress and found.progress.phase == "stage ssl"
        return found.progress.done if fresh and found.progress else 0

    (number, tasks), *_ = sorted((path.stem, path) for path in folder.slurm.glob("*.json"))
    assert json.loads(tasks.read_text()) == {"jobs": [stage]}
    job = f"{number}_0"
    # The time limit: the run is asked to stop before it, and put back.
    wait_for(lambda: trained() > 0, tmp_path)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_for(lambda: shown(job, "Restarts") == "1", tmp_path)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    wait_for(lambda: trained() > 0, tmp_path)
    # A job of higher priority takes both nodes.
    slurm("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap", "sleep 1")
    wait_for(lambda: shown(job, "Restarts") == "2", tmp_path)
    wait_for(lambda: trained() > 0, tmp_path)
    # A node is drained: what runs there ends there, and everything else goes to the other.
    drained = shown(job, "BatchHost")
    slurm("scontrol", "update", f"NodeName={drained}", "State=DRAIN", "Reason=test")
    interrupting.unlink()
    wait_for(lambda: all(each.status == "done" for each in grid_status(folder)), tmp_path)
    slurm("scontrol", "update", f"NodeName={drained}", "State=RESUME")
    cells = [name for name, one in folder.jobs.items() if one.needs]
    states = {name: folder.job(name).state for name in folder.jobs}
    assert all(state and state.failures == 0 for state in states.values())
    assert {state.host for name, state in states.items() if state and name in cells} == {"n1", "n2"} - {drained}
    here, there = records(tmp_path / "local"), records(tmp_path / "slurm")
    assert len(here) == 2
    assert here.keys() == there.keys()
    for method, record in here.items():
        assert facts(record) == facts(there[method])
    assert "0 jobs submitted" in bench(*grid(data, "slurm", "--on", "slurm")).stdout


def test_failures_are_tried_again_and_what_needs_them_is_named(bench: Bench, data: str, tmp_path: Path) -> None:
    command = grid(data, "grid", "--on", "slurm", "--slurm", "hold", **{"stage1.epochs": 1})
    done = bench(*command)
    assert "3 jobs submitted" in done.stdout, done.stderr
    assert {each.status for each in grid_status(GridFolder.open(tmp_path / "grid"))} == {"queued"}
    assert "0 jobs submitted" in bench(*command).stdout
    assert "3 jobs taken" in bench("matrix", "cancel", "grid").stdout
    wait_for(lambda: not slurm("squeue", "--noheader"), tmp_path)
    assert {each.status for each in grid_status(GridFolder.open(tmp_path / "grid"))} == {"cancelled"}
    assert "3 jobs submitted" in bench(*command).stdout
    (tmp_path / "toy.npz").rename(tmp_path / "away.npz")
    for path in sorted((tmp_path / "grid" / "slurm").glob("*.json")):
        subprocess.run(["scontrol", "release", path.stem], capture_output=True)
    folder = GridFolder.open(tmp_path / "grid")
    wait_for(lambda: all(each.status == "failed" for each in grid_status(folder)), tmp_path)
    stage, *cells = grid_status(folder)
    assert stage.failures == 2
    assert "toy.npz" in stage.reason
    assert [each.reason for each in cells] == [f"{stage.name}, which it needs, failed"] * 2
    (tmp_path / "away.npz").rename(tmp_path / "toy.npz")
    assert "3 jobs submitted" in bench("matrix", "retry", "grid").stdout
    for path in sorted((tmp_path / "grid" / "slurm").glob("*.json")):
        subprocess.run(["scontrol", "release", path.stem], capture_output=True)
    wait_for(lambda: all(each.status == "done" for each in grid_status(folder)), tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can hide a folder from a node")
def test_a_folder_that_a_node_does_not_see_is_refused_at_the_start(
    bench: Bench, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    with slurm_cluster(tmp_path / "other", hidden) as exported:
        for name, value in exported.items():
            monkeypatch.setenv(name, value)
        done = bench(*grid(data, "hidden/grid", "--on", "slurm"))
        assert f"bench: n2 cannot see {hidden}/grid. Choose a --grid" in done.stderr
        assert not list((hidden / "grid" / "slurm").glob("*.json"))


def test_slurms_own_message_is_passed_on(
    bench: Bench, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bench(*grid(data, "grid", "--on", "slurm", "--partition", "nosuch"))
    assert done.code == 1
    assert done.stderr.count("invalid partition specified: nosuch") == 1
    (tmp_path / "slurm.conf").write_text("nonsense")  # without any file, Slurm asks the network for a minute
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert "bench: Slurm says:" in bench(*grid(data, "grid", "--on", "slurm")).stderr


def test_one_task_of_an_array_is_put_back_without_the_others(tmp_path: Path) -> None:
    """One task has the number of its array as its own, by which Slurm understands all of them."""
    script, python = (
        tmp_path / "job.sh",
        "from threading import Event; from bench.grid import requeue; requeue(Event())",
    )
    script.write_text(
        f"""#!/bin/bash
touch {tmp_path}/began-$SLURM_ARRAY_TASK_ID-$SLURM_RESTART_COUNT
while [ ! -f {tmp_path}/began-0- ] || [ ! -f {tmp_path}/began-1- ]; do sleep 0.2; done
if [ $SLURM_JOB_ID = $SLURM_ARRAY_JOB_ID ] && [ -z "$SLURM_RESTART_COUNT" ]; then {sys.executable} -c "{python}"; fi
while [ ! -f {tmp_path}/end ]; do sleep 0.2; done
"""
    )
    number = slurm(
        *("sbatch", "--parsable", "--requeue", "--array=0-1", "--cpus-per-task=1", f"--output={tmp_path}/log-%a.txt"),
        str(script),
    ).strip()

    def restarted() -> list[str]:
        return [path.name for path in tmp_path.glob("began-*-1")]

    wait_for(lambda: bool(restarted()), tmp_path)
    (tmp_path / "end").touch()
    wait_for(lambda: not slurm("squeue", "--noheader", "--jobs", number), tmp_path)
    assert len(restarted()) == 1
