"""The subjects of timing: the stages of methods, built on random images of a dataset's shape."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bench import rng
from bench.data import DATASETS, load_dataset
from bench.errors import BenchError
from bench.method import METHODS, Method, MethodContext, Stage
from bench.nn import with_loaded_encoder
from bench.recipe import DatasetFacts, Fidelity, Recipe, Tier, build_recipe


@dataclass(frozen=True)
class Data:
    """A dataset without its pixels: the cost of a step does not depend on them."""

    facts: DatasetFacts
    images: int
    """The number of images to pre-train on."""

    def random_images(self, count: int | None = None) -> Tensor:
        """Return uint8 noise [count, C, H, W], by default as many images as the dataset has, in little memory.

        The images overlap: each begins one byte after the previous one in one long row of noise.
        """
        size, count = prod(self.facts.image_shape), count or self.images
        noise = torch.randint(0, 256, (count + size - 1,), dtype=torch.uint8, generator=rng.generator(0, "images"))
        images: Tensor = noise.unfold(0, size, 1).unflatten(1, self.facts.image_shape)
        return images


def data_like(source: str, data_dir: Path) -> Data:
    """Return the sizes of the dataset ``source``: listed for a named dataset, read from the user's own data.

    Raises:
        BenchError: an unknown name, or user data that cannot be read.
    """
    if source in DATASETS:
        listed = DATASETS.get(source)
        facts = random_facts(source, listed.image_shape, listed.num_classes, listed.train, listed.test)
        return Data(facts, listed.pretrain or listed.train)
    found = load_dataset(source, data_dir)
    facts = random_facts(found.name, found.image_shape, found.num_classes, len(found.train), len(found.test))
    facts = facts.model_copy(update={"conventions": found.conventions})  # which decide the stem
    return Data(facts, len(found.pretraining_images))


def random_facts(
    name: str, image_shape: tuple[int, int, int], num_classes: int, train_images: int, test_images: int = 1
) -> DatasetFacts:
    """Return the facts that a recipe needs about its data, for noise."""
    channels = image_shape[0]
    return DatasetFacts(
        name=name,
        sha256="0" * 64,
        image_shape=image_shape,
        num_classes=num_classes,
        train_images=train_images,
        test_images=test_images,
        eps=8 / 255,  # the cost of a step does not depend on it
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


@dataclass(frozen=True)
class Subject:
    """A method under a recipe."""

    method: type[Method]
    recipe: Recipe
    data: Data

    @classmethod
    def of(
        cls,
        name: str,
        data: Data,
        *,
        tier: Tier,
        fidelity: Fidelity = "uniform",
        overrides: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the method called ``name``, or named ``FILE.py:OBJECT``, under the recipe that a run would have.

        Raises:
            BenchError: an unknown method, a method without pre-training, or a faulty recipe.
        """
        name = METHODS.name_of(name)
        method = METHODS.get(name)
        if not method.config_type().plans():
            raise BenchError(f"{name} has no pre-training to time. Leave it out.")
        recipe = build_recipe(
            method=name,
            config_type=method.config_type,
            native_encoder=method.native_encoder,
            dataset=data.facts,
            tier=tier,
            fidelity=fidelity,
            overrides=with_loaded_encoder(overrides or {}),
        )
        return cls(method, recipe, data)

    def stages(self, device: torch.device, images: int | None = None) -> Iterator[Stage]:
        """Yield an untrained copy of each stage, on ``device``: a later stage may freeze what an earlier one gave it.

        As in training, a stage is on the device before the next one is created, which may use its encoder outside of
        its own modules (AdvCL's pseudo-labels).
        """
        ctx = MethodContext(self.recipe, 0, device, self.data.random_images(images))
        for stage in self.method(self.recipe.config).stages(ctx):
            yield deepcopy(stage.to(device))


def timed_methods() -> list[str]:
    """Return the names of all methods that have pre-training."""
    return [name for name in METHODS if METHODS.get(name).config_type().plans()]
