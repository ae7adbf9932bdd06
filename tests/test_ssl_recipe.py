"""MoCo v2+, BYOL, Barlow Twins and VICReg as published: plan, constants, views and heads, number by number."""

import math

import pytest
import torch
from ssl_stages import NAMES, recipe_of, stage_of
from torch import nn

from bench.data.views import StrongView
from bench.errors import BenchError
from bench.method import METHODS
from bench.nn import mlp
from bench.optim import LARS, build_optimizer
from bench.recipe import load_tier
from methods.barlow_twins import BarlowTwinsStageSettings
from methods.byol import BYOLStageSettings
from methods.mocov2 import MoCoStageSettings
from methods.vicreg import VICRegStageSettings

PUBLISHED: dict[str, MoCoStageSettings | BYOLStageSettings | BarlowTwinsStageSettings | VICRegStageSettings] = {
    "mocov2": MoCoStageSettings(),
    "byol": BYOLStageSettings(),
    "barlow_twins": BarlowTwinsStageSettings(),
    "vicreg": VICRegStageSettings(),
}


@pytest.mark.parametrize(
    ("name", "optimizer", "lr", "weight_decay"),
    [
        ("mocov2", "sgd", 0.3, 1e-4),
        ("byol", "lars", 1.0, 1e-5),
        ("barlow_twins", "lars", 0.3, 1e-4),
        ("vicreg", "lars", 0.3, 1e-4),
    ],
)
def test_the_published_plan(name: str, optimizer: str, lr: float, weight_decay: float) -> None:
    plan = recipe_of(name, load_tier("paper")).config.plans()["stage1"]
    assert plan == PUBLISHED[name]
    assert (plan.optimizer, plan.lr, plan.weight_decay) == (optimizer, lr, weight_decay)
    assert (plan.epochs, plan.batch_size, plan.drop_last, plan.precision) == (1000, 256, True, "fp16")
    assert (plan.momentum, plan.nesterov) == (0.9, False)
    assert (plan.lars_eta, plan.lars_clip, plan.lars_exclude_vectors) == (0.02, True, True)
    assert plan.steps_per_epoch(50_000) == 195
    rates = [plan.rate(epoch=epoch, step=7, steps_per_epoch=195) for epoch in (0, 9, 10, 505, 999)]
    last = lr / 2 * (1 + math.cos(math.pi * 989 / 990))
    assert rates == pytest.approx([0.003, lr, lr, lr / 2, last], rel=1e-9)


def test_the_published_constants() -> None:
    moco, byol = MoCoStageSettings(), BYOLStageSettings()
    barlow, vicreg = BarlowTwinsStageSettings(), VICRegStageSettings()
    assert (moco.temperature, moco.queue, moco.tau, moco.projector) == (0.2, 32768, (0.99, 0.999), (2048, 128))
    assert (byol.tau, byol.projector, byol.predictor) == ((0.99, 1.0), (4096, 256), (4096,))
    assert (barlow.redundancy, barlow.scale, barlow.projector) == (0.005, 0.1, (2048, 2048, 2048))
    assert (vicreg.invariance_weight, vicreg.variance_weight, vicreg.covariance_weight) == (25, 25, 1)
    assert vicreg.projector == (2048, 2048, 2048)


@pytest.mark.parametrize(
    ("view", "scale", "saturation", "blur", "solarize"),
    [
        (MoCoStageSettings().view, 0.08, 0.4, 0.5, 0.0),
        (BYOLStageSettings().view1, 0.08, 0.2, 0.0, 0.0),
        (BYOLStageSettings().view2, 0.08, 0.2, 0.0, 0.2),
        (BarlowTwinsStageSettings().view1, 0.08, 0.2, 0.0, 0.0),
        (BarlowTwinsStageSettings().view2, 0.08, 0.2, 0.0, 0.2),
        (VICRegStageSettings().view, 0.2, 0.2, 0.5, 0.1),
    ],
)
def test_the_published_views(view: StrongView, scale: float, saturation: float, blur: float, solarize: float) -> None:
    assert view.crop_scale == (scale, 1.0)
    assert view.crop_ratio == pytest.approx((3 / 4, 4 / 3))
    assert view.jitter == (0.4, 0.4, saturation, 0.1)
    assert (view.jitter_prob, view.grayscale_prob, view.flip_prob) == (0.8, 0.2, 0.5)
    assert (view.blur_prob, view.blur_sigma) == (blur, (0.1, 2.0))
    assert (view.solarize_prob, view.solarize_threshold) == (solarize, 128 / 255)
    assert (view.interpolation, view.order) == ("bicubic", "crop_first")


@pytest.mark.parametrize(
    ("name", "heads", "norms"),
    [
        ("mocov2", {"projector": 512 * 2048 + 2048 + 2048 * 128 + 128}, 0),
        ("byol", {"projector": 3_158_272, "predictor": 2_109_696}, 1),
        ("barlow_twins", {"projector": 9_451_520}, 2),
        ("vicreg", {"projector": 9_451_520}, 2),
    ],
)
def test_the_published_heads(name: str, heads: dict[str, int], norms: int) -> None:
    """Parameter counts behind 512 features, and how many hidden layers are batch-normalised."""
    plan = PUBLISHED[name]
    sizes = {"projector": [512, *plan.projector]}
    if isinstance(plan, BYOLStageSettings):
        sizes["predictor"] = [256, *plan.predictor, 256]
    for part, expected in heads.items():
        with torch.device("meta"):
            head = mlp(sizes[part], batch_norm=norms > 0)
        assert sum(p.numel() for p in head.parameters()) == expected
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == norms
    built = stage_of(name).get_submodule("projector").children()
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in built) == (norms > 0)


def test_moco_decays_vectors_and_lars_does_not() -> None:
    for name in NAMES:
        stage = stage_of(name, weight_decay=0.5, lr=0.1, lr_batch=4)
        optimizer = build_optimizer(stage.plan, stage)
        assert isinstance(optimizer, LARS) == (name != "mocov2")
        bias = stage.get_parameter("projector.0.bias")
        before = bias.detach().clone()
        for p in stage.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        optimizer.step()
        assert torch.allclose(bias, before * (0.95 if name == "mocov2" else 1.0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_incomplete_batches_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=r"stage1\.drop_last: must be True"):
        recipe_of(name, drop_last=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_method_is_listed_as_not_robust(name: str) -> None:
    method = METHODS.get(name)
    assert not method.info.robust
    assert method.native_encoder == {"stem_padding": 2, "stem_init": "default", "normalisation": "cifar"}
