"""The report of a run: its pictures are what the attack did, and its counts are those of the record."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from in_process import say
from PIL import Image
from toy_runs import toy_data

from bench.data import load_dataset
from bench.errors import BenchError
from bench.leaderboard.columns import score_text
from bench.record import Diagnosis, Outcome, Record
from bench.report.run_report import Report, examples, write, write_report
from bench.report.templating import templates
from bench.report.verdict import Verdict
from bench.results import mean_score
from bench.run import RunRequest, examination, execute, finished_in, prepare, run_folder

SMALL: dict[str, Any] = {
    "encoder.width": 2,
    "stage1.epochs": 1,
    "stage1.batch_size": 8,
    "stage1.projector": [4, 4],
    "slf.epochs": 4,
    "slf.batch_size": 8,
    "aff.epochs": 1,
    "aff.batch_size": 16,
    "aff.steps": 1,
    "evaluate.pgd_steps": 3,
    "evaluate.autoattack": False,
    "evaluate.attacks": ["pgd-cw", "min-norm"],
    "evaluate.corruption_names": ["brightness", "jpeg_compression"],
}
EPS = 8 / 255
CPU = torch.device("cpu")
FOUND = (
    Diagnosis(check="deterministic", verdict="doubt", found="a | b differ"),
    Diagnosis(check="logits", verdict="sound", found="they are"),
    Diagnosis(check="of another version", verdict="note", found="something"),
)


class Made(NamedTuple):
    runs: Path
    run: str
    spec: str
    record: Record
    channels: int


@pytest.fixture(scope="module", params=[1, 3])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run on 24 + 30 images of this many channels, in two classes that noise mixes up."""
    root, channels = tmp_path_factory.mktemp("report"), request.param
    spec = toy_data(root / "toy.npz", images=(24, 30), channels=channels, contrast=15)
    request_ = RunRequest(
        "simclr",
        spec,
        protocols=("slf", "aff"),
        overrides=SMALL,
        corruptions="generate",
        runs_dir=root / "runs",
        data_dir=root,
        device="cpu",
    )
    run = prepare(request_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "examine", lambda patient, monitor: FOUND)
        record = execute(run, root / "results")[0][0]
    return Made(root / "runs", run.folder.path.name, spec, record, channels)


@pytest.fixture(scope="module")
def report(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report as it is without options."""
    return written(made, tmp_path_factory.mktemp("written") / "out")


def written(made: Made, output: Path) -> Path:
    write_report(made.runs, made.run, output, results_dir=output.parent, data_dir=output.parent, device=CPU)
    return output


@pytest.mark.parametrize("name", ["{runs}/toy-s0", "toy-s0", "toy"])
def test_without_output_a_report_is_in_a_folder_of_the_runs_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "runs" / "toy-s0").mkdir(parents=True)
    (tmp_path / "runs" / "toy-s0" / "run.json").touch()
    monkeypatch.setattr(
        "bench.report.run_report.write_report", lambda runs, run, output, **_: Report(output, ["slf"], 4, ())
    )
    monkeypatch.chdir(tmp_path)
    done = say(monkeypatch, capsys, "report", name.format(runs=tmp_path / "runs"), "--device", "cpu")
    assert done.stdout.splitlines()[-1] == "report: reports/toy-s0/report.md", done.stderr


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_pictures_are_the_test_images_and_stay_within_eps(made: Made, report: Path, tmp_path: Path) -> None:
    test = load_dataset(made.spec, tmp_path).test.images.numpy().astype(int)
    found = list(report.glob("pictures/slf-*-clean.png"))
    assert 4 <= len(found) <= 12
    for path in found:
        position = int(path.stem.split("-")[2])
        clean, adversarial = pixels(path), pixels(path.with_name(path.name.replace("clean", "adversarial")))
        assert clean.shape == (96, 96, 3)[: clean.ndim]
        small = clean[::12, ::12].reshape(8, 8, -1).transpose(2, 0, 1)
        assert (small == test[position][: small.shape[0]]).all()
        assert abs(adversarial - clean).max() <= 8  # grey levels: eps is 8/255
        assert abs(adversarial - clean).max() >= 4


def test_examples_are_the_first_of_each_verdict_and_amplified_to_full_range(made: Made, tmp_path: Path) -> None:
    (finished,) = [each for each in finished_in(made.runs / made.run) if each.protocol == "slf"]
    shown = examples(finished, finished.dataset(tmp_path), CPU, of_each=2)
    clean, robust = made.record.sa.unpack(), made.record.ra.outcome.unpack()
    for verdict in (Verdict.ROBUST, Verdict.BROKEN, Verdict.WRONG):
        want = {Verdict.ROBUST: (None, True), Verdict.BROKEN: (True, False), Verdict.WRONG: (False, False)}[verdict]
        fitting = [i for i in range(30) if robust[i] == want[1] and want[0] in (None, clean[i])]
        assert [example.position for example in shown if example.verdict is verdict] == fitting[:2]
    for example in shown:
        right = example.clean_prediction == example.label
        assert right == clean[example.position]
        change = example.adversarial.astype(int) - example.clean.astype(int)
        grey = example.perturbation.astype(int) - 127.5
        # The picture is the change times the factor, up to the rounding of both to grey levels.
        assert abs(grey - change * example.amplified).max() <= example.amplified / 2 + 2
    largest = max(abs(example.perturbation.astype(int) - 127.5).max() for example in shown)
    assert largest == pytest.approx(127.5, abs=1)
    assert shown[0].amplified == pytest.approx(0.5 / EPS, rel=1e-4)


def test_the_counts_are_those_of_the_record(made: Made, report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "under PGD" not in text, "RA's attack may be another; its row names it"
    row = next(line for line in text.splitlines() if line.startswith("| **RA**"))
    right, broken, wrong = map(int, re.findall(r"\| (\d+) ", row)[-3:])
    assert "not attacked" not in text, "every image was"
    robust = made.record.ra.outcome.correct
    assert (right, right + broken + wrong) == (robust, 30)
    assert "Evaluation, RA" in text
    assert "Evaluation, doctor" in text
    assert made.record.environment.device.replace(", 1 threads", ", 1 thread") in text
    assert "1 threads" not in text + (report / "report.html").read_text()
    assert text.index("\n## SLF\n") < text.index("\n## AFF\n")  # in the order of the protocols
    assert f"bench run simclr --dataset npz:PATH --tier {made.record.tier}" in text


def test_each_attack_of_the_list_and_the_curve_are_shown(made: Made, report: Path) -> None:
    assert made.record.attacks
    outcome, (low, high) = made.record.attacks.outcome, made.record.attacks.outcome.interval
    what, share = "pgd-cw + min-norm at Linf 8/255", f"{100 * outcome.accuracy:.1f}"
    text, html = ((report / name).read_text() for name in ("report.md", "report.html"))
    row = f"| **Attacks**: {what} | {share} | {100 * low:.1f} to {100 * high:.1f} | 30 | {outcome.correct} |"
    assert 0 < text.find(row) < text.index("| **RA**")
    assert html.count(f"<h3>Attacks <small>{what}</small></h3>") == 2
    for one in made.record.attacks.attacks:
        assert f"| {one.attack} | {one.tried} | {one.outcome.correct} | {100 * one.outcome.accuracy:.1f} |" in text
        assert f"<code>{one.attack}</code>" in html
    assert pixels(next(report.glob("pictures/slf-*-minimal.png"))).any()


def test_the_ends_of_an_interval_have_the_decimals_of_its_value() -> None:
    page = templates("bench.report").from_string("{{ it|percent }} [{{ it|interval|join(', ') }}]")
    for n, text in ((999, "45.3 [42.3, 48.4]"), (1000, "45.30 [42.24, 48.40]")):
        outcome = Outcome.pack([place < 453 for place in range(n)], test_images=n)
        assert page.render(it=outcome) == text == score_text(mean_score([outcome]))


def test_accuracy_on_corrupted_images_is_there_at_every_severity(made: Made, report: Path) -> None:
    corrupted = made.record.corruptions
    assert corrupted
    text, html = ((report / name).read_text() for name in ("report.md", "report.html"))
    table = ["| corruption | severity 1 | severity 2 | severity 3 | severity 4 | severity 5 | mean |"]
    table.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, counts in corrupted.correct.items():
        shown = [f"{100 * count / 30:.1f}" for count in counts] + [f"{100 * corrupted.accuracies[name]:.1f}"]
        table.append(f"| {name.replace('_', ' ')} | {' | '.join(shown)} |")
        _, _, row = html.partition(f'<tr><th scope="row">{name.replace("_", " ")}</th>')
        assert re.findall(r">([0-9.]+)<", row.partition("</tr>")[0]) == shown
    assert "\n".join(["", "", *table, "", ""]) in text
    assert f"mean over everything {100 * corrupted.accuracy:.1f}" in text


def test_what_the_doctor_found_is_there_with_advice_where_it_is_needed(report: Path) -> None:
    for name, found in (("report.md", "a \\| b differ"), ("report.html", "a | b differ")):
        text = (report / name).read_text()
        assert text.count("The model draws random numbers") == 2  # one a protocol
        assert "A softmax at the end" not in text
        assert found in text
        assert "of another version" in text


def test_every_picture_of_the_markdown_is_there_and_none_is_left_over(report: Path) -> None:
    linked = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (report / "report.md").read_text()))
    files = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert files == {*linked, "report.md", "report.html", "CONTENTS"}
    assert any(link.endswith("-curves.png") for link in linked)
    html = (report / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', html)  # one file, which can be sent to somebody
    assert html.count("<img") > 10


def test_both_forms_say_what_stands_beside_a_picture_and_which_images_were_not_attacked(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished,) = [each for each in finished_in(made.runs / made.run) if each.protocol == "slf"]
    first = Outcome.pack([True] * 10, test_images=30)
    ra, sound = finished.record.ra.model_copy(update={"outcome": first}), (FOUND[1],)
    record = finished.record.model_copy(update={"ra": ra, "doctor": sound})
    monkeypatch.setattr(write, "finished_in", lambda _: [replace(finished, record=record)])
    place = written(made, tmp_path / "out")
    text, html = ((place / name).read_text() for name in ("report.md", "report.html"))
    said = "The heading of a column is the image's class, and what stands beside a picture is the classifier's answer"
    assert said in text
    assert said in html.replace("&#39;", "'")
    header, rule, *rows = text.partition("\n| | percent")[2].split("\n\n")[0].splitlines()
    assert header.endswith("| already wrong | not attacked |")
    assert {line.count("|") for line in (rule, *rows)} == {9}
    assert next(row for row in rows if "**RA**" in row).endswith("| 10 | 10 | 0 | 0 | 20 |")
    assert '<li class="absent"><b>20</b> not attacked</li>' in html
    doctor = text.partition("### The doctor\n\n")[2].splitlines()[:3]
    assert doctor == ["| check | verdict | what was found |", "| --- | --- | --- |", "| logits | sound | they are |"]


def test_the_same_run_gives_the_same_report(made: Made, report: Path, tmp_path: Path) -> None:
    again = written(made, tmp_path / "again")
    for path in report.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (again / path.relative_to(report)).read_bytes()


def test_a_missing_run_names_those_there_are_and_none_the_command_that_makes_one(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=rf"unknown run 'nope'.*{made.run}.*`bench runs --runs-dir .*` lists them"):
        write_report(made.runs, "nope", tmp_path / "out", results_dir=tmp_path, data_dir=tmp_path, device=CPU)
    with pytest.raises(BenchError, match=r"no runs in .*`bench run deacl --dataset digits` makes one"):
        write_report(tmp_path, "nope", tmp_path / "out", results_dir=tmp_path, data_dir=tmp_path, device=CPU)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_says_what_to_type(made: Made, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_bytes((made.runs / made.run / "run.json").read_bytes())
    with pytest.raises(BenchError, match=r"half has no finished protocol\. Type bench run simclr .* --protocols slf"):
        write_report(tmp_path, "half", tmp_path / "out", results_dir=tmp_path, data_dir=tmp_path, device=CPU)


def test_a_run_is_found_by_how_it_alone_begins(made: Made, tmp_path: Path) -> None:
    begins = made.run.rpartition("-")[0]
    assert run_folder(made.runs, begins) == run_folder(made.runs, made.run) == made.runs / made.run
    for name in (f"{begins}-1", f"{begins}-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(BenchError, match=rf"2 runs begin with '{begins}', among them {begins}-1 and {begins}-2"):
        run_folder(tmp_path, begins)
