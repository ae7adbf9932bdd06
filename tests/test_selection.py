"""Model selection: on training images held out by the seed, exact after any interruption, and in the record."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_runs import toy_data
from toy_stage import StopAfter, assert_same_file, contents

from bench import rng
from bench.data import ImagesOnDevice, ImageSource
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.nn import Classifier, build_encoder
from bench.protocol import AFFStage, ALFStage, FinetuneStage, SLFStage, selection
from bench.protocol.selection import BestEpoch, held_out
from bench.recipe import AFFSettings, ALFSettings, EncoderSettings, SLFSettings, Threat
from bench.record import Record
from bench.run import RunRequest, execute, finished_protocols, prepare, project
from bench.train import Progress, train
from bench.zoo import digest

CPU = torch.device("cpu")
CLASSES, COUNT, HELD_OUT = 3, 30, 12
EPOCHS, STEPS = 3, 3
LABELS = torch.arange(COUNT) % CLASSES
IMAGES = (
    torch.randint(100, (COUNT, 3, 8, 8), generator=rng.generator(0, "images")) + 50 * LABELS[:, None, None, None]
).to(torch.uint8)
BEST: dict[str, Any] = {
    **{"selection": "best", "selection_fraction": 0.4, "selection_steps": 3},
    **{"epochs": EPOCHS, "batch_size": 8, "lr": 0.1, "decay_epochs": ()},
}
"""Robust accuracy goes up and down from epoch to epoch."""


def make_stage(section: str = "slf", **changes: Any) -> FinetuneStage[Any]:
    values = {**BEST, **changes}
    with rng.scoped(0, "encoder"):
        encoder = build_encoder(EncoderSettings(width=2), image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    common = (encoder, LABELS, CLASSES, 0, Threat(eps=8 / 255))
    if section == "slf":
        return SLFStage(SLFSettings.parse(values, "slf"), *common)
    if section == "alf":
        return ALFStage(ALFSettings.parse({"steps": 1, **values}, "alf"), *common)
    return AFFStage(AFFSettings.parse({"steps": 1, **values}, "aff"), *common)


def run(stage: FinetuneStage[Any], folder: Path, *, stop_after: int = 10**9) -> Progress:
    return train(stage, IMAGES, Job(folder, "mine", 0, CPU, StopAfter(stop_after)))


class Watched:
    """A stage trained to its end, with what it was given and what it was after each epoch."""

    def __init__(self, stage: FinetuneStage[Any], folder: Path) -> None:
        self.stage = stage
        self.seen: list[int] = []
        self.states: list[dict[str, Tensor]] = []
        views, after_epoch = stage.views, stage.after_epoch

        def watching_views(images: Tensor, generator: torch.Generator, index: Tensor) -> Any:
            self.seen += index.tolist()
            assert torch.equal(images, IMAGES[index])
            return views(images, generator, index)

        def watching_epochs(epoch: int, images: ImageSource) -> Any:
            classifier = Classifier(stage.encoder, stage.head)
            self.states.append({name: value.clone() for name, value in classifier.state_dict().items()})
            return after_epoch(epoch, images)

        stage.views, stage.after_epoch = watching_views, watching_epochs  # type: ignore[method-assign]
        self.progress = run(stage, folder)
        self.accuracies = [entry["held-out robust accuracy"] for entry in self.progress.history]


def watched_with_its_best_between(section: str, folder: Path) -> tuple[Watched, int]:
    """Return a stage whose best epoch is neither the first nor the last, and that epoch, from 0 on.

    How accuracy goes up and down is a matter of rounding, which differs from CPU to CPU: so several rates are tried.
    """
    for lr in (0.1, 0.05, 0.2, 0.03, 0.3, 0.15):
        watched = Watched(make_stage(section, epochs=4, lr=lr), folder / str(lr))
        chosen = watched.accuracies.index(max(watched.accuracies))
        if 0 < chosen < 3:
            return watched, chosen
    pytest.fail("the first or the last epoch is always the best: this test would mean little")


@pytest.mark.parametrize("section", ["slf", "alf", "aff"])
def test_the_first_of_the_best_epochs_is_kept(section: str, tmp_path: Path) -> None:
    watched, chosen = watched_with_its_best_between(section, tmp_path)
    assert watched.stage.selected_epoch == chosen + 1
    classifier = watched.stage.classifier()
    assert digest(classifier.state_dict()) == digest(watched.states[chosen])
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in watched.stage.best.parameters())  # type: ignore[union-attr]


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    watched = Watched(make_stage("aff", epochs=2), tmp_path)
    chosen = held_out(watched.stage.plan, COUNT, CLASSES, 0).tolist()
    assert len(chosen) == len(set(chosen)) == HELD_OUT
    assert sorted(watched.seen) == sorted(2 * [position for position in range(COUNT) if position not in chosen])


def test_the_accuracy_is_that_of_a_loop_over_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that goes nowhere is its random start: drawn once, for all batches of an epoch in order."""
    monkeypatch.setattr(selection, "_STEP_SIZE", 1e-9)
    watched = Watched(make_stage("slf", selection_steps=1, epochs=2), tmp_path)
    chosen = held_out(watched.stage.plan, COUNT, CLASSES, 0)
    for state, found in zip(watched.states, watched.accuracies, strict=True):
        stage = make_stage("slf")
        classifier = Classifier(stage.encoder, stage.head)
        classifier.load_state_dict(state)
        generator, right = rng.generator(0, "slf", "selection"), 0
        for start in range(0, HELD_OUT, 8):
            images = IMAGES[chosen[start : start + 8]].double() / 255
            noise = torch.rand(images.shape, generator=generator).double()
            moved = (images + 8 / 255 * (2 * noise - 1)).clamp(0, 1)
            for image, label in zip(moved, LABELS[chosen[start : start + 8]], strict=True):
                right += int(classifier.double().eval()(image[None]).argmax() == label)
        assert found == right / HELD_OUT


def test_held_out_images_are_read_batch_by_batch() -> None:
    """All of them together may not fit the memory."""

    class Reading(ImagesOnDevice):
        asked: list[int] = []

        def batch(self, positions: Tensor) -> Tensor:
            self.asked.append(len(positions))
            return super().batch(positions)

    stage = make_stage("slf")
    best = BestEpoch(Classifier(stage.encoder, stage.head), torch.arange(HELD_OUT), stage.plan, Threat(eps=0.1), 0)
    best.judge(Classifier(stage.encoder, stage.head), 0, Reading(IMAGES, CPU), LABELS)
    assert Reading.asked == [8, 4]


def test_an_epoch_is_judged_on_the_classifier_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy that is prepared for attack is for gradients alone: here it would get other images right."""
    stage = make_stage("slf")
    classifier = Classifier(stage.encoder, stage.head).eval()
    last = torch.nn.Linear(CLASSES, CLASSES)
    wrong = torch.nn.Sequential(classifier, last)
    torch.nn.init.constant_(last.weight, 0)
    chosen = torch.arange(HELD_OUT)
    clean = IMAGES[:HELD_OUT].float() / 255
    labels = classifier(clean).argmax(1)
    assert CLASSES - 1 not in labels
    labels[0] = CLASSES - 1
    with torch.no_grad():
        last.bias.copy_(torch.eye(CLASSES)[-1])
    monkeypatch.setattr(Classifier, "prepared", lambda self: wrong)
    best = BestEpoch(classifier, chosen, stage.plan, Threat(eps=0), 0)
    found = best.judge(classifier, 0, ImagesOnDevice(IMAGES, CPU), labels)
    assert found == {"held-out robust accuracy": (HELD_OUT - 1) / HELD_OUT}


def test_the_split_is_the_seeds_alone() -> None:
    plans = [stage.plan for stage in (make_stage("slf"), make_stage("alf"), make_stage("aff"))]
    first, *others = [held_out(plan, 1000, 10, 3).tolist() for plan in plans]
    assert others == [first, first]
    assert len(set(first)) == 400
    assert first == sorted(first)
    other_seed = held_out(plans[0], 1000, 10, 4).tolist()
    assert 100 < len(set(first) & set(other_seed)) < 250  # 160 by chance


@pytest.mark.parametrize(("fraction", "held"), [(0.01, "holds out 0 of 30"), (0.05, "holds out 2 of 30")])
def test_too_few_images_to_select_on_are_refused(fraction: float, held: str) -> None:
    message = rf"alf\.selection_fraction={fraction} {held} training images, fewer than there are classes \(3\)"
    with pytest.raises(BenchError, match=message + r".*larger fraction, or alf\.selection=last, with --set"):
        make_stage("alf", selection_fraction=fraction)


def test_too_few_images_left_to_train_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"batch_size is 8, but there are 6 images"):
        run(make_stage(selection_fraction=0.8), tmp_path)


# Interruptions


@pytest.fixture(scope="module", params=["slf", "aff"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A protocol and the folder in which it was trained without an interruption."""
    folder = tmp_path_factory.mktemp(request.param)
    run(make_stage(request.param), folder)
    return request.param, folder


def test_the_best_so_far_is_part_of_the_state(straight: tuple[str, Path]) -> None:
    section, folder = straight
    tensors, _ = contents(folder / f"{section}.safetensors")
    assert {"stage.best.epoch", "stage.best.accuracy", "stage.best.classifier.head.weight"} <= tensors.keys()
    assert 1 <= int(tensors["stage.best.epoch"]) <= EPOCHS


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS))
def test_stopped_after_any_step_it_ends_bit_for_bit_the_same(
    straight: tuple[str, Path], step: int, tmp_path: Path
) -> None:
    section, folder = straight
    with pytest.raises(InterruptedRunError):
        run(make_stage(section), tmp_path, stop_after=step)
    final = make_stage(section)
    run(final, tmp_path)
    assert_same_file(tmp_path / f"{section}.safetensors", folder / f"{section}.safetensors")
    loaded = make_stage(section)
    run(loaded, tmp_path)  # finished: loaded, not trained
    assert loaded.selected_epoch == final.selected_epoch
    assert digest(loaded.classifier().state_dict()) == digest(final.classifier().state_dict())


@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_killed_while_it_judges_an_epoch_it_ends_the_same(
    straight: tuple[str, Path], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, folder = straight
    stage = make_stage(section)
    after_epoch = stage.after_epoch

    def failing(now: int, images: ImageSource) -> Any:
        result = after_epoch(now, images)
        if now == epoch:
            raise RuntimeError("power failure")
        return result

    monkeypatch.setattr(stage, "after_epoch", failing)
    with pytest.raises(RuntimeError, match="power failure"):
        run(stage, tmp_path)
    run(make_stage(section), tmp_path)
    assert_same_file(tmp_path / f"{section}.safetensors", folder / f"{section}.safetensors")


# In a run


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record], list[str]]:
    """Runs folder, records by protocol, and the announced phases: SLF selects, AFF does not."""
    place = tmp_path_factory.mktemp("run")
    data = toy_data(place / "toy.npz", images=(30, 16))
    overrides: dict[str, Any] = {
        **{"encoder.width": 1, "stage1.epochs": 1, "stage1.batch_size": 8, "stage1.projector": [4, 4]},
        **{"slf.epochs": 3, "slf.batch_size": 8, "slf.selection": "best", "slf.selection_fraction": 0.2},
        **{"aff.epochs": 1, "aff.batch_size": 8, "aff.steps": 1},
        **{"evaluate.pgd_steps": 1, "evaluate.autoattack": False},
    }
    request = RunRequest(
        "simclr",
        data,
        protocols=("slf", "aff"),
        overrides=overrides,
        runs_dir=place,
        device="cpu",
    )
    ready = prepare(request)
    phases = [f"{estimate.phase}: {estimate.work}" for estimate in project(ready)]
    done = execute(ready, place / "results")
    return place, {record.protocol: record for record, _ in done}, phases


def test_the_record_says_which_epoch_was_chosen(records: tuple[Path, dict[str, Record], list[str]]) -> None:
    slf, aff = records[1]["slf"], records[1]["aff"]
    accuracies = [entry["held-out robust accuracy"] for entry in slf.history["protocol:slf"]]
    assert len(accuracies) == 3
    assert slf.selected_epoch == accuracies.index(max(accuracies)) + 1
    assert slf.recipe["slf"]["selection"] == "best"
    assert (aff.selected_epoch, aff.recipe["aff"]["selection"]) == (None, "last")
    assert all("held-out robust accuracy" not in entry for entry in aff.history["protocol:aff"])
    assert not any(key.startswith("slf.") for key in aff.overrides)
    assert {key for key in slf.overrides if key.startswith(("slf.", "aff."))} == {
        f"slf.{key}" for key in ("epochs", "batch_size", "selection", "selection_fraction")
    }


def test_the_classifier_opened_later_is_the_one_that_was_chosen(
    records: tuple[Path, dict[str, Record], list[str]], tmp_path: Path
) -> None:
    found = {finished.protocol: finished for finished in finished_protocols(records[0])}
    slf = found["slf"]
    classifier = slf.classifier(CPU)
    assert digest(classifier.state_dict()) == records[1]["slf"].classifier_sha256


def test_the_announcement_counts_the_selection(records: tuple[Path, dict[str, Record], list[str]]) -> None:
    assert "epoch for slf: 3 times PGD-20 on 6 held-out images" in records[2]
    assert "protocol slf: 3 epochs of 3 batches of 8" in records[2]
    assert "protocol aff: 1 epoch of 4 batches of 8" in records[2]
    assert not any(phase.startswith("epoch for aff") for phase in records[2])
