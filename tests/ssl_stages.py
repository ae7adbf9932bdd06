"""The stages of MoCo v2+, BYOL, Barlow Twins and VICReg with tiny networks, and what to feed them."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from bench import rng
from bench.method import METHODS, MethodContext, Stage
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe

CPU = torch.device("cpu")
TOY = Tier(name="toy", summary="a network one channel wide", encoder={"width": 1})
NAMES = ("mocov2", "byol", "barlow_twins", "vicreg")
WITH_MOMENTUM = ("mocov2", "byol")


def generator(*names: str | int) -> torch.Generator:
    return rng.generator(0, "test", *names)


def pixels(count: int, size: int = 12) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=generator("pixels"), dtype=torch.uint8)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("embeddings", seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(embeddings(*shape, seed=seed), dim=-1)


def recipe_of(method: str, tier: Tier = TOY, **stage: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 12, 12), "num_classes": 4, "train_images": 13},
        **{"test_images": 4, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    kind = METHODS.get(method)
    return build_recipe(
        method=method,
        config_type=kind.config_type,
        native_encoder=kind.native_encoder,
        dataset=facts,
        tier=tier,
        overrides={f"stage1.{key}": value for key, value in stage.items()},
    )


def stage_of(method: str, images: int = 13, **stage: Any) -> Stage:
    small = {"epochs": 2, "warmup_epochs": 1, "batch_size": 4, "projector": [8, 6], "precision": "fp32"}
    recipe = recipe_of(method, **{**small, **({"predictor": [7]} if method == "byol" else {}), **stage})
    context = MethodContext(recipe, seed=0, device=CPU, images=pixels(images))
    (built,) = METHODS.get(method)(recipe.config).stages(context)
    return built.train()


def views_of(stage: Stage, step: int = 0) -> tuple[Tensor, Tensor]:
    batch = stage.plan.batch_size
    views = stage.views(pixels(13)[:batch], generator("views", step), torch.arange(batch))
    assert isinstance(views, tuple)
    return views


def counters(module: nn.Module) -> set[int]:
    return {int(value) for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}


def outputs(stage: Stage, view: Tensor) -> Tensor:
    """The projections of ``view`` by copies of the stage's networks, whose statistics so stay as they were."""
    projector = stage.get_submodule("projector")
    result: Tensor = deepcopy(projector)(deepcopy(stage.encoder)(view))
    return result


def slow_barlow(z1: Tensor, z2: Tensor, redundancy: float) -> float:
    (count, dim), total = z1.shape, 0.0
    standard = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2)]
    for i in range(dim):
        for j in range(dim):
            m = sum(float(standard[0][n, i] * standard[1][n, j]) for n in range(count)) / count
            total += (m - 1) ** 2 if i == j else redundancy * m**2
    return total
