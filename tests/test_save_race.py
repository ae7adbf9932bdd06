"""Processes that save results of the same name at the same moment: each result is kept, under a name of its own."""

import json
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from board_records import make_record

from bench import files
from bench.files import create_bytes
from bench.record import load_record, record_files, save_record

ROUNDS, PROCESSES = 20, 3


def save_all(folder: Path, number: int, barrier: Barrier) -> None:
    for round_ in range(ROUNDS):
        record = make_record(aa=number, method=f"m{round_}")
        barrier.wait(60)
        save_record(folder, record)


def race(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    processes = [context.Process(target=save_all, args=(folder, number, barrier)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES


@pytest.mark.parametrize("links", [True, False])
def test_no_record_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    race(tmp_path)
    found = [load_record(path) for path in record_files(tmp_path)]
    kept = {(record.method, record.aa.outcome.correct) for record in found if record.aa}
    assert kept == {(f"m{round_}", number) for round_ in range(ROUNDS) for number in range(PROCESSES)}
    assert len(list((tmp_path / "cifar10").iterdir())) == ROUNDS * PROCESSES, "and nothing else is left there"


def refuse_links(*args: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    assert create_bytes(tmp_path / "x", b"first")
    assert not create_bytes(tmp_path / "x", b"second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"first"}


def test_a_damaged_file_of_the_same_name_is_set_aside_and_written_anew(tmp_path: Path) -> None:
    record = make_record()
    path = save_record(tmp_path, record)
    whole = path.read_bytes()
    edited = json.dumps({**json.loads(whole), "seed": 7}).encode()
    for number, damaged in enumerate((whole[:100], b"\xff", edited), 1):
        path.write_bytes(damaged)
        assert save_record(tmp_path, record) == path
        assert path.read_bytes() == whole
        aside = path.with_name(f"{path.name}.damaged" + (f".{number}" if number > 1 else ""))
        assert aside.read_bytes() == damaged
    assert list(record_files(tmp_path)) == [path]


def test_a_result_of_a_later_version_is_never_set_aside(tmp_path: Path) -> None:
    path = save_record(tmp_path, make_record())
    values = {**json.loads(path.read_text()), "schema_version": 99, "novelty": 1}
    values["sha256"] = files_digest(values)
    path.write_text(json.dumps(values))
    assert save_record(tmp_path, make_record()).name == f"{path.stem}.2.json"
    assert json.loads(path.read_text()) == values


def files_digest(values: dict[str, object]) -> str:
    from bench.recipe import canonical_digest

    return canonical_digest({key: value for key, value in values.items() if key != "sha256"})


def test_a_file_in_writing_is_no_litter(tmp_path: Path) -> None:
    """What a living process writes stays; what a dead one left goes with the next write of that name."""
    (tmp_path / ".x.dead.unfinished").write_bytes(b"half")
    with files._written(tmp_path / "x", lambda file: file.write(b"one")) as temporary:
        assert not (tmp_path / ".x.dead.unfinished").exists()
        files.remove_unfinished(tmp_path)
        assert Path(temporary).exists()
    assert list(tmp_path.iterdir()) == []
