"""Shared stages: trained once for all runs that contain them, and never taken for one another."""

import fcntl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import SMALL, VARYING, Listener, toy_data, toy_request

from bench import code
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.method import METHODS, Stage
from bench.record import Record
from bench.run import RunRequest, execute, prepare, project
from bench.run.folder import StageFolder
from bench.train import train
from bench.zoo import digest, load_tensors, save_tensors
from methods.frameworks import FRAMEWORKS
from methods.simclr import SimCLRStage

STAGE_2 = {"stage2.epochs": 1, "stage2.batch_size": 8, "stage2.steps": 1, "stage2.warmup_epochs": 0}


class Impatient(Listener):
    """Asks for a stop as soon as it is told to wait."""

    def note(self, message: str) -> None:
        super().note(message)
        self.stop_requested = True


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy_data(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture
def simclr(data: str, tmp_path: Path) -> RunRequest:
    return toy_request(data, tmp_path, tier="tiny")


@pytest.fixture
def deacl(simclr: RunRequest) -> RunRequest:
    return changed(replace(simclr, method="deacl"), STAGE_2)


def changed(request: RunRequest, overrides: Mapping[str, Any]) -> RunRequest:
    return replace(request, overrides={**request.overrides, **overrides})


def carry_out(request: RunRequest, listener: Listener | None = None) -> Record:
    listener = listener or Listener()
    results = request.runs_dir.parent / "results"
    ((record, _),) = execute(prepare(request), results, listener)
    return record


def first_stage(request: RunRequest) -> Stage:
    run = prepare(request)
    return next(iter(run.method(run.recipe.config).stages(run.context)))


def folder(request: RunRequest) -> StageFolder:
    return prepare(request).folder.stage(first_stage(request))


# Trained once


def test_a_method_and_another_that_starts_from_it_train_the_stage_once(simclr: RunRequest, deacl: RunRequest) -> None:
    alone, listener = carry_out(simclr), Listener()
    first = carry_out(deacl, listener)
    assert "stage ssl" not in listener.phases
    assert "stage pseudo_at" in listener.phases
    second = carry_out(changed(deacl, {"stage2.lam": 3}), listener)
    assert listener.phases.count("stage pseudo_at") == 2
    assert "stage ssl" not in listener.phases
    for record in (first, second):
        assert record.cost["stage:ssl"] == alone.cost["stage:ssl"]
        assert record.history["stage:ssl"] == alone.history["stage:ssl"]
    assert first.encoder_sha256 != second.encoder_sha256


def test_pseudo_labels_come_from_the_same_encoder(simclr: RunRequest) -> None:
    carry_out(simclr)
    settings = {"stage2.epochs": 1, "stage2.batch_size": 8, "stage2.steps": 1, "stage2.clusters": [2]}
    listener = Listener()
    carry_out(changed(replace(simclr, method="advcl"), settings), listener)
    assert [phase for phase in listener.phases if phase.startswith("stage")] == ["stage advcl", "stage slf"]


def test_a_record_is_the_same_whether_its_stage_was_shared_or_not(
    simclr: RunRequest, deacl: RunRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(simclr)
    shared = carry_out(deacl)
    monkeypatch.setattr(SimCLRStage, "shared", False)
    listener = Listener()
    private = carry_out(replace(deacl, runs_dir=tmp_path / "private" / "runs"), listener)
    assert "stage ssl" in listener.phases
    assert not list(tmp_path.glob("private/runs/stages"))
    assert shared.model_dump(exclude=VARYING) == private.model_dump(exclude=VARYING)
    assert [cost.images for cost in shared.cost.values()] == [cost.images for cost in private.cost.values()]
    assert shared.cost.keys() == private.cost.keys()


def test_the_projection_knows_that_another_run_trained_it(simclr: RunRequest, deacl: RunRequest) -> None:
    carry_out(simclr)
    left = {estimate.phase: estimate.left for estimate in project(prepare(deacl))}
    assert (left["stage ssl"], left["stage pseudo_at"]) == (0, 1)


def test_a_run_stopped_in_a_shared_stage_is_continued_by_either(simclr: RunRequest, deacl: RunRequest) -> None:
    whole = carry_out(replace(simclr, runs_dir=simclr.runs_dir.parent / "whole"))
    with pytest.raises(InterruptedRunError):
        carry_out(deacl, Listener(4))  # in the second of two epochs of three batches
    ((path, progress),) = [
        (path, load_tensors(path).metadata) for path in simclr.runs_dir.glob("stages/*/*.training.safetensors")
    ]
    assert (progress["epoch"], progress["step"]) == (1, 1)
    assert carry_out(simclr).encoder_sha256 == whole.encoder_sha256
    assert not path.exists()
    listener = Listener()
    carry_out(deacl, listener)
    assert "stage ssl" not in listener.phases


def test_what_follows_other_weights_of_it_is_trained_again(deacl: RunRequest) -> None:
    with pytest.raises(InterruptedRunError):
        carry_out(deacl, Listener(8))  # in the second stage
    (path,) = deacl.runs_dir.glob("stages/*/ssl.safetensors")
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: 2 * value for name, value in tensors.items()}, metadata)
    listener = Impatient()
    with pytest.raises(InterruptedRunError):
        carry_out(deacl, listener)
    assert "pseudo_at.training.safetensors started from other weights" in listener.notes[0]


# Whoever needs it while another process trains it


def test_a_second_process_waits_and_then_takes_what_the_first_has_trained(
    simclr: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("bench.run.folder"), "_POLL_SECONDS", 0.01)
    place = folder(simclr)
    place.path.mkdir(parents=True)
    listener = Listener()
    with (place.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("123\nthere", file=lock, flush=True)
        thread = threading.Thread(target=carry_out, args=(simclr, listener), daemon=True)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert listener.phases == []
        run = prepare(simclr)
        train(
            first_stage(simclr),
            run.dataset.pretraining_images,
            Job(place.path, place.fingerprint, 0, run.device),
        )
    thread.join(60)
    holder = "another process (123 on there)"
    assert listener.notes == [f"waiting: {holder} is training this stage for both runs ({place.path})"]
    assert [phase for phase in listener.phases if phase.startswith("stage")] == ["stage slf"]


def test_who_waits_can_be_stopped(simclr: RunRequest) -> None:
    place = folder(simclr)
    place.path.mkdir(parents=True)
    with (place.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InterruptedRunError):
            carry_out(simclr, Impatient())


# Never taken for one another


def test_what_decides_the_stage_decides_its_folder(deacl: RunRequest, data: str, tmp_path: Path) -> None:
    same = [
        deacl,
        changed(deacl, {"stage2.lam": 5, "stage2.weight_decay": 0, "student_init": "scratch"}),
        changed(deacl, {"slf.lr": 1, "alf.beta": 1, "evaluate.pgd_steps": 7}),
        changed(deacl, {"threat.eps": 0.5}),
        replace(deacl, method="simclr", overrides=SMALL),
        replace(deacl, protocols=("aff", "alf")),
    ]
    assert len({folder(request).path for request in same}) == 1
    byol: dict[str, Any] = {"ssl": "byol", "stage1.predictor": [4]}
    gentle = [{"ssl": name, "stage1.warmup_epochs": 0} for name in ("mocov2", "vicreg")]
    other_frameworks: list[dict[str, Any]] = [byol, {"ssl": "barlow_twins"}, *gentle]
    settings: list[dict[str, Any]] = [
        *({"stage1.epochs": 3}, {"stage1.batch_size": 6}, {"stage1.lr": 0.1}, {"stage1.temperature": 0.3}),
        *({"stage1.projector": [4, 5]}, {"stage1.view.blur_prob": 0.4}, {"stage1.precision": "bf16"}),
        *({"encoder.width": 2}, {"encoder.stem_padding": 2}, {"encoder.normalisation": "cifar"}),
    ]
    others = [
        deacl,
        *(changed(deacl, change) for change in [*settings, *other_frameworks]),
        replace(deacl, seed=1),
        replace(deacl, fidelity="native"),
        replace(deacl, dataset=toy_data(tmp_path / "toy.npz", seed=1)),
    ]
    places = [folder(request) for request in others]
    assert len({place.path for place in places}) == len({place.fingerprint for place in places}) == len(others)


def test_every_field_of_the_plan_is_part_of_the_identity(simclr: RunRequest) -> None:
    place, plan = folder(simclr), first_stage(simclr).plan
    assert place.identity is not None
    assert place.identity["plan"] == plan.model_dump(mode="json")


@pytest.fixture
def break_the_loss(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Put ``0 *`` before SimCLR's loss, as far as a digest of its source can tell."""
    source = code._source

    def broken(name: str) -> str | None:
        text = source(name)
        if name == "methods.simclr":
            assert text is not None
            assert "StepLoss(" in text
            return text.replace("return StepLoss(", "return StepLoss(0 * ")
        return text

    def clear() -> None:
        code._read.cache_clear()
        code.code_digest.cache_clear()

    def apply() -> None:
        monkeypatch.setattr(code, "_source", broken)
        clear()

    yield apply
    monkeypatch.undo()
    clear()


def test_a_stage_of_other_code_is_left_alone_and_trained_anew(
    simclr: RunRequest, deacl: RunRequest, break_the_loss: Callable[[], None]
) -> None:
    first = carry_out(simclr)
    (old,) = simclr.runs_dir.glob("stages/*/ssl.safetensors")
    before = old.read_bytes()
    break_the_loss()
    listener = Listener()
    record = carry_out(deacl, listener)
    assert "stage ssl" in listener.phases
    assert old.read_bytes() == before
    ((earlier,), (later,)) = first.environments["stage:ssl"], record.environments["stage:ssl"]
    assert earlier is not None
    assert later is not None
    assert later.code == record.code["stage:ssl"] != earlier.code == first.code["stage:ssl"]
    assert record.foreign_phases == record.unknown_phases == []


def test_what_is_continued_with_other_code_is_named_with_both(
    simclr: RunRequest, monkeypatch: pytest.MonkeyPatch, break_the_loss: Callable[[], None]
) -> None:
    monkeypatch.setattr(SimCLRStage, "shared", False)
    with pytest.raises(InterruptedRunError):
        carry_out(simclr, Listener(4))
    break_the_loss()
    listener = Listener()
    record = carry_out(simclr, listener)
    (note,) = listener.notes
    assert note.startswith("stage ssl was started with code that differs from the present code")
    assert "ssl.training.safetensors" in note
    earlier, later = record.environments["stage:ssl"]
    assert earlier is not None
    assert later is not None
    assert (earlier.code == later.code, later.code == record.code["stage:ssl"]) == (False, True)
    assert record.foreign_phases == ["stage:ssl"]
    (protocol,) = record.environments["protocol:slf"]
    assert protocol is not None
    assert protocol.precision == "fp32"


def test_an_encoder_of_other_code_is_kept_and_said(simclr: RunRequest, break_the_loss: Callable[[], None]) -> None:
    carry_out(simclr)
    break_the_loss()
    listener = Listener()
    record = carry_out(changed(simclr, {"slf.lr": 1}), listener)
    (note,) = listener.notes
    assert "the encoder is reused; it was trained with code that differs from the present code" in note
    assert "(stage ssl)" in note
    assert record.foreign_phases == ["stage:ssl"]


class Heir(SimCLRStage):
    """Learns something else from the same settings."""


def test_a_subclass_is_not_taken_for_its_parent(simclr: RunRequest) -> None:
    run = prepare(simclr)
    heir = Heir(run.recipe.config.plans()["stage1"], run.context)  # type: ignore[arg-type]
    assert run.folder.stage(heir) == StageFolder(run.folder.path, run.folder.fingerprint)


def test_a_foreign_state_in_a_stages_folder_is_refused(simclr: RunRequest) -> None:
    carry_out(simclr)
    other = changed(simclr, {"stage1.lr": 0.1})
    folder(other).path.mkdir()
    (folder(other).path / "ssl.safetensors").write_bytes((folder(simclr).path / "ssl.safetensors").read_bytes())
    with pytest.raises(BenchError, match=r"ssl\.safetensors belongs to another run"):
        carry_out(other)


# What may be shared


def shared_methods() -> list[str]:
    return [name for name in METHODS if name in FRAMEWORKS]


@pytest.mark.parametrize("name", shared_methods())
def test_a_shared_stage_looks_at_nothing_but_what_identifies_it(name: str, deacl: RunRequest, tmp_path: Path) -> None:
    """On its own and inside DeACL, under other threats and protocols: the same weights, bit for bit."""
    gentle = {"stage1.warmup_epochs": 0}
    own: dict[str, dict[str, Any]] = {"byol": {"stage1.predictor": [4]}, "mocov2": gentle, "vicreg": gentle}
    small = own.get(name, {})
    alone = changed(replace(deacl, method=name, overrides=SMALL), small)
    inside = changed(deacl, {"ssl": name, "threat.eps": 0.5, "stage2.lam": 7, "slf.lr": 1, **small})
    digests = []
    for request in (alone, inside):
        run, stage = prepare(request), first_stage(request)
        place = tmp_path / request.method
        train(stage, run.dataset.pretraining_images, Job(place, "", 0, torch.device("cpu")))
        digests.append(digest(stage.state_dict()))
    assert digests[0] == digests[1]
    assert folder(alone) == folder(inside)
