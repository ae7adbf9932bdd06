"""Recipes: the published numbers, what a tier changes of them, and no flips where mirrored images lie."""

from pathlib import Path
from typing import Any

import pytest
from cifar_recipes import METHOD_NAMES, SHIPPED, make_facts, recipe_of, values_of

from bench.errors import BenchError
from bench.recipe import DEFAULT_PROTOCOLS, Recipe, Tier, TrainPlan, load_tier, tier_names

# The published recipe. Numbers stand here as their sources give them, not as the code does.

# DeACL repository, stage-1 teacher: solo-learn's CIFAR SimCLR script of 2021, with the weight decay of DeACL Table 2.
SIMCLR = {
    **{"epochs": 1000, "batch_size": 256, "drop_last": True, "precision": "fp16"},
    **{"optimizer": "lars", "lr": 0.4, "lr_batch": 256, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-5},
    **{"lars_eta": 0.02, "lars_clip": True, "lars_exclude_vectors": True, "lars_lr_in_momentum": False},
    **{"schedule": "warmup-cosine", "schedule_unit": "epoch", "decay_epochs": ()},
    **{"warmup_epochs": 10, "warmup_start": 0.003, "lr_floor": 0.0},
    **{"temperature": 0.2, "projector": (2048, 256), "views_together": True},
    "view": {
        **{"order": "crop_first", "crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "interpolation": "bicubic"},
        **{"jitter": (0.8, 0.8, 0.8, 0.2), "jitter_prob": 0.8, "grayscale_prob": 0.2},
        **{"blur_prob": 0.5, "blur_sigma": (0.1, 2.0), "solarize_prob": 0.0, "solarize_threshold": 128 / 255},
        "flip_prob": 0.5,
    },
}

# DeACL repository, stage-2 script for CIFAR-10, as it stands since 2024 (fp32), and sections 3.3 and 4.1.
PSEUDO_AT = {
    **{"epochs": 100, "batch_size": 256, "drop_last": True, "precision": "fp32"},
    **{"optimizer": "sgd", "lr": 0.5, "lr_batch": 256, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
    **{"schedule": "warmup-cosine", "schedule_unit": "epoch", "decay_epochs": ()},
    **{"warmup_epochs": 10, "warmup_start": 0.003, "lr_floor": 0.0},
    **{"lam": 2.0, "steps": 5, "step_size": 0.25, "start": "uniform"},
    **{
        "loss": "ce2gt_ae2ce",
        "projector": "none",
        "contrastive": 0.0,
        "clean_view": "weak",
        "adversarial_view": "weak",
    },
    "view": {"crop": "padded", "padding": None, "flip_prob": 0.5},
}

# DeACL repository, evaluation script; batch-norm in eval mode as in AdvCL's and DeACL's of the paper's time.
SLF = {
    "crop": "padded",
    **{"preset": "uniform", "encoder_bn": "eval", "epochs": 25, "batch_size": 512, "drop_last": False, "lr": 0.1},
    **{"lr_batch": None, "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4},
    **{"schedule": "steps", "decay_epochs": (15, 20), "warmup_epochs": 0, "precision": "fp32", "flip_prob": 0.5},
    **{"head_init": "default", "selection": "last"},
}

SWITCHED_OFF = {"temperature", "strong_view"}
"""Of ablations: without a contrastive loss or a strong view nothing reads them."""
SELECTION_ONLY = {"selection_fraction", "selection_steps"}
LARS_ONLY = {"lars_eta", "lars_clip", "lars_exclude_vectors", "lars_lr_in_momentum"}
ADAMW_ONLY = {"beta2"}
IN_PARTS_ONLY = {"accumulate", "batch_norm"}
"""Of batches that are computed in parts, or on several devices."""
SHORT_ONLY = {"short_lr"}
WARMUP_ONLY = {"schedule_unit", "warmup_start", "lr_floor"}


def test_the_paper_tier_is_deacl_as_published() -> None:
    recipe = recipe_of()
    config = recipe.config.model_dump()
    assert (config.pop("student_init"), config.pop("ssl")) == ("teacher", "simclr")
    assert {name: config["stage1"][name] for name in SIMCLR} == SIMCLR
    assert {name: config["stage2"][name] for name in PSEUDO_AT} == PSEUDO_AT
    # Nothing that the sources do not speak of takes part.
    assert config.keys() == {"stage1", "stage2"}
    assert config["stage1"].keys() - SHORT_ONLY - ADAMW_ONLY - IN_PARTS_ONLY == SIMCLR.keys()
    idle = LARS_ONLY | ADAMW_ONLY | SWITCHED_OFF | SHORT_ONLY | IN_PARTS_ONLY
    assert config["stage2"].keys() - PSEUDO_AT.keys() == idle
    assert recipe.config.plans()["stage2"].effective_lr == 0.5
    assert recipe.config.plans()["stage1"].effective_lr == 0.4
    assert config["stage2"]["step_size"] * recipe.threat.eps == pytest.approx(2 / 255, abs=1e-15)
    assert recipe.threat.model_dump() == {"norm": "linf", "eps": 8 / 255}


def test_the_paper_tier_evaluates_as_published() -> None:
    recipe = recipe_of()
    slf = recipe.protocol("slf").model_dump()
    assert {name: slf[name] for name in SLF} == SLF
    assert slf.keys() - SLF.keys() == LARS_ONLY | ADAMW_ONLY | WARMUP_ONLY | SELECTION_ONLY | SHORT_ONLY | IN_PARTS_ONLY
    assert recipe.protocol("slf").steps_per_epoch(50_000) == 98
    evaluate = recipe.evaluate
    assert evaluate.corruptions == "none"
    corruptions = {name for name in type(evaluate).model_fields if name.startswith("corruption")}
    assert evaluate.model_dump(exclude=corruptions) == {
        **{"eps": None, "batch_size": 256, "pgd_steps": 20, "pgd_step_size": 0.25, "pgd_start": "uniform"},
        **{"attacks": (), "attack_precision": "fp32"},
        **{"attack": "pgd", "pgd_restarts": 1, "autoattack": True, "autoattack_images": None, "autoattack_batch": 256},
    }
    assert recipe.eval_eps == 8 / 255
    assert evaluate.pgd_step_size * recipe.eval_eps == pytest.approx(2 / 255, abs=1e-15)


def test_both_stages_make_195_steps_of_cifars_50_000_images() -> None:
    assert [plan.steps_per_epoch(50_000) for plan in recipe_of().config.plans().values()] == [195, 195]
    assert TrainPlan(epochs=1, batch_size=256, lr=1, drop_last=False).steps_per_epoch(50_000) == 196


def test_uniform_fidelity_is_one_encoder_and_native_each_papers_own() -> None:
    uniform: dict[str, Any] = {
        "constants": None,
        "options": {},
        "width": 64,
        "stem_padding": 1,
        "stem_init": "kaiming",
        "normalisation": "dataset",
        "arch": "resnet18",
    }
    for method in METHOD_NAMES:
        assert recipe_of(method=method).encoder.model_dump() == uniform
    # DeACL repository, backbone: padding 2, stem replaced after the initialisation, CIFAR-10's constants for all data.
    native = recipe_of(fidelity="native")
    deacl = {"stem_padding": 2, "stem_init": "default", "normalisation": "cifar"}
    assert native.encoder.model_dump() == {**uniform, **deacl}
    assert native.fidelity == "native"
    own = recipe_of("encoder.stem_padding=1", fidelity="native")
    assert own.encoder.model_dump() == {**uniform, **deacl, "stem_padding": 1}


# Tiers


def test_every_shipped_tier_loads_cheapest_first() -> None:
    assert tier_names() == SHIPPED
    tiers = [load_tier(name) for name in SHIPPED]
    assert [tier.name for tier in tiers] == SHIPPED
    assert all(tier.summary for tier in tiers)
    costs = [tier.epochs * tier.encoder.get("width", 64) ** 2 for tier in tiers]
    assert costs == sorted(costs)
    assert len({tier.digest() for tier in tiers}) == len(SHIPPED)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_tier_scales_every_stage_of_every_method_by_one_factor(name: str, method: str) -> None:
    tier, recipe = load_tier(name), recipe_of(method=method, tier=name)
    published = recipe_of(method=method).config.plans()
    plans = recipe.config.plans()
    assert plans.keys() == published.keys()
    for stage, plan in plans.items():
        before = published[stage]
        assert abs(plan.epochs - tier.epochs * before.epochs) <= 0.5
        assert abs(plan.batch_size - tier.batch_size * before.batch_size) <= 0.5
        shortest = min(before.warmup_epochs, plan.epochs / 10) if method in ("mocov2", "vicreg") else 0
        assert abs(plan.warmup_epochs - max(tier.epochs * before.warmup_epochs, shortest)) <= 1e-6
        kept = tier.sgd_lr == "published" and plan.optimizer == "sgd"
        scale = 1 if kept or before.lr_batch is None else plan.batch_size / before.batch_size
        short_lr = getattr(before, "short_lr", None)
        few = tier.epochs < 0.1 and short_lr is not None
        assert plan.effective_lr == pytest.approx(short_lr if few else before.effective_lr * scale, rel=1e-12)
        assert all(getattr(plan, key) == value for key, value in tier.stages.items())
        moved = {"epochs", "batch_size", "warmup_epochs", "lr_batch", *tier.stages, *(["lr"] if few else [])}
        assert plan.model_dump(exclude=moved) == before.model_dump(exclude=moved)
    assert (recipe.tier, recipe.tier_sha256) == (name, tier.digest())


@pytest.mark.parametrize(
    ("method", "stage", "sets", "rate"),
    [
        ("ap-dpe", "stage1", (), 0.1),
        ("ap-dpe", "stage1", ("stage1.short_lr=null",), 0.001),
        ("ap-dpe", "stage1", ("stage1.short_lr=0.03",), 0.03),
        ("ap-dpe", "stage1", ("stage1.short_lr=0.03", "stage1.lr=0.5"), 0.5),
        ("ap-dpe", "stage1", ("task=rotation", "stage1.short_lr=0.03"), 0.03),
        ("simclr", "stage1", ("stage1.optimizer=sgd",), 0.4),
        ("deacl", "stage1", ("ssl=mocov2", "stage1.optimizer=lars"), 0.3 / 4),
        ("deacl", "stage2", ("stage2.optimizer=lars",), 0.5 / 4),
        ("deacl", "stage2", ("stage2.optimizer=lars", "stage2.lr_batch=128"), 0.5 / 2),
        ("deacl", "stage2", ("stage2.optimizer=adamw", "stage2.epochs=7", "stage2.batch_size=128"), 0.5 / 2),
    ],
)
def test_a_tier_scales_the_stage_that_was_asked_for(
    method: str, stage: str, sets: tuple[str, ...], rate: float
) -> None:
    plan = recipe_of(*sets, method=method, tier="tiny").config.plans()[stage]
    assert plan.effective_lr == pytest.approx(rate)


def test_a_tiers_own_optimizer_is_the_one_that_it_scales() -> None:
    tier = Tier(name="t", summary="", batch_size=0.25, sgd_lr="published", stages={"optimizer": "lars"})
    assert recipe_of(tier=tier).config.plans()["stage2"].effective_lr == pytest.approx(0.5 / 4)
    assert recipe_of("stage2.optimizer=sgd", tier=tier).config.plans()["stage2"].effective_lr == 0.5


def test_a_length_that_was_set_moves_no_other() -> None:
    """The warm-up stays a share of the published epochs."""
    plain, longer = (recipe_of(*sets, tier="tiny").config.plans() for sets in ((), ("stage2.epochs=50",)))
    assert longer["stage2"] == plain["stage2"].model_copy(update={"epochs": 50})


def test_no_tier_scales_a_stage_below_one_epoch_and_two_images() -> None:
    tier = Tier(name="dust", summary="", epochs=1e-6, batch_size=1e-6)
    for plan in recipe_of(tier=tier).config.plans().values():
        assert (plan.epochs, plan.batch_size) == (1, 2)
        assert plan.warmup_epochs == pytest.approx(10 * 1e-6)


def test_a_users_own_tier_is_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('summary = "mine"\nepochs = 0.5\n[encoder]\nwidth = 4\n[evaluate]\npgd_steps = 3\n')
    recipe = recipe_of(tier=str(path))
    assert (recipe.tier, recipe.encoder.width, recipe.evaluate.pgd_steps) == ("own", 4, 3)
    assert [plan.epochs for plan in recipe.config.plans().values()] == [500, 50]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("summary = ", "not valid TOML"),
        ('summary = "x"\nepoch = 1', "epoch: there is no such key"),
        ('summary = "x"\nepochs = 0', "epochs: must be more than 0"),
        ("", "summary: is missing"),
    ],
)
def test_a_faulty_tier_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=complaint):
        load_tier(str(path))


def test_an_unknown_tier_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"unknown tier 'papers'\. Did you mean 'paper'\? Allowed: mini, paper"):
        load_tier("papers")
    with pytest.raises(BenchError, match=r"cannot read the tier file .*missing\.toml"):
        load_tier(str(tmp_path / "missing.toml"))


def test_an_unknown_key_of_a_tiers_section_is_refused() -> None:
    tier = Tier(name="t", summary="", stages={"speed": 1}, encoder={"depth": 2}, evaluate={"pgd_step": 1})
    with pytest.raises(BenchError, match="4 faults") as caught:
        recipe_of(tier=tier)
    for key in ("stage1.speed", "stage2.speed", "encoder.depth", "evaluate.pgd_step"):
        assert key in str(caught.value)


# Data that must not be mirrored


def flips(recipe: Recipe) -> dict[str, float]:
    return {key: value for key, value in values_of(recipe).items() if key.endswith("flip_prob")}


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("tier", SHIPPED)
def test_where_mirrored_images_lie_no_view_is_flipped(method: str, tier: str) -> None:
    mirrored = flips(recipe_of(method=method, tier=tier))
    kept = flips(recipe_of(method=method, tier=tier, facts=make_facts(mirror=False)))
    assert mirrored.keys() == kept.keys() >= {"slf.flip_prob"}
    assert set(mirrored.values()) == {0.5}
    assert set(kept.values()) == {0.0}


def test_deacls_views_are_among_those() -> None:
    stages = {f"config.{view}.flip_prob" for view in ("stage1.view", "stage2.view", "stage2.strong_view")}
    assert flips(recipe_of()).keys() == stages | {
        f"{name}.flip_prob" for name in (*DEFAULT_PROTOCOLS, "slf-1pct", "slf-10pct")
    }
