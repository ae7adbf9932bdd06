"""DeACL's first stage by other frameworks: whose settings it takes, and which encoder becomes the teacher."""

from typing import get_args

import pytest
from deacl_stages import recipe_of, stages_of
from pydantic import ValidationError

from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import build_recipe, load_tier
from bench.zoo import digest
from methods.deacl import DeACLConfig
from methods.frameworks import FRAMEWORKS, FrameworkName

FRAMEWORK_NAMES: tuple[FrameworkName, ...] = get_args(FrameworkName)


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_stage_1_takes_the_settings_of_its_framework(name: FrameworkName) -> None:
    alone = METHODS.get(name)
    published = alone.config_type().plans()["stage1"]
    assert type(published) is FRAMEWORKS[name].settings
    assert DeACLConfig.parse({"ssl": name}, "config").stage1 == published
    for tier in (load_tier("paper"), load_tier("tiny")):
        recipe = recipe_of(tier, ssl=name)
        itself = build_recipe(
            method=name,
            config_type=alone.config_type,
            native_encoder=alone.native_encoder,
            dataset=recipe.dataset,
            tier=tier,
        )
        assert recipe.config.plans()["stage1"] == itself.config.plans()["stage1"]
        again = DeACLConfig.parse(recipe.config.model_dump(mode="json"), "again")
        assert again == recipe.config
        assert again.digest() == recipe.config.digest()


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_the_online_backbone_is_the_teacher_and_starts_the_student(name: FrameworkName) -> None:
    method, ssl, second = stages_of(ssl=name, **({"stage1__predictor": [7]} if name == "byol" else {}))
    assert second.teacher is ssl.encoder
    assert digest(second.encoder.state_dict()) == digest(ssl.encoder.state_dict())
    assert second.encoder is not ssl.encoder
    assert method.result() is second.encoder
    if name in ("mocov2", "byol"):
        average = ssl.get_submodule("momentum.network.0")
        assert digest(average.state_dict()) != digest(second.encoder.state_dict())


def test_settings_reach_the_framework_and_only_its_own_keys_exist() -> None:
    config = recipe_of(ssl="byol", stage1__tau=[0.5, 0.75], stage1__view2__solarize_prob=0.5, mirror=False).config
    stage1 = config.model_dump()["stage1"]
    assert stage1["tau"] == (0.5, 0.75)
    assert (stage1["view2"]["solarize_prob"], stage1["view1"]["solarize_prob"]) == (0.5, 0.0)
    assert (stage1["view1"]["flip_prob"], stage1["view2"]["flip_prob"]) == (0.0, 0.0)  # digits must not be mirrored
    assert config.model_dump()["stage2"]["strong_view"]["flip_prob"] == 0.0
    with pytest.raises(BenchError, match=r"unknown setting 'stage1\.temperature'"):
        recipe_of(ssl="byol", stage1__temperature=0.5)
    with pytest.raises(BenchError, match=r"stage1\.x: there is no such key"):
        DeACLConfig.parse({"ssl": "vicreg", "stage1": {"x": 1}}, "config")


def test_faults_of_both_stages_are_listed_together() -> None:
    with pytest.raises(BenchError) as fault:
        recipe_of(ssl="byol", stage1__lr=-1, stage1__tau=[2, 1], stage2__lr=-1, stage2__loss="kl")
    text = str(fault.value)
    assert "4 faults" in text
    assert all(f"{key}: " in text for key in ("stage1.lr", "stage1.tau.0", "stage2.lr", "stage2.loss"))
    assert "BYOL" not in text  # no list of what it would have been in another framework


def test_an_unknown_framework_is_one_fault() -> None:
    allowed = r"'simclr', 'mocov2', 'byol', 'barlow_twins' or 'vicreg' \(given: 'dino'\)$"
    with pytest.raises(BenchError, match=rf"^recipe of tier toy: ssl: must be {allowed}"):
        recipe_of(ssl="dino")
    with pytest.raises(BenchError, match=rf"^config: ssl: must be {allowed}"):
        DeACLConfig.parse({"ssl": "dino", "stage1": {"lr": -1}}, "config")
    with pytest.raises(ValidationError, match="instance of BYOLStageSettings"):
        DeACLConfig(ssl="byol", stage1=FRAMEWORKS["vicreg"].settings())
