"""``--corruptions`` in a run: what it makes, what it records, and what is refused before any work."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import toy_data

from bench.cli import main
from bench.errors import BenchError, InterruptedRunError
from bench.monitor import Monitor
from bench.record import Record, load_record
from bench.run import EvaluationRequest, RunRequest, execute, prepare, prepare_evaluation, project

N = 12
SMALL: dict[str, Any] = {
    "encoder.width": 1,
    "stage1.epochs": 1,
    "stage1.batch_size": 8,
    "stage1.projector": [4, 4],
    "slf.epochs": 1,
    "slf.batch_size": 8,
    "alf.epochs": 1,
    "alf.batch_size": 8,
    "alf.steps": 1,
    "evaluate.pgd_steps": 1,
    "evaluate.autoattack": False,
    "evaluate.corruption_names": ["fog", "pixelate"],
}


class Listener(Monitor):
    """Keeps the phases, and asks for a stop in the ``stop_in`` phase."""

    def __init__(self, stop_in: str = "") -> None:
        self.phases: list[str] = []
        super().__init__()
        self._stop_in = stop_in

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.phases.append(phase)

    def advance(self, amount: int, detail: str = "") -> None:
        self.stop_requested |= self.phases[-1] == self._stop_in


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return RunRequest(
        "simclr",
        toy_data(tmp_path / "toy.npz", images=(N, N), contrast=0),
        protocols=("slf",),
        overrides=SMALL,
        runs_dir=tmp_path / "runs",
        data_dir=tmp_path / "data",
        device="cpu",
        corruptions="generate",
    )


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Files for the toy's test split, whose pixels are random."""
    folder = tmp_path / "published"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("fog", "pixelate"):
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (5 * N, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(N) % 2, 5))
    return folder


def carry_out(request: RunRequest, listener: Listener | None = None) -> list[Record]:
    listener = listener or Listener()
    results = request.runs_dir.parent / "results"
    return [record for record, _ in execute(prepare(request), results, listener)]


def test_a_run_makes_the_images_first_and_records_what_it_found(request_: RunRequest) -> None:
    listener = Listener()
    slf, alf = carry_out(replace(request_, protocols=("slf", "alf")), listener)
    assert listener.phases[0] == "corrupted images"
    assert listener.phases.count("corrupted images") == 1
    assert listener.phases.index("common corruptions") == listener.phases.index("RA, PGD-1") + 1
    assert slf.corruptions is not None
    assert alf.corruptions is not None
    assert list(slf.corruptions.correct) == ["fog", "pixelate"]
    assert (slf.corruptions.source, slf.corruptions.n) == ("generated", N)
    assert slf.corruptions.package == "ssl-robustness-bench"
    assert slf.corruptions.sha256 == alf.corruptions.sha256
    assert slf.cost["evaluate:corruptions"].images == 2 * 5 * N
    assert slf.recipe["evaluate"]["corruptions"] == "generate"


def test_every_method_and_seed_sees_the_same_images_made_once(request_: RunRequest) -> None:
    (first,) = carry_out(request_)
    listener = Listener()
    (other,) = carry_out(replace(request_, method="byol", seed=1), listener)
    assert "corrupted images" not in listener.phases
    assert first.corruptions is not None
    assert other.corruptions is not None
    assert first.corruptions.sha256 == other.corruptions.sha256
    assert first.encoder_sha256 != other.encoder_sha256


def test_without_the_option_nothing_is_measured_or_made(request_: RunRequest) -> None:
    (record,) = carry_out(replace(request_, corruptions=None))
    assert record.corruptions is None
    assert not (request_.data_dir / "cache").exists()
    assert record.protocol_sha256 == prepare(replace(request_, corruptions="none")).recipe.protocol_digest("slf")


@pytest.mark.parametrize("phase", ["corrupted images", "common corruptions"])
def test_stopped_in_the_middle_it_continues_to_the_same_record(request_: RunRequest, phase: str) -> None:
    (whole,) = carry_out(replace(request_, runs_dir=request_.runs_dir / "whole" / "runs"))
    parts = replace(request_, data_dir=request_.data_dir / "parts")
    with pytest.raises(InterruptedRunError):
        carry_out(parts, Listener(phase))
    (record,) = carry_out(parts)
    assert record.corruptions == whole.corruptions


# Files


def test_a_path_is_in_no_digest_but_the_files_are(request_: RunRequest, published: Path, tmp_path: Path) -> None:
    run = prepare(replace(request_, corruptions=str(published)))
    (tmp_path / "elsewhere").symlink_to(published)
    same = prepare(replace(request_, corruptions=str(tmp_path / "elsewhere")))
    assert run.recipe.model_dump() == same.recipe.model_dump()
    assert run.recipe.evaluate.corruption_files is not None
    assert str(published) not in run.recipe.model_dump_json()
    np.save(published / "fog.npy", np.load(published / "fog.npy") ^ 1)
    changed = prepare(replace(request_, corruptions=str(published)))
    assert changed.folder == replace(run.folder, recipe=changed.recipe)
    assert changed.recipe.protocol_digest("slf") != run.recipe.protocol_digest("slf")


def test_files_are_measured_and_named_in_the_record(request_: RunRequest, published: Path) -> None:
    (record,) = carry_out(replace(request_, corruptions=str(published)))
    assert record.corruptions is not None
    assert (record.corruptions.source, record.corruptions.package) == ("files", None)
    assert record.corruptions.sha256 == record.recipe["evaluate"]["corruption_files"]
    assert not (request_.data_dir / "cache").exists()


class Changing(Listener):
    """Makes all images of ``folder`` black once training has begun."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        if phase == "stage ssl":
            for path in self._folder.rglob("[fp]*.npy"):
                np.save(path, np.load(path) * 0)
        super().begin(phase, total, done=done, unit=unit)


@pytest.mark.parametrize("generated", [True, False])
def test_images_that_change_during_the_run_are_refused(request_: RunRequest, published: Path, generated: bool) -> None:
    asked = request_ if generated else replace(request_, corruptions=str(published))
    folder = request_.data_dir if generated else published
    (before,) = carry_out(replace(asked, runs_dir=asked.runs_dir / "before"))
    with pytest.raises(BenchError, match=r"fog\.npy has changed since its digest was computed"):
        carry_out(asked, Changing(folder))
    listener = Listener()
    (record,) = carry_out(asked, listener)
    assert "stage ssl" not in listener.phases
    assert record.corruptions is not None
    assert before.corruptions is not None
    assert (record.corruptions.sha256 == before.corruptions.sha256) is generated
    assert (record.corruptions == before.corruptions) is generated


def test_other_files_than_the_recipe_asks_for_are_refused(request_: RunRequest, published: Path) -> None:
    pinned = {**SMALL, "evaluate.corruption_files": "0" * 64}
    with pytest.raises(BenchError, match=r"has the SHA-256 \w{64}, but .* is 0{64}"):
        prepare(replace(request_, corruptions=str(published), overrides=pinned))


@pytest.mark.parametrize(
    ("choice", "settings", "message"),
    [
        ("nowhere", {}, r"nowhere: no such folder\. Name a folder of \.npy files, or type --corruptions generate"),
        (None, {"corruptions": "files"}, "Type --corruptions and the path of the folder, or --corruptions none"),
        (None, {"corruptions": "both"}, "'none', 'generate' or 'files'"),
        ("none", {"corruptions": "generate"}, "are both given; keep one of them"),
        ("generate", {"corruption_names": ["snw"]}, r"unknown corruption 'snw'\. Did you mean 'snow'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    request_: RunRequest, choice: str | None, settings: dict[str, Any], message: str
) -> None:
    overrides = {**SMALL, **{f"evaluate.{key}": value for key, value in settings.items()}}
    with pytest.raises(BenchError, match=message):
        prepare(replace(request_, corruptions=choice, overrides=overrides))
    assert not request_.runs_dir.exists()


def test_an_encoder_that_is_trained_already_is_measured_alike(request_: RunRequest, published: Path) -> None:
    (plain,) = carry_out(replace(request_, corruptions="none"))
    encoder = prepare(request_).folder.encoder
    asked = EvaluationRequest(
        encoder,
        protocols=("slf",),
        runs_dir=request_.runs_dir,
        data_dir=request_.data_dir,
        device="cpu",
        corruptions="generate",
    )
    results = request_.runs_dir.parent / "results"
    ((record, _),) = execute(prepare_evaluation(asked), results)
    assert record.encoder_sha256 == plain.encoder_sha256
    (whole,) = carry_out(replace(request_, runs_dir=request_.runs_dir / "whole"))
    assert record.corruptions == whole.corruptions is not None
    ((other, _),) = execute(prepare_evaluation(replace(asked, corruptions=str(published))), results)
    assert other.corruptions is not None
    assert other.corruptions.source == "files"
    fewer = replace(asked, corruptions=str(published), overrides={"evaluate.corruption_names": ["fog"]})
    ((other, _),) = execute(prepare_evaluation(fewer), results)
    assert other.corruptions is not None
    assert list(other.corruptions.correct) == ["fog"]


def test_without_the_files_of_the_run_it_is_the_evaluation_without_any(request_: RunRequest, published: Path) -> None:
    carry_out(replace(request_, corruptions=str(published)))
    straight = prepare(replace(request_, corruptions="none"))
    again = prepare_evaluation(
        EvaluationRequest(
            straight.folder.encoder, protocols=("slf",), runs_dir=request_.runs_dir, device="cpu", corruptions="none"
        )
    )
    assert again.recipe.protocol_digest("slf") == straight.recipe.protocol_digest("slf")
    assert again.recipe.overrides_of("slf") == straight.recipe.overrides_of("slf")


# What it will cost


def test_the_projection_knows_what_is_still_to_make(request_: RunRequest) -> None:
    run = prepare(request_)
    estimates = {estimate.phase: estimate for estimate in project(run)}
    assert estimates["corrupted images"].work == f"{2 * 5 * N} images, 1 MB"
    assert estimates["common corruptions"].work == f"10 x {N} images"
    assert all(estimate.seconds > 0 for estimate in estimates.values())
    assert not request_.data_dir.exists()
    carry_out(request_)
    assert "corrupted images" not in {estimate.phase for estimate in project(prepare(replace(request_, seed=1)))}


# The command


def test_the_command_prints_the_mean(
    request_: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"{key}={str(value).lower()}" for key, value in SMALL.items() if key != "evaluate.corruption_names"]
    options = [part for setting in settings for part in ("--set", setting)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    command = ["bench", "run", "simclr", "--dataset", request_.dataset, "--device", "cpu", "--protocols", "slf"]
    monkeypatch.setattr(sys, "argv", [*command, *options, "--corruptions", "generate"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    said = capsys.readouterr()
    (path,) = (tmp_path / "results" / "local").glob("*/*.json")
    found = load_record(path).corruptions
    assert found is not None
    assert found.complete
    (row,) = [line for line in said.out.splitlines() if "mCA, 15 corruptions" in line]
    assert f"{100 * found.accuracy:.2f} %" in row
    assert f"n = {N}" in row
    assert f"common corruptions: {75 * N}/{75 * N} images" in said.err
