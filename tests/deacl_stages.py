"""Both stages of DeACL with tiny networks, and a step of the second."""

from typing import Any

import torch
from torch import Tensor

from bench import rng
from bench.method import MethodContext
from bench.recipe import DatasetFacts, Recipe, Tier, build_recipe
from methods.deacl import DeACL, DeACLConfig, PseudoATStage
from methods.frameworks import FRAMEWORKS, FrameworkStage

CPU = torch.device("cpu")
TOY = Tier(
    name="toy",
    summary="a network one channel wide",
    stages={"epochs": 1, "batch_size": 4, "warmup_epochs": 0, "precision": "fp32"},
    encoder={"width": 1},
)


def pixels(count: int) -> Tensor:
    shape = (count, 3, 12, 12)
    return torch.randint(0, 256, shape, generator=rng.generator(0, "pixels"), dtype=torch.uint8)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng.generator(seed, "embeddings"), dtype=torch.float64)


def recipe_of(tier: Tier = TOY, *, mirror: bool = True, **overrides: Any) -> Recipe:
    facts = DatasetFacts(
        **{"name": "toy", "sha256": "a" * 64, "image_shape": (3, 12, 12), "num_classes": 4, "train_images": 8},
        **{"test_images": 4, "eps": 8 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3, "mirror": mirror},
    )
    return build_recipe(
        method="deacl",
        config_type=DeACLConfig,
        native_encoder=DeACL.native_encoder,
        dataset=facts,
        tier=tier,
        overrides={key.replace("__", "."): value for key, value in overrides.items()},
    )


def stages_of(**overrides: Any) -> tuple[DeACL, FrameworkStage, PseudoATStage]:
    """Both stages; the first is moved away from its start, so that copies can be told from fresh networks."""
    narrow = {"stage1__projector": [6, 5]}
    recipe = recipe_of(**{**narrow, **overrides})
    assert isinstance(recipe.config, DeACLConfig)
    method = DeACL(recipe.config)
    stages = method.stages(MethodContext(recipe, seed=0, device=CPU, images=pixels(8)))
    ssl = next(stages)
    assert isinstance(ssl, FRAMEWORKS[recipe.config.ssl].stage)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, tensor in enumerate(ssl.state_dict().values()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=rng.generator(i, "moved")))
    second = next(stages)
    assert isinstance(second, PseudoATStage)
    return method, ssl, second.train()  # type: ignore[return-value]


def step_of(stage: PseudoATStage) -> tuple[Any, Any]:
    views = stage.views(pixels(8)[:4], rng.generator(0, "views"), torch.arange(4))
    return views, stage(views)
