"""The engine: stopped anywhere it continues as if it had not been, and what a batch depends on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_stage import (
    EPOCHS,
    IMAGES,
    STEPS,
    Seen,
    ToyStage,
    assert_same_file,
    contents,
    make_plan,
    run,
    state_file,
    stop_at,
)

from bench.recipe import TrainPlan
from bench.train import stage_progress
from bench.zoo import load_tensors


@pytest.fixture(scope="module", params=["sgd", "lars", "adamw"])
def plan(request: pytest.FixtureRequest) -> TrainPlan:
    return make_plan(optimizer=request.param)


@pytest.fixture(scope="module")
def straight(plan: TrainPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of an uninterrupted run: its last one before the end, and the final one."""
    folder = tmp_path_factory.mktemp("straight")
    stop_at(ToyStage(plan), folder / "nearly", EPOCHS * STEPS - 1)
    run(ToyStage(plan), folder / "all")
    return folder


# Resuming


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_stopped_after_any_step_it_ends_bit_for_bit_the_same(
    plan: TrainPlan, straight: Path, tmp_path: Path, step: int
) -> None:
    stage = ToyStage(plan)
    stop_at(stage, tmp_path, step)
    assert len(stage.seen) == step
    progress = stage_progress(tmp_path, "toy")
    assert progress is not None
    assert (progress.epoch, progress.step) == divmod(step, STEPS)
    if step < EPOCHS * STEPS - 1:
        # One step before the end: weights, buffers, momentum, history, counters.
        stop_at(ToyStage(plan), tmp_path, EPOCHS * STEPS - 1 - step)
        assert_same_file(state_file(tmp_path), state_file(straight / "nearly"))
    final = ToyStage(plan)
    progress = run(final, tmp_path)
    assert_same_file(tmp_path / "toy.safetensors", straight / "all" / "toy.safetensors")
    assert not state_file(tmp_path).exists()
    tensors, _ = load_tensors(tmp_path / "toy.safetensors")
    assert all(torch.equal(tensors[f"stage.{name}"], value) for name, value in final.state_dict().items())
    assert len(progress.history) == EPOCHS


def test_what_is_compared_is_not_empty(plan: TrainPlan, straight: Path) -> None:
    tensors, rest = contents(state_file(straight / "nearly"))
    trained = {f"encoder.backbone.{name}" for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")}
    trained |= {"head.weight", "head.bias"}
    kept = {name.removeprefix("optimizer.") for name in tensors if name.startswith("optimizer.")}
    memory = ["exp_avg", "exp_avg_sq", "step"] if plan.optimizer == "adamw" else ["momentum_buffer"]
    assert {name for name in kept if not name.startswith("group.")} == {f"{m}.{t}" for m in memory for t in trained}
    assert {name.removeprefix("stage.") for name in tensors if name.startswith("stage.")} >= trained | {"queue"}
    assert all(bool(tensor.any()) for name, tensor in tensors.items() if not name.startswith("optimizer.group."))
    assert set(rest["loss_sum"]) == {"loss", "double"}
    history = contents(straight / "all" / "toy.safetensors")[1]["history"]
    assert [set(entry) for entry in history] == [{"loss", "double", "lr"}] * EPOCHS
    assert len({entry["loss"] for entry in history}) == EPOCHS


def test_stopped_after_every_single_step(plan: TrainPlan, straight: Path, tmp_path: Path) -> None:
    for _ in range(EPOCHS * STEPS):
        stop_at(ToyStage(plan), tmp_path, 1)
    run(ToyStage(plan), tmp_path)
    assert_same_file(tmp_path / "toy.safetensors", straight / "all" / "toy.safetensors")


def test_a_crash_between_saves_repeats_only_the_epoch(plan: TrainPlan, straight: Path, tmp_path: Path) -> None:
    """No stop was asked for: the state on disk is the last epoch's end, and the end is the same."""
    stage = ToyStage(plan)
    stage.after_step = crash_in(stage, 2 * STEPS + 2)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power failure"):
        run(stage, tmp_path)
    again = ToyStage(plan)
    run(again, tmp_path)
    assert len(again.seen) == STEPS
    assert_same_file(tmp_path / "toy.safetensors", straight / "all" / "toy.safetensors")


def crash_in(stage: ToyStage, step: int) -> Callable[[], None]:
    proceed = stage.after_step

    def after_step() -> None:
        if len(stage.seen) == step:
            raise RuntimeError("power failure")
        proceed()

    return after_step


def test_history_is_the_mean_over_each_epochs_steps(tmp_path: Path) -> None:
    stage, losses = ToyStage(make_plan()), []
    stage.register_forward_hook(lambda module, inputs, output: losses.append(float(output.total.detach())))
    progress = run(stage, tmp_path)
    for epoch, entry in enumerate(progress.history):
        mean = sum(losses[epoch * STEPS : (epoch + 1) * STEPS]) / STEPS
        assert entry["loss"] == pytest.approx(mean, rel=1e-6)
        assert entry["double"] == pytest.approx(2 * mean, rel=1e-6)


def test_a_finished_stage_is_loaded_not_trained(plan: TrainPlan, straight: Path) -> None:
    stage = ToyStage(plan)
    before = (straight / "all" / "toy.safetensors").read_bytes()
    progress = run(stage, straight / "all")
    assert stage.seen == []
    assert len(progress.history) == EPOCHS
    tensors, _ = load_tensors(straight / "all" / "toy.safetensors")
    assert all(torch.equal(tensors[f"stage.{name}"], value) for name, value in stage.state_dict().items())
    assert (straight / "all" / "toy.safetensors").read_bytes() == before


def test_training_moves_the_weights_and_lowers_the_loss(tmp_path: Path) -> None:
    progress = run(ToyStage(make_plan(epochs=8)), tmp_path)
    losses = [entry["loss"] for entry in progress.history]
    assert losses[-1] < 0.7 * losses[0]


# What a batch depends on


def seen_in(folder: Path, *, name: str = "toy", seed: int = 7, stops: tuple[int, ...] = ()) -> list[Seen]:
    found: list[Seen] = []
    for steps in (*stops, None):
        stage = ToyStage(make_plan(), name)
        if steps is None:
            run(stage, folder, seed=seed)
        else:
            stop_at(stage, folder, steps, seed=seed)
        found += stage.seen
    return found


def test_batches_depend_on_seed_stage_epoch_and_step_alone(tmp_path: Path) -> None:
    reference = seen_in(tmp_path / "a")
    assert len(reference) == len({step.noise for step in reference}) == EPOCHS * STEPS
    assert seen_in(tmp_path / "b" / "c", stops=(1, 2, 3)) == reference
    others = [seen_in(tmp_path / "d", seed=8), seen_in(tmp_path / "e", name="other")]
    for other in others:
        assert not {step.noise for step in other} & {step.noise for step in reference}
        assert [step.images for step in other] != [step.images for step in reference]


def test_each_epoch_shows_every_image_once_in_another_order(tmp_path: Path) -> None:
    seen = seen_in(tmp_path)
    epochs = [[i for step in seen[e * STEPS : (e + 1) * STEPS] for i in step.images] for e in range(EPOCHS)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    assert [len(step.images) for step in seen[:STEPS]] == [3, 3, 3, 2]


def test_dropping_the_last_batch_leaves_out_what_does_not_fill_it(tmp_path: Path) -> None:
    stage = ToyStage(make_plan(drop_last=True))
    progress = run(stage, tmp_path)
    assert [len(step.images) for step in stage.seen] == [3] * 3 * EPOCHS
    assert progress.cost.images == 9 * EPOCHS


def test_the_batch_is_the_images_at_the_index(tmp_path: Path) -> None:
    class Looking(ToyStage):
        def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
            assert torch.equal(images, IMAGES[index])
            return super().views(images, generator, index)

    run(Looking(make_plan()), tmp_path)
