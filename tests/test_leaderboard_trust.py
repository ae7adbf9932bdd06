"""Which records the board does not show, which rows it flags, and that it says so."""

import json
from pathlib import Path

import pytest
from board_records import SLF, fill, make_record, rows_below, text_of

from bench.errors import CheckFailedError
from bench.leaderboard import check_leaderboard, write_leaderboard
from bench.record import Outcome
from bench.results import build_leaderboard


def break_some(results: Path) -> dict[str, str]:
    """Damage files below ``results`` in every way; returns their names, each with what must be said of it."""
    good = json.loads(next(results.glob("cifar10/*.json")).read_text())
    no_facts = make_record(seed=9, recipe={"threat": {"eps": 0.1}})
    texts = {
        "truncated": (json.dumps(good)[:500], "cannot read"),
        "future": (json.dumps({**good, "schema_version": 99}), "schema version 99"),
        "edited": (json.dumps({**good, "seed": 5}), "checksum"),
        "disagrees": (json.dumps({**good, "sa": {**good["sa"], "accuracy": 0.99}}), "disagrees"),
        "nan": (json.dumps({**good, "recipe": {"x": float("nan")}}), "not a finite number"),
        "nested": ("[" * 100_000, "recursion"),
        "time": (json.dumps({**good, "finished": "yesterday"}), "finished: must be a valid datetime"),
        "zone": (json.dumps({**good, "started": "2024-01-01T00:00:00"}), "started: must have timezone info"),
        "facts": (no_facts.sealed().model_dump_json(), "recipe: dataset: is missing"),
    }
    for name, (text, _) in texts.items():
        (results / "cifar10" / f"{name}.json").write_text(text)
    return {f"cifar10/{name}.json": complaint for name, (_, complaint) in texts.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_records_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    results = fill(tmp_path / "results", make_record())
    monkeypatch.setattr("bench.results.measured._processes", lambda files: processes)
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


def test_the_same_record_under_two_names_counts_once_and_fails_the_check(tmp_path: Path) -> None:
    results, path = fill(tmp_path / "results", make_record()), tmp_path / "LEADERBOARD.md"
    (record,) = results.glob("cifar10/*.json")
    write_leaderboard(results, path)
    (results / "cifar10" / "zz-copy.json").write_bytes(record.read_bytes())
    board = build_leaderboard(results)
    assert (board.records, [bad.file for bad in board.left_out]) == (1, ["cifar10/zz-copy.json"])
    with pytest.raises(CheckFailedError, match=rf"zz-copy.json: the same record as {record.name}"):
        check_leaderboard(results, path)


def test_two_records_of_one_run_of_which_none_is_the_newest_are_both_left_out(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(aa=40), make_record(aa=90), make_record(aa=30, seed=1))
    board = build_leaderboard(results)
    assert [row.seeds for row in board.rows] == [(1,)]
    assert len(board.left_out) == 2
    assert all("the same run, finished at the same moment" in bad.reason for bad in board.left_out)


def test_a_record_is_not_another_seed_of_itself(tmp_path: Path) -> None:
    one = make_record()
    fill(tmp_path, one, one.model_copy(update={"seed": 1}), make_record(seed=2))
    board = build_leaderboard(tmp_path)
    assert [row.seeds for row in board.rows] == [(2,)]
    assert [bad.reason for bad in board.left_out] == [
        "its classifier is that of seeds 0, 1, and no two seeds train the same. Keep the right one."
    ] * 2
    neighbours = make_record(protocol="knn", encoder_seed=0)
    fill(tmp_path / "knn", neighbours, neighbours.model_copy(update={"seed": 1}))
    assert build_leaderboard(tmp_path / "knn").rows[0].seeds == (0, 1), "kNN trains nothing"


def test_outcomes_of_another_number_of_images_than_the_data_have_are_left_out(tmp_path: Path) -> None:
    record = make_record()
    facts = record.recipe["dataset"]
    for name, size in [("short", 199), ("long", 300), ("byte", 208)]:
        recipe = {**record.recipe, "dataset": {**facts, "test_images": size}}
        fill(tmp_path, record.model_copy(update={"recipe": recipe, "method": name}))
    subset = make_record(method="subset", aa=20, aa_n=50)
    assert subset.aa
    longer = Outcome.pack([True] * 50, images=range(50), test_images=400)
    aa = subset.aa.model_copy(update={"outcome": longer})
    fill(tmp_path, subset.model_copy(update={"aa": aa}), make_record(method="good"))
    board = build_leaderboard(tmp_path)
    assert [row.method for row in board.rows] == ["good"]
    reasons = {bad.file.split("/")[1].split("-")[0]: bad.reason for bad in board.left_out}
    assert reasons.keys() == {"short", "long", "byte", "subset"}
    assert all("disagrees with recipe.dataset" in reason for reason in reasons.values())
    assert reasons["subset"].startswith("AA")


# Flags


@pytest.mark.parametrize(("ra", "flagged"), [(35, False), (62, False), (63, True), (90, True)])
def test_an_ra_far_above_aa_on_the_same_images_is_suspected_of_masking(tmp_path: Path, ra: int, flagged: bool) -> None:
    # 35 of 100 survive AutoAttack. The other hundred images, all right under PGD, say nothing about the gap. The doctor
    # doubts 28 of 100, the fewest of which Wilson's interval with 99.9 % confidence lies above 16 %.
    on_both = [i < ra for i in range(100)]
    fill(tmp_path, make_record(aa=35, ra=[*on_both, *[True] * 100]))
    (row,) = build_leaderboard(tmp_path).rows
    assert bool(row.flags) == flagged
    text = text_of(tmp_path)
    said = f"\n⚑1 doubt about 'RA and AA': on the same 100 images RA counts {ra} as robust and AA 35: "
    said += f"{ra - 35} under RA alone"
    assert (said in text) == flagged
    assert rows_below(text, SLF)[0]["Method"] == "DeACL 2022" + " ⚑1" * flagged


def test_ra_and_aa_at_different_radii_say_nothing_about_masking(tmp_path: Path) -> None:
    record = make_record(aa=10, ra=[True] * 200)
    weaker = record.ra.model_copy(update={"eps": record.ra.eps / 8})
    recipe = {**record.recipe, "evaluate": {"eps": weaker.eps}}
    fill(tmp_path, record.model_copy(update={"ra": weaker, "recipe": recipe}))
    assert build_leaderboard(tmp_path).rows[0].flags == ()


@pytest.mark.parametrize(("sa", "flagged"), [(0, True), (20, True), (28, True), (29, False), (190, False)])
def test_guessing_is_flagged_with_its_seeds(tmp_path: Path, sa: int, flagged: bool) -> None:
    # Of ten classes a guess is right one time in ten; Wilson's interval of 28 of 200 begins at 0.0989.
    records = [make_record(seed=seed, sa=right, ra=0, aa=0) for seed, right in [(0, 190), (3, sa)]]
    fill(tmp_path, *records)
    (row,) = build_leaderboard(tmp_path).rows
    assert bool(row.flags) == flagged
    assert ("\n⚑1 SA is no better than guessing (seed 3), so RA and AA say nothing" in text_of(tmp_path)) == flagged


def test_changed_code_is_flagged_with_its_seeds(tmp_path: Path) -> None:
    for seed, dirty in [(0, False), (1, True), (2, None), (3, True)]:
        record = make_record(seed=seed)
        fill(
            tmp_path, record.model_copy(update={"environment": record.environment.model_copy(update={"dirty": dirty})})
        )
    assert "\n⚑1 the code had uncommitted changes (seed 1, 3), so nobody can repeat it\n" in text_of(tmp_path)
