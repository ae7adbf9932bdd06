"""AdvCL in small: its recipe, stages and views on toy images, for the tests."""

from typing import Any

import torch
from torch import Tensor, nn

from bench import rng
from bench.data import ImagesOnDevice
from bench.method import MethodContext, Stage
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe
from methods.advcl import AdvCL, AdvCLConfig, AdvCLStage

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


def batches_seen(module: nn.Module) -> set[int]:
    counts = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    return {int(value) for value in counts.values()}
