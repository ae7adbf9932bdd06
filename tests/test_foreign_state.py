"""What a run's folder holds is believed only where it is this run's own, and whole; the rest is made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_runs import Listener, carry_out, changed, facts, toy_data, toy_request

from bench.errors import BenchError
from bench.record import Record
from bench.run import RunRequest, finished_protocols, list_runs, prepare


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRequest, Path, Record]:
    """A finished run: what was asked, where its results are, and its record."""
    folder = tmp_path_factory.mktemp("finished")
    request = toy_request(toy_data(folder / "toy.npz"), folder)
    ((record, _),) = carry_out(request, folder / "results")
    return request, folder, record


@pytest.fixture
def again(finished: tuple[RunRequest, Path, Record], tmp_path: Path) -> tuple[RunRequest, Path]:
    """The same run copied to a place of the test's own; its data stay where they are."""
    request, folder, _ = finished
    for name in ("runs", "results"):
        shutil.copytree(folder / name, tmp_path / name)
    return toy_request(request.dataset, tmp_path), tmp_path / "results"


def place(request: RunRequest) -> Path:
    run = prepare(request)
    return run.protocol_folder("slf").record


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_shape(path: Path) -> None:
    path.write_text('["no", "mapping"]')


@pytest.mark.parametrize("damage", [cut, empty, another_shape])
@pytest.mark.parametrize("which", ["run.json", "record.json", "results"])
def test_what_is_damaged_is_set_aside_and_made_again(
    again: tuple[RunRequest, Path],
    finished: tuple[RunRequest, Path, Record],
    damage: Callable[[Path], None],
    which: str,
) -> None:
    request, results = again
    path = {
        "run.json": prepare(request).folder.description,
        "record.json": place(request),
        "results": next(results.glob("toy/*.json")),
    }[which]
    if (which == "results" and damage is empty) or (which == "run.json" and damage is another_shape):
        pytest.skip("what may be another process's, or another program's, stays")
    damage(path)
    listener = Listener()
    ((record, kept),) = carry_out(request, results, listener)
    assert facts(record) == facts(finished[2])
    assert any(f"{path.name}.damaged" in note for note in listener.notes)
    assert path.with_name(f"{path.name}.damaged").exists()
    assert json.loads(path.read_text())
    assert kept.exists()
    assert not any(phase.startswith("stage") for phase in listener.phases), "nothing is trained again"


def test_a_record_of_another_run_is_never_this_ones(again: tuple[RunRequest, Path], tmp_path: Path) -> None:
    request, results = again
    other = changed(request, evaluate__pgd_steps=1)
    other_seed = toy_request(request.dataset, tmp_path, seed=1)
    for stranger in (other, other_seed):
        ((foreign, _),) = carry_out(stranger, tmp_path / "other results")
        shutil.copy(place(stranger), place(request))
        listener = Listener()
        ((record, _),) = carry_out(request, results, listener)
        assert record.sha256 != foreign.sha256
        assert (record.seed, record.ra.steps) == (0, 2)
        assert any("belongs to another run" in note for note in listener.notes)


def test_a_record_of_other_weights_is_never_this_ones(again: tuple[RunRequest, Path]) -> None:
    request, results = again
    path = place(request)
    values = json.loads(path.read_text())
    forged = Record.model_validate({**values, "encoder_sha256": "a" * 64}).sealed()
    path.write_text(forged.model_dump_json())
    listener = Listener()
    ((record, _),) = carry_out(request, results, listener)
    assert record.encoder_sha256 != forged.encoder_sha256
    assert any("encoder_sha256 is aaa" in note for note in listener.notes)


def test_readers_of_runs_name_it_and_leave_it_out(again: tuple[RunRequest, Path], tmp_path: Path) -> None:
    request, _ = again
    other = toy_request(request.dataset, tmp_path, seed=1)
    carry_out(other, tmp_path / "other results")
    shutil.copy(place(request), place(other))
    with pytest.warns(UserWarning, match=r"left out .*record\.json: its pre-training is not that of the run"):
        found = list(finished_protocols(request.runs_dir))
    assert [each.record.seed for each in found] == [0]
    cut(place(other))
    with pytest.warns(UserWarning, match=r"left out .*record\.json"):
        assert len(list(finished_protocols(request.runs_dir))) == 1
    cut(prepare(other).folder.description)
    with pytest.warns(UserWarning, match=r"left out .*cannot read"):
        assert [row.seed for row in list_runs(request.runs_dir)] == [0]


def test_what_killed_writes_left_is_cleared_away(again: tuple[RunRequest, Path]) -> None:
    request, results = again
    folder = prepare(request).folder.path
    litter = [
        results / "toy" / ".deacl.json.x1.unfinished",
        folder / ".run.json.x1.unfinished",
        place(request).parent / "slf.training.safetensors",
    ]
    for path in litter:
        path.write_bytes(b"half")
    place(request).unlink()
    carry_out(request, results)
    assert not any(path.exists() for path in litter)


def test_a_folder_that_was_moved_away_meanwhile_is_one_message(again: tuple[RunRequest, Path], tmp_path: Path) -> None:
    request, results = again
    run = prepare(request)
    place(request).unlink()

    class Mover(Listener):
        def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
            if not (tmp_path / "moved").exists():
                (tmp_path / "runs").rename(tmp_path / "moved")

    from bench.run import execute

    (place(request).parent / "slf.safetensors").unlink()
    with pytest.raises(BenchError, match="was moved or deleted during the run"):
        execute(run, results, Mover())
