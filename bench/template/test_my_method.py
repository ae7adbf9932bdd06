"""MyMethod: its loss has the value of the formula, its attack stays in bounds and works, and it runs to a record."""

from math import exp, log
from pathlib import Path

import pytest
import torch

from bench.rng import generator
from bench.run import Run, RunRequest, execute, prepare
from bench.template.my_method import MyMethodSettings, MyMethodStage, contrast

FILE = Path(__file__).with_name("my_method.py")
SMALL = {"encoder.width": 2, "stage1.epochs": 2, "slf.epochs": 1, "evaluate.pgd_steps": 2, "evaluate.autoattack": False}


def request(folder: Path) -> RunRequest:
    """Return a run on handwritten digits that takes seconds."""
    overrides = {**SMALL, "stage1.warmup_epochs": 0}
    return RunRequest(
        f"{FILE}:MyMethod", "digits", protocols=["slf"], overrides=overrides, runs_dir=folder, device="cpu"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run, checked and ready."""
    return prepare(request(tmp_path_factory.mktemp("runs")))


def test_the_loss_of_equal_orthogonal_embeddings_is_known() -> None:
    """Each row has similarity 1 to its partner and 0 to the three others."""
    embeddings = torch.eye(4, dtype=torch.float64)
    expected = -log(exp(1 / 0.5) / (exp(1 / 0.5) + 3))
    assert contrast(3 * embeddings, embeddings, 0.5).tolist() == pytest.approx([expected] * 4)


def test_the_attack_stays_in_bounds_and_raises_the_loss(run: Run) -> None:
    """Both views are the image itself here, so without an attack they are recognised best."""
    stage = MyMethodStage(MyMethodSettings(), run.context)
    images = run.context.images[:16] / 255
    attacked = stage.attacked(images, images, generator(0, "test"))
    assert (attacked - images).abs().max() <= stage.threat.eps + 1e-6
    assert 0 <= attacked.min() <= attacked.max() <= 1

    @torch.no_grad()
    def loss(x: torch.Tensor) -> float:
        encoder = stage.encoder.prepared()
        a, b = (stage.projector(encoder(each)) for each in (x, images))
        return float(contrast(a, b, stage.plan.temperature).mean())

    assert loss(attacked) > loss(images)


def test_it_runs_from_images_to_a_record(run: Run, tmp_path: Path) -> None:
    """It learns: the loss falls from the first epoch to the second."""
    ((record, path),) = execute(run, tmp_path)
    assert path.is_file()
    assert record.title == "MyMethod"
    first, second = record.history["stage:pretrain"]
    assert second["loss"] < first["loss"]
