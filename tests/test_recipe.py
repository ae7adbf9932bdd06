"""Recipes: the published numbers, what a tier and ``--set`` change of them, and digests that notice all of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import (
    PROTOCOLS,
    DatasetFacts,
    Fidelity,
    Recipe,
    Settings,
    Tier,
    TrainPlan,
    build_recipe,
    canonical_digest,
    load_tier,
    parse_overrides,
    tier_names,
)
from bench.recipe.overrides import flatten

SHIPPED = ["tiny", "mini", "short", "paper"]
METHOD_NAMES = list(METHODS)


def make_facts(**changes: Any) -> DatasetFacts:
    values: dict[str, Any] = {
        **{"name": "cifar10", "sha256": "a" * 64, "image_shape": (3, 32, 32), "num_classes": 10},
        **{"train_images": 50_000, "test_images": 10_000, "eps": 8 / 255},
        **{"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    }
    return DatasetFacts(**{**values, **changes})


def recipe_of(
    *sets: str,
    method: str = "deacl",
    tier: str | Tier = "paper",
    fidelity: Fidelity = "uniform",
    facts: DatasetFacts | None = None,
) -> Recipe:
    cls = METHODS.get(method)
    return build_recipe(
        method=method,
        config_type=cls.config_type,
        native_encoder=cls.native_encoder,
        dataset=facts or make_facts(),
        tier=load_tier(tier) if isinstance(tier, str) else tier,
        fidelity=fidelity,
        overrides=parse_overrides(sets),
    )


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Every number of the recipe by its dotted key."""
    return dict(flatten(recipe.model_dump()))


# The published recipe. Numbers stand here as their sources give them, not as the code does.

# DeACL repository, stage-1 teacher: solo-learn's CIFAR SimCLR script of 2021, with the weight decay of DeACL Table 2.
SIMCLR = {
    **{"epochs": 1000, "batch_size": 256, "drop_last": True, "precision": "fp16"},
    **{"optimizer": "lars", "lr": 0.4, "lr_batch": 256, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-5},
    **{"lars_eta": 0.02, "lars_clip": True, "lars_exclude_vectors": True, "lars_lr_in_momentum": False},
    **{"schedule": "warmup-cosine", "schedule_unit": "epoch", "decay_epochs": ()},
    **{"warmup_epochs": 10, "warmup_start": 0.003, "lr_floor": 0.0},
    **{"temperature": 0.2, "projector": (2048, 256)},
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
    "view": {"padding": None, "flip_prob": 0.5},
}

# DeACL repository, evaluation script; batch-norm in eval mode as in AdvCL's and DeACL's of the paper's time.
SLF = {
    **{"preset": "uniform", "encoder_bn": "eval", "epochs": 25, "batch_size": 512, "drop_last": False, "lr": 0.1},
    **{"lr_batch": None, "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 2e-4},
    **{"schedule": "steps", "decay_epochs": (15, 20), "warmup_epochs": 0, "precision": "fp32", "flip_prob": 0.5},
    **{"head_init": "default", "selection": "last"},
}

SWITCHED_OFF = {"temperature", "strong_view"}
"""Of ablations: without a contrastive loss or a strong view nothing reads them."""
SELECTION_ONLY = {"selection_fraction", "selection_steps"}
LARS_ONLY = {"lars_eta", "lars_clip", "lars_exclude_vectors", "lars_lr_in_momentum"}
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
    assert config["stage1"].keys() - SHORT_ONLY == SIMCLR.keys()
    assert config["stage2"].keys() - PSEUDO_AT.keys() == LARS_ONLY | SWITCHED_OFF | SHORT_ONLY
    assert recipe.config.plans()["stage2"].effective_lr == 0.5
    assert recipe.config.plans()["stage1"].effective_lr == 0.4
    assert config["stage2"]["step_size"] * recipe.threat.eps == pytest.approx(2 / 255, abs=1e-15)
    assert recipe.threat.model_dump() == {"norm": "linf", "eps": 8 / 255}


def test_the_paper_tier_evaluates_as_published() -> None:
    recipe = recipe_of()
    slf = recipe.slf.model_dump()
    assert {name: slf[name] for name in SLF} == SLF
    assert slf.keys() - SLF.keys() == LARS_ONLY | WARMUP_ONLY | SELECTION_ONLY | SHORT_ONLY
    assert recipe.slf.steps_per_epoch(50_000) == 98
    evaluate = recipe.evaluate
    assert evaluate.corruptions == "none"
    corruptions = {name for name in type(evaluate).model_fields if name.startswith("corruption")}
    assert evaluate.model_dump(exclude=corruptions) == {
        **{"eps": None, "batch_size": 256, "pgd_steps": 20, "pgd_step_size": 0.25, "pgd_start": "uniform"},
        **{"pgd_restarts": 1, "autoattack": True, "autoattack_images": None, "autoattack_batch": 256},
    }
    assert recipe.eval_eps == 8 / 255
    assert evaluate.pgd_step_size * recipe.eval_eps == pytest.approx(2 / 255, abs=1e-15)


def test_both_stages_make_195_steps_of_cifars_50_000_images() -> None:
    assert [plan.steps_per_epoch(50_000) for plan in recipe_of().config.plans().values()] == [195, 195]
    assert TrainPlan(epochs=1, batch_size=256, lr=1, drop_last=False).steps_per_epoch(50_000) == 196


def test_uniform_fidelity_is_one_encoder_and_native_each_papers_own() -> None:
    uniform = {"width": 64, "stem_padding": 1, "stem_init": "kaiming", "normalisation": "dataset", "arch": "resnet18"}
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
    assert [tier.epochs for tier in tiers] == sorted(tier.epochs for tier in tiers)
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
        smallest = min(before.batch_size, tier.smallest_batch)
        assert abs(plan.batch_size - max(smallest, tier.batch_size * before.batch_size)) <= 0.5
        assert abs(plan.warmup_epochs - tier.epochs * before.warmup_epochs) <= 1e-6
        kept = tier.sgd_lr == "published" and plan.optimizer == "sgd"
        scale = 1 if kept or before.lr_batch is None else plan.batch_size / before.batch_size
        few = tier.epochs < 0.1 and before.short_lr is not None
        assert plan.effective_lr == pytest.approx(before.short_lr if few else before.effective_lr * scale, rel=1e-12)
        assert all(getattr(plan, key) == value for key, value in tier.stages.items())
        moved = {"epochs", "batch_size", "warmup_epochs", "lr_batch", *tier.stages, *(["lr"] if few else [])}
        assert plan.model_dump(exclude=moved) == before.model_dump(exclude=moved)
    assert (recipe.tier, recipe.tier_sha256) == (name, tier.digest())


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
        ('summary = "x"\nepoch = 1', "epoch: Extra inputs"),
        ('summary = "x"\nepochs = 0', "epochs: Input should be greater than 0"),
        ("", "summary: Field required"),
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


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1e-5", 1e-5),
        ("5", 5),
        ("-3", -3),
        ("true", True),
        ("false", False),
        ('"8 of 255"', "8 of 255"),
        ("[1, 2]", [1, 2]),
        ("[0.08, 1.0]", [0.08, 1.0]),
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("-1/4", -0.25),
        ("1e1/4", 2.5),
        ("scratch", "scratch"),
        ("deacl-2024", "deacl-2024"),
        ("a=b", "a=b"),
        ("none", "none"),
        ("null", None),
        ("", ""),
    ],
)
def test_values_are_toml_fractions_or_bare_words(text: str, value: object) -> None:
    parsed = parse_overrides([f"stage2.key={text}"])
    assert parsed == {"stage2.key": value}
    assert type(parsed["stage2.key"]) is type(value)


@pytest.mark.parametrize("item", ["stage2.lr", "=1", "stage2.=1", ".lr=1", "a b=1", "a..b=1", "--set=1"])
def test_what_is_not_key_equals_value_is_refused(item: str) -> None:
    with pytest.raises(BenchError, match=r"is not of the form key=value\. Type, say, --set stage2\.epochs=5"):
        parse_overrides([item])


@pytest.mark.parametrize("value", ["1/0", "1e/2", "./3", "--1/2"])
def test_a_fraction_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(BenchError, match=f"'{value}' is not a number; write, say, 8/255"):
        parse_overrides([f"stage2.lr={value}"])


@pytest.mark.parametrize("value", ["8//255", "1/2/3", "eight/255"])
def test_what_only_looks_like_a_fraction_never_becomes_a_number(value: str) -> None:
    with pytest.raises(BenchError, match=rf"stage2\.lr: .*valid number.* \(given: '{value}'\)"):
        recipe_of(f"stage2.lr={value}")


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(BenchError, match=r"--set stage2\.lr is given twice"):
        parse_overrides(["stage2.lr=1", " stage2.lr =1"])


def test_overrides_reach_every_depth_and_nothing_else() -> None:
    sets = {
        **{
            "student_init": "scratch",
            "stage2.lr": 0.25,
            "stage1.view.blur_prob": 0,
            "stage1.view.crop_scale": [0.2, 1],
        },
        **{"encoder.width": 32, "threat.eps": 4 / 255, "slf.lr": 0.01, "evaluate.pgd_steps": 50},
        "evaluate.autoattack_images": None,
    }
    cls = METHODS.get("deacl")
    recipe = build_recipe(
        method="deacl",
        config_type=cls.config_type,
        native_encoder=cls.native_encoder,
        dataset=make_facts(),
        tier=load_tier("mini"),
        overrides=sets,
    )
    plain, changed = values_of(recipe_of(tier="mini")), values_of(recipe)
    written = {key: tuple(value) if isinstance(value, list) else value for key, value in sets.items()}
    shared = ("encoder.", "threat.", "slf.", "evaluate.")
    expected = {key if key.startswith(shared) else f"config.{key}": value for key, value in written.items()}
    expected |= {f"overrides.{key}": value for key, value in sets.items()}
    assert {key: value for key, value in changed.items() if key not in plain or plain[key] != value} == expected
    assert plain.keys() <= changed.keys()
    assert recipe.overrides == sets


def test_the_users_word_beats_tier_data_and_native_settings() -> None:
    facts = make_facts(mirror=False)
    sets = ["stage1.epochs=7", "stage2.view.flip_prob=0.5", "slf.batch_size=99", "encoder.normalisation=none"]
    recipe = recipe_of(*sets, tier="tiny", fidelity="native", facts=facts)
    values = values_of(recipe)
    assert [values[f"config.{item.split('=')[0]}"] for item in sets[:2]] == [7, 0.5]
    assert (recipe.slf.batch_size, recipe.encoder.normalisation) == (99, "none")


def test_an_eps_may_be_a_fraction_in_quotes_too() -> None:
    assert recipe_of('threat.eps="4/255"').threat.eps == recipe_of("threat.eps=4/255").threat.eps == 4 / 255


def test_a_section_cannot_be_set() -> None:
    for section in ("stage2", "stage1.view", "encoder", "evaluate"):
        with pytest.raises(BenchError, match=f"--set {section}: that is a section; set one of its keys"):
            recipe_of(f"{section}=5")


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"unknown setting 'stage2\.epoch'\. Did you mean .*'stage2\.epochs'"):
        recipe_of("stage2.epoch=5")
    for key in ("dataset.eps", "tier", "method", "config.stage2.lr", "stage2.lr.x", "fidelity"):
        with pytest.raises(BenchError, match=f"unknown setting '{key}'"):
            recipe_of(f"{key}=1")


def test_all_unknown_keys_are_named_together() -> None:
    with pytest.raises(BenchError) as caught:
        recipe_of("stage2.epoch=5", "stage1=2", "encoder.wdth=3", "stage2.lr=-1")
    for fault in ("'stage2.epoch'", "--set stage1: that is a section", "'encoder.wdth'"):
        assert fault in str(caught.value)


def test_all_bad_values_are_named_together_with_what_was_given() -> None:
    sets = ["stage2.lr=-1", "stage1.view.blur_prob=2", "encoder.width=0", "student_init=random", "slf.epochs=many"]
    with pytest.raises(BenchError, match=r"recipe deacl/paper: 5 faults") as caught:
        recipe_of(*sets)
    for item in sets:
        key, given = item.split("=")
        assert f"{key}: " in str(caught.value)
        assert f"(given: {given!r})" in str(caught.value) or f"(given: {given})" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ("threat.eps=8", "write 8/255"),
        ("threat.eps=-0.1", "eps"),
        ('threat.eps="eight"', "write 8/255 or 0.031"),
        ("stage2.lr=nan", "stage2.lr: Input should be a finite number"),
        ("stage2.lr=inf", "stage2.lr: Input should be a finite number"),
        ("stage2.warmup_epochs=101", "warmup_epochs 101 exceed epochs 100"),
        ("stage1.batch_size=1", "stage1.batch_size: Input should be greater than or equal to 2"),
        ("stage2.epochs=2.5", "stage2.epochs: Input should be a valid integer"),
        ("stage1.view.crop_scale=[1.0, 0.1]", "the lower end comes first"),
        ("slf.preset=advlc", "slf.preset: Value error, unknown preset 'advlc'. Did you mean 'advcl'?"),
        ("slf.preset=[1]", "slf.preset"),
        ("evaluate.pgd_start=random", "evaluate.pgd_start"),
    ],
)
def test_a_value_out_of_range_is_refused(item: str, complaint: str) -> None:
    with pytest.raises(BenchError) as caught:
        recipe_of(item)
    assert complaint in str(caught.value)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(BenchError, match="nesterov needs momentum above 0"):
        recipe_of("stage2.nesterov=true", "stage2.momentum=0")


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
    assert flips(recipe_of()).keys() == stages | {f"{name}.flip_prob" for name in PROTOCOLS}


# Digests


def leaves(settings: Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def moved(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "!"
    if isinstance(value, dict):
        return {**value, "more": 1}
    return 1 if value is None else (*value, 1)


def with_leaf(settings: Any, path: tuple[str, ...]) -> Any:
    """A copy of ``settings`` in which the one leaf at ``path`` has another value (unchecked)."""
    name, *rest = path
    value = getattr(settings, name)
    return settings.model_copy(update={name: with_leaf(value, tuple(rest)) if rest else moved(value)})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # "eval!" is none of the allowed values
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_each_digest_depends_on_exactly_its_own_numbers(method: str) -> None:
    recipe = recipe_of(method=method, tier="mini")
    pretraining, protocols = recipe.pretraining_digest(), {name: recipe.protocol_digest(name) for name in PROTOCOLS}
    before_encoder = {"method", "config", "dataset", "encoder", "threat"}
    counted = 0
    for path, value in leaves(recipe):
        assert not isinstance(value, set | frozenset), "a set has another order in another process"
        other = with_leaf(recipe, path)
        assert (other.pretraining_digest() != pretraining) == (path[0] in before_encoder), path
        for name, before in protocols.items():
            own = before_encoder | {name, "evaluate", "finetune", "budget"}
            assert (other.protocol_digest(name) != before) == (path[0] in own), (name, path)
        counted += 1
    assert counted > 50
    assert len(set(protocols.values())) == len(PROTOCOLS)


def test_digests_of_what_was_set_are_those_of_the_resulting_numbers() -> None:
    assert recipe_of("stage2.lam=2.0").pretraining_digest() == recipe_of().pretraining_digest()
    assert recipe_of("stage2.lam=2").pretraining_digest() == recipe_of().pretraining_digest()
    assert recipe_of("stage2.lam=2.5").pretraining_digest() != recipe_of().pretraining_digest()
    advcl, by_hand = recipe_of("slf.preset=advcl"), recipe_of("slf.lr=0.01")
    assert advcl.pretraining_digest() == by_hand.pretraining_digest() == recipe_of().pretraining_digest()
    assert len({r.protocol_digest("slf") for r in (advcl, by_hand, recipe_of())}) == 3


def test_the_canonical_form_is_fixed_for_ever() -> None:
    """Records of all times must be comparable: the SHA-256 of JSON with sorted keys and without spaces."""
    values = {"b": [0.1, 1e-5, True, None], "a": {"y": 8 / 255, "x": "é"}}
    text = '{"a":{"x":"\\u00e9","y":0.03137254901960784},"b":[0.1,1e-05,true,null]}'
    assert canonical_digest(values) == hashlib.sha256(text.encode()).hexdigest()
    assert canonical_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_digest({"x": float("nan")})


def test_a_recipe_survives_json_with_its_digest() -> None:
    recipe = recipe_of("stage2.lr=1/3", "student_init=scratch", tier="short", fidelity="native")
    again = type(recipe).parse(recipe.model_dump(mode="json"), "again")
    assert again == recipe
    assert (again.pretraining_digest(), again.digest()) == (recipe.pretraining_digest(), recipe.digest())


class Fixed(Settings):
    """Fields of every kind, which will never change."""

    lr: float = 1 / 3
    steps: int = 5
    scale: tuple[float, float] = (0.08, 1.0)
    start: str | None = None
    inner: dict[str, Any] = {"z": True, "a": 1e-5}


def test_the_digest_of_settings_is_fixed_for_ever() -> None:
    """Golden: a run folder of today must be found by the program of tomorrow, in any process."""
    text = '{"inner":{"a":1e-05,"z":true},"lr":0.3333333333333333,"scale":[0.08,1.0],"start":null,"steps":5}'
    assert Fixed().digest() == hashlib.sha256(text.encode()).hexdigest()
    assert Fixed().digest() == "f39829533db1ce721da4da102657e2dcb0816a63e2f936154a6be47ea6c2bc46"
    assert Fixed(inner={"a": 1e-5, "z": True}).digest() == Fixed().digest()
