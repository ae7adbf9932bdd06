"""Accuracy under corruptions: what is counted, and that an interruption leaves no trace in it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.data import Dataset, Split
from bench.data.corruptions import CorruptedImages, generated_images, open_files
from bench.errors import BenchError, InterruptedRunError
from bench.evaluation import Evaluation, evaluate
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder
from bench.recipe import (
    CORRUPTIONS,
    SEVERITIES,
    DatasetFacts,
    EvaluationSettings,
    MethodConfig,
    build_recipe,
    load_tier,
)
from bench.record import CorruptionEvaluation

N, SIDE, CLASSES = 23, 8, 4
NAMES = ("gaussian_noise", "glass_blur", "contrast")


class Listener(Monitor):
    """Counts the images of the corruptions, and asks for a stop after their ``stop_at``-th batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.total = self.count = 0
        super().__init__()
        self._left, self._open = stop_at, False

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self._open = phase == "common corruptions"
        if self._open:
            self.total, self.count = total, done

    def advance(self, amount: int, detail: str = "") -> None:
        if self._open:
            self.count += amount
            if self._left is not None:
                self._left -= 1
                self.stop_requested |= self._left == 0


def _dataset() -> tuple[Tensor, Dataset]:
    g = torch.Generator().manual_seed(0)
    templates = torch.rand(CLASSES, 3, SIDE, SIDE, generator=g)
    labels = torch.arange(N) % CLASSES
    images = templates[labels] + 0.7 * torch.randn(N, 3, SIDE, SIDE, generator=g)
    split = Split((images.clamp(0, 1) * 255).byte(), labels)
    return templates, Dataset("toy", "toy", split, split, classes=("a", "b", "c", "d"))


TEMPLATES, DATA = _dataset()


class Counting(nn.Module):
    """A backbone that counts the images it sees."""

    feature_dim = 3 * SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)


def classifier(backbone: nn.Module | None = None) -> Classifier:
    model = Classifier(Encoder(backbone or Counting(), nn.Identity()), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with torch.no_grad():
        model.head.weight.copy_(TEMPLATES.flatten(1) - 0.5)
        model.head.bias.zero_()
    return model.eval()


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory: pytest.TempPathFactory) -> CorruptedImages:
    folder = tmp_path_factory.mktemp("data")
    return generated_images(DATA, NAMES, data_dir=folder, monitor=Monitor())


def measure(
    folder: Path, corrupted: CorruptedImages | None, listener: Listener | None = None, model: Classifier | None = None
) -> Evaluation:
    listener = listener or Listener()
    facts = DatasetFacts(
        name="toy",
        sha256=DATA.sha256,
        image_shape=DATA.image_shape,
        num_classes=CLASSES,
        train_images=N,
        test_images=N,
        eps=DATA.eps,
        mean=DATA.mean,
        std=DATA.std,
    )
    settings: dict[str, Any] = {"batch_size": 10, "pgd_steps": 1, "autoattack": False}
    recipe = build_recipe(
        method="toy",
        config_type=MethodConfig,
        native_encoder={},
        dataset=facts,
        tier=load_tier("paper"),
        overrides={
            **{f"evaluate.{key}": value for key, value in settings.items()},
            "evaluate.corruptions": "generate" if corrupted else "none",
        },
    )
    return evaluate(
        model or classifier(),
        DATA.test,
        Job(folder, "me", 0, torch.device("cpu"), listener),
        recipe=recipe,
        corrupted=corrupted,
    )


def counts(evaluation: Evaluation) -> CorruptionEvaluation:
    assert evaluation.corruptions is not None
    return evaluation.corruptions


def test_each_cell_is_what_a_plain_loop_counts(tmp_path: Path, corrupted: CorruptedImages) -> None:
    found, model = measure(tmp_path, corrupted), classifier()
    for name in NAMES:
        for severity in SEVERITIES:
            images = corrupted.batch(name, severity, slice(0, N)).float() / 255
            right = [
                int(model(image[None]).argmax()) == label
                for image, label in zip(images, DATA.test.labels.tolist(), strict=True)
            ]
            assert counts(found).correct[name][severity - 1] == sum(right)
    assert list(counts(found).correct) == list(NAMES)
    assert (counts(found).n, counts(found).sha256, counts(found).source) == (N, corrupted.sha256, "generated")
    assert len({cell for cells in counts(found).correct.values() for cell in cells}) > 3
    assert found.cost["evaluate:corruptions"].images == len(NAMES) * 5 * N


def test_without_corrupted_images_there_is_no_number(tmp_path: Path) -> None:
    found = measure(tmp_path, None)
    assert found.corruptions is None
    assert "evaluate:corruptions" not in found.cost


# Each cell is three batches, so a stop falls inside a cell, at its end and between corruptions.
@pytest.mark.parametrize("stop_at", [1, 3, 4, 15, 16, 20, 44])
def test_stopped_after_any_batch_it_continues_to_the_same_end(
    tmp_path: Path, corrupted: CorruptedImages, stop_at: int
) -> None:
    whole = measure(tmp_path / "whole", corrupted)
    with pytest.raises(InterruptedRunError):
        measure(tmp_path / "parts", corrupted, Listener(stop_at))
    listener, backbone = Listener(), Counting()
    assert counts(measure(tmp_path / "parts", corrupted, listener, classifier(backbone))) == counts(whole)
    assert listener.count == listener.total == len(NAMES) * 5 * N
    assert backbone.seen == (len(NAMES) * 5 - stop_at // 3) * N  # what was finished is not done again


def test_counts_on_other_images_are_not_used(tmp_path: Path, corrupted: CorruptedImages) -> None:
    measure(tmp_path, corrupted)
    copy = Path(shutil.copytree(corrupted.folder, tmp_path / "copy"))
    np.save(copy / "contrast.npy", np.load(copy / "contrast.npy")[::-1])
    changed = open_files(copy, DATA, NAMES)
    backbone = Counting()
    found = measure(tmp_path, changed, model=classifier(backbone))
    assert backbone.seen == 5 * N
    assert counts(found).correct == counts(measure(tmp_path / "anew", changed)).correct


def test_names_are_put_in_order_and_checked() -> None:
    settings = EvaluationSettings.parse({"corruption_names": ["fog", "shot_noise", "fog"]}, "evaluate")
    assert settings.corruption_names == ("shot_noise", "fog")
    assert EvaluationSettings().corruption_names == CORRUPTIONS
    with pytest.raises(BenchError, match=r"unknown corruption 'fogg'\. Did you mean 'fog'"):
        EvaluationSettings.parse({"corruption_names": ["fogg"]}, "evaluate")
    with pytest.raises(BenchError, match="name at least one corruption"):
        EvaluationSettings.parse({"corruption_names": []}, "evaluate")
