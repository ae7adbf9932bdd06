"""AutoAttack on linear models, whose distance to each decision boundary has a closed form."""

from typing import Any, NamedTuple

import pytest
import torch
from short_autoattack import shorten
from torch import Tensor, nn

from bench import rng
from bench.attack import AutoAttackResult, auto_attack
from bench.recipe import Threat

CLASSES, COUNT = 4, 24
LINF, L2 = Threat(eps=0.05), Threat(norm="l2", eps=0.4)
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")


class Linear(nn.Module):
    """Logits W (x - 1/2): the distance from an image to each decision boundary has a closed form."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 192, generator=rng.generator(0, "weight")))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


class Data(NamedTuple):
    images: Tensor
    labels: Tensor


def data(classes: int = CLASSES) -> Data:
    """Images in [0.3, 0.7] at all distances from the linear model's boundaries: no ball meets 0 or 1."""
    weight = Linear(classes).weight.detach()
    labels = torch.arange(COUNT) % classes
    towards = (weight[labels] - weight.mean(0)).sign()
    noise = 0.01 * torch.randn(COUNT, 192, generator=rng.generator(0, "images"))
    images = (0.5 + torch.linspace(0, 0.12, COUNT)[:, None] * towards + noise).view(COUNT, 3, 8, 8)
    assert images.min() >= 0.3
    assert images.max() <= 0.7
    return Data(images, labels)


def run(model: nn.Module | None = None, **changes: Any) -> AutoAttackResult:
    images, labels = data()
    numbers: dict[str, Any] = {"threat": LINF, "num_classes": CLASSES, "seed": 0, "batch_size": 7}
    return auto_attack(
        model or Linear(),
        changes.pop("images", images),
        changes.pop("labels", labels),
        **(numbers | changes),
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the attacks' iterations where a test is about everything but their strength."""
    shorten(monkeypatch)


class Probabilities(Linear):
    """The mistake AutoAttack flags most often: softmax where logits belong."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul(0.2).softmax(1)
