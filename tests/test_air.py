"""AIR: its regularisers against naive ones, what each branch sees, its curriculum, one whole step, its recipe."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_acl import EPS, TOY, batch_norms, context, generator, naive_attack, pixels, slow_loss
from test_acl import stage_of as acl_stage_of
from test_dynacl import continues_bit_for_bit
from torch import Tensor
from torch.nn import functional as F

from bench.errors import BenchError
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe, load_tier
from methods.acl import Views
from methods.air import AIR, AIRConfig, AIRSettings, AIRStage, Divergence, divergence_of, log_shares

DIVERGENCES: list[Divergence] = ["released", "kl"]


def recipe_of(tier: Tier = TOY, fidelity: Fidelity = "uniform", **settings: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 16, 16), "num_classes": 4},
        **{"train_images": 13, "test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    return build_recipe(
        method="air",
        config_type=AIRConfig,
        native_encoder=AIR.native_encoder,
        dataset=facts,
        tier=tier,
        fidelity=fidelity,
        overrides={key.replace("__", "."): value for key, value in settings.items()},
    )


def stage_of(**settings: Any) -> AIRStage:
    small = {"stage1__epochs": 4, "stage1__warmup_epochs": 0, "stage1__batch_size": 5, "stage1__steps": 2}
    recipe = recipe_of(**{**small, **settings})
    assert isinstance(recipe.config, AIRConfig)
    (built,) = AIR(recipe.config).stages(context(recipe))
    assert isinstance(built, AIRStage)
    # Weights that differ from branch to branch, so that it matters which is which.
    draw = generator("weights")
    with torch.no_grad():
        for number, norm in enumerate(batch_norms(built)):
            norm.get_parameter("weight").uniform_(0.5, 1.5, generator=draw)
            norm.get_parameter("bias").uniform_(-0.2, 0.2, generator=draw)
            norm.get_buffer("running_mean").add_(0.01 * number)
    return built.train()


def embeddings(*names: str, count: int = 6) -> Tensor:
    return torch.randn(count, 5, generator=generator("embeddings", *names), dtype=torch.float64)


def slow_shares(z: Tensor, anchors: Tensor) -> list[Tensor]:
    """Image by image, in probabilities."""
    cosines = [a @ b / (a @ a).sqrt() / (b @ b).sqrt() for a, b in zip(z, anchors, strict=True)]
    whole = torch.stack([(cosine / 0.5).exp() for cosine in cosines]).sum()
    return [(cosine / 0.5).exp() / whole for cosine in cosines]


def slow_divergence(first: list[Tensor], second: list[Tensor], divergence: Divergence) -> Tensor:
    compared = first if divergence == "released" else [p.log() for p in first]
    return torch.stack([q * (q.log() - p) for p, q in zip(compared, second, strict=True)]).sum()


# The regularisers


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_divergence_is_that_of_the_formula(divergence: Divergence) -> None:
    first, second, anchors = embeddings("first"), embeddings("second"), embeddings("anchors")
    p, q = (log_shares(z, anchors, 0.5) for z in (first, second))
    naive = slow_divergence(slow_shares(first, anchors), slow_shares(second, anchors), divergence)
    torch.testing.assert_close(divergence_of(p, q, divergence), naive, rtol=1e-12, atol=0)
    # As torch has it: "released" gives it probabilities where it takes logarithms.
    given = p.exp() if divergence == "released" else p
    torch.testing.assert_close(naive, F.kl_div(given, q, log_target=True, reduction="sum"), rtol=1e-12, atol=0)


def test_equal_shares_have_no_divergence_but_the_released_form_has_its_own_value() -> None:
    shares = log_shares(embeddings("first"), embeddings("anchors"), 0.5)
    entropy = -(shares.exp() * shares).sum()
    assert float(shares.exp().sum()) == pytest.approx(1)
    assert float(divergence_of(shares, shares, "kl")) == 0
    released = divergence_of(shares, shares, "released")
    torch.testing.assert_close(released, -entropy - (shares.exp() ** 2).sum())


def test_shares_that_are_too_small_for_a_number_have_a_logarithm() -> None:
    """At a low temperature a share is 0 in float32, and so would be its logarithm's argument."""
    z, anchors = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 0], [-1, 0]], requires_grad=True)
    shares = log_shares(z, anchors, 0.01)
    assert shares[1].exp() == 0
    value = divergence_of(shares, shares + shares, "released")
    (gradient,) = torch.autograd.grad(value, anchors)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_half_precision_is_raised_under_autocast() -> None:
    z, anchors = (embeddings(name).bfloat16() for name in ("first", "anchors"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shares = log_shares(z, anchors, 0.5)
        value = divergence_of(shares, shares.flip(0), "kl")
    assert shares.dtype == value.dtype == torch.float32
    exact = log_shares(z.double(), anchors.double(), 0.5)
    torch.testing.assert_close(value.double(), divergence_of(exact, exact.flip(0), "kl"), rtol=1e-4, atol=1e-6)


# A step


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_loss_is_that_of_the_formula(divergence: Divergence) -> None:
    weights = {"stage1__lambda1": 0.7, "stage1__lambda2": 0.3}
    stage = stage_of(stage1__divergence=divergence, **weights).double()
    stage.before_epoch(1)
    twin = deepcopy(stage)
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    views = views._replace(images=views.images.double(), originals=views.originals.double())
    start = views.generator.get_state()
    loss = stage(views)

    views.generator.set_state(start)
    target = deepcopy(twin.adversarial).eval()
    attacked = naive_attack(views.images, views.generator, lambda x: slow_loss(target(x)))
    both = twin.adversarial(attacked), twin.clean(views.images)
    z_adv, z = (embedded.chunk(2) for embedded in both)
    originals = twin.clean(views.originals)
    expected = dict(zip(("adversarial", "clean"), map(slow_loss, both), strict=True))
    expected["sir"] = slow_divergence(slow_shares(z[0], originals), slow_shares(z[1], originals), divergence)
    pairs = [zip(slow_shares(z_adv[k], originals), slow_shares(z_adv[k], z[k]), strict=True) for k in (0, 1)]
    products = [[a * b for a, b in pair] for pair in pairs]
    expected["air"] = slow_divergence(products[0], products[1], divergence)
    assert loss.scalars.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(loss.scalars[name], value.detach(), rtol=1e-6, atol=1e-9)
    weight = 1 / 6  # two thirds of 1 - 3/4, in the second epoch of four
    total = (1 - weight) * expected["clean"] + (1 + weight) * expected["adversarial"]
    total = total + 0.7 * expected["sir"] + 0.3 * expected["air"]
    torch.testing.assert_close(loss.total, total, rtol=1e-6, atol=1e-9)
    mine, naive = (torch.autograd.grad(t, list(s.parameters())) for t, s in ((loss.total, stage), (total, twin)))
    for a, b in zip(mine, naive, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_the_attack_and_both_contrastive_losses_are_those_of_acl() -> None:
    stage, acl = stage_of(), acl_stage_of()
    acl.load_state_dict(stage.state_dict())
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    start = views.generator.get_state()
    mine = stage(views)
    views.generator.set_state(start)
    theirs = acl(Views(views.images, views.generator))
    assert {name: mine.scalars[name] for name in theirs.scalars} == theirs.scalars


def test_views_bring_the_images_themselves() -> None:
    stage = stage_of()
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    torch.testing.assert_close(views.originals, pixels(5) / 255)
    assert views.images.shape == (10, 3, 16, 16)
    assert 0 <= float(views.images.min()) <= float(views.images.max()) <= 1
    assert float((views.images[:5] - views.originals).abs().max()) > 0.1


def test_images_themselves_pass_the_clean_branch_last() -> None:
    stage = stage_of()
    views = stage.views(pixels(5), generator("views"), torch.arange(5))
    shown: list[tuple[str, Tensor]] = []
    for name in ("clean", "adversarial"):
        branch = stage.get_submodule(name)
        branch.register_forward_pre_hook(lambda _, inputs, name=name: shown.append((name, inputs[0])))
    before = deepcopy(stage.clean.encoder)
    stage(views)
    assert [name for name, _ in shown] == ["adversarial", "clean", "clean"]
    assert torch.equal(shown[1][1], views.images)
    assert torch.equal(shown[2][1], views.originals)
    assert 0 < float((shown[0][1] - views.images).abs().max()) <= EPS + 1e-6
    expected = before.get_buffer("backbone.bn1.running_mean").clone()
    for images in (views.images, views.originals):
        mean = before.backbone.get_submodule("conv1")(before.normalise(images)).mean(dim=(0, 2, 3))
        expected = 0.9 * expected + 0.1 * mean.detach()
    found = stage.clean.encoder.get_buffer("backbone.bn1.running_mean")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for branch, batches in ((stage.clean, 2), (stage.adversarial, 1)):
        assert {int(norm.get_buffer("num_batches_tracked")) for norm in batch_norms(branch)} == {batches}


@pytest.mark.parametrize("branch", ["adversarial", "clean"])
def test_the_encoder_of_a_branch_is_handed_on(branch: str) -> None:
    stage = stage_of(branch=branch)
    assert stage.encoder is getattr(stage, branch).encoder
    assert stage.clean.encoder is not stage.adversarial.encoder


# The curriculum


def test_the_levels_of_the_published_training() -> None:
    plan = AIRSettings()
    assert [plan.strength(epoch) for epoch in (0, 49, 50, 500, 999)] == pytest.approx([1, 1, 0.95, 0.5, 0.05])
    # Weight and strength change together; in DynACL's code the weight is an epoch ahead.
    weights = [plan.adversarial_weight(epoch) for epoch in (0, 49, 50, 500, 999)]
    assert weights == pytest.approx([1, 1, 1 + 1 / 30, 4 / 3, 1 + 19 / 30])


def test_views_weaken_and_the_weight_moves_from_epoch_to_epoch() -> None:
    stage, seen = stage_of(), []
    for epoch in range(4):
        stage.before_epoch(epoch)
        seen.append((stage.view.jitter_prob, stage.adversarial_weight))
    assert [prob for prob, _ in seen] == pytest.approx([0.8 * part for part in (1, 0.75, 0.5, 0.25)])
    assert [weight for _, weight in seen] == pytest.approx([1 + 2 / 3 * part for part in (0, 0.25, 0.5, 0.75)])


def test_one_level_is_the_form_without_a_curriculum() -> None:
    plan = AIRSettings(levels=1)
    assert {plan.adversarial_weight(epoch) for epoch in range(1000)} == {1}
    assert {plan.strength(epoch) for epoch in range(1000)} == {1}


# Training


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
        **{"schedule": "acl", "warmup_epochs": 10, "lr_floor": 1e-6},
        **{"temperature": 0.5, "steps": 5, "step_size": 0.25, "start": "uniform", "projector_layers": 3},
        **{"lambda1": 0.5, "lambda2": 0.5, "divergence": "released", "levels": 20, "reweighting": 2 / 3},
    }
    dump = AIRSettings().model_dump()
    assert {key: dump[key] for key in expected} == expected
    assert dump["view"]["interpolation"] == "bicubic"
    assert dump["view"]["crop_scale"] == (0.1, 1.0)
    assert AIRConfig().branch == "adversarial"


def test_the_published_network() -> None:
    recipe = recipe_of(load_tier("paper"), fidelity="native")
    assert isinstance(recipe.config, AIRConfig)
    stage = AIRStage(recipe.config, context(recipe))
    assert sum(parameter.numel() for parameter in stage.parameters()) == 11_971_520
    assert stage.encoder.normalise.get_buffer("std").tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_another_divergence_is_refused() -> None:
    with pytest.raises(BenchError, match=r"stage1\.divergence.*'released' or 'kl'"):
        recipe_of(stage1__divergence="js")
