"""``--track``: what training logs reaches TensorBoard and Weights & Biases, and nothing is needed without it."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from toy_runs import Listener
from toy_stage import CPU, EPOCHS, IMAGES, ToyStage, make_plan
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError, InterruptedRunError
from bench.files import read_json
from bench.grid import Progress as ProgressOfRun
from bench.job import Job
from bench.monitor import Monitor
from bench.trackers import tracked
from bench.train import Progress, train


def trained(folder: Path, where: str | None, monitor: Monitor | None = None) -> Progress:
    monitor = monitor or Monitor()
    with tracked(monitor, where, "toy-run"):
        monitor.note("a word")
        return train(ToyStage(make_plan()), IMAGES, Job(folder, "mine", 7, CPU, monitor))


def test_tensorboard_gets_every_scalar_of_every_epoch(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = trained(tmp_path / "state", f"tensorboard:{tmp_path / 'board'}").history
    events: Any = EventAccumulator(str(tmp_path / "board" / "toy-run"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(f"stage toy/{name}" for name in history[0])
    points = events.Scalars("stage toy/loss")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([epoch["loss"] for epoch in history])


class Wandb:
    """What of wandb's interface is used."""

    __spec__ = ModuleSpec("wandb", None)

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.logged: list[dict[str, float]] = []
        self.notes: str | None = None
        self.finished = 0

    def init(self, **asked: Any) -> "Wandb":
        self.asked = asked
        return self

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_a_file_of_progress_ends_with_the_last_count_and_says_whether_the_run_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    asked = Monitor()
    asked.stop_requested = True
    with pytest.raises(InterruptedRunError):
        trained(tmp_path, f"progress:{file}", asked)
    stopped = ProgressOfRun.parse(read_json(file), "progress")
    assert (stopped.run, stopped.finished, stopped.phase) == ("toy-run", False, "stage toy")
    trained(tmp_path, f"progress:{file}")
    done = ProgressOfRun.parse(read_json(file), "progress")
    assert (done.run, done.finished, done.phase, done.seconds_left) == ("toy-run", True, "stage toy", 0)
    assert done.done == done.total > 0


def test_a_file_of_progress_has_the_end_of_a_phase_before_the_next_begins(tmp_path: Path) -> None:
    file, monitor = tmp_path / "progress.json", Monitor()
    with tracked(monitor, f"progress:{file}", "a"):
        monitor.begin("SA", 8)
        monitor.advance(8)
        monitor.end()
        found = read_json(file)
    assert (found["phase"], found["done"], found["finished"]) == ("SA", 8, False)
    older = {key: value for key, value in found.items() if key not in ("run", "finished")}
    assert ProgressOfRun.parse(older, "progress").run == ""


def test_wandb_gets_them_too_and_is_closed_when_the_work_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    asked = Monitor()
    asked.stop_requested = True
    with pytest.raises(InterruptedRunError):
        trained(tmp_path, "wandb:project", asked)
    assert stub.asked == {"project": "project", "name": "toy-run", "id": "toy-run", "resume": "allow"}
    assert (stub.notes, stub.finished, stub.logged) == ("a word", 1, [])
    history = trained(tmp_path, "wandb:project").history
    assert len(stub.logged) == EPOCHS
    assert stub.logged[0] == {
        "stage toy/epoch": 1,
        **{f"stage toy/{name}": value for name, value in history[0].items()},
    }


def test_a_place_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BenchError, match=r"^--track tensorboard:.*file cannot be opened \(.*leave out --track"),
        tracked(Monitor(), f"tensorboard:{tmp_path / 'file'}", "run"),
    ):
        pass


class Failing(Wandb):
    """Every event is an error, as on a full disk."""

    def log(self, values: dict[str, float]) -> None:
        raise OSError("no space left")

    def finish(self) -> None:
        raise OSError("no space left")


def test_a_tracker_that_fails_is_one_note_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Failing())
    listener = Listener()
    history = trained(tmp_path, "wandb:project", Monitor(listener)).history
    assert len(history) == EPOCHS
    said = [note for note in listener.notes if "--track" in note]
    assert len(said) == 1
    assert said[0].startswith("--track wandb:project failed (OSError: no space left). The run goes on")


def test_without_it_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(trained(tmp_path, None).history) == EPOCHS


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("tensorbord:x", r"unknown tracker 'tensorbord'.*tensorboard"),
        ("tensorboard", r"--track tensorboard lacks a place\. Type --track tensorboard:FOLDER"),
        ("wandb:", r"--track wandb: lacks a place"),
        ("wandb:project", r"pip install 'ssl-robustness-bench\[wandb\]'"),
        ("tensorboard:folder", r"pip install 'ssl-robustness-bench\[tensorboard\]'"),
    ],
)
def test_what_cannot_be_tracked_is_one_message(where: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BenchError, match=message), tracked(Monitor(), where, "run"):
        pass


@pytest.mark.parametrize("command", ["run simclr", "run simclr --dry-run", "run simclr --shared-only", "evaluate RUN"])
def test_a_bad_tracker_is_refused_before_anything_is_read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.run.prepare", None)
    monkeypatch.setattr("bench.run.encoder_path", None)
    with pytest.raises(BenchError, match=r"^unknown tracker 'mlflow'\. Allowed: "):
        CliRunner().invoke(app, [*command.split(), "--track", "mlflow:x"], catch_exceptions=False)
