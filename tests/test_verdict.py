"""An image with a logit that is not finite has no answer, so it is wrong in every measurement."""

from pathlib import Path
from typing import Any

import pytest
import torch
from attacked_linear import run as attacked
from evaluations import CPU, SPLIT, Shared, classifier, measure, pixels
from evaluations import short_attacks as short_attacks
from test_corruption_evaluation import DATA, Counting, N
from test_corruption_evaluation import classifier as corruptible
from test_corruption_evaluation import corrupted as corrupted
from test_corruption_evaluation import measure as measure_corrupted
from torch import Tensor, nn

from bench.attack import ATTACKS, MinimumNorm, correct
from bench.data.corruptions import CorruptedImages
from bench.evaluation import sweep
from bench.job import Job
from bench.nn import Classifier
from bench.record import SweepSettings

CLASS_0 = int((SPLIT.labels == 0).sum())
EPS = SweepSettings(kind="eps", eps=(0.0, 0.01), steps=(3,), batch_size=7)
STEPS = SweepSettings(kind="steps", eps=(0.01,), steps=(1, 3), batch_size=7)


class Detector(Shared):
    """A backbone that has no finite feature for pixels which an 8-bit image cannot have, as those of an attack."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images.detach() * 255
        seen = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)
        return super().forward(images).masked_fill(seen[:, None], torch.nan)


class Overflowing(nn.Module):
    """A network that has no finite logit for some images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.masked_fill((images.sum((1, 2, 3)) < images[0].numel() / 2)[:, None], torch.nan)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the attack of a package short."""
    list(ATTACKS)
    monkeypatch.setitem(ATTACKS._entries, "min-norm", MinimumNorm(steps=3))


def test_an_answer_needs_logits_that_are_all_finite() -> None:
    nan, inf = torch.nan, torch.inf
    logits = torch.tensor([[2.0, 1], [1, 2], [nan, nan], [nan, 1], [2, nan], [inf, 1], [2, -inf]])
    assert correct(logits, torch.zeros(7, dtype=torch.int64)).tolist() == [True] + 6 * [False]


@pytest.mark.usefixtures("quick")
def test_no_attack_is_resisted_by_answers_that_are_no_numbers(tmp_path: Path) -> None:
    lists: dict[str, Any] = {"attacks": ["pgd-cw", "min-norm"], "autoattack": False, "autoattack_images": 22}
    plain, found = (measure(tmp_path / name, model=model, **lists) for name, model in models().items())
    assert found.sa == plain.sa
    assert found.ra.outcome.correct == 0 < CLASS_0
    assert found.attacks is not None
    assert found.attacks.outcome.correct == 0


def models() -> dict[str, Classifier]:
    return {"plain": classifier(), "detector": classifier(Detector())}


@pytest.mark.parametrize("settings", [EPS, STEPS], ids=["eps", "steps"])
def test_no_attack_of_a_sweep_is_resisted_by_them(tmp_path: Path, settings: SweepSettings) -> None:
    found = sweep(classifier(Detector()), SPLIT, settings, Job(tmp_path, "me", 0, CPU))
    *clean, attacked = found.outcomes
    assert attacked.correct == 0
    assert all(outcome.correct > CLASS_0 for outcome in clean if settings is EPS)
    assert all(outcome.correct == 0 for outcome in found.worst or ())


def test_clean_images_without_an_answer_are_wrong(tmp_path: Path) -> None:
    model = classifier()
    dark = pixels().sum((1, 2, 3)) < pixels()[0].numel() / 2
    right = (model(pixels()).argmax(1) == SPLIT.labels) & ~dark
    assert (SPLIT.labels[dark] == 0).any()
    model.encoder.backbone = Overflowing(model.encoder.backbone)
    assert measure(tmp_path, model=model, autoattack=False).sa.unpack() == right.tolist()


def test_autoattack_counts_them_as_wrong() -> None:
    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4] * torch.nan

    found = attacked(Silent())
    assert not found.clean.any()
    assert not found.robust.any()


def test_corrupted_images_without_an_answer_are_wrong(tmp_path: Path, corrupted: CorruptedImages) -> None:
    class Silent(Counting):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * torch.nan

    found = measure_corrupted(tmp_path, corrupted, model=corruptible(Silent())).corruptions
    assert found is not None
    assert (DATA.test.labels == 0).any()
    assert found.n == N
    assert {right for cell in found.correct.values() for right in cell} == {0}
