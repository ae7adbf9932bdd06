"""AP-DPE on a network one channel wide and seven images, for its tests."""

from typing import Any

import torch
from torch import Tensor

from bench import rng
from bench.method import MethodContext
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe
from methods.ap_dpe import APDPE
from methods.ap_dpe.settings import APDPEConfig
from methods.ap_dpe.stage import PretextStage

CPU = torch.device("cpu")
EPS = 8 / 255
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})
COUNT = 7


def facts_of(shape: tuple[int, int, int] = (3, 16, 16), images: int = COUNT) -> DatasetFacts:
    return DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": shape, "num_classes": 4, "train_images": images},
        **{"test_images": 4, "eps": EPS, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )


def recipe_of(
    tier: Tier = TOY, fidelity: Fidelity = "uniform", facts: DatasetFacts | None = None, **settings: Any
) -> Recipe:
    choices = {key: value for key, value in settings.items() if key in APDPEConfig.model_fields}
    others = {key.replace("__", "."): value for key, value in settings.items() if "__" in key}
    rest = {key: value for key, value in settings.items() if key not in choices and "__" not in key}
    return build_recipe(
        method="ap-dpe",
        config_type=APDPEConfig,
        native_encoder=APDPE.native_encoder,
        dataset=facts or facts_of(),
        tier=tier,
        fidelity=fidelity,
        overrides={**choices, **others, **{f"stage1.{key}": value for key, value in rest.items()}},
    )


def config_of(*args: Any, **settings: Any) -> APDPEConfig:
    config = recipe_of(*args, **settings).config
    assert isinstance(config, APDPEConfig)
    return config


def pixels(count: int = COUNT, size: int = 16) -> Tensor:
    drawn = torch.randint(256, (count, 3, size, size), generator=rng.generator(0, "pixels"))
    return drawn.to(torch.uint8)


def unit_images(count: int = 3, size: int = 16) -> Tensor:
    return pixels(count, size).float() / 255


def method_of(**settings: Any) -> tuple[APDPE, PretextStage]:
    recipe = recipe_of(**{"epochs": 2, "batch_size": 4, "steps": 1, **settings})
    assert isinstance(recipe.config, APDPEConfig)
    method = APDPE(recipe.config)
    (built,) = method.stages(MethodContext(recipe, seed=0, device=CPU, images=pixels()))
    assert isinstance(built, PretextStage)
    return method, built.train()


def stage_of(**settings: Any) -> PretextStage:
    return method_of(**settings)[1]


def views_of(built: PretextStage, seed: int = 0) -> Any:
    return built.views(pixels()[:4], rng.generator(seed, "views"), torch.arange(4))
