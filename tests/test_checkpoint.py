"""``bench evaluate``: an encoder file is judged exactly as the run that trained it would judge it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import say
from toy_runs import SMALL, Listener, carry_out, facts, toy_data, toy_request

from bench.errors import BenchError
from bench.method import METHODS
from bench.record import Record
from bench.run import (
    EvaluationRequest,
    RunRequest,
    execute,
    finished_protocols,
    list_runs,
    prepare,
    prepare_evaluation,
    project,
)
from bench.run.encoder import EncoderFile, Origin, load_encoder, plain_encoder
from bench.zoo import save_tensors


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return toy_request(toy_data(tmp_path / "toy.npz"), tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("home")
    carry_out(toy_request(toy_data(folder / "toy.npz"), folder), folder / "results")
    return folder


@pytest.fixture
def encoder(request_: RunRequest, home: Path, tmp_path: Path) -> Path:
    """The encoder of a finished run, in its folder: as if it had been trained here."""
    for name in ("runs", "results"):
        shutil.copytree(home / name, tmp_path / name)
    folder = prepare(request_).folder
    description = folder.path / "run.json"
    description.write_text(description.read_text().replace(str(home), str(tmp_path)))
    return folder.encoder


@pytest.fixture
def copy(encoder: Path, tmp_path: Path) -> Path:
    """The same file, away from its run, which is gone."""
    copy = tmp_path / "mine.safetensors"
    shutil.copy(encoder, copy)
    shutil.rmtree(encoder.parents[1])
    return copy


def asked(encoder: Path, **changes: Any) -> EvaluationRequest:
    place: dict[str, Any] = {
        "runs_dir": encoder.parent / "other runs",
        "data_dir": encoder.parent / "data",
        "device": "cpu",
    }
    return replace(EvaluationRequest(encoder, protocols=("slf",), **place), **changes)


def judge(request: EvaluationRequest, results: Path, listener: Listener | None = None) -> Record:
    listener = listener or Listener()
    ((record, _),) = execute(prepare_evaluation(request), results, listener)
    return record


def same(one: Record, other: Record) -> bool:
    """Whether two records agree in all but what a clock shows."""
    return facts(one) == facts(other) and one.cost.keys() == other.cost.keys()


# The same as the run itself


def test_in_its_folder_what_is_finished_is_not_done_again(request_: RunRequest, encoder: Path, tmp_path: Path) -> None:
    listener = Listener()
    record = judge(asked(encoder), tmp_path / "results", listener)
    ((own, _),) = carry_out(request_, tmp_path / "results")
    assert record == own
    assert listener.phases == []


@pytest.mark.parametrize(
    "settings",
    [{}, {"slf.lr": 0.5}, {"slf.preset": "deacl-2024"}, {"evaluate.pgd_steps": 3, "evaluate.eps": 0.25}],
    ids=str,
)
@pytest.mark.parametrize("moved", [False, True])
def test_other_settings_give_the_record_that_the_run_would_give(
    request_: RunRequest, encoder: Path, tmp_path: Path, moved: bool, settings: Mapping[str, Any]
) -> None:
    ((own, own_path),) = carry_out(
        replace(request_, runs_dir=tmp_path / "again", overrides={**request_.overrides, **settings}),
        tmp_path / "again results",
    )
    if moved:
        encoder = Path(shutil.copy(encoder, tmp_path / "mine.safetensors"))
    run = prepare_evaluation(asked(encoder, overrides=settings, dataset=request_.dataset))
    ((record, path),) = execute(run, tmp_path / "other results")
    assert same(record, own)
    assert record.cost["stage:ssl"].images == own.cost["stage:ssl"].images == 48
    assert path.name == own_path.name


@pytest.mark.parametrize("protocol", ["alf", "aff"])
def test_the_other_protocols_too(request_: RunRequest, copy: Path, tmp_path: Path, protocol: str) -> None:
    ((own, _),) = carry_out(replace(request_, protocols=(protocol,)), tmp_path / "results")
    assert same(judge(asked(copy, protocols=(protocol,), dataset=request_.dataset), tmp_path / "other"), own)


@pytest.mark.parametrize("size", [8, 12])
def test_on_other_data_without_those_of_pre_training(
    request_: RunRequest, copy: Path, tmp_path: Path, size: int
) -> None:
    abroad = toy_data(tmp_path / "abroad.npz", classes=3, side=size)
    ((own, own_path),) = carry_out(replace(request_, finetune_dataset=abroad), tmp_path / "results")
    (tmp_path / "toy.npz").unlink()
    ((record, path),) = execute(prepare_evaluation(asked(copy, finetune_dataset=abroad)), tmp_path / "other")
    assert record.pretraining_data is None, "nobody counted data that are not there"
    assert own.pretraining_data is not None
    assert same(record, own.model_copy(update={"pretraining_data": None}))
    assert (record.dataset, record.pretrained_on) == ("abroad", "toy")
    assert path.name == own_path.name
    finished = {each.folder.path.parent.name: each for each in finished_protocols(tmp_path / "other runs")}
    (moved,) = finished.values()
    dataset = moved.dataset(tmp_path)
    correct = moved.classifier(torch.device("cpu"))(dataset.test.images.float().div(255)).argmax(1)
    assert (correct == dataset.test.labels).tolist() == record.sa.unpack()


@pytest.mark.parametrize("direction", ["to digits", "from digits"])
def test_mirroring_follows_the_data_as_in_a_run(tmp_path: Path, direction: str) -> None:
    """The recorded sections are those of the first data; what the tier left open is decided anew."""
    pair = ("digits", toy_data(tmp_path / "toy.npz"))
    home, abroad = pair if direction == "from digits" else pair[::-1]
    trained, expected = (prepare(toy_request(home, tmp_path, finetune_dataset=target)) for target in (None, abroad))
    origin = Origin(fingerprint="", seed=0, recipe=trained.recipe.model_dump(mode="json"))
    EncoderFile(plain_encoder(trained.recipe).state_dict(), origin).save(tmp_path / "untrained.safetensors")
    run = prepare_evaluation(asked(tmp_path / "untrained.safetensors", finetune_dataset=abroad))
    assert run.recipe.model_dump() == expected.recipe.model_dump()
    assert run.protocol_folder("slf").path.name == expected.protocol_folder("slf").path.name


# A file from elsewhere


def test_a_file_from_elsewhere_gets_a_folder_that_is_complete(request_: RunRequest, copy: Path, tmp_path: Path) -> None:
    listener = Listener()
    record = judge(asked(copy, dataset=request_.dataset), tmp_path / "other", listener)
    assert not [phase for phase in listener.phases if phase == "stage ssl"]
    (row,) = list_runs(tmp_path / "other runs")
    assert row.name.endswith(f"-w{record.encoder_sha256[:8]}")
    assert (row.encoder, row.records) == (True, f"slf-{record.protocol_sha256[:8]}")
    (finished,) = finished_protocols(tmp_path / "other runs")
    assert finished.classifier(torch.device("cpu")) is not None
    kept = tmp_path / "other runs" / row.name / "encoder.safetensors"
    copy.unlink()
    assert judge(asked(kept, runs_dir=tmp_path / "unused"), tmp_path / "other") == record
    assert not (tmp_path / "unused").exists()


def test_other_weights_of_the_same_recipe_never_share_a_folder(
    request_: RunRequest, encoder: Path, tmp_path: Path
) -> None:
    """Two machines may round differently: one recipe and seed, two encoders."""
    file = load_encoder(encoder)
    other = EncoderFile({name: value + value.new_tensor(1) for name, value in file.tensors.items()}, file.origin)
    other.save(tmp_path / "theirs.safetensors")
    run = prepare_evaluation(asked(tmp_path / "theirs.safetensors", dataset=request_.dataset))
    mine = prepare(request_)
    assert run.recipe.protocol_digest("slf") == mine.recipe.protocol_digest("slf")
    assert run.folder.path.name != mine.folder.path.name
    assert run.folder.fingerprint != mine.folder.fingerprint
    assert run.protocol_folder("slf").fingerprint != mine.protocol_folder("slf").fingerprint


def test_another_encoder_in_its_folder_is_set_aside(request_: RunRequest, copy: Path, tmp_path: Path) -> None:
    asking = asked(copy, dataset=request_.dataset)
    record, file, listener = judge(asking, tmp_path / "other"), load_encoder(copy), Listener()
    kept = prepare_evaluation(asking).folder.encoder
    EncoderFile({name: 2 * value for name, value in file.tensors.items()}, file.origin).save(kept)
    assert judge(asking, tmp_path / "other", listener) == record
    (note,) = listener.notes
    assert f"{kept} is not the encoder that was named. It was renamed to encoder.safetensors.damaged" in note
    assert load_encoder(kept).sha256 == file.sha256 == record.encoder_sha256


def test_cost_is_absent_where_the_file_does_not_know_it(request_: RunRequest, copy: Path, tmp_path: Path) -> None:
    file = load_encoder(copy)
    assert file.origin.stages is not None
    origin = file.origin.model_dump(mode="json", exclude={"stages"})
    save_tensors(copy, file.tensors, origin)
    record = judge(asked(copy, dataset=request_.dataset), tmp_path / "other")
    assert not [phase for phase in record.cost if phase.startswith("stage:")]
    assert record.pretraining_seconds == 0
    assert not [phase for phase in record.history if phase.startswith("stage:")]


def test_another_seed_is_that_of_protocol_and_attacks_alone(
    request_: RunRequest, encoder: Path, tmp_path: Path
) -> None:
    ((own, own_path),) = carry_out(request_, tmp_path / "results")
    run = prepare_evaluation(asked(encoder, seed=5))
    ((record, path),) = execute(run, tmp_path / "results")
    assert (record.seed, record.encoder_seed, own.encoder_seed) == (5, 0, None)
    assert record.encoder_sha256 == own.encoder_sha256
    assert record.classifier_sha256 != own.classifier_sha256
    assert path.name == own_path.name.replace("-s0-", "-e0-s5-")
    assert path != own_path
    assert len(list(finished_protocols(request_.runs_dir))) == 2
    for finished in finished_protocols(request_.runs_dir):
        assert finished.classifier(torch.device("cpu")) is not None


def test_a_threat_of_its_own_leaves_pre_training_as_it_was(request_: RunRequest, encoder: Path, tmp_path: Path) -> None:
    run = prepare_evaluation(asked(encoder, overrides={"threat.eps": 0.25}))
    assert run.recipe.pretraining_digest() == prepare(request_).recipe.pretraining_digest()
    assert run.recipe.threat.eps == 8 / 255
    assert run.recipe.downstream.threat.eps == 0.25
    assert run.recipe.overrides == {**SMALL, "finetune.threat.eps": 0.25}
    ((record, _),) = execute(run, tmp_path / "results")
    assert (record.ra.eps, record.pretrained_on) == (0.25, None)
    unchanged = prepare_evaluation(asked(encoder, overrides={"threat.eps": "8/255"}))
    assert unchanged.recipe.model_dump() == prepare(request_).recipe.model_dump()


def test_the_projection_has_no_stages(encoder: Path) -> None:
    phases = [phase.phase for phase in project(prepare_evaluation(asked(encoder, overrides={"slf.lr": 0.5})))]
    assert phases == ["protocol slf", "RA, PGD-2", "the doctor's checks"]


def test_data_that_moved_are_found_again_from_then_on(request_: RunRequest, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.npz").rename(tmp_path / "toy2.npz")
    with pytest.raises(BenchError, match=r"toy\.npz: no such file"):
        prepare_evaluation(asked(encoder, overrides={"slf.lr": 0.5}))
    began = (encoder.parent / "run.json").stat().st_mtime_ns
    judge(asked(encoder, overrides={"slf.lr": 0.5}, dataset=f"npz:{tmp_path / 'toy2.npz'}"), tmp_path / "results")
    assert {finished.source for finished in finished_protocols(request_.runs_dir)} == {f"npz:{tmp_path / 'toy2.npz'}"}
    assert abs((encoder.parent / "run.json").stat().st_mtime_ns - began) < 1000
    prepare_evaluation(asked(encoder))


# Refusals


def test_what_pre_training_has_used_cannot_be_changed(encoder: Path) -> None:
    for key in ("stage1.lr", "encoder.width"):
        with pytest.raises(BenchError, match=f"--set {key}: this encoder is trained already") as raised:
            prepare_evaluation(asked(encoder, overrides={key: 1}))
        assert "bench run simclr --set" in str(raised.value)
    with pytest.raises(BenchError, match=r"unknown setting 'slf\.lrr'. Did you mean 'slf\.lr'"):
        prepare_evaluation(asked(encoder, overrides={"slf.lrr": 1}))
    with pytest.raises(BenchError, match=r"evaluate\.pgd_steps: .*\(given: -1\)"):
        prepare_evaluation(asked(encoder, overrides={"evaluate.pgd_steps": -1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocols": ("slff",)}, "unknown protocol 'slff'. Did you mean 'slf'"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"dataset": "digits"}, "digits is not what this encoder was trained on (toy)"),
        ({"dataset": "digits"}, "type --finetune-dataset digits"),
    ],
)
def test_what_cannot_be_is_refused(encoder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError) as raised:
        prepare_evaluation(asked(encoder, **change))
    assert message in str(raised.value)


def test_a_copy_of_data_of_ones_own_does_not_know_where_they_are(copy: Path) -> None:
    with pytest.raises(
        BenchError, match=r"trained on 'toy', and the location of these data is not known.*--dataset npz:PATH"
    ):
        prepare_evaluation(asked(copy))


def test_a_preset_of_a_tier_that_has_changed_cannot_be_guessed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = load_encoder(encoder)
    recipe = {**(file.origin.recipe or {}), "tier_sha256": "0" * 64}
    EncoderFile(file.tensors, file.origin.model_copy(update={"recipe": recipe})).save(encoder)
    assert prepare_evaluation(asked(encoder, overrides={"slf.lr": 0.5})).recipe.protocol("slf").lr == 0.5
    with pytest.raises(BenchError, match=r"the tier 'mini' that this encoder was trained with has changed"):
        prepare_evaluation(asked(encoder, overrides={"slf.preset": "advcl"}))


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "text", "cut", "bit", "stage", "foreign"])
def test_a_file_that_is_no_encoder_is_one_message(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    whole = encoder.read_bytes()
    file = encoder.parent / f"{damage}.safetensors"
    contents = {"empty": b"", "text": b"no weights", "cut": whole[:-9], "bit": whole[:-9] + bytes(9)}
    if damage in contents:
        file.write_bytes(contents[damage])
    elif damage == "stage":
        file = encoder.parent / "ssl.safetensors"
    elif damage == "folder":
        file.mkdir()
    elif damage == "foreign":
        import safetensors.torch

        safetensors.torch.save_file({"x": torch.zeros(2)}, file)
    code, out, err = say(monkeypatch, capsys, "evaluate", str(file))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert err.startswith("bench: ")
    assert str(file) in err


def test_the_command_prints_the_record(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--protocols", "slf", "--results-dir", str(tmp_path / "results"), "--device", "cpu"]
    code, out, _ = say(monkeypatch, capsys, "evaluate", str(encoder), *options, "--json")
    (record,) = json.loads(out)
    assert (code, record["protocol"], record["method"]) == (0, "slf", "simclr")
    code, out, _ = say(monkeypatch, capsys, "evaluate", str(encoder), *options, "--set", "slf.lr=0.5")
    assert code == 0
    assert "record: " in out
    code, out, _ = say(monkeypatch, capsys, "evaluate", str(encoder), *options, "--dry-run")
    assert code == 0
    assert "protocol slf" in out
    assert "stage ssl" not in out


# What a method hands over


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_hands_over_a_plain_encoder(tmp_path: Path, method: str) -> None:
    """Or no file of it could be opened without the method's own code."""
    first = METHODS.get(method).info.protocols[:1]
    run = prepare(RunRequest(method, "digits", "tiny", protocols=first, overrides={"encoder.width": 2}, device="cpu"))
    built = run.method(run.recipe.config)
    for _ in built.stages(run.context):
        pass
    found, expected = built.result().state_dict(), plain_encoder(run.recipe).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
