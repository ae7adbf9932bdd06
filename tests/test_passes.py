"""What ``bench methods`` says an image costs is what passes through the network."""

import re
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from bench import rng
from bench.method import METHODS, MethodContext
from bench.recipe import DatasetFacts, build_recipe, load_tier
from bench.train import forward

IMAGES = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=rng.generator(0, "images"))
BATCH = 8


def context(name: str) -> MethodContext:
    method = METHODS.get(name)
    facts = DatasetFacts(
        **{"name": "random", "sha256": "0", "image_shape": (3, 16, 16), "num_classes": 10, "eps": 0.03},
        **{"train_images": 40, "test_images": 1, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )
    small: dict[str, Any] = {"encoder.width": 1}
    for stage in method.config_type().plans():
        small |= {f"{stage}.precision": "fp32", f"{stage}.batch_size": BATCH}
    if name == "advcl":
        small["pseudo_labels"] = "kmeans"
    recipe = build_recipe(
        method=name,
        config_type=method.config_type,
        native_encoder=method.native_encoder,
        dataset=facts,
        tier=load_tier("paper"),
        overrides=small,
    )
    return MethodContext(recipe, 0, torch.device("cpu"), IMAGES)


@pytest.mark.parametrize("name", list(METHODS))
def test_passes_are_counted(name: str) -> None:
    ctx = context(name)
    method = METHODS.get(name)(ctx.recipe.config)
    counted = []
    for stage in method.stages(ctx):
        stage.before_training()
        stage.train()
        seen: dict[str, float] = defaultdict(float)

        def count(module: nn.Module, _: Any, output: Tensor, seen: dict[str, float] = seen) -> None:
            # A pass begins where an image of three channels enters; patches count as their share of an image.
            if isinstance(module, nn.Conv2d) and module.in_channels == 3:
                images = output.shape[0] * output.shape[2] * output.shape[3] / (16 * 16)
                seen["fb" if output.requires_grad else "f"] += images

        handle = register_module_forward_hook(count)
        try:
            forward(stage, IMAGES[:BATCH], rng.generator(0, "step"), torch.arange(BATCH))
        finally:
            handle.remove()
        counted.append({kind: round(total / BATCH, 3) for kind, total in seen.items()})
    stated = [
        {kind: float(number) for number, kind in re.findall(r"([\d.]+) (fb|f)\b", part)}
        for part in method.info.passes.split(", then ")
        if part != "none"
    ]
    assert counted == stated
