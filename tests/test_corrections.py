"""Corrections: a record that no longer counts is not shown, stays as it is, and is listed with its reason."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from board_records import fill, make_record
from in_process import say
from test_verify import verification
from toy_runs import SMALL, changed, facts, toy_data, toy_request

from bench.cli import main
from bench.compare import find_record
from bench.errors import BenchError, CheckFailedError
from bench.files import json_bytes
from bench.leaderboard import check_leaderboard, write_leaderboard
from bench.recipe import override_text
from bench.record import (
    correct,
    correction_files,
    load_correction,
    load_record,
    load_sweep,
    record_files,
    save_verification,
    sweep_files,
)
from bench.report.site import write_site
from bench.results import NEW_RECORD, build_leaderboard, load_records
from bench.run import execute, prepare


def results_of(folder: Path) -> tuple[Path, list[Path]]:
    records = [make_record(), make_record(method="simclr", title="SimCLR", protocol_sha256="7" * 64)]
    results = fill(folder / "results", *records)
    return results, sorted((results / "cifar10").glob("*.json"))


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("cifar10/none.json", r"cifar10/none\.json, is not there"),
        ("../LEADERBOARD.md", "is not there"),
        (str(Path(__file__)), "is not there"),
        (f"cifar10/{'a' * 300}.json", "a file's name has at most 255 bytes"),
        ("{itself}", "which is superseded by it in turn"),
        ("{other}", "which is superseded by it in turn"),
    ],
)
def test_a_correction_counts_only_if_the_record_that_it_names_can(tmp_path: Path, instead: str, said: str) -> None:
    results, paths = results_of(tmp_path)
    itself, other = (path.relative_to(results).as_posix() for path in paths)
    for path, named in zip(paths, (instead.format(itself=itself, other=other), itself), strict=True):
        file = correct(path, load_record(path), results, reason="rerun", note="again")
        forged = load_correction(file).model_copy(update={"superseded_by": named})
        file.write_bytes(json_bytes(forged.sealed().content()))
    written = tmp_path / "LEADERBOARD.md"
    assert len(write_leaderboard(results, written).rows) >= 1, "what it would hide is shown"
    with pytest.raises(CheckFailedError, match=rf"cannot trust .*{said}"):
        check_leaderboard(results, written)


def test_a_withdrawn_record_is_listed_and_no_longer_shown(tmp_path: Path) -> None:
    results, (deacl, simclr) = results_of(tmp_path)
    fill(results, make_record(protocol_sha256="8" * 64))
    (better,) = {*(results / "cifar10").glob("*.json")} - {deacl, simclr}
    before = deacl.read_bytes()
    save_verification(deacl, verification(load_record(deacl)))
    written, readme = tmp_path / "LEADERBOARD.md", tmp_path / "README.md"
    fill(results, make_record(dataset="digits"))
    blocks = [f"<!-- leaderboard:begin {name} -->\n<!-- leaderboard:end -->\n" for name in ("digits", "cifar10")]
    readme.write_text("".join(blocks))
    write_leaderboard(results, written)
    assert not [path for path in (written, readme) if "no longer" in path.read_text()]
    assert "no longer" not in (write_site(results, tmp_path / "site").folder / "index.html").read_text()
    assert "None so far." in (results / "CORRECTIONS.md").read_text()
    correct(deacl, load_record(deacl), results, reason="evaluation", note="PGD attacked | pixels", superseded_by=better)
    assert deacl.read_bytes() == before
    assert [row.method for row in build_leaderboard(results).only(dataset="cifar10").rows] == ["deacl", "simclr"]
    assert sorted(row["method"] for row in load_records(results)) == ["deacl", "deacl", "simclr"]
    with pytest.raises(CheckFailedError, match=r"stale or missing: .*LEADERBOARD.md and .*CORRECTIONS.md"):
        check_leaderboard(results, written)
    write_leaderboard(results, written)
    assert not check_leaderboard(results, written).left_out, "a verification of a withdrawn record is no fault"
    text = (results / "CORRECTIONS.md").read_text()
    assert f"[DeACL 2022, SLF, tier mini, seed 0](cifar10/{deacl.name})" in text
    assert rf"| the evaluation was wrong | PGD attacked \| pixels | [cifar10/{better.name}]" in text
    assert f"cifar10/{deacl.name}" not in written.read_text()
    said = "1 record of cifar10 no longer counts"
    line = f"{said}: [results/CORRECTIONS.md](results/CORRECTIONS.md) says why.\n"
    assert written.read_text().count(line) == 1
    assert line in written.read_text().partition("\n## cifar10\n")[2].partition("\n## digits\n")[0]
    of_digits, of_cifar10 = readme.read_text().split("<!-- leaderboard:end -->\n")[:2]
    assert line in of_cifar10
    assert "no longer" not in of_digits
    index = (write_site(results, tmp_path / "site").folder / "index.html").read_text()
    assert f'<p class="note">{said}.</p>' in index
    why = f"superseded by cifar10/{better.name}: the evaluation was wrong. PGD attacked | pixels"
    about = "cifar10: DeACL 2022, SLF, tier mini, seed 0"
    assert f'<a href="records/cifar10/{deacl.stem}.html">{about}</a>, {why}</li>' in index
    kept = tmp_path / "site" / "records" / "cifar10"
    page = (kept / f"{deacl.stem}.html").read_text()
    assert f"This record no longer counts, {why}</p>" in page
    assert f'<a href="../../records/cifar10/{better.stem}.html">cifar10/{better.name}</a>' in page
    assert (kept / deacl.name).read_bytes() == before
    deacl.unlink()
    index = (write_site(results, tmp_path / "site").folder / "index.html").read_text()
    assert f"<li>{about}, {why}</li>" in index, "no link to what is not there"


def test_the_screen_says_how_many_records_no_longer_count_and_where_to_read_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results, paths = results_of(tmp_path)
    (own,) = record_files(fill(results / "local", make_record(seed=1)))
    fill(results, make_record(dataset="digits"))
    words = ("leaderboard", "--results-dir", str(results))
    assert "no longer" not in say(monkeypatch, capsys, *words).stdout
    for path in (*paths, own):
        correct(path, load_record(path), results, reason="data", note="leaked")
    lines = [
        f"2 records of cifar10 no longer count: {results}/CORRECTIONS.md says why",
        f"1 record of local/cifar10 no longer counts: {results}/local/cifar10/corrections says why",
    ]
    assert say(monkeypatch, capsys, *words).stdout.splitlines()[-2:] == lines
    assert "no longer" not in say(monkeypatch, capsys, *words, "--dataset", "digits").stdout
    held = json.loads(say(monkeypatch, capsys, *words, "--json").stdout)["corrections"]
    assert [one["note"] for one in held] == ["leaked"] * 3


def test_of_several_records_of_one_name_those_that_count_are_meant(tmp_path: Path) -> None:
    results = fill(
        tmp_path, make_record(), make_record(protocol_sha256="7" * 64), make_record(protocol_sha256="8" * 64)
    )
    old, older, new = sorted((results / "cifar10").glob("*.json"))
    for wrong in (old, older):
        with pytest.raises(BenchError, match=r"means [23] records"):
            find_record("deacl-mini-uniform-s0-slf", results)
        correct(wrong, load_record(wrong), results, reason="rerun", note="longer")
    assert find_record("deacl-mini-uniform-s0-slf", results).path == new
    assert find_record(old.stem, results).path == old, "its whole name still means it"


def test_no_command_that_reads_runs_uses_a_withdrawn_record(
    finished_toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = shutil.copytree(finished_toy, tmp_path / "home")
    (run,) = (path.name for path in (home / "runs").glob("toy-*"))
    monkeypatch.chdir(home)

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit):
            main()
        told = capsys.readouterr()
        return told.out + told.err

    (knn,) = (home / "results" / "local").glob("toy/*-knn-*.json")
    correct(knn, load_record(knn), home / "results", reason="data", note="leaked")
    left_out = "left out: knn on toy, seed 0: withdrawn: the data were wrong. leaked"
    for words in (("export", run), ("report", run, "--device", "cpu")):
        assert left_out in said(*words).splitlines()
    assert "kNN" not in (home / "exports" / f"{run}-safetensors" / "README.md").read_text()
    assert "kNN" not in (home / "reports" / run / "report.md").read_text()
    why = left_out.removeprefix("left out: ")
    none = f"every record of these runs was withdrawn or superseded:\n  - {why}\n{NEW_RECORD}"
    for command in (("sweep-eps", run, "--eps=0"), ("plot", "tsne", run)):
        assert none in said(*command, "--protocol", "knn", "--device", "cpu")
    (slf,) = (home / "results" / "local").glob("toy/*-slf-*.json")
    correct(slf, load_record(slf), home / "results", reason="data", note="leaked")
    assert f"every record of slf of the run {run}" in said("export", run, "--protocol", "slf", "--output", "other")
    assert not (home / "other").exists()


def test_a_finished_run_says_that_its_record_was_withdrawn_and_what_it_says_to_do_makes_a_new_one(
    finished_toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = shutil.copytree(finished_toy, tmp_path / "home")
    monkeypatch.chdir(home)
    settings = [word for key, value in {**SMALL, "knn.k": 3}.items() for word in ("--set", override_text(key, value))]
    words = ["run", "simclr", "--dataset", "npz:toy.npz", "--device", "cpu", "--no-estimate", *settings]
    (knn,) = Path("results/local").glob("toy/*-knn-*.json")
    before = load_record(knn)
    correct(knn, before, Path("results"), reason="data", note="leaked")
    both = say(monkeypatch, capsys, *words, "--protocols", "slf,knn").stdout
    assert f"no result: kNN, seed 0, was withdrawn: the data were wrong. leaked\n{NEW_RECORD}\n" in both
    assert "SLF" in both
    assert "kNN" not in both.replace("no result: kNN", "")

    (folder,) = Path("runs").glob("toy-*/knn*")
    folder.rename("moved")
    only = (*words, "--protocols", "knn", "--json")
    moved = say(monkeypatch, capsys, *only)
    anew = say(monkeypatch, capsys, *only, "--runs-dir", "others")
    assert NEW_RECORD not in moved.stderr + anew.stderr
    for number, made in ((2, moved), (3, anew)):
        record = load_record(knn.with_name(f"{knn.stem}.{number}.json"))
        assert [one["sha256"] for one in json.loads(made.stdout)] == [record.sha256]
        assert facts(record) == facts(before)
        assert record.started.microsecond or record.finished.microsecond, "two that finish within a second both count"
    assert moved.stdout != anew.stdout
    assert [row.protocol for row in build_leaderboard(Path("results")).rows] == ["slf", "knn"]


def test_the_sweep_of_a_withdrawn_record_is_measured_again_for_the_next_of_its_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, protocols=("slf",))
    results = tmp_path / "results"
    ((old, path),) = execute(prepare(request), results / "local")
    words = ["bench", "sweep-eps", "--eps", "0", "--device", "cpu"]
    words += [f"--runs-dir={tmp_path / 'runs'}", f"--results-dir={results / 'local'}"]
    monkeypatch.setattr(sys, "argv", words)

    def swept() -> list[str]:
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return [load_sweep(file).record_sha256 for file in sweep_files(results / "local")]

    assert swept() == [old.sha256]
    correct(path, old, results, reason="evaluation", note="too few steps")
    ((new, _),) = execute(prepare(changed(request, evaluate__pgd_steps=3)), results / "local")
    assert new.classifier_sha256 == old.classifier_sha256
    assert swept() == swept() == [new.sha256, old.sha256], "-eps.2.json comes before -eps.json"
    (shown,) = build_leaderboard(results).sweeps
    assert load_sweep(results / shown.files[0]).record_sha256 == new.sha256
    ((newest, path),) = execute(prepare(changed(request, evaluate__pgd_steps=4)), results / "local")
    correct(path, newest, results, reason="evaluation", note="too few steps")
    assert swept() == [new.sha256, old.sha256], "of the evaluations that count, the newest is taken"


def test_bad_corrections_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    results, (deacl, simclr) = results_of(tmp_path)
    record = load_record(deacl)
    (local,) = record_files(fill(results / "local", make_record()))
    known = {*(results / "cifar10").glob("*.json")}
    fill(results, make_record(seed=1), make_record(tier="tiny"))
    second, shorter = sorted({*(results / "cifar10").glob("*.json")} - known)
    for changes, said in (
        ({"reason": "because"}, "unknown reason 'because'.*Allowed: authors, data, evaluation"),
        ({"note": " "}, "--note is empty"),
        ({"superseded_by": deacl}, "cannot supersede itself"),
        ({"superseded_by": tmp_path / "other.json"}, "is not below the results folder"),
        ({"superseded_by": local}, "is a local record, which no reader"),
        ({"superseded_by": simclr}, "is of SimCLR, not of DeACL"),
        ({"superseded_by": second}, "is of seed 1, not of seed 0"),
        ({"superseded_by": shorter}, "is of tier tiny, not of tier mini"),
    ):
        given = {"reason": "data", "note": "leaked", "superseded_by": None, **changes}
        with pytest.raises(BenchError, match=said):
            correct(deacl, record, results, **given)  # type: ignore[arg-type]
    assert not list(correction_files(results))
    path = correct(deacl, record, results, reason="data", note="leaked")
    held = path.read_bytes()
    with pytest.raises(BenchError, match="is corrected already"):
        correct(deacl, record, results, reason="data", note="leaked again")
    assert path.read_bytes() == held


def test_of_two_records_one_counts(tmp_path: Path) -> None:
    results = fill(tmp_path, make_record(), make_record(protocol_sha256="7" * 64))
    old, new = sorted((results / "cifar10").glob("*.json"))
    correct(old, load_record(old), results, reason="rerun", note="longer", superseded_by=new)
    with pytest.raises(BenchError, match=f"{old.name} does not count itself: .* corrects it"):
        correct(new, load_record(new), results, reason="rerun", note="shorter", superseded_by=old)
    assert len(build_leaderboard(results).rows) == 1


def test_a_correction_of_a_changed_record_fails_the_check(tmp_path: Path) -> None:
    results, (deacl, _) = results_of(tmp_path)
    path = correct(deacl, load_record(deacl), results, reason="data", note="leaked")
    deacl.unlink()
    fill(results, make_record(sa=170))
    write_leaderboard(results, tmp_path / "LEADERBOARD.md")
    with pytest.raises(CheckFailedError, match=rf"{path.name}: it corrects another record"):
        check_leaderboard(results, tmp_path / "LEADERBOARD.md")


def test_the_command_corrects_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results, (deacl, simclr) = results_of(tmp_path)
    fill(results, make_record(protocol_sha256="8" * 64))
    (better,) = {*(results / "cifar10").glob("*.json")} - {deacl, simclr}
    words = ["bench", "correct", deacl.stem, "--reason", "authors", "--note", "asked", "--results-dir", str(results)]
    monkeypatch.setattr(sys, "argv", [*words, "--superseded-by", better.stem])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    (path,) = correction_files(results)
    assert str(path) in said
    assert json.loads(path.read_text())["superseded_by"] == f"cifar10/{better.name}"
    assert said.endswith(f"Type: bench leaderboard --write --results-dir {results}\n")


@pytest.mark.parametrize("named", ["results", "results/local"])
def test_the_correction_of_a_local_record_advises_no_published_board(
    named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    (record,) = record_files(fill(tmp_path / "results" / "local", make_record()))
    words = ["bench", "correct", str(record), "--reason", "authors", "--note", "asked"]
    monkeypatch.setattr(sys, "argv", [*words, "--results-dir", str(tmp_path / named)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "It is a local record: `bench leaderboard` no longer shows it" in said
    assert "--write" not in said
    assert not build_leaderboard(tmp_path / "results").rows
