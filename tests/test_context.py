"""What the bench tells a method about the run, and when it lets a stage prepare."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.data import Dataset, ImageSource, Split
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import Stage, StepLoss
from bench.monitor import Monitor
from bench.recipe import MethodConfig, TrainPlan, build_recipe, load_tier
from bench.run import Run, RunFolder
from bench.run.data import dataset_facts
from bench.train import Progress, train
from methods.simclr import SimCLR

CPU = torch.device("cpu")


def make_images(count: int = 8) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=rng.generator(0, "images")).to(torch.uint8)


@pytest.mark.parametrize("extra", [False, True])
def test_a_method_is_given_the_images_it_trains_on_and_their_positions(extra: bool) -> None:
    split = Split(make_images(), torch.arange(8) % 4)
    data = Dataset(
        name="toy",
        source="toy",
        train=split,
        test=split,
        classes=("a", "b", "c", "d"),
        index_train=torch.arange(8) * 2,
        pretrain=make_images(5) if extra else None,
    )
    recipe = build_recipe(
        method="simclr",
        config_type=MethodConfig,
        native_encoder={},
        dataset=dataset_facts(data),
        tier=load_tier("tiny"),
    )
    run = Run(SimCLR, data, recipe, 0, ("slf",), CPU, RunFolder.of(Path("unused"), recipe, 0, "npz:unused"))
    assert run.context.images is data.pretraining_images
    assert run.context.index is (None if extra else data.index_train), "other images have no place in the split"


class Toy(Stage):
    """Learns one number."""

    name = "toy"
    plan = TrainPlan(epochs=2, batch_size=4, lr=0.1)

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("prepared", torch.zeros(()))
        self._clock = clock

    def before_training(self, images: ImageSource) -> None:
        self._clock[0] += 3
        self.get_buffer("prepared").add_(1)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
        return images.float()

    def forward(self, views: Tensor) -> StepLoss:
        assert self.get_buffer("prepared") == 1
        return StepLoss((self.weight * views.mean()).square())


def test_a_stage_prepares_once_before_its_first_step_and_the_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that moves only then, 3 seconds are all that the stage took."""
    now = [0.0]
    monkeypatch.setattr("bench.device.meter.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def trained(monitor: Monitor) -> tuple[Toy, Progress]:
        stage = Toy(now)
        return stage, train(stage, make_images(), Job(tmp_path, "me", 0, CPU, monitor))

    asked = Monitor()
    asked.stop_requested = True
    with pytest.raises(InterruptedRunError):
        trained(asked)
    for state in ("continued", "finished"):
        stage, progress = trained(Monitor())
        assert stage.get_buffer("prepared") == 1, state
        assert progress.cost.seconds == now[0] == 3, state
