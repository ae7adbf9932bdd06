"""The command that finishes a protocol of a run finds the same run again, and does not train it again."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from toy_runs import SMALL, Listener, toy_data, toy_request

from bench.cli import app
from bench.recipe import parse_overrides
from bench.run import EvaluationRequest, Run, RunRequest, prepare, prepare_evaluation, to_finish
from bench.run.encoder import EncoderFile, Origin, plain_encoder
from bench.run.execution import kept_encoder

BUDGET = {key: value for key, value in SMALL.items() if key != "stage1.epochs"}


def begun(run: Run, *, trained: bool = False) -> Run:
    """Write the folder of ``run`` as far as its pre-training."""
    with run.folder.claimed():
        if run.encoder:
            kept_encoder(run, Listener())
        elif trained:
            origin = Origin(
                fingerprint=run.folder.fingerprint, seed=run.seed, recipe=run.recipe.model_dump(mode="json"), stages=()
            )
            EncoderFile(plain_encoder(run.recipe).state_dict(), origin).save(run.folder.encoder)
    return run


def typed(said: str, data_dir: Path) -> Run:
    """Return the run that the command in ``said`` describes."""
    program, name, *words = shlex.split(said.removeprefix("Type "))
    assert program == "bench"
    cli: Any = typer.main.get_command(app)
    values: Mapping[str, Any] = cli.commands[name].make_context(name, words).params
    kind: Any = RunRequest if name == "run" else EvaluationRequest
    fields = {key: value for key, value in values.items() if key in kind.__dataclass_fields__ and key != "weights"}
    request = kind(**fields | {"overrides": parse_overrides(values["set_"] or ()), "data_dir": data_dir})
    return prepare(request) if name == "run" else prepare_evaluation(request)


@pytest.mark.parametrize("trained", [False, True])
def test_a_run_under_a_budget_and_on_other_data_is_continued(tmp_path: Path, trained: bool) -> None:
    data, other = toy_data(tmp_path / "toy.npz"), toy_data(tmp_path / "other.npz", seed=1)
    request = toy_request(data, tmp_path, budget="1e8", overrides=BUDGET, seed=3, finetune_dataset=other)
    run = begun(prepare(request), trained=trained)
    run.protocol_folder("slf").path.mkdir()
    run.protocol_folder("slf").keep_source(other)
    said = to_finish(run.folder.path, "alf")
    assert said.startswith(f"Type bench evaluate {run.folder.encoder} " if trained else "Type bench run simclr ")
    again = typed(said, tmp_path)
    assert again.protocols == ("alf",)
    assert again.protocol_folder("alf") == run.protocol_folder("alf")


def test_an_encoder_from_elsewhere_is_evaluated_under_the_same_threat(tmp_path: Path) -> None:
    data = toy_data(tmp_path / "toy.npz")
    trained = begun(prepare(toy_request(data, tmp_path)), trained=True)
    elsewhere = trained.folder.encoder.rename(tmp_path / "moved.safetensors")
    asked = {"threat.eps": 0.05, "alf.epochs": 2}
    request = EvaluationRequest(elsewhere, data, overrides=asked, runs_dir=tmp_path / "new", device="cpu")
    run = begun(prepare_evaluation(request))
    said = to_finish(run.folder.path, "alf")
    assert typed(said, tmp_path).protocol_folder("alf") == run.protocol_folder("alf")
    run.folder.encoder.unlink()
    again = typed(to_finish(run.folder.path, "alf").replace("FILE", str(elsewhere)), tmp_path)
    assert again.protocol_folder("alf") == run.protocol_folder("alf")


@pytest.mark.parametrize("trained", [False, True])
def test_corrupted_images_are_named_by_their_option(tmp_path: Path, trained: bool) -> None:
    run = prepare(toy_request(toy_data(tmp_path / "toy.npz"), tmp_path))
    files = run.recipe.evaluate.model_copy(update={"corruptions": "files"})
    asked = {"overrides": {**SMALL, "evaluate.corruptions": "files"}, "evaluate": files}
    recipe = run.recipe.model_copy(update=asked)
    begun(replace(run, recipe=recipe, folder=replace(run.folder, recipe=recipe)), trained=trained)
    said = to_finish(run.folder.path, "alf")
    assert "--corruptions PATH" in said
    assert "corruptions=" not in said


def test_where_no_protocol_is_named_it_is_one_that_the_method_takes(tmp_path: Path) -> None:
    overrides = {key: value for key, value in SMALL.items() if not key.startswith("stage1.")}
    data = toy_data(tmp_path / "toy.npz")
    run = begun(prepare(toy_request(data, tmp_path, method="supervised", protocols=("aff",), overrides=overrides)))
    assert typed(to_finish(run.folder.path), tmp_path).protocols == ("aff",)
