"""An encoder that no run here has trained is judged as it is: its file says its form, and no method."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import say
from toy_runs import toy_data

from bench import rng
from bench.compare import find_record
from bench.data import load_dataset
from bench.errors import BenchError
from bench.nn import build_encoder
from bench.recipe import EncoderSettings
from bench.record import Record
from bench.report.reproduce import reproduction
from bench.results import load_measured, read_groups, table_of
from bench.run import EvaluationRequest, execute, finished_in, prepare_evaluation
from bench.run.encoder import EncoderFile, Origin, load_encoder
from bench.run.imported import Import
from bench.zoo import ImportReport, digest

FORM = EncoderSettings(width=2, normalisation="cifar", stem_padding=2)
SETTINGS = {"slf.epochs": 1, "slf.batch_size": 8, "evaluate.pgd_steps": 2, "evaluate.autoattack": "false"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    return toy_data(tmp_path / "toy.npz")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An encoder as somebody else might have trained it."""
    path = tmp_path / "theirs.safetensors"
    encoder_file(Import(title="Theirs", year=2024, encoder=FORM)).save(path)
    return path


def encoder_file(known: Import) -> EncoderFile:
    with rng.scoped(3, "elsewhere"):
        encoder = build_encoder(FORM, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    return EncoderFile(encoder.state_dict(), Origin(imported=known))


def report(trained_on: str, trained_on_sha256: str | None = None) -> ImportReport:
    """What an import says of an export of the bench, whose data had this name and this digest."""
    said = {name: "" for name, field in ImportReport.model_fields.items() if field.annotation is str}
    numbers = {"width": 2, "features": 16, "tensors": 122}
    seen = {"trained_on": trained_on, "trained_on_sha256": trained_on_sha256}
    return ImportReport(**{**said, **numbers, "sha256": "0" * 64, "dropped": {}, **seen})


def test_it_is_evaluated_under_slf_and_its_record_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path, data: str
) -> None:
    command = ["evaluate", str(file), "--dataset", data, "--protocols", "slf", "--device", "cpu", "--json"]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]
    for folder in ("runs", "results"):
        command += [f"--{folder}-dir", str(tmp_path / folder)]
    code, out, err = say(monkeypatch, capsys, *command)
    assert code == 0, err
    (record,) = (Record(**each) for each in json.loads(out))
    assert (record.method, record.title, record.year, record.dataset) == ("imported", "Theirs", 2024, "toy")
    assert (record.fidelity, record.protocol, record.pretrained_on) == ("native", "slf", None)
    assert EncoderSettings(**record.recipe["encoder"]) == FORM
    assert record.encoder_sha256 == load_encoder(file).sha256
    assert set(record.cost) == {"protocol:slf", "evaluate:sa", "evaluate:ra", "evaluate:doctor"}
    again = say(monkeypatch, capsys, *command)
    assert json.loads(again.stdout)[0]["sha256"] == record.sha256, "what is finished is not done again"
    (finished,) = finished_in(next((tmp_path / "runs").iterdir()))
    classifier = finished.classifier(torch.device("cpu"))
    assert digest(classifier.state_dict()) == record.classifier_sha256


@pytest.mark.parametrize(
    ("trained_on", "sha256", "expected"),
    [
        *(("toy", None, None), ("home", None, "home"), ("", None, None)),
        *(("home", "same", None), ("home", "1" * 64, "home"), ("toy", "1" * 64, "toy")),
    ],
)
def test_it_is_tabled_by_the_data_that_its_file_names(
    tmp_path: Path, data: str, trained_on: str, sha256: str | None, expected: str | None
) -> None:
    sha256 = load_dataset(data, tmp_path).sha256 if sha256 == "same" else sha256
    path, results = tmp_path / "export.safetensors", tmp_path / "results"
    encoder_file(Import(title="Ours", year=2024, encoder=FORM, report=report(trained_on, sha256))).save(path)
    overrides = {**SETTINGS, "evaluate.autoattack": False}
    asked = EvaluationRequest(
        path, dataset=data, protocols=("slf",), overrides=overrides, runs_dir=tmp_path / "runs", device="cpu"
    )
    run = prepare_evaluation(asked)
    ((record, written),) = execute(run, results)
    assert (record.dataset, record.pretrained_on) == ("toy", expected)
    found = load_measured(written)
    departures = ["RA under PGD-2", *([f"transfer from {expected}"] if expected else [])]
    assert table_of(found).departures == departures
    assert find_record(run.folder.path.name, results).path == written
    assert re.search("bench evaluate FILE --dataset npz:PATH (?!--finetune-dataset)", reproduction(record).command)


def test_its_seeds_are_those_of_the_protocol_alone_and_one_row(tmp_path: Path, file: Path, data: str) -> None:
    results = tmp_path / "results"
    overrides = {**SETTINGS, "evaluate.autoattack": False}
    for seed in (0, 1, 2):
        asked = EvaluationRequest(
            *(file, data),
            protocols=("slf", "knn"),
            seed=seed,
            overrides=overrides,
            runs_dir=tmp_path / "runs",
            device="cpu",
        )
        run = prepare_evaluation(asked)
        for record, path in execute(run, results):
            assert (record.seed, record.encoder_seed, record.pretraining_seed) == (seed, None, 0)
            assert f"--seed {seed}" in reproduction(record).command
            assert run.folder.path.name in load_measured(path).runs
    assert [len(group.seeds) for group in read_groups(results).groups] == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"finetune_dataset": "npz:other.npz"},
            "and --finetune-dataset npz:other.npz: .* was trained elsewhere, so both are the data to evaluate it on",
        ),
        ({"dataset": None}, "was trained elsewhere .Theirs., so the data to evaluate it on must be named"),
        ({"overrides": {"encoder.width": 4}}, "--set encoder: this encoder is trained already"),
        ({"protocols": ("linear",)}, "unknown protocol"),
    ],
)
def test_what_cannot_be_is_one_message(
    file: Path, data: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"dataset": data, "device": "cpu", "runs_dir": tmp_path, "overrides": {"slf.batch_size": 8}}
    with pytest.raises(BenchError, match=message):
        prepare_evaluation(EvaluationRequest(file, **{**asked, **change}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either the recipe"),
        (
            {"recipe": {}, "imported": {"title": "x", "year": 2024, "encoder": {"normalisation": "none"}}},
            "either the recipe",
        ),
        (
            {"imported": {"title": "x", "year": 2024, "encoder": {}}},
            "normalisation must be cifar, imagenet, constants or none",
        ),
        (
            {"imported": {"title": "x", "year": 2024, "encoder": FORM, "report": report("/etc")}},
            "imported.report: no name: write at most 100 letters",
        ),
    ],
)
def test_an_origin_is_a_run_or_elsewhere_and_has_its_own_constants(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Origin.parse(values, "x")
