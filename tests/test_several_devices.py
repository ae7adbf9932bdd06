"""Several devices compute what one does: loss, gradients and weights of every method, in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from processes import run_together
from test_methods import CPU, make_context
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bench import rng
from bench.data import on_device
from bench.method import METHODS, Stage
from bench.nn import build_encoder
from bench.protocol import build_protocol
from bench.train import take_step

PROTOCOLS = ("slf", "alf", "aff")
BATCH = 6
"""A multiple of 2 and of 3 devices; the second batch of an epoch may hold one image less."""
SMALL: dict[str, dict[str, Any]] = {
    "advcl": {"stage2__clusters": [2, 3], "stage1__projector": [8, 4]},
    **{name: {"stage1__projector": [8, 4]} for name in ("barlow_twins", "byol", "deacl", "mocov2", "simclr", "vicreg")},
}
Found = dict[str, Tensor]


def in_float64(stage: Stage) -> Stage:
    """Make ``stage`` compute in float64, its views included."""
    views = stage.views

    def wide(*arguments: Any) -> Any:
        return tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, views(*arguments))

    vars(stage)["views"] = wide
    return stage.double()


def stages(name: str) -> Iterator[tuple[Stage, Tensor]]:
    """Yield the stages of the method ``name``, or the protocol of that name, each with its images."""
    sizes = {section: {f"{section}.batch_size": BATCH} for section in ("stage1", "stage2", *PROTOCOLS)}
    if name in PROTOCOLS:
        context = make_context("simclr", **sizes[name])
        data = context.recipe.dataset
        with rng.scoped(0, "encoder"):
            encoder = build_encoder(context.recipe.encoder, image_shape=data.image_shape, mean=data.mean, std=data.std)
        labels = torch.arange(len(context.images)) % data.num_classes
        yield build_protocol(name, context.recipe, encoder, labels, seed=0), context.images
        return
    changes: dict[str, Any] = {}
    for section, plan in METHODS.get(name).config_type().plans().items():
        changes |= sizes[section]
        if "steps" in type(plan).model_fields:
            changes[f"{section}.steps"] = 1 if name in ("advcl", "ap-dpe") else 2
    context = make_context(name, **changes, **SMALL.get(name, {}))
    for stage in METHODS.get(name)(context.recipe.config).stages(context):
        yield stage, context.images


def trained(name: str) -> Found:
    """Return losses, gradients, weights and buffers after two steps of each stage of ``name``."""
    found: Found = {}
    for stage, images in stages(name):
        stage.before_training(on_device(images, CPU))
        stage = in_float64(stage).train()
        optimizer = stage.optimizer()
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        second = BATCH - (not stage.plan.drop_last)
        for step, index in enumerate((torch.arange(BATCH), torch.arange(BATCH, BATCH + second))):
            scaler = torch.amp.GradScaler("cpu", enabled=False)
            loss = take_step(stage, images[index], index, rng.generator(0, "views", step), optimizer, scaler)
            found |= {f"{stage.name} loss {step}": loss.total.detach()}
            found |= {f"{stage.name} {key} {step}": value for key, value in loss.scalars.items()}
            found |= {
                f"{stage.name} gradient {step} {key}": p.grad.clone()
                for key, p in stage.named_parameters()
                if p.grad is not None
            }
        found |= {f"{stage.name} state {key}": value.clone() for key, value in stage.state_dict().items()}
    return found


NAMES = [*(name for name in METHODS if METHODS.get(name).config_type().plans()), *PROTOCOLS]


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    return {name: trained(name) for name in NAMES}


def all_of_them() -> dict[str, Any]:
    """Return the numpy form of each method's numbers: torch's own way of sending tensors needs a file each."""
    return {name: {key: value.numpy() for key, value in trained(name).items()} for name in NAMES}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest) -> list[Any]:
    return run_together(request.param, all_of_them)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_what_it_learns_on_one_device(name: str, together: list[Any], alone: Any) -> None:
    for device in together:
        assert device[name].keys() == alone[name].keys()
        for key, value in alone[name].items():
            torch.testing.assert_close(torch.from_numpy(device[name][key]), value, rtol=1e-10, atol=1e-10, msg=key)
