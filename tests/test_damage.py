"""Damage to what a run keeps: noticed, said, set aside, made again, and the record is what it would have been."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_runs import Listener, carry_out, facts, toy_data, toy_request

from bench.errors import BenchError, InterruptedRunError
from bench.record import Record
from bench.run import prepare
from bench.run.finished import finished_protocols
from bench.zoo import digest, load_tensors, save_tensors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of the run that nothing happened to."""
    place = tmp_path_factory.mktemp("whole")
    ((record, _),) = carry_out(toy_request(data, place), place / "results")
    return record


def damage(path: Path, how: str) -> bytes:
    """Damage the file, and return what it holds now."""
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-2] ^= 0x10
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content.clear()
    path.write_bytes(bytes(content))
    return bytes(content)


@pytest.mark.parametrize("how", ["flipped", "cut", pytest.param("emptied", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("stop_at", "file", "again"),
    [
        (4, "ssl.training.safetensors", ["stage ssl", "stage slf"]),
        (9, "slf-*/slf.training.safetensors", ["stage slf"]),
        (9, "encoder.safetensors", ["stage slf"]),
        (13, "slf-*/slf.safetensors", ["stage slf"]),
        (14, "slf-*/evaluation.json", []),
    ],
)
def test_damaged_state_is_set_aside_and_made_again(
    data: str, tmp_path: Path, whole: Record, stop_at: int, file: str, again: list[str], how: str
) -> None:
    asked = toy_request(data, tmp_path)
    with pytest.raises(InterruptedRunError):
        carry_out(asked, tmp_path / "results", Listener(stop_at))
    (path,) = asked.runs_dir.rglob(file)
    left = damage(path, how)
    listener = Listener()
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    assert facts(record) == facts(whole)
    (note,) = listener.notes
    assert str(path) in note
    assert f"It was renamed to {path.name}.damaged" in note
    assert path.with_name(f"{path.name}.damaged").read_bytes() == left
    assert [phase for phase in listener.phases if phase.startswith("stage")] == again


def test_a_sound_encoder_is_enough(data: str, tmp_path: Path, whole: Record) -> None:
    """What made it is not read again, so its damage does not matter."""
    asked = toy_request(data, tmp_path)
    with pytest.raises(InterruptedRunError):
        carry_out(asked, tmp_path / "results", Listener(9))
    (stage,) = asked.runs_dir.rglob("ssl.safetensors")
    damage(stage, "cut")
    listener = Listener()
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    assert listener.notes == []
    assert facts(record) == facts(whole)
    assert record.cost.keys() == whole.cost.keys()


def test_an_encoder_and_its_stage_both_damaged_are_trained_again(data: str, tmp_path: Path, whole: Record) -> None:
    asked = toy_request(data, tmp_path)
    with pytest.raises(InterruptedRunError):
        carry_out(asked, tmp_path / "results", Listener(9))
    for name in ("encoder.safetensors", "ssl.safetensors"):
        (file,) = asked.runs_dir.rglob(name)
        damage(file, "flipped")
    listener = Listener()
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    assert [note.split(" is damaged")[0].rsplit("/", 1)[1] for note in listener.notes] == [
        *("encoder.safetensors", "ssl.safetensors")
    ]
    assert listener.phases[0] == "stage ssl"
    assert facts(record) == facts(whole)


def test_what_was_made_with_another_encoder_is_made_again(data: str, tmp_path: Path, whole: Record) -> None:
    asked = toy_request(data, tmp_path)
    with pytest.raises(InterruptedRunError):
        carry_out(asked, tmp_path / "results", Listener(14))
    (path,) = asked.runs_dir.rglob("encoder.safetensors")
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: 2 * value for name, value in tensors.items()}, metadata)
    listener = Listener()
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    renamed = [note.split(" was renamed to ")[1].split()[0] for note in listener.notes if "other weights" in note]
    assert renamed == ["slf.safetensors.damaged,", "evaluation.json.damaged,"]
    assert record.encoder_sha256 != whole.encoder_sha256
    assert record.classifier_sha256 != whole.classifier_sha256


def test_the_damaged_encoder_of_a_finished_run_is_made_again(data: str, tmp_path: Path) -> None:
    asked, listener = toy_request(data, tmp_path), Listener()
    ((before, _),) = carry_out(asked, tmp_path / "results")
    (path,) = asked.runs_dir.rglob("encoder.safetensors")
    damage(path, "flipped")
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    assert (record, listener.phases) == (before, [])
    assert digest(load_tensors(path).tensors) == record.encoder_sha256
    path.unlink()
    path.with_name(f"{path.name}.damaged").unlink()
    carry_out(asked, tmp_path / "results")
    assert not path.exists(), "deleted to save space"


def test_the_classifier_of_a_finished_protocol_is_read_by_what_needs_it_alone(data: str, tmp_path: Path) -> None:
    asked, listener = toy_request(data, tmp_path), Listener()
    ((before, _),) = carry_out(asked, tmp_path / "results")
    (path,) = asked.runs_dir.rglob("slf-*/slf.safetensors")
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: 2 * value for name, value in tensors.items()}, metadata)
    ((record, _),) = carry_out(asked, tmp_path / "results", listener)
    assert (record, listener.notes, listener.phases) == (before, [], [])
    (finished,) = finished_protocols(asked.runs_dir)
    with pytest.raises(BenchError, match="not those that its record was made with"):
        finished.classifier(torch.device("cpu"))


def test_an_encoder_of_another_run_is_refused(data: str, tmp_path: Path) -> None:
    asked = toy_request(data, tmp_path)
    carry_out(asked, tmp_path / "results")
    other = prepare(replace(asked, seed=1)).folder
    other.path.mkdir()
    other.encoder.write_bytes(prepare(asked).folder.encoder.read_bytes())
    with pytest.raises(BenchError, match=r"encoder\.safetensors belongs to another run"):
        carry_out(replace(asked, seed=1), tmp_path / "results")
