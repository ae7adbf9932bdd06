"""Our side of a comparison: stages as published, in float64, and their steps. Only this module imports internals."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench import rng
from bench.method import METHODS, MethodContext, Stage
from bench.nn import Encoder
from bench.optim import set_lr
from bench.protocol import FinetuneStage, build_protocol
from bench.recipe import DatasetFacts, Recipe, build_recipe, load_tier

SIDE, CLASSES, TRAIN_IMAGES = 32, 10, 50_000


def generator(*names: str | int) -> torch.Generator:
    """Return a generator that is always the same for the same ``names``."""
    return rng.generator(0, "fidelity", *names)


def images(count: int, *names: str | int, side: int = SIDE) -> Tensor:
    """Return ``count`` random images in [0, 1], float64 [count, 3, side, side]."""
    return torch.rand(count, 3, side, side, generator=generator("images", *names), dtype=torch.float64)


def labels(count: int) -> Tensor:
    """Return ``count`` random labels, int64."""
    return torch.randint(CLASSES, (count,), generator=generator("labels"))


def recipe(method: str, **overrides: Any) -> Recipe:
    """Return the published recipe on CIFAR-10, with the encoder of the method's own paper.

    ``overrides`` are keys of the recipe with two underscores for each dot.
    """
    kind = METHODS.get(method)
    facts = DatasetFacts(
        name="cifar10",
        sha256="0" * 64,
        image_shape=(3, SIDE, SIDE),
        num_classes=CLASSES,
        train_images=TRAIN_IMAGES,
        test_images=10_000,
        eps=8 / 255,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.243, 0.261),
    )
    return build_recipe(
        method=method,
        config_type=kind.config_type,
        native_encoder=kind.native_encoder,
        dataset=facts,
        tier=load_tier("paper"),
        fidelity="native",
        overrides={key.replace("__", "."): value for key, value in overrides.items()},
    )


def stages(recipe: Recipe, count: int = 64) -> Iterator[Stage]:
    """Yield the stages of the recipe's method on ``count`` images, in training mode."""
    pixels = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator("pixels"), dtype=torch.uint8)
    context = MethodContext(recipe, seed=0, device=torch.device("cpu"), images=pixels)
    for stage in METHODS.get(recipe.method)(recipe.config).stages(context):
        yield stage.train()


def protocol(name: str, recipe: Recipe, encoder: Encoder, count: int) -> FinetuneStage[Any]:
    """Return a protocol's stage on ``count`` images, in training mode."""
    stage = build_protocol(name, recipe, encoder, labels(count), 0).train()
    assert isinstance(stage, FinetuneStage), name
    return stage


def seen(encoder: nn.Module, batches: int = 10) -> None:
    """Give ``encoder`` batch-norm statistics like those of one that has trained."""
    encoder.train()
    with torch.no_grad():
        for batch in range(batches):
            encoder(images(16, "seen", batch, side=16) ** (1 + batch / batches))


def take_step(stage: Stage, views: Any, optimizer: Optimizer, lr: float) -> Tensor:
    """Take one optimiser step at the rate ``lr``; gradients stay. Return the loss."""
    set_lr(optimizer, lr)
    loss = stage(views).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    stage.after_step()
    result: Tensor = loss.detach()
    return result


@contextmanager
def kept(owner: Any, name: str) -> Iterator[list[Any]]:
    """Collect what the function ``name`` of ``owner`` returns."""
    found: list[Any] = []
    original = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        found.append(original(*arguments, **keywords))
        return found[-1]

    with mock.patch.object(owner, name, call):
        yield found


def renamed(state: Mapping[str, Tensor], words: Mapping[str, str]) -> dict[str, Tensor]:
    """Return ``state`` under upstream's names: with each of ``words`` replaced."""
    names = {name: name for name in state}
    for word, theirs in words.items():
        names = {name: new.replace(word, theirs) for name, new in names.items()}
    return {new: state[name] for name, new in names.items()}


def multi_bn(branches: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the live state of backbones that share weights under the names of ACL's and AdvCL's multi-BN ResNet."""
    found = {}
    for number, branch in enumerate(branches):
        for name, value in branch.state_dict(keep_vars=True).items():
            name = name.replace("downsample.0", "downsample.conv").replace("downsample.1.", "downsample.bn.")
            found[re.sub(r"\b(bn\d?)\.", rf"\1.bn_list.{number}.", name)] = value
    return found


def listed(settings: Iterable[object]) -> str:
    """Return settings in one line, numbers as short as they can be."""
    return ", ".join(f"{value:.6g}" if isinstance(value, float | int) else str(value) for value in settings)


def values(module: nn.Module) -> list[Tensor]:
    """Return parameters and running statistics, in order, without gradients."""
    return [value.detach() for value in chain(module.parameters(), running(module))]


def parameters(module: nn.Module) -> int:
    """Return the number of parameters of ``module``, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def running(module: nn.Module) -> list[Tensor]:
    """Return running means and variances, in order."""
    return [value for name, value in module.named_buffers() if name.rpartition(".")[2].startswith("running_")]


def tracked(module: nn.Module) -> list[int]:
    """Return the numbers of batches that the batch-norm layers have seen, without repetition."""
    return sorted({int(value) for name, value in module.named_buffers() if name.endswith("num_batches_tracked")})
