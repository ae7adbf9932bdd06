"""What the doctor found, on the board, the site and in other results: a failed row is none, a doubt is a flag."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from board_records import fill, make_record
from in_process import say

from bench import rng
from bench.compare import find_seeds
from bench.errors import BenchError
from bench.leaderboard import check_leaderboard, render_csv, render_leaderboard, write_leaderboard
from bench.nn import build_encoder
from bench.recipe import EncoderSettings
from bench.record import Diagnosis, NoGradient, Record, Verdict, load_record, save_record
from bench.report.model_export.card import card
from bench.report.site import write_site
from bench.results import build_leaderboard, evaluation_names, load_records
from bench.run import by_preference
from bench.zoo import Loading, Model

MASKED: dict[str, Any] = {"ra": 150, "aa": 10, "doubts": ("constant features",)}
"""What records before the doctor were flagged for."""


def diagnosed(*verdicts: Verdict, **changes: Any) -> Record:
    """Return a record whose first check ended in the first of ``verdicts``, and so on."""
    names = ("deterministic", "logits", "pixel range")
    found = [
        Diagnosis(check=name, verdict=verdict, found=f"{name} is {verdict}")
        for name, verdict in zip(names, verdicts, strict=False)
    ]
    return make_record(doctor=found, **changes)


def test_a_doubt_is_a_flag_with_its_seed_and_a_note_is_none(tmp_path: Path) -> None:
    save_record(tmp_path, diagnosed("doubt", "note"))
    save_record(tmp_path, diagnosed("doubt", "sound", seed=1))
    (row,) = build_leaderboard(tmp_path).rows
    assert row.flags == (
        "doubt about 'deterministic': deterministic is doubt (seed 0); deterministic is doubt (seed 1)",
    )


def test_a_record_is_flagged_by_the_doctor_or_without_it_never_twice(tmp_path: Path) -> None:
    save_record(tmp_path, make_record(**MASKED))
    save_record(tmp_path, make_record(**MASKED, doctor=(), method="simclr", protocol_sha256="a" * 64))
    flags = {row.method: row.flags for row in build_leaderboard(tmp_path).rows}
    assert len(flags["deacl"]) == 2
    assert flags["simclr"] == ()
    blind = make_record(doctor=None)
    blind = blind.model_copy(update={"ra": blind.ra.model_copy(update={"no_gradient": NoGradient(first=3)})})
    save_record(tmp_path / "blind", blind)
    assert "PGD had no direction for 3" in build_leaderboard(tmp_path / "blind").rows[0].flags[0]


def test_the_doctor_decides_who_guesses(tmp_path: Path) -> None:
    found = (Diagnosis(check="better than guessing", verdict="doubt", found="no better"),)
    save_record(tmp_path, make_record(doctor=found))
    save_record(tmp_path, make_record(sa=20, doctor=(), method="simclr", protocol_sha256="a" * 64))
    rows = build_leaderboard(tmp_path).rows
    assert {row.method: row.guessing for row in rows} == {"deacl": True, "simclr": True}
    assert {flag for row in rows for flag in row.flags} >= {"doubt about 'better than guessing': no better (seed 0)"}


def test_a_failed_record_is_named_and_in_no_table(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save_record(results, diagnosed("fail", "doubt"))
    save_record(results, diagnosed("sound", seed=1))
    save_record(results, diagnosed("fail", method="simclr", title="SimCLR", protocol_sha256="a" * 64))
    board = build_leaderboard(results)
    assert [(row.method, row.seeds) for row in board.rows] == [("deacl", (1,))]
    assert board.left_out == ()
    assert [(one.row, one.reason) for one in board.failed] == [
        ("DeACL 2022, SLF, tier mini, fidelity uniform, seed 0", "failed 'deterministic': deterministic is fail"),
        ("SimCLR 2022, SLF, tier mini, fidelity uniform, seed 0", "failed 'deterministic': deterministic is fail"),
    ]
    text = render_leaderboard(board, records_at="results")
    table, listed = text.split("Not shown as results")
    assert "SimCLR" not in table
    assert listed.count("deterministic is fail.") == 2
    assert "SimCLR" not in render_csv(board)
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    assert len(check_leaderboard(results, tmp_path / "LEADERBOARD.md").failed) == 2
    site = write_site(results, tmp_path / "site")
    index = (site.folder / "index.html").read_text()
    assert [one.file for one in board.failed if f"records/{one.file}" in index] == [one.file for one in board.failed]
    assert "their evaluation failed a check of <code>bench doctor</code>: 2 records." in index
    assert [one.partition(", SLF")[0] for one in site.failed] == [
        f"not shown as a result: {title}" for title in ("DeACL 2022", "SimCLR 2022")
    ]
    assert all((site.folder / "records" / one.file).is_file() for one in board.failed)
    with pytest.raises(
        BenchError, match=r"no records of method simclr on .*alf"
    ):  # that one of SLF failed is no reason
        find_seeds("simclr", results, dataset="cifar10", protocol="alf")
    with pytest.raises(BenchError, match=r"simclr has no record to compare: .* failed 'deterministic'"):
        find_seeds("simclr", results, dataset="cifar10")
    assert {row["method"]: row["failed"] for row in load_records(results) if row["seed"] == 0} == {
        "deacl": "deterministic",
        "simclr": "deterministic",
    }


def test_no_older_record_takes_the_place_of_a_failed_one(tmp_path: Path) -> None:
    newer = diagnosed("fail")
    save_record(tmp_path, newer.model_copy(update={"finished": newer.finished.replace(year=2030)}))
    save_record(tmp_path, diagnosed("sound"))
    board = build_leaderboard(tmp_path)
    assert (board.rows, len(board.failed)) == ((), 1)


def test_the_board_on_the_screen_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(tmp_path, diagnosed("fail"))
    said = say(monkeypatch, capsys, "leaderboard", "--results-dir", str(tmp_path))
    assert said.code == 0
    assert "not shown as a result: DeACL 2022, SLF" in said.stdout
    assert "deterministic is fail" in said.stdout
    told = say(monkeypatch, capsys, "site", "--results-dir", str(tmp_path), "--output", str(tmp_path / "site")).stdout
    assert set(said.stdout.splitlines()) & set(told.splitlines()) == {build_leaderboard(tmp_path).failed[0].said}
    other = diagnosed("fail").model_copy(update={"overrides": {"stage2.lam": 3.0}, "protocol_sha256": "e" * 64})
    save_record(tmp_path / "other", other)
    for short, found in (((), True), (("--short",), False)):
        shown = say(monkeypatch, capsys, "leaderboard", "--results-dir", str(tmp_path / "other"), *short).stdout
        assert ("not shown as a result: DeACL 2022 (stage2.lam=3.0), SLF" in shown) == found
    as_json = json.loads(say(monkeypatch, capsys, "leaderboard", "--results-dir", str(tmp_path), "--json").stdout)
    assert [one["reason"] for one in as_json["failed"]] == ["failed 'deterministic': deterministic is fail"]
    # A board of one protocol names the failed records of that protocol alone.
    fill(tmp_path, make_record(protocol="aff", aa=None))
    for protocol, named in (("slf", True), ("aff", False)):
        shown = say(monkeypatch, capsys, "leaderboard", "--results-dir", str(tmp_path), "--protocol", protocol).stdout
        assert ("not shown as a result: DeACL 2022, SLF" in shown) == named
    assert "AA" not in shown.partition("percent of n")[0], "nothing was measured"


def test_the_page_of_a_record_shows_every_check_and_advice_where_it_is_needed(tmp_path: Path) -> None:
    path = save_record(tmp_path / "results", diagnosed("doubt", "sound"))
    site = write_site(tmp_path / "results", tmp_path / "site")
    (page,) = (site.folder / "records").rglob("*.html")
    text = page.read_text()
    assert "The model draws random numbers" in text
    assert "logits is sound" in text
    assert "A softmax at the end" not in text
    assert load_record(path).diagnosed("doubt")[0].check == "deterministic"


def test_a_model_card_says_once_what_several_evaluations_have_in_common() -> None:
    with rng.scoped(0, "card"):
        settings = EncoderSettings(width=2)
        encoder = build_encoder(settings, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    model, loading = Model(encoder, settings, (3, 8, 8), "SimCLR", 2020), Loading("", "torch", "torch", ())
    usual = make_record()
    wide = make_record(eps=16 / 255, overrides={"evaluate.eps": 16 / 255}).model_copy(
        update={"finished": usual.finished.replace(year=usual.finished.year + 1)}
    )
    text = card(model, loading, [usual, wide])
    assert text.count("SA under SLF (clean images)") == text.count("| SLF | cifar10 | SA |") == 1
    assert text.count("| SLF | cifar10 | RA |") == 2
    newer = usual.model_copy(update={"finished": wide.finished})
    found = [SimpleNamespace(record=one, recipe=one.read_recipe().downstream) for one in (newer, usual, wide)]
    assert [each.record for each in by_preference(found)] == [wide, usual, newer]  # type: ignore[arg-type]
    fewest = usual.model_copy(update={"overrides": {"evaluate.autoattack": False}})
    more = newer.model_copy(update={"overrides": {"evaluate.autoattack": False, "evaluate.attack": "pgd-cw"}})
    found = [SimpleNamespace(record=one, recipe=one.read_recipe().downstream) for one in (fewest, more)]
    assert [each.record for each in by_preference(found)] == [more, fewest]  # type: ignore[arg-type]


def test_two_evaluations_of_a_protocol_are_told_apart() -> None:
    evaluations: tuple[tuple[str, dict[str, Any]], ...] = (("slf", {}), ("slf", {"evaluate.eps": 4 / 255}), ("knn", {}))
    found = [make_record(protocol=name, overrides=overrides) for name, overrides in evaluations]
    assert evaluation_names(found) == ["slf (as in the recipe)", "slf (evaluate.eps=4/255)", "knn"]
    assert evaluation_names(found, titles=True)[1:] == ["SLF (evaluate.eps=4/255)", "kNN"]
    found[2] = found[2].model_copy(update={"dataset": "stl10"})
    assert evaluation_names(found[1:]) == ["slf on cifar10", "knn on stl10"]


def test_a_model_card_gives_no_numbers_of_a_failed_evaluation() -> None:
    with rng.scoped(0, "card"):
        settings = EncoderSettings(width=2)
        encoder = build_encoder(settings, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    model, loading = Model(encoder, settings, (3, 8, 8), "SimCLR", 2020), Loading("", "torch", "torch", ())
    believed, failed = (card(model, loading, [diagnosed(verdict)]) for verdict in ("doubt", "fail"))
    assert "| SLF | cifar10 | SA |" in believed
    assert "model-index" in believed
    assert "| SLF | cifar10 | SA |" not in failed
    assert "model-index" not in failed
    assert "SLF on cifar10: failed 'deterministic': deterministic is fail" in failed
