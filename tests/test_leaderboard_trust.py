"""Which records the board does not show, which rows it flags, and that it says so."""

import json
from pathlib import Path

import pytest
from board_records import fill, make_record, text_of

from bench.errors import CheckFailedError
from bench.leaderboard import build_leaderboard, check_leaderboard, write_leaderboard


def break_some(results: Path) -> dict[str, str]:
    """Damage files below ``results`` in every way; returns their names, each with what must be said of it."""
    good = json.loads(next(results.glob("cifar10/*.json")).read_text())
    no_facts = make_record(seed=9, recipe={"threat": {"eps": 0.1}})
    texts = {
        "truncated": (json.dumps(good)[:500], "cannot read"),
        "future": (json.dumps({**good, "schema_version": 3}), "schema version 3"),
        "edited": (json.dumps({**good, "seed": 5}), "checksum"),
        "disagrees": (json.dumps({**good, "sa": {**good["sa"], "accuracy": 0.99}}), "disagrees"),
        "nan": (json.dumps({**good, "recipe": {"x": float("nan")}}), "checksum"),
        "nested": ("[" * 100_000, "recursion"),
        "time": (json.dumps({**good, "finished": "yesterday"}), "finished: Input should be a valid datetime"),
        "zone": (json.dumps({**good, "started": "2024-01-01T00:00:00"}), "started: Input should have timezone info"),
        "facts": (no_facts.sealed().model_dump_json(), "recipe.dataset"),
    }
    for name, (text, _) in texts.items():
        (results / "cifar10" / f"{name}.json").write_text(text)
    return {f"cifar10/{name}.json": complaint for name, (_, complaint) in texts.items()}


def test_bad_records_are_left_out_and_named(tmp_path: Path) -> None:
    results = fill(tmp_path / "results", make_record())
    before = text_of(results)
    expected = break_some(results)
    board = build_leaderboard(results)
    assert text_of(results) == before
    assert {bad.file for bad in board.left_out} == set(expected)
    for bad in board.left_out:
        assert expected[bad.file] in bad.reason
        assert not bad.reason.startswith(str(results))


def test_the_check_names_every_bad_record(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    write_leaderboard(results, path)
    names = break_some(results)
    with pytest.raises(CheckFailedError) as caught:
        check_leaderboard(results, path)
    assert all(name in str(caught.value) for name in names)
    assert "stale" not in str(caught.value)
