"""Submissions: a folder with a run's records, card and the digests of its weights, which the board's check reads."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bench.cli import main
from bench.compare import find_record
from bench.errors import BenchError, CheckFailedError
from bench.leaderboard import check_leaderboard, write_leaderboard
from bench.record import Diagnosis, correct, load_record, load_submission, load_verification, save_verification
from bench.report.model_export import Submitted, submission_name, write_submission
from bench.report.model_export import submission as module
from bench.results import build_leaderboard
from bench.run import Finished, finished_in


@pytest.fixture(scope="module")
def home(finished_toy: Path) -> Path:
    """The folder with a written board."""
    write_leaderboard(finished_toy / "results", finished_toy / "LEADERBOARD.md")
    return finished_toy


def name(home: Path) -> str:
    return next((home / "runs").glob("toy-*")).name


def place(home: Path) -> str:
    return f"results/submissions/{submission_name(home / 'runs' / name(home))}"


def check(home: Path) -> None:
    check_leaderboard(home / "results", home / "LEADERBOARD.md")


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_walk_of_the_page(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/submitting.md: submit, check, verify what was submitted, and publish its records."""
    folder = shutil.copytree(home, tmp_path / "home")
    assert command(monkeypatch, folder, "submit", name(home), "--by", "Ada <ada@example.org>") == 0
    said = capsys.readouterr().out
    assert said.endswith("Type: bench leaderboard --check. Then open a pull request with this folder.\n")
    made = folder / place(home)
    submission = load_submission(made)
    assert all(f"{place(home)}/{file}" in said for file in submission.records)
    assert {load_record(made / file).protocol for file in submission.records} == {"slf", "knn"}
    assert all(weights.included for weights in submission.weights.values())
    assert r"Submitted by Ada \<ada@example.org\>." in (made / "README.md").read_text(), "or a page would hide it"
    assert command(monkeypatch, folder, "leaderboard", "--check") == 0
    assert "submissions: 1)" in capsys.readouterr().out
    for shown in submission.commands:
        assert shown in (made / "README.md").read_text()
    (verify,) = [shown.split() for shown in submission.commands if "verify" in shown and "knn.safetensors" in shown]
    assert verify[-2:] == ["--dataset", "npz:PATH"]
    assert command(monkeypatch, folder, *verify[1:-1], f"npz:{home / 'toy.npz'}") == 0
    assert command(monkeypatch, folder, "leaderboard", "--check") == 0, "verifications may lie in it"
    page = (Path(__file__).parents[1] / "docs" / "submitting.md").read_text()
    moves = re.findall(r"^(?:mkdir|git mv) .*$", page, flags=re.MULTILINE)
    assert len(moves) == 3
    (folder / "results" / "toy" / "verifications").mkdir(parents=True)  # the second submission on these data
    for line in moves:
        line = (
            line.removeprefix("git ").replace("results/submissions/NAME/", f"{place(home)}/").replace("digits", "toy")
        )
        subprocess.run(line, shell=True, cwd=folder, check=True)
    board = write_leaderboard(folder / "results", folder / "LEADERBOARD.md")
    assert command(monkeypatch, folder, "leaderboard", "--check") == 0, "its weights are those of published records"
    assert (known := {row.protocol: row.verified for row in board.rows}) == {"slf": (0,), "knn": (1,)}
    monkeypatch.chdir(folder)
    (published,) = (folder / "results" / "toy").glob("*-knn-*.json")
    (grace,) = published.parent.glob("verifications/*.json")
    ada = load_verification(grace).model_copy(update={"by": "ADA  <ada@example.org>"})
    save_verification(published, ada.sealed())
    assert {row.protocol: row.verified for row in build_leaderboard(folder / "results").rows} == known, "not one's own"
    assert find_record(verify[2], folder / "results").path.samefile(published), "the card still names it"
    published.unlink()
    with pytest.raises(CheckFailedError, match=r"records/toy/.*knn.*json is missing, and listed in submission.json"):
        check(folder)
    # Outside of a clone, the lines that lead there.
    assert command(monkeypatch, tmp_path, "submit", name(home), "--by", "Ada", "--runs-dir", "home/runs") == 0
    there = place(home)
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines.pop(1) == "  mkdir -p results/submissions"
    assert lines[0] == f"A pull request adds this folder to the repository, as {there}. In your clone, type:"
    elsewhere = load_submission(tmp_path / there)
    assert all(f"bench verify {there}/records/toy/" in shown for shown in elsewhere.commands if "verify" in shown)
    assert lines[1:3] == [f"  cp -r {tmp_path / there} {there}", "  bench leaderboard --check"]
    submitted = next((tmp_path / there).glob("records/*/*.json"))
    with pytest.raises(BenchError, match="is submitted, and no published record yet"):
        correct(submitted, load_record(submitted), tmp_path / "results", reason="data", note="leaked")


def test_large_weights_are_described_and_left_out(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 30_000)
    written = write_submission(
        home / "runs", name(home), tmp_path / "submission", by="Ada", results_dir=home / "results"
    ).submission
    left_out = {file for file, weights in written.weights.items() if not weights.included}
    assert left_out == {"weights/encoder.safetensors"}
    assert not (tmp_path / "submission" / "weights" / "encoder.safetensors").exists()
    assert written.weights["weights/encoder.safetensors"].size == (
        (home / "runs" / name(home) / "encoder.safetensors").stat().st_size
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("weights/encoder.safetensors", "weights/encoder.safetensors is missing"),
        ("weights", "weights/encoder.safetensors is not the file that was submitted"),
        ("README.md", "README.md is missing"),
        ("card", "README.md is not the file that was submitted"),
        ("submission.json", "is cut short|not JSON|No such file|cannot read|missing"),
        ("record", "checksum does not match"),
        ("another", "is not listed in submission.json"),
        ("a submission in it", r"changed/README\.md is not listed in submission\.json\. Delete it"),
        ("described", "the weights of records/toy/.* are not described|checksum"),
    ],
)
def test_a_changed_submission_fails_the_check(home: Path, harm: str, said: str) -> None:
    made = home / "results" / "submissions" / "changed"
    write_submission(home / "runs", name(home), made, by="Ada", results_dir=home / "results")
    check(home)
    record = next((made / "records").rglob("*.json"))
    if harm == "record":
        values = json.loads(record.read_text())
        record.write_text(json.dumps({**values, "seed": 7}))
    elif harm == "weights":
        (made / "weights" / "encoder.safetensors").write_bytes(b"others")
    elif harm == "card":
        card = made / "README.md"
        card.write_text(card.read_text().replace("SA", "SA, the best"))
    elif harm == "another":
        shutil.copy(record, record.with_name("another.json"))
    elif harm == "a submission in it":
        shutil.copytree(made, made / "changed")
    elif harm == "described":
        submission = load_submission(made)
        kept = {file: each for file, each in submission.weights.items() if "encoder" in file}
        submission.model_copy(update={"weights": kept}).save(made)
    else:
        (made / harm).unlink()
    try:
        with pytest.raises(CheckFailedError, match=rf"cannot trust .*changed: .*({said})"):
            check(home)
    finally:
        shutil.rmtree(made)


def test_a_submission_of_an_older_version_lists_neither_card_nor_code(home: Path) -> None:
    made = home / "results" / "submissions" / "older"
    try:
        submission = write_submission(
            home / "runs", name(home), made, by="Ada", results_dir=home / "results"
        ).submission
        submission.model_copy(update={"files": {}}).sealed().save(made)
        (made / "code").mkdir()
        (made / "code" / "own.py").touch()
        check(home)
        (made / "notes.txt").touch()
        with pytest.raises(CheckFailedError, match=r"notes\.txt is not listed in submission\.json"):
            check(home)
    finally:
        shutil.rmtree(made)


def test_two_people_submit_and_publish_the_same_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine the same recipe and seed end with another record, of the same name."""
    folder = shutil.copytree(home, tmp_path / "home")
    others, theirs = tmp_path / "others", []
    shutil.copytree(home, others)
    for path in (others / "runs").glob("*/*/record.json"):
        record = load_record(path)
        dates = {"started": record.started - timedelta(days=1), "finished": record.finished - timedelta(days=1)}
        theirs.append(record.model_copy(update=dates).sealed())
        path.write_text(json.dumps(theirs[-1].content()))
    assert place(others) != place(home)
    for each in (folder, others):
        write_submission(each / "runs", name(home), folder / place(each), by=each.name, results_dir=each / "results")
    check(folder)
    (toy := folder / "results" / "toy").mkdir()
    for each in (folder, others):
        for path in (folder / place(each) / "records" / "toy").glob("*.json"):
            path.rename(toy / (path.name if each == folder else f"{path.stem}.2.json"))
    write_leaderboard(folder / "results", folder / "LEADERBOARD.md")
    check(folder)
    monkeypatch.chdir(folder)
    (shown, *_) = (words for words in load_submission(folder / place(others)).commands if "verify" in words)
    assert find_record(shown.split()[2], folder / "results").record.sha256 in {record.sha256 for record in theirs}
    next(toy.glob("*.2.json")).unlink()
    with pytest.raises(CheckFailedError, match=r"is missing, and listed in submission\.json"):
        check(folder)


def test_a_run_that_nobody_could_verify_is_refused_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(home / "runs", tmp_path / "runs")
    folder = tmp_path / "submission"
    encoder, slf = runs / name(home) / "encoder.safetensors", next(runs.glob("*/slf-*/slf.safetensors"))
    content = slf.read_bytes()
    slf.unlink()
    with pytest.raises(BenchError, match=r"slf\.safetensors.*Move .* away"):
        write_submission(runs, name(home), folder, by="Ada", results_dir=home / "results")
    slf.write_bytes(content)
    encoder.unlink()
    with pytest.raises(BenchError, match=r"has no encoder\.safetensors: .*its weights were removed"):
        write_submission(runs, name(home), folder, by="Ada", results_dir=home / "results")
    with pytest.raises(BenchError, match="unknown run 'none'"):
        write_submission(runs, "none", folder, by="Ada", results_dir=home / "results")
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(BenchError, match="is not empty, and stays as it is"):
        write_submission(home / "runs", name(home), folder, by="Ada", results_dir=home / "results")


def test_a_record_that_no_longer_counts_is_left_out(home: Path, tmp_path: Path) -> None:
    results = shutil.copytree(home / "results", tmp_path / "results")

    def submit(folder: str) -> Submitted:
        return write_submission(home / "runs", name(home), tmp_path / folder, by="Ada", results_dir=results)

    slf, knn = (next(results.glob(f"local/toy/*-{protocol}-*.json")) for protocol in ("slf", "knn"))
    correct(slf, load_record(slf), results, reason="data", note="leaked")
    made = submit("one")
    assert made.left_out == ("slf on toy, seed 0: withdrawn: the data were wrong. leaked",)
    assert [load_record(made.folder / file).protocol for file in made.submission.records] == ["knn"]
    correct(knn, load_record(knn), results, reason="data", note="leaked")
    with pytest.raises(BenchError, match=r"every record of the run .* was withdrawn or superseded"):
        submit("none")


def test_an_evaluation_that_failed_a_check_is_no_result_to_submit(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Diagnosis(check="gradient", verdict="fail", found="no gradient")

    def found(path: Path) -> list[Finished]:
        return [
            replace(each, record=each.record.model_copy(update={"doctor": (failed,)}))
            if each.protocol == "slf"
            else each
            for each in finished_in(path)
        ]

    monkeypatch.setattr(module, "finished_in", found)
    words = ("submit", name(home), "--by", "Ada", "--runs-dir", str(home / "runs"))
    assert command(monkeypatch, tmp_path, *words) == 1
    assert capsys.readouterr().err.splitlines() == [
        "bench: the evaluation cannot be believed, so it is no result to submit: slf, failed 'gradient': no gradient",
        f"What to do says: bench doctor {home / 'runs' / name(home)}",
    ]
    assert not list(tmp_path.iterdir())
