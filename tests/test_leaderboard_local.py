"""A user's own records stand beside the published ones, marked, and change nothing of what is published."""

import json
from pathlib import Path
from typing import Any

import pytest
from board_records import SLF, fill, make_record, rows_below, text_of
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import find_record, find_seeds
from bench.leaderboard import check_leaderboard, write_leaderboard
from bench.results import build_leaderboard, load_published, measured_costs

OWN: dict[str, Any] = {"device": "My laptop, 8 threads"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two published seeds of DeACL, and the user's own of seed 0, later and with another outcome."""
    results = fill(tmp_path / "results", make_record(aa=70), make_record(aa=72, seed=1))
    fill(results / "local", make_record(aa=30, finished="2025-01-01T00:00:00+00:00", **OWN))
    return results


def test_an_own_record_does_not_replace_the_published_one(results: Path) -> None:
    published, own = rows_below(text_of(results), SLF)
    assert (published["Method"], published["AA"], published["Seeds"]) == ("DeACL 2022", "71.0 ± 1.4", "2")
    assert (own["Method"], own["AA"], own["Seeds"]) == ("DeACL 2022 (local)", "30.0 [21.9, 39.6]", "1")
    assert own["Records"] == "[seed 0](results/local/cifar10/deacl-mini-uniform-s0-slf-22222222.json)"
    assert [row.local for row in build_leaderboard(results).rows] == [False, True]
    assert build_leaderboard(results, local=False).records == 2


def test_what_is_committed_does_not_change(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "LEADERBOARD.md"
    write_leaderboard(results, path)
    text = path.read_text()
    assert "(local)" not in text
    fill(results / "local", make_record(aa=99, seed=5, **OWN))
    (results / "local" / "cifar10" / "bad.json").write_text("{}")
    assert check_leaderboard(results, path).left_out == ()
    write_leaderboard(results, path)
    assert path.read_text() == text
    assert [bad.file for bad in build_leaderboard(results).left_out] == ["local/cifar10/bad.json"]


def test_a_record_that_was_published_counts_once(results: Path) -> None:
    fill(results / "local", make_record(aa=70))
    board = build_leaderboard(results)
    assert (board.records, board.left_out) == (3, ())


def test_where_nothing_is_published_the_own_rows_are_the_board(tmp_path: Path) -> None:
    fill(tmp_path / "results").joinpath("local").mkdir()
    fill(tmp_path / "results" / "local", make_record(aa=30, **OWN), make_record(aa=20, method="b", title="B", **OWN))
    deacl, other = build_leaderboard(tmp_path / "results").rows
    assert (deacl.label, deacl.rank, other.label) == ("DeACL 2022 (local)", 1, "B 2022 (local)")
    assert [row["Time x DeACL"] for row in rows_below(text_of(tmp_path / "results"), SLF)] == ["1.00", "1.00"]


def test_a_plain_name_means_the_published_record(results: Path) -> None:
    name = "deacl-mini-uniform-s0-slf-22222222"
    assert find_record(name, results).path == results / "cifar10" / f"{name}.json"
    own = find_record(f"local/{name}", results)
    assert (own.path, own.local) == (results / "local" / "cifar10" / f"{name}.json", True)
    fill(results / "local", make_record(seed=7, **OWN))
    assert find_record("deacl-mini-uniform-s7", results).local
    assert [one.record.seed for one in find_seeds("deacl", results, dataset="cifar10").seeds] == [0, 1]
    assert [one.record.seed for one in find_seeds("local/deacl", results, dataset="cifar10").seeds] == [0, 7]


def test_costs_of_own_runs_stand_apart(results: Path) -> None:
    tables, _ = measured_costs(results)
    assert sorted(row.label for table in tables for row in table.rows) == ["DeACL", "DeACL (local)"]


def test_the_screen_shows_what_was_asked_for_and_writes_nothing(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(results, make_record(dataset="digits"), make_record(protocol="aff", aa=None))
    monkeypatch.chdir(tmp_path)
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = CliRunner().invoke(app, ["leaderboard", "--dataset", "cifar10", "--protocol", "slf"]).stdout
        assert "cifar10: SLF, tier mini, fidelity uniform" in shown
        assert "digits" not in shown
        assert "AFF" not in shown
        for text in ("DeACL 2022 (local)", "71.0 ± 1.4", "30.0 [21.9, 39.6]"):
            assert text in shown
        assert ("My laptop, 8 threads" in shown) == ("no room for" not in shown), "the machine of a time that is shown"
        assert "       71.0 ± 1.4 │" in shown or columns == "80"  # numbers are flush right
        assert all(len(line) <= int(columns) for line in shown.splitlines())
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    rows = json.loads(CliRunner().invoke(app, ["leaderboard", "--json"]).stdout)["rows"]
    assert sum(row["local"] for row in rows) == 1


def test_a_short_board_has_the_own_recipe_of_each_method_yours_apart(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lam: dict[str, Any] = {"overrides": {"stage2.lam": 3.0}, "protocol_sha256": "8" * 64}
    fill(results, make_record(aa=90, **lam), make_record(aa=95, pretrained_on="cifar100"))
    fill(results / "local", make_record(method="b", title="b", aa=40, **OWN, **lam))
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(results), "--short"])
    own = ["b 2022 (local,", "stage2.lam=3.0)", "DeACL 2022 (local)"]
    assert [line for line in own if line not in shown.output] == []
    assert "90.0" not in shown.output
    assert "95.0" not in shown.output
    assert "--short leaves out 2 rows of other settings" in shown.stderr
    fill(own_only := results / "only", make_record(aa=95, pretrained_on="cifar100"))
    nothing = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(own_only), "--short"])
    assert (nothing.stdout, nothing.stderr) == ("", "--short leaves out 1 row of other settings\n")
    without_aa: dict[str, Any] = {"overrides": {"evaluate.autoattack": False}, "protocol_sha256": "7" * 64, "aa": None}
    fill(knn := results / "knn", make_record(**without_aa), make_record(**{**lam, "aa": None}))
    assert [row.overrides for row in build_leaderboard(knn).short().rows] == [without_aa["overrides"]]
    refused = CliRunner().invoke(app, ["leaderboard", "--short", "--check"])
    assert "leave out --dataset, --protocol, --tier, --short and --bibtex" in str(refused.exception)


def test_two_data_sets_of_one_name_have_titles_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path, make_record(), make_record(data="e" * 64))
    shown = CliRunner().invoke(app, ["leaderboard", "--results-dir", str(tmp_path)]).output
    assert shown.index("cifar10 dddddddd: SLF") < shown.index("cifar10 eeeeeeee: SLF") < shown.index("cifar10: several")


def test_published_numbers_come_with_the_package(tmp_path: Path) -> None:
    assert len(load_published(tmp_path / "nowhere")) == 95
