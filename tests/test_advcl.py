"""AdvCL: its views, branches, attacks and schedule against the published ones, written the slow way."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from advcl_stages import EPS, batches_seen, labelled_stage, views_of
from attacked_images import replace_pgd
from torch import Tensor
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD
from bench.data.views import StrongView, WeakView
from bench.optim import build_optimizer
from methods.advcl import AdvCLConfig, AdvCLSettings, AdvCLStage, multi_view_contrastive
from methods.high_frequency import high_frequency, high_pass
from methods.simclr import SimCLRStageSettings

# The published numbers


def test_defaults_are_the_published_ones() -> None:
    config = AdvCLConfig()
    plan = config.stage2
    assert (plan.epochs, plan.batch_size, plan.drop_last, plan.precision) == (1000, 512, False, "fp32")
    assert (plan.optimizer, plan.lr, plan.lr_batch, plan.effective_lr) == ("sgd", 0.5, None, 0.5)
    assert (plan.momentum, plan.nesterov, plan.weight_decay) == (0.9, False, 1e-4)
    assert (plan.schedule, plan.warmup_epochs, plan.warmup_start, plan.lr_floor) == ("advcl", 10, 0.01, 5e-4)
    assert (plan.temperature, plan.lam, plan.projection_dim) == (0.5, 0.2, 128)
    assert plan.clusters == (2, 10, 50, 100, 500)
    assert (plan.steps, plan.step_size, plan.start) == (5, 0.25, "uniform")
    assert plan.step_size * EPS == pytest.approx(2 / 255)
    assert plan.view == WeakView(padding=None, flip_prob=0.5)
    assert plan.strong_view == StrongView(
        order="crop_first",
        crop_scale=(0.2, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        interpolation="bilinear",
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.0,
        solarize_prob=0.0,
        flip_prob=0.5,
    )
    assert (config.pseudo_labels, config.stage1) == ("kmeans", SimCLRStageSettings())


@pytest.mark.parametrize(
    ("epoch", "step", "rate"),
    [
        (0, 0, 0.01),
        (0, 49, 0.01 + 0.05 * (0.499877 - 0.01)),
        (9, 97, 0.01 + (1 - 1 / 980) * (0.499877 - 0.01)),
        (10, 0, 5e-4 + 0.4995 * (1 + math.cos(math.pi * 11 / 1000)) / 2),
        (499, 97, 0.25025),
        (999, 0, 5e-4),
    ],
)
def test_the_rate_at_key_epochs(epoch: int, step: int, rate: float) -> None:
    found = AdvCLSettings().rate(epoch=epoch, step=step, steps_per_epoch=98)
    assert found == pytest.approx(rate, abs=1e-6)


def test_weight_decay_reaches_every_parameter() -> None:
    stage, _ = labelled_stage()
    parameters = dict(stage.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = build_optimizer(AdvCLSettings(), stage)
    for value in parameters.values():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for name, value in parameters.items():
        torch.testing.assert_close(value, before[name] * (1 - 0.5 * 1e-4))
    assert any("bn1.weight" in name for name in parameters)
    assert any(name.endswith("1.bias") and name.startswith("projector") for name in parameters)


# The views


def test_each_view_is_drawn_and_routed_as_published() -> None:
    stage, ctx = labelled_stage()
    stage.labels.copy_(torch.stack([torch.arange(12) % 2, torch.arange(12) % 3]))
    index = torch.tensor([4, 0, 11])
    views = stage.views(ctx.images[index], rng.generator(1, "views"), index)
    assert not torch.equal(*views.strong)
    again = rng.generator(1, "views")
    strong = stage.plan.strong_view(ctx.images[index].repeat(2, 1, 1, 1), again)
    assert torch.equal(torch.cat(views.strong), strong)
    assert torch.equal(views.weak, stage.plan.view(ctx.images[index], again))
    # A quarter of 16 pixels, by the default.
    assert torch.equal(views.high, high_frequency(views.weak, high_pass(16, 16, 4)))
    assert views.labels.tolist() == [[0, 0, 1], [1, 0, 2]]
    assert torch.equal(labelled_stage(stage2__radius=2.5)[0].high_pass, high_pass(16, 16, 2.5))


# The branches


def test_branches_share_convolutions_and_nothing_else() -> None:
    stage, _ = labelled_stage()
    first = dict(stage.encoder.named_parameters())
    assert len(first) == 60  # 20 convolutions, 20 batch-norm layers of two
    for other in (dict(stage.normal.named_parameters()), dict(stage.pgd_ce.named_parameters())):
        shared = {name for name in first if other[name] is first[name]}
        assert shared == {name for name in first if first[name].ndim == 4}
        assert len(shared) == 20


@pytest.mark.parametrize(("steps", "expected"), [(5, (6, 6, 3, 9)), (0, (1, 1, 3, 4))])
def test_each_branch_sees_its_views_in_train_mode(steps: int, expected: tuple[int, ...]) -> None:
    stage, ctx = labelled_stage(stage2__steps=steps)
    stage(views_of(stage, ctx))
    seen = [batches_seen(part) for part in (stage.encoder, stage.pgd_ce, stage.normal, stage.projector)]
    assert seen == [{count} for count in expected]


# The attacks


def reference_step(stage: AdvCLStage, views: Any) -> Tensor:
    """Return the loss as the authors write it: one joint attack that embeds every view anew at each step."""
    noise = [views.weak + EPS * (2 * torch.rand(views.weak.shape, generator=views.generator) - 1) for _ in range(2)]

    def joint(x_cl: Tensor, x_ce: Tensor, reduction: str) -> Tensor:
        embedded = [stage.projector(stage.encoder(x_cl))]
        embedded += [stage.projector(stage.normal(x)) for x in (*views.strong, views.high)]
        features = stage.pgd_ce(x_ce)
        heads = zip(stage.classifiers, views.labels, strict=True)
        ce = [F.cross_entropy(head(features), y, reduction=reduction) for head, y in heads]
        return multi_view_contrastive(embedded, 0.5).mean() + 0.2 * torch.stack(ce).mean()

    x_cl, x_ce = noise
    for _ in range(5):
        x_cl, x_ce = x_cl.detach().requires_grad_(), x_ce.detach().requires_grad_()
        moved = []
        gradients = torch.autograd.grad(joint(x_cl, x_ce, "sum"), (x_cl, x_ce))
        for x, gradient in zip((x_cl, x_ce), gradients, strict=True):
            step = x.detach() + 2 / 255 * gradient.sign()
            moved.append(torch.min(torch.max(step, views.weak - EPS), views.weak + EPS).clamp(0, 1))
        x_cl, x_ce = moved
    return joint(x_cl, x_ce, "mean")


def test_a_step_is_that_of_the_joint_attack() -> None:
    """Two attacks with fixed embeddings end where the joint one does: loss, gradients, statistics that count."""
    stage, ctx = labelled_stage()
    other = deepcopy(stage)
    expected = reference_step(other, views_of(other, ctx))
    loss, scalars = stage(views_of(stage, ctx))
    torch.testing.assert_close(loss.detach(), scalars["contrast"] + 0.2 * scalars["cross_entropy"])
    # A pixel whose gradient is zero to rounding may step to the other side, hence not to the last digit.
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-4)
    loss.backward()
    expected.backward()
    for (name, ours), theirs in zip(stage.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        assert (ours.grad - theirs.grad).norm() <= 0.02 * theirs.grad.norm() + 1e-6, name
    for branch in ("encoder", "pgd_ce"):
        ours_state, theirs_state = (getattr(each, branch).state_dict() for each in (stage, other))
        for name in ours_state:
            torch.testing.assert_close(ours_state[name], theirs_state[name], atol=2e-3, rtol=1e-2)


def test_attacks_ascend_within_the_ball_and_leave_parameters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, ctx = labelled_stage()
    attacks: list[dict[str, Any]] = []

    def spy(objective: Callable[[Tensor], Tensor], images: Tensor, attack: PGD, **how: Any) -> Tensor:
        assert stage.encoder.training
        assert not any(p.requires_grad for p in stage.parameters())
        *_, result = attack.iterates(objective, images, **how)
        with torch.no_grad():
            values = [float(objective(x).sum()) for x in (images, result)]
        attacks.append({**how, "attack": attack, "images": images, "result": result, "values": values})
        return result

    replace_pgd(monkeypatch, spy)
    views = views_of(stage, ctx)
    stage(views)
    assert all(p.requires_grad for p in stage.parameters())
    assert len(attacks) == 2
    for attack in attacks:
        assert attack["images"] is views.weak
        assert attack["threat"].eps == EPS
        assert attack["attack"] == PGD(steps=5, step_size=0.25, start="uniform")
        assert attack["generator"] is views.generator
        result = attack["result"]
        assert (result - views.weak).abs().max() <= EPS
        assert torch.equal(result, result.clamp(0, 1))
        assert attack["values"][1] > attack["values"][0]
    assert not torch.equal(attacks[0]["result"], attacks[1]["result"])
