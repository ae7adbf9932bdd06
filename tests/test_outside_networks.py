"""Networks that were written elsewhere: versions of their parts, the classifier left out, and what a user is told."""

import torch
import torchvision
from torch import Tensor, nn

from bench import rng
from bench.cost import StageProbe
from bench.method import Stage, StepLoss
from bench.recipe import TrainPlan

CPU = torch.device("cpu")


def images(count: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=rng.generator(0, "images"))


def published(name: str) -> nn.Module:
    with rng.scoped(0, "published"):
        network: nn.Module = torchvision.models.get_model(name).eval()
    return network


def test_a_probe_keeps_the_versions_of_the_parts_of_a_network() -> None:
    class Mean(Stage):
        name, plan = "mean", TrainPlan(epochs=1, batch_size=2, lr=0.1)

        def __init__(self) -> None:
            super().__init__()
            self.network = published("mnasnet0_5")

        def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Tensor:
            return images

        def forward(self, views: Tensor) -> StepLoss:
            return StepLoss(self.network(views).mean())

    stage = Mean()
    before = {key: each.clone() for key, each in stage.state_dict().items()}
    StageProbe(stage, images(), device=CPU).seconds(2)
    assert all(torch.equal(before[key], each) for key, each in stage.state_dict().items())
