"""Evaluations that take a moment: a linear classifier, right on most images and robust on some."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from short_autoattack import shorten
from torch import Tensor, nn

from bench.data import Split
from bench.evaluation import Evaluation, evaluate
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder
from bench.recipe import DatasetFacts, MethodConfig, Recipe, build_recipe, load_tier

CLASSES, TEST_IMAGES, SIDE = 4, 22, 4
CPU = torch.device("cpu")
FACTS = DatasetFacts(
    name="toy",
    sha256="1" * 64,
    image_shape=(3, SIDE, SIDE),
    num_classes=CLASSES,
    train_images=10,
    test_images=TEST_IMAGES,
    eps=0.05,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


class Recorder(Monitor):
    """Keeps notes and phases, and asks for a stop after the ``stop_at``-th batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[tuple[str, int, int]] = []
        self.counted: dict[str, int] = {}
        self.notes: list[str] = []
        super().__init__()
        self._left = stop_at

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.phases.append((phase, total, done))
        self.counted[phase] = done

    def advance(self, amount: int, detail: str = "") -> None:
        self.counted[self.phases[-1][0]] += amount
        if self._left is not None and amount:
            self._left -= 1
            self.stop_requested |= self._left == 0

    def end(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


class StopsInside(nn.Module):
    """A backbone that asks for a stop at its ``count``-th forward pass from now on."""

    feature_dim = 3 * SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.stop_at = -1
        self.monitor = Recorder()

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.monitor.stop_requested |= self.passes == self.stop_at
        return images.flatten(1).tanh()


class Shared(StopsInside):
    """One that prepared() does not copy, so that the test and the attack see the same counter."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def recipe(**changes: Any) -> Recipe:
    values = {
        "batch_size": 5,
        "pgd_steps": 3,
        "pgd_restarts": 2,
        "autoattack_images": 9,
        "autoattack_batch": 4,
        **changes,
    }
    return build_recipe(
        method="toy",
        config_type=MethodConfig,
        native_encoder={},
        dataset=FACTS,
        tier=load_tier("paper"),
        overrides={f"evaluate.{key}": value for key, value in values.items()},
    )


def classifier(backbone: nn.Module | None = None) -> Classifier:
    """Return a linear classifier of templates, correct on most of ``SPLIT``, robust on some of it."""
    model = Classifier(Encoder(backbone or Shared(), nn.Identity()), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with torch.no_grad():
        model.head.weight.copy_(TEMPLATES.flatten(1) - 0.5)
        model.head.bias.zero_()
    return model.eval()


def _split() -> tuple[Tensor, Split]:
    generator = torch.Generator().manual_seed(0)
    templates = torch.rand(CLASSES, 3, SIDE, SIDE, generator=generator)
    labels = torch.arange(TEST_IMAGES) % CLASSES
    # From clear to hopeless, so that every measurement has both outcomes.
    noise = torch.linspace(0.2, 1.0, TEST_IMAGES)[:, None, None, None]
    images = templates[labels] + noise * torch.randn(TEST_IMAGES, 3, SIDE, SIDE, generator=generator)
    return templates, Split((images.clamp(0, 1) * 255).round().to(torch.uint8), labels)


TEMPLATES, SPLIT = _split()


def measure(
    path: Path,
    recorder: Recorder | None = None,
    *,
    model: Classifier | None = None,
    owner: str = "me",
    seed: int = 0,
    **changes: Any,
) -> Evaluation:
    return evaluate(
        model or classifier(),
        SPLIT,
        Job(path, owner, seed, CPU, recorder or Recorder()),
        recipe=recipe(**changes),
    )


def outcomes(evaluation: Evaluation) -> tuple[Any, ...]:
    """Return all that an interruption must not change: everything but the cost."""
    return evaluation.sa, evaluation.ra, evaluation.aa


def pixels() -> Tensor:
    return SPLIT.images.float() / 255


@pytest.fixture(scope="module", autouse=True)
def short_attacks() -> Iterator[None]:
    """Cut AutoAttack's attacks short: what they find is tested elsewhere, here only that it is kept."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return measure(tmp_path_factory.mktemp("whole"))
