"""MyMethod: its views and its loss are what they say, its attack stays in bounds and works, and it runs to a record."""

from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.rng import generator
from bench.run import Run, RunRequest, execute, prepare
from bench.template.my_method import MyMethodSettings, MyMethodStage

FILE = Path(__file__).with_name("my_method.py")
SMALL = {
    "encoder.width": 2,
    "stage1.epochs": 1,
    "stage1.steps": 1,
    "slf.epochs": 1,
    "evaluate.pgd_steps": 2,
    "evaluate.autoattack": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run on handwritten digits that takes seconds, checked and ready."""
    runs = tmp_path_factory.mktemp("runs")
    return prepare(RunRequest(f"{FILE}:MyMethod", "digits", protocols=["slf"], overrides=SMALL, runs_dir=runs))


@pytest.fixture
def stage(run: Run) -> MyMethodStage:
    """Return the stage with its default settings, untrained, on the CPU."""
    return MyMethodStage(MyMethodSettings(), run.context)


def test_a_view_is_turned_as_often_as_it_says(run: Run, stage: MyMethodStage) -> None:
    """Turned back, it is the plain view that the same random numbers give."""
    images = run.context.images[:16]
    turned, turns, _ = stage.views(images, generator(0, "views"), torch.arange(16))
    plain = stage.plan.view(images, generator(0, "views"))
    assert set(turns.tolist()) == {0, 1, 2, 3}
    for view, turn, expected in zip(turned, turns.tolist(), plain, strict=True):
        assert torch.equal(view.rot90(-turn, (1, 2)), expected)


def test_the_loss_of_a_head_that_guesses_is_known(run: Run, stage: MyMethodStage) -> None:
    """All four answers are equally likely, so it is log 4."""
    torch.nn.init.zeros_(stage.head.weight)
    torch.nn.init.zeros_(stage.head.bias)
    loss = stage(stage.views(run.context.images[:16], generator(0, "views"), torch.arange(16)))
    assert loss.total.item() == pytest.approx(log(4))


def test_the_attack_stays_in_bounds_and_raises_the_loss(run: Run, stage: MyMethodStage) -> None:
    """The loss is that of the attacked model, in eval mode."""
    images, turns = run.context.images[:16] / 255, torch.zeros(16, dtype=torch.int64)
    attacked = stage.attacked(images, turns, generator(0, "attack"))
    assert (attacked - images).abs().max() <= stage.threat.eps + 1e-6
    assert 0 <= attacked.min() <= attacked.max() <= 1
    stage.eval()

    @torch.no_grad()
    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(stage.head(stage.encoder(x)), turns)

    assert loss(attacked) > loss(images)


def test_it_runs_from_images_to_a_record(run: Run, tmp_path: Path) -> None:
    """After an epoch it names rotations better than by guessing."""
    ((record, path),) = execute(run, tmp_path)
    assert path.is_file()
    assert record.title == "MyMethod"
    (epoch,) = record.history["stage:rotation"]
    assert epoch["accuracy"] > 0.27
