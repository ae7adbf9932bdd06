"""BYOL, Barlow Twins and VICReg on two views, and all four frameworks trained, stopped and handed over."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ssl_stages import CPU, NAMES, WITH_MOMENTUM, counters, outputs, pixels, recipe_of, slow_barlow, stage_of, views_of
from toy_stage import StopAfter

from bench import rng
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import METHODS, MethodContext
from bench.train import train
from bench.zoo import digest
from methods.barlow_twins import BarlowTwinsStage
from methods.byol import BYOLStage, prediction_error
from methods.losses import nt_xent
from methods.simclr import SimCLRStage
from methods.vicreg import VICRegStage, covariance_loss, invariance_loss, variance_loss

# SimCLR


@pytest.mark.parametrize("together", [True, False])
def test_simclr_passes_its_views_together_or_one_after_the_other(together: bool) -> None:
    stage = stage_of("simclr", views_together=together)
    assert isinstance(stage, SimCLRStage)
    views = stage.views(pixels(4), rng.generator(0, "views"), torch.arange(4))
    z = outputs(stage, views).chunk(2) if together else [outputs(stage, view) for view in views.chunk(2)]
    other = [outputs(stage, view) for view in views.chunk(2)] if together else outputs(stage, views).chunk(2)
    loss = float(stage(views).total.detach())
    assert loss == pytest.approx(float(nt_xent(z[0], z[1], 0.2).detach()), abs=1e-5)
    assert abs(loss - float(nt_xent(other[0], other[1], 0.2).detach())) > 1e-4
    assert counters(stage.encoder) == {1 if together else 2}


# The others


def test_byol_predicts_the_other_views_momentum_projection_and_averages() -> None:
    stage = stage_of("byol")
    assert isinstance(stage, BYOLStage)
    views = views_of(stage)
    z = [outputs(stage, view) for view in views]  # equal networks: the momentum's projections at first
    p = [deepcopy(stage.predictor)(projection) for projection in z]
    # The predictor keeps no state that its outputs in training depend on, so copies give what it gives.
    expected = (prediction_error(p[0], z[1]) + prediction_error(p[1], z[0])) / 2
    loss = stage(views).total
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert counters(stage.predictor) == {2}


def test_barlow_twins_scales_the_loss_of_two_separate_passes() -> None:
    stage = stage_of("barlow_twins", scale=0.3, redundancy=0.1)
    assert isinstance(stage, BarlowTwinsStage)
    views = views_of(stage)
    z1, z2 = (outputs(stage, view).detach().double() for view in views)
    assert float(stage(views).total.detach()) == pytest.approx(0.3 * slow_barlow(z1, z2, 0.1), rel=1e-4)
    assert counters(stage.encoder) == counters(stage.projector) == {2}


def test_vicreg_adds_the_two_views_variances_and_covariances() -> None:
    weights: dict[str, Any] = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}
    stage = stage_of("vicreg", **weights)
    assert isinstance(stage, VICRegStage)
    views = views_of(stage)
    z1, z2 = (outputs(stage, view).detach() for view in views)
    parts = {
        "invariance": float(invariance_loss(z1, z2)),
        "variance": float(variance_loss(z1)) + float(variance_loss(z2)),
        "covariance": float(covariance_loss(z1)) + float(covariance_loss(z2)),
    }
    loss = stage(views)
    assert {name: float(value) for name, value in loss.scalars.items()} == pytest.approx(parts, rel=1e-4)
    expected = sum(weights[f"{name}_weight"] * value for name, value in parts.items())
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert counters(stage.encoder) == counters(stage.projector) == {2}


# Training


@pytest.mark.parametrize("name", NAMES)
def test_training_learns_continues_bit_for_bit_and_exports_what_it_trained(name: str, tmp_path: Path) -> None:
    images, (whole, broken, continued) = pixels(13), (stage_of(name) for _ in range(3))
    run = partial(train, images=images)
    untrained = digest(whole.encoder.state_dict())
    progress = run(whole, job=Job(tmp_path / "whole", "o", 0, CPU))
    assert len(progress.history) == 2
    assert all(math.isfinite(value) for epoch in progress.history for value in epoch.values())
    assert digest(whole.encoder.state_dict()) != untrained
    with pytest.raises(InterruptedRunError):
        run(broken, job=Job(tmp_path / "parts", "o", 0, CPU, StopAfter(2)))
    run(continued, job=Job(tmp_path / "parts", "o", 0, CPU))
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert digest(broken.state_dict()) != digest(whole.state_dict())
    if name == "mocov2":
        assert [epoch["queue"] for epoch in progress.history] == [12.0, 12.0]
        # Six batches of 4 fill a queue of 12 twice.
        assert [int(whole.get_buffer(buffer)) for buffer in ("oldest", "filled")] == [0, 12]
    if name in WITH_MOMENTUM:
        assert int(whole.get_buffer("momentum.updates_done")) == 6


def test_the_method_hands_over_the_online_encoder() -> None:
    for name in NAMES:
        recipe = recipe_of(name, batch_size=4, projector=[8, 6], precision="fp32")
        method = METHODS.get(name)(recipe.config)
        (stage,) = method.stages(MethodContext(recipe, seed=0, device=CPU, images=pixels(13)))
        stage.train()
        stage(views_of(stage))
        exported = method.result()
        fresh = MethodContext(recipe, seed=1, device=CPU, images=pixels(13)).new_encoder("any")
        fresh.load_state_dict(exported.state_dict())
        x = pixels(4).float() / 255
        with torch.no_grad():
            assert torch.allclose(fresh.eval()(x), stage.encoder.eval()(x), rtol=0, atol=1e-6)
        assert exported is stage.encoder
