"""``bench doctor``, and the end of ``bench run``: what they print, their exit codes, and their refusals."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Said, say
from toy_runs import carry_out, toy_data, toy_request

from bench.doctor import CHECKS, Check, Finding
from bench.record import Record, Verdict, load_record
from bench.run import prepare

Say = Callable[..., Said]


class Toy:
    """A finished run of SimCLR under SLF, whose results are in ``results``, and its record."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, toy_data(folder / "toy.npz")
        request = toy_request(self.data, folder)
        ((self.record, self.path),) = carry_out(request, folder / "results")
        self.run = prepare(request).folder.path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def bench(toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.chdir(toy.folder)

    def run(*arguments: str, columns: int = 200) -> Said:
        return say(monkeypatch, capsys, *arguments, "--threads", "1", "--device", "cpu", columns=columns)

    return run


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first check fails on every patient, and no other is made."""
    first = CHECKS["model"][0]._replace(find=lambda patient: Finding("fail", "it is broken", {"share": 0.5}))
    monkeypatch.setitem(CHECKS, "model", (first,))
    for family in ("pixels", "gradient", "attack", "protocol"):
        monkeypatch.setitem(CHECKS, family, ())


def test_a_run_is_found_by_name_folder_and_record_with_the_same_verdicts(toy: Toy, bench: Say) -> None:
    targets = (toy.run.name, str(toy.run), str(toy.path), str(toy.run / "encoder.safetensors"))
    found = [json.loads(bench("doctor", target, "--json").stdout) for target in targets]
    assert found[0] == found[1] == found[2] == found[3]
    ((visit,),) = found[:1]
    assert (visit["run"], visit["protocol"]) == (toy.run.name, "slf")
    assert {"deterministic", "inside the ball", "encoder unchanged"} <= {one["check"] for one in visit["checks"]}
    assert all(bool(one["remedy"]) == (one["verdict"] in ("doubt", "fail")) for one in visit["checks"])


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_the_screen_and_says_what_to_do(bench: Say, toy: Toy, columns: int, broken: None) -> None:
    said = bench("doctor", toy.run.name, columns=columns)
    assert said.code == 3
    assert max(map(len, said.stdout.splitlines())) <= columns
    words = " ".join(said.stdout.replace("│", " ").split())
    for text in ("failed 'deterministic'", "it is broken", "draws random", "Remove the random"):
        assert text in words
    assert "the evaluation cannot be believed: slf, failed 'deterministic': it is broken" in said.stderr
    assert "doctor.md of the documentation explains each check; with --deep" in said.stderr


def test_evaluations_under_one_protocol_are_told_apart(bench: Say, toy: Toy, tmp_path: Path, broken: None) -> None:
    runs = shutil.copytree(toy.run.parent, tmp_path / "runs")
    where = ("--runs-dir", str(runs), "--results-dir", str(tmp_path / "results"), "--protocols", "slf")
    abroad = toy_data(tmp_path / "abroad.npz", classes=3, seed=1)
    for more in (("--finetune-dataset", abroad), ("--set", "evaluate.pgd_steps=1")):
        bench("evaluate", str(runs / toy.run.name / "encoder.safetensors"), *more, *where)
    shown = bench("doctor", toy.run.name, "--runs-dir", str(runs))
    names = {
        "slf on toy (evaluate.pgd_steps=2)",
        "slf on abroad",
        "slf on toy (evaluate.pgd_steps=1)",
    }
    assert all(f"{toy.run.name}, {name}\n" in shown.stdout for name in names)
    said = json.loads(bench("doctor", toy.run.name, "--runs-dir", str(runs), "--json").stdout)
    assert {visit["evaluation"] for visit in said} == names
    assert {visit["protocol"] for visit in said} == {"slf"}


@pytest.mark.parametrize("columns", [80, 200])
def test_a_line_counts_the_checks_and_the_worst_comes_first(
    bench: Say, toy: Toy, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts: tuple[Verdict, ...] = ("sound", "doubt", "note", "fail", "sound")
    found = [Finding(verdict, f"it is {verdict} {place}") for place, verdict in enumerate(verdicts)]

    def finds(one: Finding) -> Check:
        return deterministic._replace(find=lambda patient: one)

    checks = (*map(finds, found), deterministic._replace(find=lambda patient: None))
    for family in CHECKS:
        monkeypatch.setitem(CHECKS, family, checks if family == "model" else ())
    said = bench("doctor", toy.run.name, columns=columns)
    assert said.stdout.splitlines()[:2] == [
        f"{toy.run.name}, slf",
        "6 checks: 2 sound, 1 note, 1 doubt, 1 fail, 1 not applicable",
    ]
    assert re.findall(r"it is (\w+ \d)", said.stdout) == ["fail 3", "doubt 1", "note 2", "sound 0", "sound 4"]
    assert "what to do" in said.stdout.partition("note 2")[0]


def test_a_doubt_ends_with_3_only_if_strict(bench: Say, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in CHECKS:
        monkeypatch.setitem(CHECKS, family, ())
    assert bench("doctor", toy.run.name, "--strict").code == 0
    doubt = Finding("doubt", "perhaps")
    monkeypatch.setitem(CHECKS, "model", (deterministic._replace(find=lambda patient: doubt),))
    assert bench("doctor", toy.run.name).code == 0
    assert bench("doctor", toy.run.name, "--strict").code == 3


deterministic = CHECKS["model"][0]


@pytest.mark.usefixtures("broken", "doctor")
def test_a_run_that_fails_a_check_is_saved_and_ends_with_3(bench: Say, toy: Toy, tmp_path: Path) -> None:
    encoder = shutil.copy(toy.run / "encoder.safetensors", tmp_path / "encoder.safetensors")
    options = ("--protocols", "slf", "--dataset", toy.data, "--set", "slf.epochs=1", "--set", "evaluate.pgd_steps=1")
    where = ("--runs-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path / "results"))
    said = bench("evaluate", str(encoder), *options, "--set", "evaluate.autoattack=false", *where)
    assert said.code == 3
    assert "slf, failed 'deterministic': it is broken" in " ".join(said.stderr.split())
    assert (said.stdout + said.stderr).count("it is broken") == 1
    (run,) = (tmp_path / "runs").glob("toy-*")
    assert f"What to do says: bench doctor {run}" in said.stderr
    (path,) = (tmp_path / "results" / "toy").glob("*.json")
    record = load_record(path)
    assert [(one.check, one.verdict, one.numbers) for one in record.doctor or ()] == [
        ("deterministic", "fail", {"share": 0.5})
    ]
    assert record.cost["evaluate:doctor"].seconds > 0
    assert record.environments.keys() == record.cost.keys()


def test_a_file_without_an_evaluation_is_checked_and_its_classifier_kept(
    bench: Say, toy: Toy, tmp_path: Path, broken: None
) -> None:
    encoder = shutil.copy(toy.run / "encoder.safetensors", tmp_path / "encoder.safetensors")
    said = bench("doctor", str(encoder), "--dataset", toy.data, "--runs-dir", str(tmp_path / "runs"), "--json")
    assert said.code == 3
    assert [visit["protocol"] for visit in json.loads(said.stdout)] == ["slf"]
    assert list(tmp_path.glob("runs/*/slf-*/slf.safetensors"))
    assert not list(tmp_path.glob("runs/*/*/record.json"))


def altered(record: Record, folder: Path) -> Path:
    """Write ``record`` as one of other weights."""
    path = folder / "other.json"
    path.write_text(record.model_copy(update={"classifier_sha256": "0" * 64}).sealed().model_dump_json())
    return path


def test_what_cannot_be_checked_is_refused_in_one_message(bench: Say, toy: Toy, tmp_path: Path) -> None:
    other = altered(toy.record, tmp_path)
    refused = {
        ("nothing",): "unknown run 'nothing'",
        (str(toy.path), "--runs-dir", str(tmp_path)): f"the weights of {toy.path} are not in {tmp_path}",
        (str(other),): f"the weights of {other} have the SHA-256 000000000000",
        (toy.run.name, "--protocols", "slf,aff"): "has no finished aff. Type bench evaluate ",
        (toy.run.name, "--protocols", "slff"): "unknown protocol 'slff'",
        (str(toy.path), "--protocols", "knn"): f"{toy.path} is a record of slf, and of no other protocol",
        (toy.run.name, "--dataset", "digits"): "--dataset: ",
        (str(toy.data.removeprefix("npz:")),): "toy.npz",
    }
    for arguments, message in refused.items():
        said = bench("doctor", *arguments)
        assert (said.code, said.stdout) == (1, "")
        assert message in said.stderr
        assert "Traceback" not in said.stderr


def test_weights_that_are_gone_or_others_are_refused(bench: Say, toy: Toy, tmp_path: Path) -> None:
    """As after an ablation whose weights were deleted to save space."""
    shutil.copytree(toy.run, tmp_path / toy.run.name)
    (weights,) = (tmp_path / toy.run.name).glob("slf-*/slf.safetensors")
    options = (toy.run.name, "--runs-dir", str(tmp_path))
    kept = weights.read_bytes()
    weights.unlink()
    said = bench("doctor", *options)
    assert (said.code, said.stdout) == (1, "")
    assert "slf.safetensors" in said.stderr
    weights.write_bytes(kept[:-8] + bytes(8))
    assert "is damaged" in bench("doctor", *options).stderr
