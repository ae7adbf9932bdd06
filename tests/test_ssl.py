"""MoCo v2+, BYOL, Barlow Twins and VICReg: losses against loops, momentum rule, queue, recipe number by number."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.data.views import StrongView
from bench.errors import BenchError, InterruptedRunError
from bench.method import METHODS, MethodContext, Stage
from bench.nn import mlp
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe, load_tier
from bench.reporting import Silent
from bench.stop import Stop
from bench.train import train
from bench.train.optim import LARS, build_optimizer
from bench.train.schedule import learning_rate
from bench.zoo import digest
from methods.barlow_twins import BarlowTwinsStage, BarlowTwinsStageSettings, barlow_twins_loss
from methods.byol import BYOLStage, BYOLStageSettings, prediction_error
from methods.losses import off_diagonal
from methods.mocov2 import MoCoStage, MoCoStageSettings, queue_contrast
from methods.momentum import MomentumNetwork
from methods.vicreg import VICRegStage, VICRegStageSettings, covariance_loss, invariance_loss, variance_loss

CPU = torch.device("cpu")
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})
NAMES = ("mocov2", "byol", "barlow_twins", "vicreg")
WITH_MOMENTUM = ("mocov2", "byol")
PUBLISHED: dict[str, MoCoStageSettings | BYOLStageSettings | BarlowTwinsStageSettings | VICRegStageSettings] = {
    "mocov2": MoCoStageSettings(),
    "byol": BYOLStageSettings(),
    "barlow_twins": BarlowTwinsStageSettings(),
    "vicreg": VICRegStageSettings(),
}


def generator(*names: str | int) -> torch.Generator:
    return rng.generator(0, "test", *names)


def pixels(count: int, size: int = 12) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=generator("pixels"), dtype=torch.uint8)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("embeddings", seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(embeddings(*shape, seed=seed), dim=-1)


def recipe_of(method: str, tier: Tier = TOY, **stage: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 12, 12), "num_classes": 4, "train_images": 13},
        **{"test_images": 4, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    kind = METHODS.get(method)
    return build_recipe(
        method=method,
        config_type=kind.config_type,
        native_encoder=kind.native_encoder,
        dataset=facts,
        tier=tier,
        overrides={f"stage1.{key}": value for key, value in stage.items()},
    )


def stage_of(method: str, images: int = 13, **stage: Any) -> Stage:
    small = {"epochs": 2, "warmup_epochs": 1, "batch_size": 4, "projector": [8, 6], "precision": "fp32"}
    recipe = recipe_of(method, **{**small, **({"predictor": [7]} if method == "byol" else {}), **stage})
    context = MethodContext(recipe, seed=0, device=CPU, images=pixels(images))
    (built,) = METHODS.get(method)(recipe.config).stages(context)
    return built.train()


def views_of(stage: Stage, step: int = 0) -> tuple[Tensor, Tensor]:
    batch = stage.plan.batch_size
    views = stage.views(pixels(13)[:batch], generator("views", step), torch.arange(batch))
    assert isinstance(views, tuple)
    return views


def counters(module: nn.Module) -> set[int]:
    return {int(value) for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}


def outputs(stage: Stage, view: Tensor) -> Tensor:
    """The projections of ``view`` by copies of the stage's networks, whose statistics so stay as they were."""
    projector = stage.get_submodule("projector")
    result: Tensor = deepcopy(projector)(deepcopy(stage.encoder)(view))
    return result


# Losses


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_queue_contrast_against_loops(temperature: float) -> None:
    query, key, queue = unit(5, 3), unit(5, 3, seed=1), unit(7, 3, seed=2)
    total = 0.0
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / temperature)
        negatives = sum(math.exp(float(q @ n) / temperature) for n in queue)
        total -= math.log(positive / (positive + negatives)) / len(query)
    found = queue_contrast(query, key, queue, temperature, filled=torch.tensor(7))
    assert float(found) == pytest.approx(total, abs=1e-12)
    part = queue_contrast(query, key, queue, temperature, filled=torch.tensor(3))
    assert torch.equal(part, queue_contrast(query, key, queue[:3], temperature, filled=torch.tensor(3)))
    assert float(queue_contrast(query, key, queue, temperature, filled=torch.tensor(0))) == 0


@pytest.mark.parametrize("length", [1, 10, 32768])
def test_queue_contrast_of_a_perfect_key_among_orthogonal_negatives(length: int) -> None:
    """ln(1 + L e^(-1/T)): 5.40 for the published L and T."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    queue = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(length, 2)
    found = float(queue_contrast(query, query, queue, 0.2, filled=torch.tensor(length)))
    assert found == pytest.approx(math.log1p(length * math.exp(-5)), abs=1e-12)
    if length == 32768:
        assert found == pytest.approx(5.40, abs=0.005)


def test_prediction_error_is_the_squared_distance_of_unit_vectors() -> None:
    p, z = embeddings(6, 4), embeddings(6, 4, seed=1)
    slow = sum(float(((a / a.norm() - b / b.norm()) ** 2).sum()) for a, b in zip(p, z, strict=True)) / 6
    assert float(prediction_error(p, z)) == pytest.approx(slow, abs=1e-12)
    assert float(prediction_error(p, 3 * p)) == pytest.approx(0, abs=1e-12)
    assert float(prediction_error(p, -p)) == pytest.approx(4, abs=1e-12)


def slow_barlow(z1: Tensor, z2: Tensor, redundancy: float) -> float:
    (count, dim), total = z1.shape, 0.0
    standard = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2)]
    for i in range(dim):
        for j in range(dim):
            m = sum(float(standard[0][n, i] * standard[1][n, j]) for n in range(count)) / count
            total += (m - 1) ** 2 if i == j else redundancy * m**2
    return total


@pytest.mark.parametrize("redundancy", [0.0, 0.005, 1.0])
def test_barlow_twins_loss_against_loops(redundancy: float) -> None:
    z1, z2 = embeddings(6, 4), embeddings(6, 4, seed=1)
    found = float(barlow_twins_loss(z1, z2, redundancy=redundancy))
    assert found == pytest.approx(slow_barlow(z1, z2, redundancy), abs=1e-11)
    moved = barlow_twins_loss(z1 * 100 - 3, z2 * 100 + 7, redundancy=redundancy)  # standardised away
    assert float(moved) == pytest.approx(found, rel=1e-4)


def test_barlow_twins_loss_where_the_correlation_is_known() -> None:
    """Orthogonal columns of +-1: M is the identity (loss 0); one feature twice: two entries off it are 1."""
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(barlow_twins_loss(z, z, redundancy=0.005)) == pytest.approx(0, abs=1e-8)
    twice = z[:, :1].expand(4, 2)
    assert float(barlow_twins_loss(twice, twice, redundancy=0.005)) == pytest.approx(0.01, abs=1e-6)
    assert float(barlow_twins_loss(z, -z, redundancy=0.005)) == pytest.approx(8, abs=1e-3)  # M = -I: 2 (-2)^2


def test_vicreg_terms_against_loops() -> None:
    z1, z2 = 0.5 * embeddings(6, 4), embeddings(6, 4, seed=1)
    entries = [float(a - b) ** 2 for a, b in zip(z1.flatten(), z2.flatten(), strict=True)]
    assert float(invariance_loss(z1, z2)) == pytest.approx(sum(entries) / 24, abs=1e-12)
    means = [sum(float(z1[n, j]) for n in range(6)) / 6 for j in range(4)]
    covariance = [
        [sum(float((z1[n, i] - means[i]) * (z1[n, j] - means[j])) for n in range(6)) / 5 for j in range(4)]
        for i in range(4)
    ]
    hinges = [max(0.0, 1 - math.sqrt(covariance[j][j] + 1e-4)) for j in range(4)]
    assert sum(hinges) > 0
    assert float(variance_loss(z1)) == pytest.approx(sum(hinges) / 4, abs=1e-12)
    squares = sum(covariance[i][j] ** 2 for i in range(4) for j in range(4) if i != j)
    assert float(covariance_loss(z1)) == pytest.approx(squares / 4, abs=1e-12)


def test_vicreg_terms_of_collapsed_and_of_spread_embeddings() -> None:
    collapsed = torch.ones(8, 3, dtype=torch.float64)
    assert float(variance_loss(collapsed)) == pytest.approx(1 - math.sqrt(1e-4), abs=1e-12)
    assert float(covariance_loss(collapsed)) == 0
    spread = 10 * embeddings(8, 3)
    assert float(variance_loss(spread)) == 0
    assert float(invariance_loss(collapsed, collapsed + 2)) == pytest.approx(4, abs=1e-12)


def test_off_diagonal_keeps_all_else_and_passes_no_gradient_through_the_diagonal() -> None:
    matrix = embeddings(4, 4).requires_grad_()
    eye = torch.eye(4, dtype=torch.bool)
    assert torch.equal(off_diagonal(matrix)[~eye], matrix[~eye])
    assert torch.equal(off_diagonal(matrix)[eye], torch.zeros(4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(off_diagonal(matrix).sum(), matrix)
    assert torch.equal(gradient, (~eye).double())


def test_gradients_are_those_of_finite_differences() -> None:
    z1, z2 = embeddings(5, 3).requires_grad_(), embeddings(5, 3, seed=1).requires_grad_()
    queue = unit(4, 3, seed=2)
    for loss in (
        lambda a, b: queue_contrast(a, b, queue, 0.2, filled=torch.tensor(3)),
        prediction_error,
        lambda a, b: barlow_twins_loss(a, b, redundancy=0.005),
        lambda a, b: invariance_loss(a, b) + variance_loss(a) + covariance_loss(b),
    ):
        assert torch.autograd.gradcheck(loss, (z1, z2))


# Momentum networks


@pytest.mark.parametrize("tau", [(0.99, 0.999), (0.99, 1.0), (0.5, 0.5)])
def test_the_momentum_rule_against_a_loop(tau: tuple[float, float]) -> None:
    """m <- tau m + (1 - tau) p with a fresh p each time; tau from the formula with the cosine."""
    online, updates = mlp([3, 4, 2], batch_norm=True).double(), 8
    momentum = MomentumNetwork(online, tau=tau, updates=updates).double()
    slow = [p.detach().clone() for p in online.parameters()]
    for k in range(updates):
        rate = tau[1] - (tau[1] - tau[0]) * (math.cos(math.pi * k / updates) + 1) / 2
        if k in (0, updates // 2):
            assert rate == pytest.approx({0: tau[0], updates // 2: (tau[0] + tau[1]) / 2}[k], abs=1e-12)
        with torch.no_grad():
            for i, p in enumerate(online.parameters()):
                p.add_(embeddings(*p.shape, seed=100 * k + i))
                slow[i] = rate * slow[i] + (1 - rate) * p
        momentum.follow(online)
        for found, expected in zip(momentum.network.parameters(), slow, strict=True):
            assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_batch_norm_buffers_do_not_follow() -> None:
    online = mlp([3, 4, 2], batch_norm=True)
    momentum = MomentumNetwork(online, tau=(0.0, 0.0), updates=4)
    before = {name: buffer.clone() for name, buffer in momentum.network.named_buffers()}
    online.train()(embeddings(6, 3).float())
    momentum.follow(online)
    after = dict(momentum.network.named_buffers())
    assert len(before) == 3
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(torch.equal(buffer, before[name]) for name, buffer in online.named_buffers())


def test_a_momentum_network_ends_frozen_where_tau_ends_at_one() -> None:
    online = nn.Linear(2, 2)
    momentum = MomentumNetwork(online, tau=(0.9, 1.0), updates=4)
    momentum.updates_done.fill_(4)
    before = deepcopy(momentum.network.state_dict())
    with torch.no_grad():
        online.weight.add_(1)
    momentum.follow(online)
    assert torch.allclose(momentum.network.state_dict()["weight"], before["weight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_momentum_networks_have_parameters_of_the_online_ones_but_statistics_of_their_own(name: str) -> None:
    stage = stage_of(name, tau=[0.0, 0.0])  # copies every parameter, which shows what it does not copy
    momentum = stage.get_submodule("momentum")
    assert momentum.training
    assert not any(p.requires_grad for p in momentum.parameters())
    optimizer = build_optimizer(stage.plan, stage)
    stage(views_of(stage)).total.backward()
    assert all(p.grad is None for p in momentum.parameters())
    optimizer.step()
    stage.after_step()
    online = nn.Sequential(stage.encoder, stage.get_submodule("projector"))
    network = momentum.get_submodule("network")
    assert all(torch.equal(m, p) for m, p in zip(network.parameters(), online.parameters(), strict=True))
    stage(views_of(stage, 1))
    assert counters(network) == counters(online) == {4}  # each view is a batch of its own, in both
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in momentum.parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    stage(views_of(stage, 2))
    theirs, ours = online.state_dict(), network.state_dict()
    moved = [key for key in theirs if key.endswith("running_mean")]
    assert all(not torch.equal(theirs[key], ours[key]) for key in moved)


# MoCo


def moco(**stage: Any) -> MoCoStage:
    built = stage_of("mocov2", **stage)
    assert isinstance(built, MoCoStage)
    return built


def test_moco_contrasts_each_view_with_the_other_views_queue() -> None:
    stage = moco(queue=8)
    assert stage.queues.shape == (2, 8, 6)
    assert torch.allclose(stage.queues.norm(dim=2), torch.ones(2, 8), atol=1e-6)
    views = views_of(stage)
    q = [nn.functional.normalize(outputs(stage, view), dim=1) for view in views]  # equal networks: k = q at first
    contrast = partial(queue_contrast, temperature=0.2, filled=torch.tensor(8))
    expected = contrast(q[0], q[1], stage.queues[1]) + contrast(q[1], q[0], stage.queues[0])
    loss = stage(views)
    assert float(loss.total.detach()) == pytest.approx(float(expected.detach()) / 2, abs=1e-5)
    assert float(loss.scalars["queue"]) == 8


def test_moco_replaces_the_oldest_keys_after_the_step() -> None:
    stage = moco(queue=8)
    seen = []
    for step in range(3):
        before = stage.queues.clone()
        views = views_of(stage, step)
        keys = [nn.functional.normalize(deepcopy(stage.momentum)(view), dim=1) for view in views]
        stage(views)
        assert torch.equal(stage.queues, before)  # the step's own keys are no negatives of its own
        stage.after_step()
        seen.append(torch.stack(keys))
        place = (4 * step) % 8
        assert torch.allclose(stage.queues[:, place : place + 4], seen[-1], atol=1e-6)
        other = (place + 4) % 8
        assert torch.equal(stage.queues[:, other : other + 4], before[:, other : other + 4])
    assert int(stage.oldest) == 4
    assert torch.allclose(stage.queues, torch.cat([seen[2], seen[1]], dim=1), atol=1e-6)


@pytest.mark.parametrize(
    ("queue", "batch", "images", "length"),
    [(32768, 256, 50_000, 32768), (32768, 64, 1437, 1408), (32768, 64, 5000, 4992), (100, 16, 1437, 96), (8, 8, 8, 8)],
)
def test_the_queue_holds_whole_batches_and_no_image_twice(queue: int, batch: int, images: int, length: int) -> None:
    settings = MoCoStageSettings(queue=queue, batch_size=batch)
    assert settings.queue_length(images) == length


def test_random_keys_count_as_published_and_not_where_the_warm_up_is_too_short() -> None:
    assert not MoCoStageSettings().starts_empty(50_000)
    assert not MoCoStageSettings(epochs=100, warmup_epochs=1).starts_empty(50_000)  # 195 steps; 128 fill the queue
    assert MoCoStageSettings(warmup_epochs=0).starts_empty(50_000)
    published, scaled = moco(queue=8, warmup_epochs=1), moco(queue=8, warmup_epochs=0)
    assert (int(published.filled), int(scaled.filled)) == (8, 0)
    assert float(scaled(views_of(scaled)).total.detach()) == 0
    scaled.after_step()
    assert int(scaled.filled) == 4
    known = scaled(views_of(scaled, 1)).total
    scaled.queues[:, 4:] = 7.0  # where no key is yet, the queue's contents are of no account
    assert float(scaled(views_of(scaled, 1)).total.detach()) == pytest.approx(float(known.detach()), abs=1e-6)
    assert float(known.detach()) > 0
    for _ in range(2):
        scaled.after_step()
    assert int(scaled.filled) == 8


def test_a_queue_without_room_for_a_batch_is_refused_when_the_stage_is_built() -> None:
    with pytest.raises(BenchError, match=r"room for 3 .*queue = 3, 13 training images.*--set stage1.batch_size=3"):
        moco(queue=3)
    with pytest.raises(BenchError, match=r"room for 2 .*2 training images.*--set stage1.batch_size=2"):
        moco(images=2)


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


# The recipe, number by number


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
    assert not plan.lars_lr_in_momentum
    assert plan.steps_per_epoch(50_000) == 195
    rates = [learning_rate(plan, epoch=epoch, step=7, steps_per_epoch=195) for epoch in (0, 9, 10, 505, 999)]
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
    with pytest.raises(BenchError, match=r"stage1\.drop_last: Input should be True"):
        recipe_of(name, drop_last=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_method_is_listed_as_not_robust(name: str) -> None:
    method = METHODS.get(name)
    assert not method.info.robust
    assert method.native_encoder == {"stem_padding": 2, "stem_init": "default", "normalisation": "cifar"}


# Training


class Impatient(Silent):
    """Asks for a stop after the second step."""

    def __init__(self) -> None:
        self.stop, self.steps = Stop(), 0

    def advance(self, amount: int, detail: str = "") -> None:
        self.steps += 1
        self.stop.requested = self.steps >= 2


@pytest.mark.parametrize("name", NAMES)
def test_training_learns_continues_bit_for_bit_and_exports_what_it_trained(name: str, tmp_path: Path) -> None:
    images, (whole, broken, continued) = pixels(13), (stage_of(name) for _ in range(3))
    run = partial(train, images=images, owner="o", seed=0, device=CPU)
    untrained = digest(whole.encoder.state_dict())
    progress = run(whole, folder=tmp_path / "whole")
    assert len(progress.history) == 2
    assert all(math.isfinite(value) for epoch in progress.history for value in epoch.values())
    assert digest(whole.encoder.state_dict()) != untrained
    impatient = Impatient()
    with pytest.raises(InterruptedRunError):
        run(broken, folder=tmp_path / "parts", reporter=impatient, stop=impatient.stop)
    run(continued, folder=tmp_path / "parts")
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
