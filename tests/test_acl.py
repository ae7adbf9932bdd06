"""ACL: which branch sees what, its joint attack against a naive one, its variants, its recipe number by number."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from test_losses import slow_nt_xent
from torch import Tensor, nn
from toy_stage import StopAfter

from bench import rng
from bench.errors import InterruptedRunError
from bench.job import Job
from bench.method import Method, MethodContext
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe, load_tier
from bench.train import train
from bench.zoo import digest
from methods.acl import ACL, ACLConfig, ACLSettings, ACLStage, projection_head
from methods.losses import nt_xent

CPU = torch.device("cpu")
EPS = 8 / 255
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})
VARIANTS = ["ds", "a2a", "a2s", "s2s"]


def recipe_of(tier: Tier = TOY, fidelity: Fidelity = "uniform", **settings: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 16, 16), "num_classes": 4},
        **{"train_images": 13, "test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    stage = {f"stage1.{key}": value for key, value in settings.items() if key not in ACLConfig.model_fields}
    choices = {key: value for key, value in settings.items() if key in ACLConfig.model_fields}
    return build_recipe(
        method="acl",
        config_type=ACLConfig,
        native_encoder=ACL.native_encoder,
        dataset=facts,
        tier=tier,
        fidelity=fidelity,
        overrides={**choices, **stage},
    )


def context(recipe: Recipe, seed: int = 0) -> MethodContext:
    return MethodContext(recipe, seed=seed, device=CPU, images=pixels(13))


def method_of(**settings: Any) -> tuple[Method, ACLStage]:
    recipe = recipe_of(**{"epochs": 2, "warmup_epochs": 1, "batch_size": 5, "steps": 2, **settings})
    assert isinstance(recipe.config, ACLConfig)
    method = ACL(recipe.config)
    (built,) = method.stages(context(recipe))
    assert isinstance(built, ACLStage)
    return method, built.train()


def stage_of(**settings: Any) -> ACLStage:
    return method_of(**settings)[1]


def generator(*names: str | int) -> torch.Generator:
    return rng.generator(0, "test", *names)


def pixels(count: int, seed: int = 0) -> Tensor:
    shape = (count, 3, 16, 16)
    return torch.randint(0, 256, shape, generator=generator("pixels", seed), dtype=torch.uint8)


def unit_images(count: int, seed: int = 0) -> Tensor:
    return pixels(count, seed).float() / 255


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]


def batches_seen(module: nn.Module) -> set[int]:
    """How often the running statistics of each batch-norm layer have moved."""
    return {int(norm.get_buffer("num_batches_tracked")) for norm in batch_norms(module)}


def run_step(stage: ACLStage) -> dict[str, Tensor]:
    """Take one step's loss, and return what each branch was shown, in order."""
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.__setitem__(name, inputs[0])

    hooks = [stage.adversarial.register_forward_pre_hook(remember("adversarial"))]
    if stage.clean is not stage.adversarial:
        hooks.append(stage.clean.register_forward_pre_hook(remember("clean")))
    stage(stage.views(pixels(5), generator("views"), torch.arange(5)))
    for hook in hooks:
        hook.remove()
    return seen


# Branches


def test_the_branches_share_everything_but_batch_norm() -> None:
    stage = stage_of()
    clean, adversarial = (dict(part.named_parameters()) for part in (stage.clean, stage.adversarial))
    norms = {id(p) for part in (stage.clean, stage.adversarial) for n in batch_norms(part) for p in n.parameters()}
    assert clean.keys() == adversarial.keys()
    for name, parameter in clean.items():
        assert (parameter is adversarial[name]) == (id(parameter) not in norms), name
    assert len(batch_norms(stage.clean.projector)) == 3
    assert stage.encoder is stage.adversarial.encoder


def test_adversarial_images_pass_first_and_each_branch_once() -> None:
    stage = stage_of()
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    seen = run_step(stage)
    assert list(seen) == ["adversarial", "clean"]
    assert torch.equal(seen["clean"], views.images)
    moved = (seen["adversarial"] - views.images).abs().flatten(1).amax(dim=1)
    assert len(moved) == 10
    assert 0 < float(moved.min()) <= float(moved.max()) <= EPS
    assert batches_seen(stage.clean) == batches_seen(stage.adversarial) == {1}
    # The attack, in eval mode, moved nothing: the statistics are those of the one train-mode pass.
    stem = stage_of().adversarial.encoder
    mean = stem.backbone.get_submodule("conv1")(stem.normalise(seen["adversarial"])).mean(dim=(0, 2, 3))
    running = stage.adversarial.encoder.get_buffer("backbone.bn1.running_mean")
    torch.testing.assert_close(running, 0.1 * mean.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "terms", "clean", "attacked"),
    [("ds", 2, 10, 10), ("a2a", 1, 0, 10), ("a2s", 1, 5, 5), ("s2s", 1, 10, 0)],
)
def test_what_each_variant_shows_to_whom(variant: str, terms: int, clean: int, attacked: int) -> None:
    stage = stage_of(variant=variant)
    images, noise = stage.views(pixels(5), generator("views"), torch.arange(5))
    loss = deepcopy(stage)((images, noise))
    assert len(loss.scalars) == terms
    seen = run_step(stage)
    shown = [*seen["adversarial"], *seen.get("clean", [])]
    unchanged = sum(any(torch.equal(view, image) for image in images) for view in shown)
    assert (unchanged, len(shown) - unchanged) == (clean, attacked)
    assert (stage.clean is stage.adversarial) == (variant in ("a2a", "s2s"))
    if variant == "a2s":
        assert torch.equal(seen["clean"], images[5:])


# The loss


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_the_formula(variant: str) -> None:
    stage = stage_of(variant=variant).double()
    twin = deepcopy(stage)
    images, noise = stage.views(pixels(5), generator("views"), torch.arange(5))
    start = noise.get_state()
    loss = stage((images.double(), noise))

    noise.set_state(start)
    images = images.double()
    first, second = images.chunk(2)
    target = deepcopy(twin.adversarial).eval()
    if variant == "a2s":
        attacked = naive_attack(
            first, noise, lambda x: slow_nt_xent(target(x), deepcopy(twin.clean).eval()(second), 0.5)
        )
        expected = {"mixed": slow_nt_xent(twin.adversarial(attacked), twin.clean(second), 0.5)}
    else:
        expected = {}
        if variant != "s2s":
            attacked = naive_attack(images, noise, lambda x: slow_loss(target(x)))
            expected["adversarial"] = slow_loss(twin.adversarial(attacked))
        if variant != "a2a":
            expected["clean"] = slow_loss(twin.clean(images))
    assert loss.scalars.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(loss.scalars[name], value.detach(), rtol=1e-6, atol=1e-9)
    total = sum(expected.values(), torch.zeros(())) / len(expected)
    torch.testing.assert_close(loss.total, total, rtol=1e-6, atol=1e-9)


def slow_loss(views: Tensor) -> Tensor:
    first, second = views.chunk(2)
    return slow_nt_xent(first, second, 0.5)


def naive_attack(images: Tensor, noise: torch.Generator, loss: Callable[[Tensor], Tensor], steps: int = 2) -> Tensor:
    """The released attack: a perturbation cut to +-eps, then to where the image stays in [0, 1]."""
    delta = EPS * (2 * torch.rand(images.shape, generator=noise, dtype=images.dtype) - 1)
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(images + delta), delta)
        delta = (delta + EPS / 4 * gradient.sign()).clamp(-EPS, EPS)
        delta = (images + delta).clamp(0, 1) - images
    return (images + delta).detach()


def test_value_anchors() -> None:
    # 1,024 embeddings alike: each of the 1,023 others is as likely. Orthogonal pairs: 1,022 negatives of exp(0).
    alike, apart = torch.ones(512, 4), torch.eye(512)
    floor = math.log(1 + 1022 / math.exp(2))
    assert nt_xent(alike, alike, 0.5).item() == pytest.approx(math.log(1023), rel=1e-5)
    assert nt_xent(apart, apart, 0.5).item() == pytest.approx(floor, rel=1e-5)
    assert [math.log(1023), floor] == pytest.approx([6.93, 4.94], abs=0.005)


# The attack


def test_the_attack_is_the_released_one_on_all_views_together() -> None:
    stage = stage_of(steps=3).double()
    images = unit_images(10).double()
    target = deepcopy(stage.adversarial).eval()
    attacked = stage.attack_both(stage.adversarial, images, generator("start"))
    expected = naive_attack(images, generator("start"), lambda x: slow_loss(target(x)), steps=3)
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-9)
    # The images are attacked together: another image changes the perturbation of this one.
    other = torch.cat([images[:-1], 1 - images[-1:]])
    assert not torch.equal(stage.attack_both(stage.adversarial, other, generator("start"))[:-1], attacked[:-1])


def test_the_attack_raises_the_loss_and_leaves_no_trace() -> None:
    stage = stage_of(steps=5)
    images = unit_images(10)
    # Branches that differ, so that it matters which one is attacked.
    with torch.no_grad():
        for norm in batch_norms(stage.adversarial):
            norm.get_parameter("weight").uniform_(0.5, 1.5, generator=generator("scale"))
    before = digest(stage.state_dict())
    attacked = stage.attack_both(stage.adversarial, images, generator("start"))
    assert digest(stage.state_dict()) == before
    assert all(part.training for part in stage.modules())
    assert all(p.requires_grad and p.grad is None for p in stage.parameters())
    assert float((attacked - images).abs().max()) <= EPS
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    with torch.no_grad():
        adversarial, clean = (deepcopy(branch).eval() for branch in (stage.adversarial, stage.clean))
        rise = [float(stage.contrast(b, attacked) - stage.contrast(b, images)) for b in (adversarial, clean)]
    assert rise[0] > 1e-3
    assert rise[0] > rise[1]


# The recipe


def test_published_defaults() -> None:
    expected = {
        **{"epochs": 1000, "batch_size": 512, "drop_last": False, "precision": "fp32"},
        **{"optimizer": "lars", "lr": 5.0, "lr_batch": None, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-6},
        **{"lars_eta": 0.001, "lars_clip": False, "lars_exclude_vectors": False, "lars_lr_in_momentum": True},
        **{"schedule": "acl", "warmup_epochs": 10, "lr_floor": 1e-6},
        **{"temperature": 0.5, "steps": 5, "step_size": 0.25, "start": "uniform", "projector_layers": 3},
    }
    dump = ACLSettings().model_dump()
    assert {key: dump[key] for key in expected} == expected
    view = {
        **{"order": "crop_first", "crop_scale": (0.1, 1.0), "crop_ratio": (3 / 4, 4 / 3)},
        **{"interpolation": "bicubic", "jitter": (0.4, 0.4, 0.4, 0.1), "jitter_prob": 0.8, "grayscale_prob": 0.2},
        **{"flip_prob": 0.5, "blur_prob": 0.0, "solarize_prob": 0.0},
    }
    assert {key: dump["view"][key] for key in view} == view
    assert ACLSettings().effective_lr == 5.0
    assert (ACLConfig().variant, ACLConfig().branch) == ("ds", "adversarial")


def test_the_schedule_at_its_key_steps() -> None:
    def lr(n: int) -> float:
        epoch, step = divmod(n - 1, 98)
        return ACLSettings().rate(epoch=epoch, step=step, steps_per_epoch=98)

    assert [lr(n) for n in (1, 490, 979)] == pytest.approx([5 / 980, 2.5, 5 * 979 / 980])
    assert lr(980) == pytest.approx(5.0)
    assert lr(49_490) == pytest.approx((5 + 1e-6) / 2)
    assert lr(98_000) == pytest.approx(1e-6)
    assert ACLSettings().steps_per_epoch(50_000) == 98


def test_the_optimiser_has_its_rate_inside_the_momentum() -> None:
    stage = stage_of(weight_decay=0.01)
    optimizer, parameters = stage.optimizer(), list(stage.parameters())
    expected = [p.detach().clone() for p in parameters]
    buffers = [torch.zeros_like(p) for p in expected]
    for step, lr in enumerate((0.5, 0.1)):
        for number, p in enumerate(parameters):
            g = p.grad = torch.randn(p.shape, generator=generator("gradient", step, number))
            w = expected[number]
            zero = float(w.norm()) == 0
            r = 1.0 if zero else 0.001 * float(w.norm()) / (float(g.norm()) + 0.01 * float(w.norm()))
            buffers[number] = 0.9 * buffers[number] + lr * r * (g + 0.01 * w)
            expected[number] = w - buffers[number]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for p, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_published_network(layers: Literal[2, 3]) -> None:
    recipe = recipe_of(load_tier("paper"), fidelity="native")
    stage = ACLStage(ACLConfig(stage1=ACLSettings(projector_layers=layers)), context(recipe))
    encoders = nn.ModuleList([stage.clean.encoder, stage.adversarial.encoder])
    assert sum(p.numel() for p in encoders.parameters()) == 11_178_432
    third = 512 * 512 + 2 * 2 * 512
    assert sum(p.numel() for p in stage.parameters()) == 11_971_520 - (3 - layers) * third
    assert stage.encoder.normalise.get_buffer("std").tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_projector_ends_in_a_batch_norm_with_scale_and_shift() -> None:
    head = projection_head(4, 3)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert [layer.bias is not None for layer in head if isinstance(layer, nn.Linear)] == [True, False, False]
    z = head(torch.randn(64, 4, generator=generator("features")))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)


# Training


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_changes_the_branches_in_use(variant: str, tmp_path: Path) -> None:
    stage = stage_of(variant=variant, epochs=1, drop_last=True)
    before = deepcopy(stage)
    progress = train(stage, pixels(13), Job(tmp_path, "o", 0, CPU))
    assert math.isfinite(progress.history[0]["loss"])
    assert batches_seen(stage.clean) == batches_seen(stage.adversarial) == {2}
    for part in ("clean", "adversarial"):
        old, new = (dict(s.get_submodule(f"{part}.encoder").named_parameters()) for s in (before, stage))
        assert not any(torch.equal(old[name], new[name]) for name in new)


@pytest.mark.parametrize("branch", ["adversarial", "clean"])
def test_the_result_is_one_branch_on_its_own(branch: str, tmp_path: Path) -> None:
    method, stage = method_of(branch=branch)
    train(stage, pixels(13), Job(tmp_path, "o", 0, CPU))
    result = method.result().eval()
    chosen, other = (stage.clean, stage.adversarial)[:: 1 if branch == "clean" else -1]
    assert result is chosen.encoder
    rebuilt = context(recipe_of(), seed=1).new_encoder("any").eval()
    rebuilt.load_state_dict(result.state_dict())
    features = rebuilt(unit_images(4))
    torch.testing.assert_close(features, chosen.encoder.eval()(unit_images(4)), rtol=0, atol=0)
    torch.testing.assert_close(chosen.prepared().encoder(unit_images(4)), features, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(features, other.encoder.eval()(unit_images(4)))


def test_a_stopped_training_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, broken, continued = (stage_of() for _ in range(3))
    run = partial(train, images=pixels(13))
    run(whole, job=Job(tmp_path / "whole", "o", 0, CPU))
    with pytest.raises(InterruptedRunError):
        run(broken, job=Job(tmp_path / "parts", "o", 0, CPU, StopAfter(1)))
    run(continued, job=Job(tmp_path / "parts", "o", 0, CPU))
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert digest(broken.state_dict()) != digest(whole.state_dict())
