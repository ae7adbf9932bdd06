"""Transfer: an encoder pre-trained on one dataset, judged on another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_runs import Listener, carry_out, changed, facts, toy_data, toy_request

from bench.data import Dataset, Split, resized
from bench.errors import BenchError, InterruptedRunError
from bench.recipe import DEFAULT_PROTOCOLS
from bench.record import load_record
from bench.report.model_export import write_export
from bench.run import (
    EvaluationRequest,
    RunRequest,
    finished_protocols,
    list_runs,
    prepare,
    prepare_evaluation,
    project,
)
from bench.run.data import load_target


@pytest.fixture
def home(tmp_path: Path) -> RunRequest:
    return toy_request(toy_data(tmp_path / "home.npz"), tmp_path)


@pytest.fixture
def abroad(home: RunRequest, tmp_path: Path) -> RunRequest:
    """Three classes of 8x8 images; the encoder is pre-trained on two."""
    return replace(home, finetune_dataset=toy_data(tmp_path / "abroad.npz", classes=3, seed=1))


# The data


def images_of(side: int, value: int | None = None, count: int = 3) -> Dataset:
    generator = torch.Generator().manual_seed(side)
    shape = (count, 3, side, side)
    images = torch.randint(256, shape, generator=generator) if value is None else torch.full(shape, value)
    split = Split(images.to(torch.uint8), torch.arange(count) % 2)
    return Dataset("x", "x", split, split, ("a", "b"), pretrain=split.images)


def test_a_third_of_the_size_is_the_mean_under_a_triangle() -> None:
    """Each new pixel weighs the 5 nearest old ones 1, 2, 3, 2, 1 in each direction: an independent computation."""
    before = images_of(24)
    after = resized(before, (8, 8)).train.images
    weights = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1])
    old = before.train.images.numpy().astype(int)
    for row, column in ((1, 1), (3, 6), (5, 2)):
        window = old[:, :, 3 * row - 1 : 3 * row + 4, 3 * column - 1 : 3 * column + 4]
        expected = np.rint((window * weights).sum((2, 3)) / 81)
        assert after[:, :, row, column].numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("side", [4, 12, 16, 32])
def test_a_plain_image_stays_plain_at_any_size(side: int) -> None:
    after = resized(images_of(16, value=77), (side, side + 1))
    assert after.train.images.shape == (3, 3, side, side + 1)
    assert after.train.images.unique().tolist() == [77]
    assert after.pretrain is None


@pytest.mark.parametrize(("side", "eps", "conventions"), [(32, 8 / 255, "cifar"), (80, 4 / 255, "imagenet")])
def test_large_images_that_become_small_are_treated_as_small_ones(side: int, eps: float, conventions: str) -> None:
    large = replace(images_of(96), eps=4 / 255, conventions="imagenet")
    after = resized(large, (side, side))
    assert (after.eps, after.conventions) == (eps, conventions)


def test_labels_and_the_size_that_is_right_already_stay() -> None:
    before = images_of(16)
    after = resized(before, (16, 16))
    assert torch.equal(after.train.images, before.train.images)
    assert torch.equal(after.test.labels, before.test.labels)


def test_channels_that_do_not_fit_are_refused(home: RunRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = images_of(8)
    split = Split(grey.train.images[:, :1], grey.train.labels)
    monkeypatch.setattr("bench.run.data.load_dataset", lambda *_: replace(grey, train=split, test=split))
    with pytest.raises(BenchError, match=r"x has 1 channels and the encoder, pre-trained on home, takes 3"):
        load_target("x", home.data_dir, prepare(home).recipe.dataset)


# The recipe


def test_the_target_changes_nothing_about_pre_training(home: RunRequest, abroad: RunRequest) -> None:
    own, transfer = prepare(home), prepare(abroad)
    assert transfer.recipe.pretraining_digest() == own.recipe.pretraining_digest()
    assert transfer.folder.path == own.folder.path
    assert transfer.folder.fingerprint == own.folder.fingerprint
    assert transfer.folder.protocol("slf") != own.folder.protocol("slf")
    assert transfer.folder.protocol("slf").path.name.startswith("slf-abroad-")
    assert own.recipe.pretrained_on is None
    assert transfer.recipe.pretrained_on == "home"


def test_the_data_of_pre_training_as_a_target_are_no_transfer(home: RunRequest) -> None:
    same = prepare(replace(home, finetune_dataset=home.dataset))
    assert same.recipe.model_dump() == prepare(home).recipe.model_dump()
    assert same.finetune is None


@pytest.mark.parametrize("to_digits", [True, False])
def test_radius_and_mirroring_are_those_of_the_target(home: RunRequest, to_digits: bool) -> None:
    """Digits must not be mirrored and have a radius of their own; the toy data may be, at 8/255."""
    pair = (home.dataset, "digits") if to_digits else ("digits", home.dataset)
    recipe = prepare(replace(home, dataset=pair[0], finetune_dataset=pair[1])).recipe
    radii = (8 / 255, 16 / 255)
    assert (recipe.threat.eps, recipe.downstream.eval_eps) == (radii if to_digits else radii[::-1])
    assert {s.flip_prob for s in map(recipe.protocol, DEFAULT_PROTOCOLS)} == {0.0 if to_digits else 0.5}
    assert recipe.finetune is not None
    assert recipe.finetune.resized_from == ((16, 16) if to_digits else (8, 8))
    assert recipe.finetune.dataset.image_shape == recipe.dataset.image_shape


def test_a_radius_that_was_set_holds_on_both_sides(abroad: RunRequest) -> None:
    recipe = prepare(changed(abroad, threat__eps=0.25, threat__norm="l2")).recipe
    assert (recipe.threat.eps, recipe.threat.norm) == (0.25, "l2")
    assert recipe.downstream.threat == recipe.threat


def test_too_few_classes_for_autoattack_are_counted_in_the_target(home: RunRequest) -> None:
    transfer = replace(home, dataset="digits", finetune_dataset=home.dataset)
    with pytest.raises(BenchError, match="home has 2"):
        prepare(changed(transfer, evaluate__autoattack=True))
    back = replace(home, finetune_dataset="digits")
    assert prepare(changed(back, evaluate__autoattack=True)).recipe.evaluate.autoattack


# The run


def test_a_transfer_uses_the_same_encoder_and_its_record_says_so(
    home: RunRequest, abroad: RunRequest, tmp_path: Path
) -> None:
    ((own, _),) = carry_out(home, tmp_path / "results")
    listener = Listener()
    ((record, path),) = carry_out(abroad, tmp_path / "results", listener)
    assert [phase for phase in listener.phases if phase.startswith("stage")] == ["stage slf"]
    assert (record.dataset, record.pretrained_on) == ("abroad", "home")
    assert (own.dataset, own.pretrained_on) == ("home", None)
    assert record.encoder_sha256 == own.encoder_sha256
    assert record.cost["stage:ssl"] == own.cost["stage:ssl"]
    assert record.pretraining_sha256 == own.pretraining_sha256
    assert path == tmp_path / "results" / "abroad" / (
        f"simclr-from-home-mini-uniform-s0-slf-{record.protocol_sha256[:8]}.json"
    )
    assert load_record(path) == record
    (row,) = list_runs(home.runs_dir)
    assert row.records.count("slf-") == 2
    assert row.targets == abroad.finetune_dataset


def test_the_data_of_pre_training_are_checked_where_they_are_named_beside_others(
    home: RunRequest, abroad: RunRequest, tmp_path: Path
) -> None:
    carry_out(home, tmp_path / "results")
    folder = prepare(home).folder
    asked = EvaluationRequest(
        folder.encoder, finetune_dataset=abroad.finetune_dataset, protocols=("knn",), runs_dir=home.runs_dir
    )
    for named, message in (
        ("npz:no.npz", "no.npz: no such file"),
        (abroad.finetune_dataset, "is not what this encoder"),
    ):
        with pytest.raises(BenchError, match=message):
            prepare_evaluation(replace(asked, dataset=named))
    assert prepare_evaluation(replace(asked, dataset=home.dataset)).folder.source == home.dataset


def test_the_order_of_home_and_abroad_does_not_matter(home: RunRequest, abroad: RunRequest, tmp_path: Path) -> None:
    records = [
        carry_out(replace(request, runs_dir=tmp_path / order), tmp_path / "results")[0][0]
        for order, requests in (("first", (home, abroad)), ("second", (abroad, home)))
        for request in requests
    ]
    assert facts(records[0]) == facts(records[3])
    assert facts(records[1]) == facts(records[2])


@pytest.mark.parametrize("stop_at", [1, 7, 9, 12, 13])
def test_a_transfer_stopped_at_any_step_continues_to_the_same_end(
    abroad: RunRequest, tmp_path: Path, stop_at: int
) -> None:
    ((whole, _),) = carry_out(replace(abroad, runs_dir=tmp_path / "whole"), tmp_path / "elsewhere")
    with pytest.raises(InterruptedRunError):
        carry_out(abroad, tmp_path / "results", Listener(stop_at))
    ((record, _),) = carry_out(abroad, tmp_path / "results")
    assert facts(record) == facts(whole)


def test_a_finished_transfer_gives_back_its_data_and_its_classifier(tmp_path: Path) -> None:
    """Across sizes: what comes back must be resized as it was."""
    request = toy_request("digits", tmp_path, finetune_dataset=toy_data(tmp_path / "small.npz"))
    request = changed(request, stage1__batch_size=256, stage1__epochs=1)
    ((record, _),) = carry_out(request, tmp_path / "results")
    (finished,) = finished_protocols(request.runs_dir)
    dataset = finished.dataset(request.data_dir)
    assert dataset.image_shape == (3, 16, 16)
    assert finished.recipe.dataset.name == "small"
    correct = finished.classifier(torch.device("cpu"))(dataset.test.images.float().div(255)).argmax(1)
    assert (correct == dataset.test.labels).tolist() == record.sa.unpack()
    run, out = finished.folder.path.name, tmp_path / "out"
    write_export(request.runs_dir, run, out, to="safetensors", results_dir=tmp_path, protocol="slf")
    said = "images of 8 x 8 were resized to 16 x 16, by bilinear interpolation with antialiasing"
    assert said in (out / "README.md").read_text()


def test_of_evaluations_on_several_data_those_on_its_own_are_exported(
    home: RunRequest, abroad: RunRequest, tmp_path: Path
) -> None:
    for request in (home, abroad):
        carry_out(request, tmp_path / "results")
    (run,) = (path.parent.name for path in home.runs_dir.glob("*/run.json"))

    def classes(folder: str, **choice: str) -> tuple[int, str]:
        written = write_export(
            home.runs_dir, run, tmp_path / folder, to="safetensors", results_dir=tmp_path, protocol="slf", **choice
        )
        card = (tmp_path / folder / "README.md").read_text()
        (of,) = written.datasets
        assert f"| SLF | {of} | SA |" in card
        return int(card.partition("A classifier of ")[2][0]), of

    assert classes("own") == (2, "home")
    assert classes("other", dataset="abroad") == (3, "abroad")
    with pytest.raises(BenchError, match="unknown dataset of an evaluation of this run 'digits'"):
        classes("none", dataset="digits")


def test_data_that_moved_after_the_end_are_found_where_they_are_now(abroad: RunRequest, tmp_path: Path) -> None:
    carry_out(abroad, tmp_path / "results")
    (tmp_path / "there").mkdir()
    moved = (tmp_path / "abroad.npz").rename(tmp_path / "there" / "abroad.npz")
    carry_out(replace(abroad, finetune_dataset=f"npz:{moved}"), tmp_path / "results")
    (finished,) = finished_protocols(abroad.runs_dir)
    assert finished.source == f"npz:{moved}"
    assert finished.dataset(abroad.data_dir).sha256 == finished.recipe.dataset.sha256


def test_the_projection_counts_the_targets_images(home: RunRequest, abroad: RunRequest, tmp_path: Path) -> None:
    fewer = toy_data(tmp_path / "fewer.npz", images=(10, 10))
    phases = {phase.phase: phase.work for phase in project(prepare(replace(home, finetune_dataset=fewer)))}
    assert phases["stage ssl"] == "2 epochs of 3 batches of 8"
    assert phases["protocol slf"] == "2 epochs of 2 batches of 8"
    assert phases["RA, PGD-2"].startswith("10 test images")
