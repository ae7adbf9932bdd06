"""AdvCL: its loss, views, branches, attacks and schedule against the published ones, written the slow way."""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacked_images import replace_pgd
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.attack import PGD
from bench.data import ImagesOnDevice
from bench.data.views import StrongView, WeakView
from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.method import MethodContext, Stage
from bench.monitor import Monitor
from bench.nn import build_encoder
from bench.optim import build_optimizer
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe
from bench.train import train
from bench.zoo import load_tensors
from methods.advcl import AdvCL, AdvCLConfig, AdvCLSettings, AdvCLStage, multi_view_contrastive
from methods.high_frequency import high_frequency, high_pass
from methods.simclr import SimCLRStageSettings

EPS = 8 / 255
SMALL = {
    **{"stage1.epochs": 1, "stage1.batch_size": 4, "stage1.warmup_epochs": 0, "stage1.precision": "fp32"},
    **{"stage1.projector": [8, 4], "stage2.epochs": 2, "stage2.batch_size": 5, "stage2.warmup_epochs": 1},
    **{"stage2.clusters": [2, 3]},
}


def recipe_of(**sets: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 16, 16), "num_classes": 2},
        **{"train_images": 12, "test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    return build_recipe(
        method="advcl",
        config_type=AdvCLConfig,
        native_encoder=AdvCL.native_encoder,
        dataset=facts,
        tier=Tier(name="toy", summary="for tests", encoder={"width": 1}),
        overrides={**SMALL, **{key.replace("__", "."): value for key, value in sets.items()}},
    )


def context(recipe: Recipe, count: int = 12, index: Tensor | None = None) -> MethodContext:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=rng.generator(0, "images"))
    return MethodContext(recipe, seed=7, device=torch.device("cpu"), images=images, index=index)


def built(recipe: Recipe, ctx: MethodContext) -> tuple[list[Stage], AdvCL]:
    """Return the method's stages, not trained."""
    assert isinstance(recipe.config, AdvCLConfig)
    method = AdvCL(recipe.config)
    return list(method.stages(ctx)), method


def labelled_stage(**sets: Any) -> tuple[AdvCLStage, MethodContext]:
    """Return an AdvCL stage in training mode that knows its pseudo-labels."""
    recipe = recipe_of(**sets)
    ctx = context(recipe)
    stage = built(recipe, ctx)[0][-1]
    assert isinstance(stage, AdvCLStage)
    stage.before_training(ImagesOnDevice(ctx.images, ctx.device))
    return stage.train(), ctx


def views_of(stage: AdvCLStage, ctx: MethodContext, count: int = 4) -> Any:
    index = torch.arange(count)
    return stage.views(ctx.images[:count], rng.generator(1, "views"), index)


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


def batches_seen(module: nn.Module) -> set[int]:
    counts = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    return {int(value) for value in counts.values()}


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


# Pseudo-labels


def test_kmeans_comes_after_an_ssl_stage_and_labels_come_with_training() -> None:
    recipe = recipe_of()
    ctx = context(recipe)
    (ssl, stage), method = built(recipe, ctx)
    assert (ssl.name, stage.name) == ("ssl", "advcl")
    assert isinstance(stage, AdvCLStage)
    assert [head.out_features for head in stage.classifiers] == [2, 3]
    assert stage.labels.eq(-1).all(), "nothing is clustered for a projection"
    assert stage.train()(views_of(stage, ctx)).total.isnan(), "nor does anyone train on what is not there"
    stage.before_training(ImagesOnDevice(ctx.images, ctx.device))
    assert [row.unique().tolist() for row in stage.labels] == [[0, 1], [0, 1, 2]]
    assert method.result() is stage.encoder


def test_without_pseudo_labels_nothing_reaches_the_third_branch() -> None:
    stage, ctx = labelled_stage(pseudo_labels="none")
    assert len(built(recipe_of(pseudo_labels="none"), ctx)[0]) == 1
    loss = stage(views_of(stage, ctx))
    loss.total.backward()
    assert batches_seen(stage.encoder) == {6}
    assert batches_seen(stage.pgd_ce) == {0}
    assert loss.total.isfinite()
    assert all(p.grad is None for name, p in stage.pgd_ce.named_parameters() if "bn" in name)


def test_labels_of_a_file_are_used_and_named_by_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    official = {"k2": np.arange(40) % 2, "k3": np.arange(40) % 3}
    np.savez(path, **official)  # type: ignore[arg-type]
    recipe = recipe_of(pseudo_labels=f"file:{path}")
    index = torch.arange(12) * 3 + 2
    (stage,), _ = built(recipe, context(recipe, index=index))
    stage.before_training(ImagesOnDevice(torch.zeros(12, 3, 8, 8), torch.device("cpu")))
    assert isinstance(stage, AdvCLStage)
    assert stage.labels.tolist() == [(index % 2).tolist(), (index % 3).tolist()]
    assert isinstance(recipe.config, AdvCLConfig)
    digest = recipe.config.pseudo_labels_sha256
    assert digest is not None
    assert recipe_of(pseudo_labels=f"file:{path}", pseudo_labels_sha256=digest).config == recipe.config
    np.savez(path, k2=official["k2"], k3=official["k3"][::-1])
    assert recipe_of(pseudo_labels=f"file:{path}").pretraining_digest() != recipe.pretraining_digest()
    with pytest.raises(BenchError, match="not the digest of pseudo_labels"):
        recipe_of(pseudo_labels=f"file:{path}", pseudo_labels_sha256=digest)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        *(({"pseudo_labels": bad}, "must be kmeans, none or file:PATH") for bad in (True, "kmean", "file:")),
        ({"pseudo_labels": "file:/no/such.npz"}, r"cannot read the pseudo-labels in /no/such\.npz"),
        ({"stage2__clusters": [1]}, r"stage2\.clusters\.0"),
        ({"stage2__clusters": []}, r"stage2\.clusters"),
        ({"pseudo_labels_sha256": "ab"}, "not the digest of pseudo_labels 'kmeans'"),
    ],
)
def test_settings_out_of_range_are_refused(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        recipe_of(**sets)


def test_a_last_batch_of_one_image_is_refused_before_training() -> None:
    recipe = recipe_of(stage2__batch_size=11)
    with pytest.raises(BenchError, match=r"batch_size 11 leaves the last of 12 images .* --set stage2\.drop_last=true"):
        built(recipe, context(recipe))
    for recipe in (recipe_of(stage2__batch_size=11, stage2__drop_last=True), recipe_of(stage2__batch_size=10)):
        built(recipe, context(recipe))


# Training


class StopAfter(Monitor):
    """Asks for a stop once so many batches have been counted."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def advance(self, amount: int, detail: str = "") -> None:
        self._left -= 1
        self.stop_requested = self._left <= 0


def run(folder: Path, *, stop_advcl_after: int = 10**6) -> AdvCL:
    """Train all stages in ``folder``, or load them; the last is stopped after so many batches."""
    recipe = recipe_of()
    ctx = context(recipe)
    assert isinstance(recipe.config, AdvCLConfig)
    method = AdvCL(recipe.config)
    for stage in method.stages(ctx):
        told = StopAfter(stop_advcl_after if stage.name == "advcl" else 10**6)
        progress = train(stage, ctx.images, Job(folder, "me", 7, ctx.device, told))
        assert all(math.isfinite(entry["loss"]) for entry in progress.history)
    return method


def test_training_changes_the_encoder_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    """Two epochs of three batches, interrupted after the first step and after the fourth."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(whole).result().state_dict()
    for batches in (1, 3):
        with pytest.raises(InterruptedRunError):
            run(parts, stop_advcl_after=batches)
    found = run(parts).result().state_dict()
    fresh = context(recipe_of()).new_encoder("advcl").state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(expected["backbone.conv1.weight"], fresh["backbone.conv1.weight"])
    first, second = advcl_state(whole), advcl_state(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["stage.labels"].min() == 0


def advcl_state(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "advcl.safetensors").tensors


def test_the_result_is_the_adversarial_branch_as_a_plain_encoder(tmp_path: Path) -> None:
    method = run(tmp_path)
    recipe = recipe_of()
    facts = recipe.dataset
    plain = build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
    plain.load_state_dict(method.result().state_dict())
    images = torch.rand(4, 3, 16, 16, generator=rng.generator(0, "probe"))
    state = {name.removeprefix("stage.encoder."): value for name, value in advcl_state(tmp_path).items()}
    with torch.no_grad():
        features = method.result().eval()(images)
        torch.testing.assert_close(plain.eval()(images), features, atol=1e-6, rtol=0)
    statistic = "backbone.layer4.1.bn2.running_mean"
    assert torch.equal(state[statistic], plain.state_dict()[statistic])
    assert not torch.equal(state["stage.normal." + statistic], plain.state_dict()[statistic])
