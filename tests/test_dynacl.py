"""DynACL: its annealing, what the network and its follower see, one step against a naive one, its recipe."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_acl import EPS, TOY, batch_norms, batches_seen, context, generator, naive_attack, pixels
from test_losses import slow_nt_xent
from torch import Tensor, nn
from toy_stage import CPU, StopAfter

from bench.errors import BenchError, InterruptedRunError
from bench.job import Job
from bench.method import Stage
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe, load_tier
from bench.train import take_step, train
from bench.zoo import digest
from methods.annealing import weakened
from methods.dynacl import DynACL, DynACLConfig, DynACLSettings, DynACLStage, Streams


def recipe_of(tier: Tier = TOY, fidelity: Fidelity = "uniform", **settings: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 16, 16), "num_classes": 4},
        **{"train_images": 13, "test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    return build_recipe(
        method="dynacl",
        config_type=DynACLConfig,
        native_encoder=DynACL.native_encoder,
        dataset=facts,
        tier=tier,
        fidelity=fidelity,
        overrides={key.replace("__", "."): value for key, value in settings.items()},
    )


def stage_of(**settings: Any) -> DynACLStage:
    small = {"stage1__epochs": 4, "stage1__warmup_epochs": 0, "stage1__batch_size": 5, "stage1__steps": 2}
    recipe = recipe_of(**{**small, **settings})
    assert isinstance(recipe.config, DynACLConfig)
    (built,) = DynACL(recipe.config).stages(context(recipe))
    assert isinstance(built, DynACLStage)
    # Weights that differ from branch to branch and from the follower's, so that it matters which is which.
    draw = generator("weights")
    with torch.no_grad():
        for number, norm in enumerate(batch_norms(built)):
            norm.get_parameter("weight").uniform_(0.5, 1.5, generator=draw)
            norm.get_parameter("bias").uniform_(-0.2, 0.2, generator=draw)
            norm.get_buffer("running_mean").add_(0.01 * number)
    return built.train()


# The annealing


def test_the_levels_of_the_published_training() -> None:
    plan = DynACLSettings()
    strengths = [plan.strength(epoch) for epoch in range(1000)]
    assert strengths == pytest.approx([1 - (epoch // 50) / 20 for epoch in range(1000)])
    weights = [plan.adversarial_weight(epoch) for epoch in range(1000)]
    assert weights[:49] == [1.0] * 49
    assert [weights[epoch] for epoch in (49, 498, 499, 998, 999)] == pytest.approx(
        [1 + 1 / 30, 1.3, 4 / 3, 1 + 19 / 30, 5 / 3]
    )


@pytest.mark.parametrize("epochs", [1, 2, 7, 20, 33, 1000])
def test_a_training_of_any_length_goes_through_the_levels(epochs: int) -> None:
    plan = DynACLSettings(epochs=epochs, warmup_epochs=0)
    strengths = [plan.strength(epoch) for epoch in range(epochs)]
    weights = [plan.adversarial_weight(epoch) for epoch in range(epochs)]
    assert strengths[0] == 1
    assert strengths == sorted(strengths, reverse=True)
    assert all(0 < strength <= 1 for strength in strengths)
    assert len(set(strengths)) == min(epochs, 20)
    assert weights == sorted(weights)
    assert weights[-1] == pytest.approx(5 / 3)


def test_a_weakened_view() -> None:
    full = DynACLSettings().view
    assert weakened(full, 1).crop_scale == pytest.approx(full.crop_scale)
    assert weakened(full, 1).model_copy(update={"crop_scale": full.crop_scale}) == full
    half = weakened(full, 0.5)
    assert half.crop_scale == pytest.approx((0.55, 1.0))
    assert half.jitter == pytest.approx((0.2, 0.2, 0.2, 0.05))
    assert (half.jitter_prob, half.grayscale_prob, half.flip_prob) == pytest.approx((0.4, 0.1, 0.5))
    more = full.model_copy(update={"blur_prob": 0.5, "solarize_prob": 0.2})
    assert (weakened(more, 0.5).blur_prob, weakened(more, 0.5).solarize_prob) == pytest.approx((0.25, 0.1))
    none = weakened(more, 0).model_copy(update={"flip_prob": 0.0, "crop_ratio": (1.0, 1.0)})
    images = pixels(6)
    torch.testing.assert_close(none(images, generator("view")), images / 255, rtol=0, atol=1e-6)


def test_views_weaken_and_the_weight_moves_from_epoch_to_epoch() -> None:
    stage = stage_of()
    seen = []
    for epoch in range(4):
        stage.before_epoch(epoch)
        views = stage.views(pixels(5), generator("views"), torch.arange(5))
        assert views.images.shape == (10, 3, 16, 16)
        seen.append((views.images, stage.adversarial_weight))
    assert [weight for _, weight in seen] == pytest.approx([1 + 2 / 3 * part for part in (0.25, 0.5, 0.75, 1)])
    originals = torch.cat([pixels(5), pixels(5)]) / 255
    mirrored = originals.flip(3)
    gaps = [float(torch.minimum((x - originals).abs(), (x - mirrored).abs()).mean()) for x, _ in seen]
    assert gaps[0] > gaps[-1] > 0


# A step


def slow_contrast(online: nn.Module, follower: nn.Module, images: Tensor) -> Tensor:
    first, second = images.chunk(2)
    return slow_nt_xent(online(first), follower(second), 0.5)


def test_the_loss_is_that_of_the_formula() -> None:
    stage = stage_of().double()
    stage.before_epoch(1)
    twin = deepcopy(stage)
    images, noise = stage.views(pixels(5), generator("views"), torch.arange(5))
    images, start = images.double(), noise.get_state()
    loss = stage((images, noise))

    noise.set_state(start)
    online, follower = twin.online, twin.followers
    targets = deepcopy(online.adversarial).eval(), deepcopy(follower.adversarial).eval()
    attacked = naive_attack(images, noise, lambda x: slow_contrast(*targets, x))
    adversarial = slow_contrast(online.adversarial, follower.adversarial, attacked)
    clean = slow_contrast(online.clean, follower.clean, images)
    torch.testing.assert_close(loss.scalars["adversarial"], adversarial.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss.scalars["clean"], clean.detach(), rtol=1e-6, atol=1e-9)
    weight = 4 / 3  # in the second epoch of four
    torch.testing.assert_close(loss.total, (weight * adversarial + (2 - weight) * clean) / 2, rtol=1e-6, atol=1e-9)


def test_the_follower_moves_before_the_step_and_by_no_gradient() -> None:
    stage = stage_of(stage1__tau=0.75)
    online, follower = ([p.detach().clone() for p in part.parameters()] for part in (stage.online, stage.followers))
    optimizer = stage.optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    take_step(stage, pixels(5), torch.arange(5), generator("step"), optimizer, scaler)
    assert any(not torch.equal(a, b) for a, b in zip(online, stage.online.parameters(), strict=True))
    for old, used, new in zip(follower, online, stage.followers.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * used, rtol=1e-5, atol=1e-6)
        assert new.grad is None
        assert not new.requires_grad


def test_each_branch_of_both_networks_sees_its_own_images_once() -> None:
    stage = stage_of()
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    before = [norm.get_buffer("running_mean").clone() for norm in batch_norms(stage)]
    stage(views)
    assert batches_seen(stage) == {1}
    moved = [norm.get_buffer("running_mean") - old for norm, old in zip(batch_norms(stage), before, strict=True)]
    assert all(bool(change.any()) for change in moved)
    first, second = views.images.chunk(2)
    for streams, images in ((stage.online, first), (stage.followers, second)):
        encoder = streams.clean.encoder
        mean = encoder.backbone.get_submodule("conv1")(encoder.normalise(images)).mean(dim=(0, 2, 3))
        seen = deepcopy(stage_of().online if streams is stage.online else stage_of().followers)
        old = seen.clean.encoder.get_buffer("backbone.bn1.running_mean")
        expected = 0.9 * old + 0.1 * mean.detach()
        torch.testing.assert_close(encoder.get_buffer("backbone.bn1.running_mean"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branch", ["adversarial", "clean"])
def test_the_followers_encoder_is_handed_on(branch: str) -> None:
    stage = stage_of(branch=branch)
    assert stage.encoder is getattr(stage.followers, branch).encoder
    assert isinstance(stage.followers, Streams)


# Training


def continues_bit_for_bit(make: Callable[[], Stage], folder: Path, steps: int) -> None:
    """Assert that training that stops after so many ``steps`` ends as one that does not."""
    whole, broken, continued = (make() for _ in range(3))
    run = partial(train, images=pixels(13))
    run(whole, job=Job(folder / "whole", "o", 0, CPU))
    stop = StopAfter(steps)
    with pytest.raises(InterruptedRunError):
        run(broken, job=Job(folder / "parts", "o", 0, CPU, stop))
    run(continued, job=Job(folder / "parts", "o", 0, CPU))
    assert digest(continued.state_dict()) == digest(whole.state_dict())
    assert digest(broken.state_dict()) != digest(whole.state_dict())
    assert not stop.notes, "the curriculum is a function of the epoch, and no unsaved state"


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_stopped_training_continues_bit_for_bit_through_its_levels(tmp_path: Path, steps: int) -> None:
    """Three steps an epoch, each of which has another level: the stops are in the first, second and third."""
    continues_bit_for_bit(stage_of, tmp_path, steps)


# The recipe


def test_published_defaults() -> None:
    expected = {
        **{"epochs": 1000, "batch_size": 512, "drop_last": False, "precision": "fp32"},
        **{"optimizer": "lars", "lr": 5.0, "lr_batch": None, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-6},
        **{"lars_eta": 0.001, "lars_clip": False, "lars_exclude_vectors": False, "lars_lr_in_momentum": True},
        **{"schedule": "warmup-cosine", "schedule_unit": "epoch", "warmup_epochs": 10, "warmup_start": 0.5},
        **{"lr_floor": 1e-6, "temperature": 0.5, "steps": 5, "step_size": 0.25, "start": "uniform"},
        **{"projector_layers": 3, "tau": 0.99, "levels": 20, "reweighting": 2 / 3},
    }
    dump = DynACLSettings().model_dump()
    assert {key: dump[key] for key in expected} == expected
    assert dump["view"]["interpolation"] == "bilinear"
    assert dump["view"]["crop_scale"] == (0.1, 1.0)
    assert DynACLConfig().branch == "adversarial"


def test_the_schedule_at_its_key_epochs() -> None:
    rates = [DynACLSettings().rate(epoch=epoch, step=7, steps_per_epoch=98) for epoch in (0, 4, 9, 10, 505)]
    assert rates == pytest.approx([0.5, 2.5, 5.0, 5.0, 2.5], abs=1e-6)


def test_the_published_network() -> None:
    recipe = recipe_of(load_tier("paper"), fidelity="native")
    assert isinstance(recipe.config, DynACLConfig)
    stage = DynACLStage(recipe.config, context(recipe))
    for streams in (stage.online, stage.followers):
        assert sum(parameter.numel() for parameter in streams.parameters()) == 11_971_520
    assert stage.encoder.normalise.get_buffer("std").tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_a_momentum_network_that_never_learns_is_refused() -> None:
    with pytest.raises(BenchError, match=r"stage1\.tau.*less than 1"):
        recipe_of(stage1__tau=1)
