"""The engine: stopped anywhere it continues as if it had not been, and refuses whatever it cannot trust."""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.errors import BenchError, InterruptedRunError
from bench.method import Stage, StepLoss
from bench.nn import Encoder
from bench.recipe import TrainPlan
from bench.reporting import Silent
from bench.stop import Stop
from bench.train import Progress, stage_progress, train
from bench.zoo import digest, load_tensors, save_tensors

CPU = torch.device("cpu")
IMAGES = torch.randint(256, (11, 3, 2, 2), generator=rng.generator(0, "images")).to(torch.uint8)
EPOCHS, STEPS = 3, 4
"""Eleven images in batches of three, the last of two."""


class Backbone(nn.Module):
    """Convolution, batch-norm and mean: a kernel, vectors and running statistics."""

    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]


class Seen(NamedTuple):
    """What one step was given."""

    images: tuple[int, ...]
    """Their positions in the training set."""
    noise: tuple[float, ...]
    """What was drawn for them."""


class ToyStage(Stage):
    """Noisy views, a late draw as attacks make, a momentum copy, and a queue: everything that has to be kept."""

    name = "toy"
    queue: Tensor

    def __init__(self, plan: TrainPlan, name: str = "toy") -> None:
        super().__init__()
        self.name, self.plan = name, plan
        with rng.scoped(0, "toy"):
            self.encoder = Encoder(Backbone(), nn.Identity())
            self.head = nn.Linear(4, 4)
            self.follower = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(2, 4))
        self.seen: list[Seen] = []
        self.factors: dict[int, float] = {}
        """By step: what the loss is multiplied by."""

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        noise = torch.rand(images.shape, generator=generator)
        self.seen.append(Seen(tuple(index.tolist()), tuple(noise.flatten().tolist())))
        return images.float() / 255 + noise

    def forward(self, views: Tensor) -> StepLoss:
        features = self.encoder(views)
        with torch.no_grad():
            target = self.follower(features)
        loss = (self.head(features) - target - self.queue.mean(0) - 1).square().mean()
        self._keys = features.detach()
        return StepLoss(loss * self.factors.get(len(self.seen), 1.0), {"double": 2 * loss.detach()})

    def after_step(self) -> None:
        self.queue = torch.cat([self.queue[1:], self._keys[:1]])
        with torch.no_grad():
            for follower, leader in zip(self.follower.parameters(), self.head.parameters(), strict=True):
                follower.lerp_(leader, 0.1)


class StopAfter(Silent):
    """A reporter that asks for a stop once it has seen a number of steps."""

    def __init__(self, steps: int) -> None:
        self.stop, self._left = Stop(), steps
        self.notes: list[str] = []

    def advance(self, amount: int, detail: str = "") -> None:
        self._left -= 1
        self.stop.requested = self._left <= 0

    def note(self, message: str) -> None:
        self.notes.append(message)


def make_plan(**changes: Any) -> TrainPlan:
    values = {
        **{"epochs": EPOCHS, "batch_size": 3, "drop_last": False, "lr": 0.1, "weight_decay": 1e-3},
        **{"warmup_epochs": 1, "warmup_start": 0.01, "schedule_unit": "step"},
    }
    return TrainPlan(**{**values, **changes})


def run(
    stage: Stage, folder: Path, *, seed: int = 7, owner: str = "mine", reporter: StopAfter | None = None
) -> Progress:
    """Train in ``folder``."""
    torch.manual_seed(len(str(folder)))  # whatever the process drew before must not matter
    reporter = reporter or StopAfter(10**9)
    return train(
        stage, IMAGES, folder=folder, owner=owner, seed=seed, device=CPU, reporter=reporter, stop=reporter.stop
    )


def stop_at(stage: Stage, folder: Path, steps: int, **changes: Any) -> None:
    with pytest.raises(InterruptedRunError, match=r"state is saved\. The same command continues it"):
        run(stage, folder, reporter=StopAfter(steps), **changes)


def state_file(folder: Path) -> Path:
    return folder / "toy.training.safetensors"


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state file's tensors, and everything else of it but the clock and the memory."""
    tensors, metadata = load_tensors(path)
    for measured in ("seconds", "peak_memory_bytes"):
        del metadata["cost"][measured]
    return tensors, metadata


def assert_same_file(first: Path, second: Path) -> None:
    (first_tensors, first_rest), (second_tensors, second_rest) = contents(first), contents(second)
    assert first_rest == second_rest
    assert first_tensors.keys() == second_tensors.keys()
    for name, tensor in first_tensors.items():
        assert torch.equal(tensor, second_tensors[name]), name


@pytest.fixture(scope="module", params=["sgd", "lars"])
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
    assert {name for name in tensors if name.startswith("momentum.")} == {f"momentum.{name}" for name in trained}
    assert {name.removeprefix("stage.") for name in tensors if name.startswith("stage.")} >= trained | {"queue"}
    assert all(bool(tensor.any()) for tensor in tensors.values())
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


# Refusals


def test_every_flipped_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_tensors(path, {"stage.a": torch.ones(2, 2), "momentum.a": torch.zeros(3)}, {"epoch": 1})
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        with pytest.raises(BenchError) as caught:
            load_tensors(path)
        assert str(path) in str(caught.value), position
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(BenchError, match="cannot read"):
            load_tensors(path)


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_state_is_set_aside_said_and_trained_again(tmp_path: Path, finished: bool) -> None:
    whole = ToyStage(make_plan())
    run(whole, tmp_path / "whole")
    if finished:
        run(ToyStage(make_plan()), tmp_path)
    else:
        stop_at(ToyStage(make_plan()), tmp_path, 5)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)
    stage = ToyStage(make_plan())
    assert stage_progress(tmp_path, "toy") is None
    listener = StopAfter(10**9)
    run(stage, tmp_path, reporter=listener)
    assert digest(stage.state_dict()) == digest(whole.state_dict())
    (note,) = listener.notes
    assert f"{path} is damaged: its checksum does not match" in note
    assert (tmp_path / f"{path.name}.damaged").read_bytes() == bytes(content)
    assert f"It is now {path.name}.damaged" in note


@pytest.mark.parametrize("finished", [True, False])
def test_the_state_of_another_run_is_refused(tmp_path: Path, finished: bool) -> None:
    if finished:
        run(ToyStage(make_plan()), tmp_path, owner="theirs")
    else:
        stop_at(ToyStage(make_plan()), tmp_path, 5, owner="theirs")
    (path,) = tmp_path.glob("*.safetensors")
    before = path.read_bytes()
    with pytest.raises(BenchError, match=r"belongs to another run .*theirs.*this run is mine.*--runs-dir") as caught:
        run(ToyStage(make_plan()), tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_state_that_does_not_fit_the_stage_is_refused(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    stage = ToyStage(make_plan())
    stage.head = nn.Linear(4, 5)
    with pytest.raises(BenchError, match="does not fit this stage"):
        run(stage, tmp_path)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    stage = ToyStage(make_plan(batch_size=12))
    with pytest.raises(BenchError, match=r"'toy' wants batches of 12 images but the dataset has 11.*--set"):
        run(stage, tmp_path)
    assert list(tmp_path.iterdir()) == []
    run(ToyStage(make_plan(batch_size=11)), tmp_path)


def test_fp16_on_a_cpu_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"trains in fp16, which needs a GPU\. Set its precision to fp32 or bf16"):
        run(ToyStage(make_plan(precision="fp16")), tmp_path)
    progress = run(ToyStage(make_plan(precision="bf16")), tmp_path)
    assert progress.loss_scale is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [1, STEPS])
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(tmp_path: Path, value: float, step: int) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, STEPS)
    before = state_file(tmp_path).read_bytes()
    stage = ToyStage(make_plan())
    stage.factors = {step: value}
    with pytest.raises(BenchError, match=r"'toy' is not finite in epoch 2.*Lower the stage's lr, or train in fp32"):
        run(stage, tmp_path)
    assert state_file(tmp_path).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [state_file(tmp_path).name]
    assert run(ToyStage(make_plan()), tmp_path).history[1]["loss"] > 0


def test_a_stop_does_not_save_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    stage = ToyStage(make_plan())
    stage.factors = {2: float("nan")}
    with pytest.raises(BenchError, match="not finite in epoch 1"):
        run(stage, tmp_path, reporter=StopAfter(2))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_leaves_the_previous_state(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(BenchError, match=r"cannot write .*--runs-dir"):
        run(ToyStage(make_plan()), blocked)
    assert load_tensors(state_file(tmp_path)).metadata["step"] == 1


# Cost


class LinearStage(Stage):
    """Two linear layers, 12 to 5 to 3: multiply-adds that can be counted by hand."""

    name = "linear"

    def __init__(self) -> None:
        super().__init__()
        self.plan = make_plan(epochs=1)
        self.layers = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        return images.float().flatten(1)

    def forward(self, views: Tensor) -> StepLoss:
        return StepLoss(self.layers(views).square().mean())


def test_flops_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Forward 60 + 15 multiply-adds, the same for the weights' gradients, 15 for the hidden layer's; two each."""
    progress = run(LinearStage(), tmp_path)
    assert progress.cost.flops_per_image == 2 * (75 + 75 + 15)


def test_counting_flops_changes_no_number(tmp_path: Path) -> None:
    """The first step runs under the counter; a resumed run takes it without."""
    stop_at(ToyStage(make_plan()), tmp_path / "counted", 1)
    stage = ToyStage(make_plan())
    stage.train()
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.01, weight_decay=1e-3)
    order = torch.randperm(11, generator=rng.generator(7, "toy", "order", 0))[:3]
    stage(stage.views(IMAGES[order], rng.generator(7, "toy", "views", 0, 0), order)).total.backward()
    optimizer.step()
    stage.after_step()
    tensors, metadata = load_tensors(state_file(tmp_path / "counted"))
    assert metadata["cost"]["flops_per_image"] > 0
    for name, value in stage.state_dict().items():
        assert torch.equal(tensors[f"stage.{name}"], value), name


def test_cost_adds_up_over_interruptions(tmp_path: Path) -> None:
    seconds = [0.0]
    for stopped in range(1, 4):
        stop_at(ToyStage(make_plan()), tmp_path, 2)
        progress = stage_progress(tmp_path, "toy")
        assert progress is not None
        seconds.append(progress.cost.seconds)
        assert progress.cost.images == [6, 11, 17][stopped - 1]
    progress = run(ToyStage(make_plan()), tmp_path)
    seconds.append(progress.cost.seconds)
    assert all(before < after for before, after in pairwise(seconds))
    assert progress.cost.images == 11 * EPOCHS
    assert (progress.cost.peak_memory_bytes or 0) > 2**20
    assert progress.cost.images_per_second == progress.cost.images / progress.cost.seconds


def test_earlier_attempts_keep_their_seconds(tmp_path: Path) -> None:
    stop_at(ToyStage(make_plan()), tmp_path, 5)
    tensors, metadata = load_tensors(state_file(tmp_path))
    metadata["cost"]["seconds"] = 1000.0
    save_tensors(state_file(tmp_path), tensors, metadata)
    assert 1000 < run(ToyStage(make_plan()), tmp_path).cost.seconds < 1060


# Progress


def test_a_resumed_run_reports_what_was_done_before(tmp_path: Path) -> None:
    class Listener(StopAfter):
        def __init__(self, steps: int) -> None:
            super().__init__(steps)
            self.images, self.phases = 0, list[tuple[str, int, int]]()

        def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
            self.phases.append((phase, total, done))
            self.images = done

        def advance(self, amount: int, detail: str = "") -> None:
            super().advance(amount, detail)
            self.images += amount

    def listen(steps: int) -> Listener:
        listener = Listener(steps)
        stage, arguments = ToyStage(make_plan()), {"folder": tmp_path, "owner": "mine", "seed": 7, "device": CPU}
        with suppress(InterruptedRunError):
            train(stage, IMAGES, reporter=listener, stop=listener.stop, **arguments)  # type: ignore[arg-type]
        return listener

    first, second = listen(6), listen(10**9)
    assert first.phases == [("stage toy", 33, 0)]
    assert first.images == 17
    assert second.phases == [("stage toy", 33, 17)]
    assert second.images == 33
