"""RoCL: its losses against slow references, its attack against a naive one, its recipe number by number."""

import math
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy_stage import StopAfter

from bench import rng
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.method import Method, MethodContext
from bench.nn import mlp
from bench.optim import build_optimizer
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe, load_tier
from bench.train import train
from bench.zoo import digest
from methods.losses import nt_xent
from methods.rocl import RoCL, RoCLSettings, RoCLStage, directed_nt_xent, instance_loss

CPU = torch.device("cpu")
EPS = 8 / 255
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})


def recipe_of(tier: Tier = TOY, fidelity: Fidelity = "uniform", **stage: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 16, 16), "num_classes": 4},
        **{"train_images": 13, "test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    return build_recipe(
        method="rocl",
        config_type=RoCL.config_type,
        native_encoder=RoCL.native_encoder,
        dataset=facts,
        tier=tier,
        fidelity=fidelity,
        overrides={f"stage1.{key}": value for key, value in stage.items()},
    )


def context(recipe: Recipe, seed: int = 0) -> MethodContext:
    return MethodContext(recipe, seed=seed, device=CPU, images=pixels(14))


def method_of(**stage: Any) -> tuple[Method, RoCLStage]:
    small = {"epochs": 2, "warmup_epochs": 1, "batch_size": 6, "projector": (8, 4), "steps": 2}
    recipe = recipe_of(**{**small, **stage})
    method = RoCL(recipe.config)
    (built,) = method.stages(context(recipe))
    assert isinstance(built, RoCLStage)
    return method, built.train()


def stage_of(**stage: Any) -> RoCLStage:
    return method_of(**stage)[1]


def generator(*names: str | int) -> torch.Generator:
    return rng.generator(0, "test", *names)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("embeddings", seed), dtype=torch.float64)


def pixels(count: int, seed: int = 0) -> Tensor:
    shape = (count, 3, 16, 16)
    return torch.randint(0, 256, shape, generator=generator("pixels", seed), dtype=torch.uint8)


def unit_images(count: int, seed: int = 0) -> Tensor:
    return pixels(count, seed).float() / 255


# Losses


def slow_loss(views: list[Tensor], temperature: float, guard: float = 0.0) -> Tensor:
    """The formula of the released code, one pair after the other; ``guard`` is its protection against log 0."""
    n = len(views[0])
    z = torch.cat(views)
    u = [row / (row.norm() + guard) for row in z]
    total = torch.zeros((), dtype=z.dtype)
    for i in range(len(u)):
        e = [torch.exp(torch.dot(u[i], u[k].detach()) / temperature) for k in range(len(u))]
        denominator = sum((e[k] for k in range(len(u)) if k != i), torch.zeros((), dtype=z.dtype)) + guard
        for j in range(len(u)):
            if j != i and j % n == i % n:
                total = total - torch.log(e[j] / denominator + guard)
    return total / len(u)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.5, 0.2])
def test_the_loss_and_its_gradient_are_those_of_the_formula(count: int, n: int, temperature: float) -> None:
    z = embeddings(count * n, 7)
    ours, reference = z.clone().requires_grad_(), z.clone().requires_grad_()
    value = directed_nt_xent(ours.chunk(count), temperature)
    expected = slow_loss(list(reference.chunk(count)), temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(value, ours) + torch.autograd.grad(expected, reference)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_guards_that_are_left_out_would_hardly_matter() -> None:
    views = list(embeddings(24, 7).chunk(3))
    assert float(directed_nt_xent(views, 0.5)) == pytest.approx(float(slow_loss(views, 0.5, guard=1e-8)), abs=1e-5)


def test_value_anchors() -> None:
    n, alike, apart = 512, torch.ones(512, 4), torch.eye(512)
    # All embeddings alike: each of the 3N - 1 others is as likely. Three views make it twice the mean term.
    assert float(directed_nt_xent([alike] * 3, 0.5)) == pytest.approx(2 * math.log(3 * n - 1), rel=1e-5)
    assert 2 * math.log(3 * n - 1) == pytest.approx(14.67, abs=0.01)
    # Views alike, images orthogonal: two positives of exp(2) and 3N - 3 negatives of exp(0).
    floor = 2 * math.log(2 + (3 * n - 3) / math.exp(2))
    assert float(directed_nt_xent([apart] * 3, 0.5)) == pytest.approx(floor, rel=1e-5)
    assert floor == pytest.approx(10.69, abs=0.01)
    assert float(directed_nt_xent([alike] * 2, 0.5)) == pytest.approx(math.log(2 * n - 1), rel=1e-5)


def test_of_two_views_it_is_simclrs_loss_with_half_the_gradient() -> None:
    z = embeddings(128, 32)
    directed, mutual = z.clone().requires_grad_(), z.clone().requires_grad_()
    first, second = mutual.chunk(2)
    ours, simclr = directed_nt_xent(directed.chunk(2), 0.5), nt_xent(first, second, 0.5)
    torch.testing.assert_close(ours, simclr, rtol=1e-12, atol=0)
    (a,), (b,) = torch.autograd.grad(ours, directed), torch.autograd.grad(simclr, mutual)
    assert float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0)) > 0.99
    assert float(a.norm() / b.norm()) == pytest.approx(0.5, abs=0.05)


def test_the_attacks_objective_is_what_moves_of_the_whole_loss() -> None:
    n, targets = 6, embeddings(6, 7, seed=1)
    z, whole = (embeddings(n, 7).requires_grad_() for _ in range(2))
    (short,) = torch.autograd.grad(instance_loss(z, targets, 0.5).sum() / (2 * n), z)
    (full,) = torch.autograd.grad(directed_nt_xent([whole, targets], 0.5), whole)
    torch.testing.assert_close(short, full, rtol=1e-10, atol=1e-14)


def test_no_image_moves_anothers_objective() -> None:
    z = embeddings(4, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(instance_loss(z, embeddings(4, 7, seed=1), 0.5)[2], z)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


# The attack


def naive_attack(stage: RoCLStage, first: Tensor, second: Tensor, start: Tensor) -> Tensor:
    """The released attack: the whole loss, both views through the eval-mode network in each step."""
    network = nn.Sequential(deepcopy(stage.encoder), deepcopy(stage.projector)).eval()
    x = start.clamp(0, 1)
    for _ in range(stage.plan.steps):
        x = x.detach().requires_grad_()
        groups = min(stage.plan.attack_groups, len(x))
        parts = zip(x.tensor_split(groups), second.tensor_split(groups), strict=True)
        loss = torch.stack([slow_loss(list(network(torch.cat(part)).chunk(2)), 0.5) for part in parts]).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        x = (x + 0.007 / 0.0314 * EPS * gradient.sign()).clamp(0, 1)
        x = torch.maximum(torch.minimum(x, first + EPS), first - EPS)
    return x.detach()


@pytest.mark.parametrize(("groups", "count"), [(1, 7), (2, 7), (3, 7), (2, 4)])
def test_the_attack_is_the_released_one(groups: int, count: int) -> None:
    stage = stage_of(attack_groups=groups, steps=3, batch_size=7).double()
    first, second = unit_images(count).double(), unit_images(count, seed=1).double()
    attacked = stage._attack(first, second, generator("start"))
    noise = torch.rand(first.shape, generator=generator("start"), dtype=torch.float64)
    start = first + EPS * (2 * noise - 1)
    expected = naive_attack(stage, first, second, start)
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-9)
    assert float((attacked - first).abs().max()) <= EPS
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert (attacked != start.clamp(0, 1)).flatten(1).any(1).all()


def test_groups_of_single_images_are_refused() -> None:
    with pytest.raises(BenchError, match=r"attack_groups 4 of a batch_size of 7 would hold single images.*at most 3"):
        stage_of(attack_groups=4, batch_size=7)


def test_the_attack_confuses_and_leaves_no_trace() -> None:
    stage = stage_of(steps=7)
    first, second = unit_images(6), unit_images(6, seed=1)
    before = digest(stage.state_dict())
    attacked = stage._attack(first, second, generator("start"))
    assert digest(stage.state_dict()) == before
    assert all(part.training for part in stage.modules())
    assert all(p.requires_grad and p.grad is None for p in stage.parameters())
    network = nn.Sequential(deepcopy(stage.encoder), deepcopy(stage.projector)).eval()
    with torch.no_grad():
        confused = directed_nt_xent([network(attacked), network(second)], 0.5)
        clean = directed_nt_xent([network(first), network(second)], 0.5)
    assert confused > clean + 1e-3


@pytest.mark.parametrize(("groups", "alone"), [(1, False), (2, True)])
def test_negatives_come_from_the_own_group(groups: int, alone: bool) -> None:
    stage = stage_of(attack_groups=groups)
    first, second = unit_images(6), unit_images(6, seed=1)
    other = torch.cat([second[:3], 1 - second[3:]])
    attacked, changed = (stage._attack(first, views, generator("start")) for views in (second, other))
    assert torch.equal(attacked[:3], changed[:3]) == alone
    assert not torch.equal(attacked[3:], changed[3:])


# The step


def test_a_step_is_the_two_passes_in_order() -> None:
    stage = stage_of()
    twin = deepcopy(stage)
    views = stage.views(pixels(6), generator("views"), torch.arange(6))
    first, second, noise = twin.views(pixels(6), generator("views"), torch.arange(6))
    loss = stage(views)

    attacked = twin._attack(first, second, noise)
    pair = twin.projector(twin.encoder(torch.cat([attacked, second]))).double()
    halves = [[view[part] for view in pair.chunk(2)] for part in (slice(0, 3), slice(3, 6))]
    extra = (slow_loss(halves[0], 0.5) + slow_loss(halves[1], 0.5)) / 2
    triple = twin.projector(twin.encoder(torch.cat([first, second, attacked]))).double()
    contrastive = slow_loss(list(triple.chunk(3)), 0.5)

    assert float(loss.scalars["extra"]) == pytest.approx(extra.item(), rel=1e-5)
    assert float(loss.scalars["contrastive"]) == pytest.approx(contrastive.item(), rel=1e-5)
    assert loss.total.item() == pytest.approx((contrastive + extra / 256).item(), rel=1e-5)
    # Both passes moved the running statistics, in this order, and nothing else did.
    for name, value in stage.encoder.state_dict().items():
        assert torch.equal(value, twin.encoder.state_dict()[name]), name
    assert int(stage.encoder.get_buffer("backbone.bn1.num_batches_tracked")) == 2


def test_the_weight_of_the_extra_term_is_a_divisor_upstream() -> None:
    stage = stage_of(regularisation=0.0)
    loss = stage(stage.views(pixels(6), generator("views"), torch.arange(6)))
    assert loss.total == loss.scalars["contrastive"]


def test_the_views_are_two_draws() -> None:
    stage = stage_of()
    first, second, _ = stage.views(pixels(6), generator("views"), torch.arange(6))
    assert first.shape == second.shape == (6, 3, 16, 16)
    assert not torch.equal(first, second)
    again, _, _ = stage.views(pixels(6), generator("views"), torch.arange(6))
    assert torch.equal(first, again)


# The recipe


def test_published_defaults() -> None:
    expected = {
        **{"epochs": 1000, "batch_size": 512, "drop_last": False, "precision": "fp32"},
        **{"optimizer": "lars", "lr": 1.5, "lr_batch": None, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-6},
        **{"lars_eta": 0.001, "lars_clip": False, "lars_exclude_vectors": False, "lars_lr_in_momentum": False},
        **{"schedule": "rocl", "warmup_epochs": 10, "warmup_start": 0.1},
        **{"temperature": 0.5, "regularisation": 1 / 256, "projector": (2048, 128)},
        **{"steps": 7, "step_size": pytest.approx(0.007 / 0.0314), "start": "uniform-clamped", "attack_groups": 2},
    }
    dump = RoCLSettings().model_dump()
    assert {key: dump[key] for key in expected} == expected
    view = {
        **{"order": "jitter_first", "crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)},
        **{"interpolation": "bilinear", "jitter": (0.4, 0.4, 0.4, 0.1), "jitter_prob": 0.8, "grayscale_prob": 0.2},
        **{"flip_prob": 0.5, "blur_prob": 0.0, "solarize_prob": 0.0},
    }
    assert {key: dump["view"][key] for key in view} == view
    assert RoCLSettings().effective_lr == 1.5


def test_the_schedule_at_its_key_epochs() -> None:
    plan = RoCLSettings()
    lr = [plan.rate(epoch=epoch, step=0, steps_per_epoch=98) for epoch in range(1000)]
    assert lr[:10] == pytest.approx([0.1 * (1 + 1.4 * (epoch + 1)) for epoch in range(10)])
    assert lr[0] == pytest.approx(0.24)
    assert lr[9] == lr[10] == pytest.approx(1.5)
    assert lr[510] == pytest.approx(0.75)
    assert lr[999] == pytest.approx(4.5e-4, rel=0.01)
    assert plan.rate(epoch=5, step=97, steps_per_epoch=98) == lr[5]


def test_the_optimiser_scales_every_tensor() -> None:
    head = mlp([4, 8, 4], batch_norm=True)
    optimizer = build_optimizer(RoCLSettings(lr=0.3, weight_decay=0.01), head)
    expected = [p.detach().clone() for p in head.parameters()]
    buffers = [torch.zeros_like(p) for p in expected]
    assert any(float(p.norm()) == 0 for p in expected)  # batch-norm's shifts, for which r = 1
    for step in range(3):
        for number, p in enumerate(head.parameters()):
            p.grad = torch.randn(p.shape, generator=generator("gradient", step, number))
        for number, p in enumerate(head.parameters()):
            assert p.grad is not None
            g, w = p.grad.clone(), expected[number]
            zero = float(w.norm()) == 0
            r = 1.0 if zero else 0.001 * float(w.norm()) / (float(g.norm()) + 0.01 * float(w.norm()) + 1e-8)
            buffers[number] = 0.9 * buffers[number] + r * (g + 0.01 * w)
            expected[number] = w - 0.3 * buffers[number]
        optimizer.step()
    for p, value in zip(head.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-5, atol=1e-7)


def test_the_published_network() -> None:
    recipe = recipe_of(load_tier("paper"), fidelity="native")
    stage = RoCLStage(RoCLSettings(), context(recipe))
    assert sum(p.numel() for p in stage.encoder.parameters()) == 11_168_832
    assert len(stage.encoder.state_dict()) == 120  # no buffers of a normalisation
    assert sum(p.numel() for p in stage.projector.parameters()) == 1_312_896
    assert recipe.threat.eps * 0.007 / 0.0314 == pytest.approx(stage.plan.step_size * EPS)


# Training


def test_training_changes_the_encoder_and_the_result_is_it(tmp_path: Path) -> None:
    method, stage = method_of()
    before = deepcopy(stage.encoder.state_dict())
    progress = train(stage, pixels(14), Job(tmp_path, "o", 0, CPU))
    assert [math.isfinite(entry["loss"]) for entry in progress.history] == [True, True]
    assert set(progress.history[0]) == {"loss", "contrastive", "extra", "lr"}
    # 14 images in batches of 6 make 3 steps, each of two passes of the network.
    assert int(stage.encoder.get_buffer("backbone.bn1.num_batches_tracked")) == 2 * 2 * 3
    result = method.result().eval()
    assert not torch.equal(result.state_dict()["backbone.conv1.weight"], before["backbone.conv1.weight"])
    rebuilt = context(recipe_of(), seed=1).new_encoder("any").eval()
    rebuilt.load_state_dict(result.state_dict())
    features = rebuilt(unit_images(4))
    torch.testing.assert_close(features, stage.encoder.eval()(unit_images(4)), rtol=0, atol=0)
    torch.testing.assert_close(result.prepared()(unit_images(4)), features, rtol=1e-5, atol=1e-6)


def test_a_stopped_training_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, broken, continued = (stage_of() for _ in range(3))
    run = partial(train, images=pixels(14))
    run(whole, job=Job(tmp_path / "whole", "o", 0, CPU))
    with pytest.raises(InterruptedRunError):
        run(broken, job=Job(tmp_path / "parts", "o", 0, CPU, StopAfter(1)))
    run(continued, job=Job(tmp_path / "parts", "o", 0, CPU))
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert digest(broken.state_dict()) != digest(whole.state_dict())
