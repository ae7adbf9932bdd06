"""What a stranger may bring to training: an optimiser, a source of images, a curriculum; and states of older files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from toy_stage import CPU, EPOCHS, IMAGES, STEPS, ToyStage, make_plan, run, state_file, stop_at

from bench.data import ImagesOnDevice, ImageSource
from bench.errors import BenchError
from bench.job import Job
from bench.optim import optimizer_tensors, restore_optimizer
from bench.recipe import TrainPlan
from bench.train import train
from bench.zoo import digest, load_tensors, save_tensors

# Optimisers


class Counting(Optimizer):
    """Keeps a number a parameter, a number a group, and a tensor of another shape than the parameter's."""

    def __init__(self, params: Any, *, lr: float) -> None:
        super().__init__(params, {"lr": lr, "taken": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["taken"] += 1
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                state["scale"] = state.get("scale", torch.ones(1)) * 0.9
                p.sub_(p.grad * group["lr"] * state["scale"] / (state["count"] + group["taken"]))


class CountingStage(ToyStage):
    """Brings its own optimiser."""

    def optimizer(self) -> Optimizer:
        return Counting([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("stopped", [1, STEPS, 2 * STEPS + 1])
def test_a_strangers_optimiser_continues_exactly(stopped: int, tmp_path: Path) -> None:
    straight, halted = CountingStage(make_plan()), CountingStage(make_plan())
    run(straight, tmp_path / "straight")
    stop_at(halted, tmp_path / "halted", stopped)
    again = CountingStage(make_plan())
    run(again, tmp_path / "halted")
    assert digest(again.state_dict()) == digest(straight.state_dict())
    assert digest(straight.state_dict()) != digest(CountingStage(make_plan()).state_dict())


def test_numbers_are_restored_as_numbers() -> None:
    module = nn.Linear(2, 1)
    first, second = Counting(module.parameters(), lr=0.1), Counting(module.parameters(), lr=0.1)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    first.step()
    first.step()
    restore_optimizer(second, module, optimizer_tensors(first, module))
    assert second.param_groups[0]["taken"] == 2
    assert [type(state["count"]) for state in second.state.values()] == [int, int]
    assert [state["count"] for state in second.state.values()] == [2, 2]


def test_what_cannot_be_saved_is_named() -> None:
    module = nn.Linear(2, 1)
    optimizer = Counting(module.parameters(), lr=0.1)
    optimizer.state[module.weight]["history"] = [1, 2]
    with pytest.raises(BenchError, match=r"the optimiser's state holds history\.weight, a list, which cannot be saved"):
        optimizer_tensors(optimizer, module)


def test_a_state_file_that_holds_momentum_alone_is_continued(tmp_path: Path) -> None:
    """Such were all files before the whole state was kept."""
    run(ToyStage(make_plan()), tmp_path / "straight")
    stop_at(ToyStage(make_plan()), tmp_path, STEPS + 1)
    tensors, metadata = load_tensors(state_file(tmp_path))
    kept = {name: value for name, value in tensors.items() if not name.startswith("optimizer.group.")}
    old = {name.replace("optimizer.momentum_buffer.", "momentum."): value for name, value in kept.items()}
    assert any(name.startswith("momentum.") for name in old)
    save_tensors(state_file(tmp_path), old, metadata)
    run(ToyStage(make_plan()), tmp_path)
    ends = [load_tensors(folder / "toy.safetensors").tensors for folder in (tmp_path, tmp_path / "straight")]
    assert digest(ends[0]) == digest(ends[1])


def test_adamw_is_torchs(tmp_path: Path) -> None:
    """One step from a gradient of 1: p (1 - lr wd) - lr / (1 + eps), whatever the betas."""
    p = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    stage = ToyStage(make_plan(optimizer="adamw", lr=0.1, weight_decay=0.5, beta2=0.95))
    stage.head = nn.ParameterList([p])  # type: ignore[assignment]
    optimizer = stage.optimizer()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p.tolist() == pytest.approx([2.0 * 0.95 - 0.1] * 3, abs=1e-8)


def test_nesterov_is_not_adamws() -> None:
    with pytest.raises(BenchError, match="nesterov needs momentum above 0, and optimizer sgd or lars"):
        TrainPlan.parse({"epochs": 1, "batch_size": 2, "lr": 1, "optimizer": "adamw", "nesterov": True}, "plan")


# Images


class Drawer:
    """Hands out images one batch at a time and never holds them on the device."""

    def __init__(self, images: Tensor) -> None:
        self._images = list(images)
        self.largest = 0

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, positions: Tensor) -> Tensor:
        self.largest = max(self.largest, len(positions))
        return torch.stack([self._images[position] for position in positions.tolist()])

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        return map(self.batch, positions)

    def in_order(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))


class Looking(ToyStage):
    """Looks at all images before training and after each epoch, and counts the epochs that begin."""

    def __init__(self, plan: TrainPlan) -> None:
        super().__init__(plan)
        self.sums: list[float] = []
        self.begun: list[int] = []

    def before_training(self, images: ImageSource) -> None:
        self._look(images)

    def before_epoch(self, epoch: int) -> None:
        self.begun.append(epoch)

    def after_epoch(self, epoch: int, images: ImageSource) -> dict[str, float]:
        self._look(images)
        return {}

    def _look(self, images: ImageSource) -> None:
        self.sums.append(sum(float(batch.double().sum()) for batch in images.in_order(4)))


def test_a_source_gives_the_same_training_as_a_tensor(tmp_path: Path) -> None:
    from_tensor, from_source, drawer = Looking(make_plan()), Looking(make_plan()), Drawer(IMAGES)
    run(from_tensor, tmp_path / "tensor")
    train(from_source, drawer, Job(tmp_path / "source", "mine", 7, CPU))
    assert digest(from_source.state_dict()) == digest(from_tensor.state_dict())
    assert from_source.sums == from_tensor.sums == [float(IMAGES.double().sum())] * (EPOCHS + 1)
    assert drawer.largest == 4


def test_a_tensor_is_handed_out_in_order() -> None:
    source = ImagesOnDevice(IMAGES, CPU)
    assert len(source) == len(IMAGES)
    assert torch.equal(torch.cat(list(source.in_order(4))), IMAGES)
    assert [len(batch) for batch in source.in_order(4)] == [4, 4, 3]
    assert torch.equal(source.batch(torch.tensor([3, 1])), IMAGES[[3, 1]])


# Curricula


def test_each_epoch_is_announced_and_once_more_where_it_is_taken_up_again(tmp_path: Path) -> None:
    stage = Looking(make_plan())
    run(stage, tmp_path / "straight")
    assert stage.begun == [0, 1, 2]
    stop_at(Looking(make_plan()), tmp_path / "halted", STEPS + 2)
    again = Looking(make_plan())
    run(again, tmp_path / "halted")
    assert again.begun == [1, 2]
