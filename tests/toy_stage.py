"""A stage with everything that has to be kept, and how to train it, stopped or not."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import Stage, StepLoss
from bench.monitor import Monitor
from bench.nn import Encoder
from bench.recipe import TrainPlan
from bench.train import Progress, train
from bench.zoo import load_tensors

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


class StopAfter(Monitor):
    """A monitor that asks for a stop once it has seen a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps
        self.notes: list[str] = []

    def advance(self, amount: int, detail: str = "") -> None:
        self._left -= 1
        self.stop_requested = self._left <= 0

    def note(self, message: str) -> None:
        self.notes.append(message)


def make_plan(**changes: Any) -> TrainPlan:
    values = {
        **{"epochs": EPOCHS, "batch_size": 3, "drop_last": False, "lr": 0.1, "weight_decay": 1e-3},
        **{"warmup_epochs": 1, "warmup_start": 0.01, "schedule_unit": "step"},
    }
    return TrainPlan(**{**values, **changes})


def run(
    stage: Stage,
    folder: Path,
    *,
    seed: int = 7,
    owner: str = "mine",
    monitor: StopAfter | None = None,
    start: str | None = None,
) -> Progress:
    """Train in ``folder``."""
    torch.manual_seed(len(str(folder)))  # whatever the process drew before must not matter
    return train(stage, IMAGES, Job(folder, owner, seed, CPU, monitor or Monitor(), start))


def stop_at(stage: Stage, folder: Path, steps: int, **changes: Any) -> None:
    with pytest.raises(InterruptedRunError, match=r"what is finished is saved\. The same command continues"):
        run(stage, folder, monitor=StopAfter(steps), **changes)


def state_file(folder: Path) -> Path:
    return folder / "toy.training.safetensors"


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state file's tensors, and everything else of it but the clock and the memory."""
    tensors, metadata = load_tensors(path)
    for measured in ("seconds", "peak_memory_bytes", "images_per_second"):
        del metadata["cost"][measured]
    return tensors, metadata


def assert_same_file(first: Path, second: Path) -> None:
    (first_tensors, first_rest), (second_tensors, second_rest) = contents(first), contents(second)
    assert first_rest == second_rest
    assert first_tensors.keys() == second_tensors.keys()
    for name, tensor in first_tensors.items():
        assert torch.equal(tensor, second_tensors[name]), name
