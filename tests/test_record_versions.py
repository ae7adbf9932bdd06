"""One stored record of each schema version, made by the code of that version: all are read, shown and protected.

Version 1 was made at commit cb9bf15^, version 2 is a published record, versions 3 and 4 were made when
those versions began.
"""

import json
import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.leaderboard import render_leaderboard
from bench.record import load_record, save_record
from bench.results import build_leaderboard

STORED = Path(__file__).parent / "records"
VERSIONS = (1, 2, 3, 4)


def stored(version: int) -> Path:
    return STORED / "digits" / f"version-{version}.json"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_of_each_version_is_read(version: int) -> None:
    record = load_record(stored(version))
    assert record.schema_version == version == json.loads(stored(version).read_text())["schema_version"]
    assert record.sa.unpack().count(True) == record.sa.correct
    assert record.environments.keys() == (record.cost.keys() if version >= 3 else set())
    assert bool(record.environments) == bool(record.code) == (version >= 3)
    assert bool(record.doctor) == (version >= 4)


def test_all_of_them_stand_on_one_board() -> None:
    board = build_leaderboard(STORED)
    assert not board.left_out
    assert sorted(path for row in board.rows for path in row.records) == [f"digits/version-{n}.json" for n in VERSIONS]
    text = render_leaderboard(board, records_at="records")
    for version in VERSIONS:
        assert load_record(stored(version)).title in text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", ["seed", "sha256", "cost", "schema_version"])
def test_none_of_them_can_be_altered(version: int, key: str, tmp_path: Path) -> None:
    values = json.loads(stored(version).read_text())
    others = {"seed": values["seed"] + 1, "sha256": "", "cost": {}, "schema_version": 1 + version % 3}
    path = tmp_path / "altered.json"
    path.write_text(json.dumps({**values, key: others[key]}))
    with pytest.raises(BenchError, match=r"altered\.json.*checksum does not match|altered\.json: sha256"):
        load_record(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_record_is_saved_as_it_was(version: int, tmp_path: Path) -> None:
    """A finished run of an earlier version is printed and published again, and must stay one record."""
    record, values = load_record(stored(version)), json.loads(stored(version).read_text())
    first = save_record(tmp_path, record)
    assert json.loads(first.read_text()) == values
    assert save_record(tmp_path, load_record(first)) == first
    (again,) = (tmp_path / "digits").iterdir()
    shutil.copy(again, tmp_path / "copy.json")
    assert load_record(tmp_path / "copy.json") == record
