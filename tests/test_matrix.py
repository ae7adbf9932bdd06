"""A matrix: cells that are checked together, shared stages before them, and records as those of single runs."""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from in_process import say
from toy_runs import SMALL, facts, toy_data
from typer.testing import CliRunner

from bench.cli import app
from bench.cli._matrix import matrix_request, run_options
from bench.cli._options import split_settings
from bench.errors import BenchError, InterruptedRunError
from bench.grid import Grid, GridFolder, grid_status, work
from bench.grid import local as local_module
from bench.grid.grid import JobFolder
from bench.matrix import Matrix, MatrixRequest, local_devices, plan_matrix
from bench.matrix import devices as devices_module
from bench.matrix.cells import _chosen, _command
from bench.method import METHODS
from bench.record import load_record
from bench.run import Run, RunRequest, execute, prepare

SETTINGS = {**{key: value for key, value in SMALL.items() if not key.startswith("stage1")}, "slf.epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """64 + 8 images, enough for a batch of every stage at tiny."""
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz", images=(64, 8), contrast=0)


def request_of(data: str, folder: Path, **changes: object) -> MatrixRequest:
    values = {
        "methods": ["simclr", "deacl"],
        "datasets": [data],
        "protocols": ["slf"],
        "overrides": {**SETTINGS, "stage1.epochs": 1, "stage1.warmup_epochs": 0},
        "device": "cpu",
        "runs_dir": folder / "runs",
        "results_dir": folder / "results",
        "data_dir": folder,
    }
    return MatrixRequest(**{**values, **changes})  # type: ignore[arg-type]


def in_process(
    command: Sequence[str], own: JobFolder, environment: Mapping[str, str], stopping: Callable[[], bool]
) -> int:
    """Run the command as the worker's process would."""
    done = CliRunner().invoke(app, list(command))
    own.log.write_text(done.output)
    return done.exit_code if done.exception is None else 1


class Done(tuple[GridFolder, Matrix]):
    """A finished grid and its plan."""


@pytest.fixture(scope="module")
def finished(data: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    path = tmp_path_factory.mktemp("grid")
    request = request_of(data, path)
    planned = plan_matrix(request, path / "grid", memory=True)
    folder = GridFolder.create(path / "grid", Grid(asked=request.asked, jobs=planned.jobs))
    for job in planned.jobs:  # in this thread, which alone may handle signals
        work(folder, job.name, Event(), launch=in_process)
    return Done((folder, planned))


def test_a_shared_stage_is_a_job_before_the_cells_that_need_it(finished: Done) -> None:
    _, planned = finished
    stage, simclr, deacl = planned.jobs
    assert [job.method for job in planned.jobs] == ["(shared stage)", "simclr", "deacl"]
    assert "--shared-only" in stage.command
    assert simclr.needs == deacl.needs == (stage.name,)
    assert all(job.memory and 2**29 < job.memory < 2**32 for job in planned.jobs)


def test_its_records_are_those_of_single_runs(finished: Done, data: str, tmp_path: Path) -> None:
    folder, planned = finished
    assert [each.status for each in grid_status(folder)] == ["done"] * 3, folder.job(planned.jobs[0].name).last_lines()
    stage = folder.job(planned.jobs[1].name).log.read_text()
    assert "stage ssl" not in stage, "the cell trained the stage that is trained already"
    run = planned.runs[1]
    request = RunRequest(
        method="deacl",
        dataset=data,
        protocols=("slf",),
        overrides=run.recipe.overrides,
        runs_dir=tmp_path,
        device="cpu",
    )
    ((alone, _),) = execute(prepare(request), tmp_path)
    assert facts(load_record(run.protocol_folder("slf").record)) == facts(alone)
    assert len(list(Path(folder.grid.asked["results_dir"]).rglob("*deacl*.json"))) == 1


def test_a_cell_is_done_once_its_records_are_in_the_results(finished: Done, data: str, tmp_path: Path) -> None:
    folder, matrix = finished
    root = matrix.runs[0].folder.path.parents[1]
    moved = plan_matrix(replace(request_of(data, root), results_dir=tmp_path / "other"), tmp_path / "grid")
    assert {job.method: job.finished for job in moved.jobs} == {"(shared stage)": True, "simclr": False, "deacl": False}
    assert all(job.finished for job in folder.grid.jobs)


def test_progress_is_a_file_that_status_reads(finished: Done) -> None:
    folder, planned = finished
    written = json.loads(folder.job(planned.jobs[2].name).progress.read_text())
    assert written["phase"] == "RA under PGD" or written["phase"], written
    assert {"done", "total", "unit", "seconds_left", "written"} < written.keys()


def test_faults_of_all_cells_are_one_message(data: str, tmp_path: Path) -> None:
    wrong = {"methods": ["simclr", "deacll"], "protocols": ["sfl"], "datasets": ["digit", "npz:x"], "tier": "tinny"}
    with pytest.raises(BenchError) as refused:
        plan_matrix(request_of(data, tmp_path, **wrong, own={"byol": {"stage1.lr": 1.0}}), tmp_path)
    kinds = [line.partition("'")[0] for line in str(refused.value).splitlines()]
    names = ["method ", "method in --set ", "dataset ", "protocol ", "tier "]
    assert kinds == ["5 faults:", *(f"- unknown {name}" for name in names)]
    with pytest.raises(BenchError, match=r"1 of 2 cells cannot be run:\n- supervised, npz:.*under slf"):
        plan_matrix(request_of(data, tmp_path, methods=["simclr", "supervised"]), tmp_path)


def test_what_cells_have_in_common_is_said_once(data: str, tmp_path: Path) -> None:
    two: dict[str, Any] = {"methods": ["simclr", "acl"], "protocols": ["slf"]}
    with pytest.raises(BenchError, match=r"^recipe of tier mini: encoder\.width: must be at least 1 \(given: 0\)$"):
        plan_matrix(request_of(data, tmp_path, **two, overrides={"encoder.width": 0}), tmp_path)
    large = {**SETTINGS, "slf.batch_size": 99, "stage1.batch_size": 98}
    with pytest.raises(BenchError) as refused:
        plan_matrix(
            request_of(data, tmp_path, **two, overrides=large, own={"acl": {"stage1.batch_size": 97}}), tmp_path
        )
    assert [line.partition(", but ")[0] for line in str(refused.value).splitlines()] == [
        "2 of 2 cells cannot be run:",
        "- every cell: slf.batch_size is 99",
        f"- simclr, {data}: stage1.batch_size is 98",
        f"- acl, {data}: stage1.batch_size is 97",
    ]
    with pytest.raises(
        BenchError, match=rf"\n- simclr, {data}: 2 faults\n  - slf.*\n  - stage1.*98.*\n- acl, {data}: .* 97"
    ):
        plan_matrix(
            request_of(
                data,
                tmp_path,
                **two,
                overrides={**SETTINGS, "stage1.batch_size": 98},
                own={"acl": {"stage1.batch_size": 97}, "simclr": {"slf.batch_size": 99}},
            ),
            tmp_path,
        )


def test_a_setting_may_be_of_one_method(data: str, tmp_path: Path) -> None:
    of_all, of_one = split_settings(["slf.epochs=1", "deacl:stage2.lam=3", "./my.py:Mine:stage1.lr=1:2"])
    assert of_all == ["slf.epochs=1"]
    assert of_one == {"deacl": ["stage2.lam=3"], "./my.py:Mine": ["stage1.lr=1:2"]}
    planned = plan_matrix(request_of(data, tmp_path, own={"deacl": {"stage2.lam": 3.0}}), tmp_path)
    commands = {job.method: " ".join(job.command) for job in planned.jobs if job.needs}
    assert {method: "stage2.lam=3" in words for method, words in commands.items()} == {"simclr": False, "deacl": True}
    assert planned.runs[1].recipe.overrides["stage2.lam"] == 3


def test_options_that_change_the_recipe_are_those_of_the_plan_and_of_its_commands(
    monkeypatch: pytest.MonkeyPatch, data: str, tmp_path: Path
) -> None:
    asked: list[RunRequest] = []

    def prepared(request: RunRequest, *_: object) -> Run:
        asked.append(request)
        if len(asked) > 1:
            raise InterruptedRunError("the command has prepared its run")
        return prepare(replace(request, budget=None, corruptions=None, overrides=SETTINGS))  # quick

    monkeypatch.setattr("bench.matrix.cells.prepare", prepared)
    monkeypatch.setattr("bench.run.prepare", prepared)
    items = ["budget=1e9", "encoder=resnet34", "attacks=min-norm", "corruptions=generate", "accumulate=2"]
    words, chosen = run_options([*items, f"finetune-dataset={data}", "data-in=memory"])
    more: dict[str, Any] = {key: tmp_path for key in ("runs_dir", "results_dir", "data_dir")}
    more |= {"preset": None, "precision": None, "set_": ["evaluate.autoattack=false"], "tier": "tiny", "device": "cpu"}
    planned = plan_matrix(matrix_request("byol", data, "0", "slf", options=words, **more, **chosen), tmp_path)
    CliRunner().invoke(app, list(planned.jobs[0].command))
    assert asked[0] == asked[1]
    assert asked[0].overrides.keys() == {"evaluate.autoattack", "encoder.arch", "evaluate.attacks"}
    assert (asked[0].budget, asked[0].corruptions, asked[0].accumulate) == ("1e9", "generate", 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed=5", " seed: type --seeds of bench matrix instead. Allowed here: accumulate, attacks, "),
        ("tier=mini", " tier: type --tier of bench matrix instead."),
        ("shared-only", " shared-only: a grid decides that itself."),
        ("track=mlflow:x", ": bench run refuses --track mlflow:x: unknown tracker 'mlflow'."),
    ],
)
def test_options_that_a_grid_gives_its_runs_are_refused(option: str, message: str) -> None:
    with pytest.raises(BenchError) as refused:
        run_options([option])
    assert str(refused.value).startswith(f"--run-option{message}")


def test_paths_in_a_grid_hold_from_any_folder_and_from_home(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    items = ["finetune-dataset=npz:~/x.npz", "corruptions=c", "track=progress:p.json", "data-in=memory"]
    words, _ = run_options(items)
    here = [f"npz:{tmp_path / 'x.npz'}", f"{tmp_path / 'c'}", f"progress:{tmp_path / 'p.json'}", "memory"]
    assert words[1::2] == here
    assert run_options(["encoder=timm:vit_tiny", "corruptions=generate"])[0][1::2] == ["timm:vit_tiny", "generate"]
    home = Path(data.removeprefix("npz:"))
    shutil.copy(home, tmp_path / home.name)
    (job, *_) = plan_matrix(request_of(f"npz:~/{home.name}", tmp_path), tmp_path).jobs
    assert f"npz:{tmp_path / home.name}" in job.command
    words, _ = run_options(["attacks=./own.py:noise,pgd-cw"])
    assert words[1] == f"{tmp_path / 'own.py'}:noise,pgd-cw"


def test_files_that_settings_and_the_tier_name_hold_from_any_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text((files("bench") / "recipes" / "tiny.toml").read_text("utf-8"))
    request = request_of(data, tmp_path, tier="mine.toml")
    named = {"pseudo_labels": "file:k.npz", "encoder.arch": "./net.py:Net", "ssl": "byol"}
    here = [f"pseudo_labels=file:{tmp_path / 'k.npz'}", f"encoder.arch={tmp_path / 'net.py'}:Net", "ssl=byol"]
    assert replace(request, overrides=named).asked["settings"] == here
    for job in plan_matrix(request, tmp_path).jobs:
        assert job.command[job.command.index("--tier") + 1] == str(tmp_path / "mine.toml")


def test_two_datasets_of_one_content_are_one_run_and_refused(data: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / Path(data).name
    copy.parent.mkdir()
    shutil.copy(data.removeprefix("npz:"), copy)
    with pytest.raises(BenchError, match=r"two cells of the grid are one run, .*: two of the datasets hold the same"):
        plan_matrix(request_of(data, tmp_path, datasets=[data, f"npz:{copy}"]), tmp_path)


def test_all_means_the_methods_that_the_protocols_apply_to(data: str, tmp_path: Path) -> None:
    chosen, left_out = _chosen(request_of(data, tmp_path, methods=["all"], protocols=["slf", "aff"]))
    assert left_out == ()
    assert chosen["supervised"] == ["aff"]
    assert chosen["acl"] == ["slf", "aff"]
    chosen, left_out = _chosen(request_of(data, tmp_path, methods=["all"]))
    assert left_out == ("supervised: it is evaluated under aff alone",)
    assert {"acl", "byol", "deacl", "simclr"} < chosen.keys()


def test_gpus_are_devices_alone_or_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 100

    monkeypatch.setattr(devices_module, "pick_device", lambda device: torch.device(device or "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7")
    found = [device.environment["CUDA_VISIBLE_DEVICES"] for device in local_devices(None, at_once=None, threads=1)]
    assert found == ["3", "4", "5", "6", "7"]
    groups = [
        (device.environment["CUDA_VISIBLE_DEVICES"], device.memory, device.at_once)
        for device in local_devices(None, at_once=None, threads=1, together=2)
    ]
    assert groups == [("3,4", 90, 1), ("5,6", 90, 1)]
    (one,) = local_devices("cuda:1", at_once=2, threads=1)
    assert (one.environment["CUDA_VISIBLE_DEVICES"], one.at_once) == ("4", 2)


def test_a_job_does_not_number_the_gpu_that_it_sees_alone(data: str, tmp_path: Path) -> None:
    run = prepare(RunRequest("simclr", data, protocols=["slf"], overrides=SETTINGS, runs_dir=tmp_path, device="cpu"))
    for elsewhere, device in ((False, "cuda"), (True, "cuda:1")):
        request = request_of(data, tmp_path, device="cuda:1", elsewhere=elsewhere)
        words = _command(request, ("simclr", data), run, tmp_path, "name")
        assert words[words.index("--device") + 1] == device


def test_the_commands_of_the_page_write_their_scripts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every command that makes a grid, as on the page but on digits; those for Slurm stop after their scripts."""
    page = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a100.toml").write_text(page.split("```toml a100.toml\n")[1].split("```")[0])
    lines = [line for line in page.splitlines() if line.startswith("bench matrix --methods")]
    assert len(lines) >= 4
    for number, line in enumerate(lines):
        words = ["digits" if "cifar" in word else "simclr" if word == "all" else word for word in shlex.split(line)[1:]]
        words += ["--set", "encoder.width=2", *([] if {"--dry-run", "--by-hand"} & {*words} else ["--dry-run"])]
        done = say(monkeypatch, capsys, *words, "--at-once", "1", "--grid", f"grid-{number}")
        assert done.code == 0, done.stderr
        if "slurm" in words:
            assert "#SBATCH --gpus-per-node=1" in done.stdout
            assert ("#SBATCH --constraint=80g" in done.stdout) == ("--profile" in words)
            assert "sbatch --parsable" in done.stdout
            assert Path(f"grid-{number}/slurm/by-hand-1.sh").exists() == ("--by-hand" in words)
            assert Path(f"grid-{number}").exists() == ("--by-hand" in words)
        else:
            assert "needs" in done.stdout


def test_a_cpu_takes_as_many_jobs_as_it_has_cores() -> None:
    (device,) = local_devices("cpu", at_once=None, threads=1)
    assert device.at_once >= 1
    assert local_devices("cpu", at_once=3, threads=1)[0].at_once == 3
    assert device.memory > 0


def test_the_commands(
    finished: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, planned = finished
    done = say(monkeypatch, capsys, "matrix", "status", str(folder.path), "--all")
    assert done.code == 0
    assert planned.jobs[0].name in done.stdout
    found = json.loads(say(monkeypatch, capsys, "matrix", "status", str(folder.path), "--json").stdout)
    assert [each["status"] for each in found] == ["done"] * 3
    for words in (["status", "--grid", str(folder.path)], ["--grid", str(folder.path), "status"]):
        assert say(monkeypatch, capsys, "matrix", *words, "--json").code == 0
    refused = say(monkeypatch, capsys, "matrix", "--grid", "other", "status", str(folder.path)).stderr
    assert refused == f"bench: other and {folder.path} are two grids. Name one.\n"
    refused = say(monkeypatch, capsys, "matrix", "--json", "status", str(folder.path)).stderr
    assert refused.startswith("bench: --json before status: options of status come after it")
    done = say(monkeypatch, capsys, "matrix", "cancel", "--grid", str(folder.path))
    assert done.stdout == "nothing to cancel: of 3 jobs none waits or runs (3 done).\n"
    assert not folder.cancelled
    assert "bench matrix work" not in say(monkeypatch, capsys, "matrix", "retry", str(folder.path)).stderr
    done = say(monkeypatch, capsys, "matrix", "work", str(folder.path), planned.jobs[0].name)
    assert done.stdout == f"{planned.jobs[0].name}: done\n"
    monkeypatch.chdir(tmp_path)
    assert say(monkeypatch, capsys, "matrix", "status").stderr.startswith("bench: there is no grid in grid.")
    assert say(monkeypatch, capsys, "matrix", "--seeds", "1").stderr.startswith("bench: no method is named.")
    refused = say(monkeypatch, capsys, "matrix", "--methods", "deacl", "--gpus", "2").stderr
    assert refused == "bench: gpus: Slurm alone gives these. Add --on slurm, or leave them out.\n"
    refused = say(monkeypatch, capsys, "matrix", "--methods", "deacl", "--run-option", "devises=2").stderr
    assert "bench run refuses --devises 2" in refused


def test_a_method_that_was_corrected_needs_the_first_command_and_no_retry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    (own := tmp_path / "own.py").write_text("from methods.simclr import SimCLR\n")
    request = request_of(data, tmp_path, methods=[f"{own}:SimCLR"], seeds=[0])
    folder = GridFolder.create(tmp_path / "grid", Grid(asked=request.asked, jobs=plan_matrix(request, tmp_path).jobs))
    (job,) = folder.grid.jobs
    assert list(job.code) == [str(own)]

    def failing(*_: object) -> int:
        own.write_text(f"{own.read_text()}CORRECTED = True\n")
        return 9

    monkeypatch.setattr(local_module, "work", lambda *args, **more: work(*args, **{**more, "launch": failing}))
    done = say(monkeypatch, capsys, "matrix", "retry", str(folder.path))
    assert done.stderr.endswith("\nType the bench matrix command again.\n")
    state = folder.job(job.name).state
    done = say(monkeypatch, capsys, "matrix", "retry", str(folder.path))
    changed = f"bench: the code of {own} has changed since this grid was made. Type the bench matrix command again.\n"
    assert (done.code, done.stderr) == (1, changed)
    assert folder.job(job.name).state == state


def test_a_failure_ends_the_command_with_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path
) -> None:
    def broken(*_: object) -> int:
        return 9

    monkeypatch.setattr(local_module, "work", lambda *args, **more: work(*args, **{**more, "launch": broken}))
    words = [f"--{key}={tmp_path / key}" for key in ("grid", "runs-dir", "results-dir", "data-dir")]
    small = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    words += ["--methods", "simclr", "--datasets", data, "--protocols", "slf", "--at-once", "1", "--device", "cpu"]
    command = ["matrix", *words, *small]
    done = say(monkeypatch, capsys, *command)
    assert done.code == 1
    assert "failed: exit code 9, attempt 2" in done.stderr
    assert f"bench matrix retry {tmp_path / 'grid'} tries these again." in done.stderr
    assert say(monkeypatch, capsys, *command, "--dry-run").code == 0
    opened = GridFolder.open(tmp_path / "grid")
    opened.job(opened.grid.jobs[0].name).forget()
    done = say(monkeypatch, capsys, "matrix", "cancel", str(opened.path))
    assert done.stdout == "cancelled. The command that started the grid continues it.\n"
    assert opened.cancelled
    # From another shell, while the command that started the grid waits.
    monkeypatch.setattr(GridFolder, "resume", lambda self: None)
    done = say(monkeypatch, capsys, *command)
    assert done.code == InterruptedRunError.exit_code
    assert "bench: cancelled: of 1 job 1 cancelled; the state of every job is saved." in done.stderr
