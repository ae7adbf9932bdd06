"""A step's tensors are all on the device of its weights: on the meta device, which computes nothing but refuses a mix.

Views are made on the CPU: what some of them do depends on drawn values, which the meta device does not have. So what
they make names its device.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import make_context
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from bench import rng
from bench.cost import Subject, data_like
from bench.method import METHODS, Stage
from bench.nn import build_encoder
from bench.protocol import build_protocol
from bench.recipe import DEFAULT_PROTOCOLS, load_tier

META = torch.device("meta")
FACTORIES = {torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.tensor, torch.zeros}
FACTORIES |= {torch.rand, torch.randint, torch.randn, torch.randperm}


class _NamedDevices(TorchFunctionMode):
    """Refuses to make a tensor on the device that happens to be the default."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in FACTORIES or "device" in (kwargs or {}), f"{func.__name__} is called without a device"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device knows none."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


def take_step(stage: Stage, images: torch.Tensor) -> None:
    """Move ``stage`` and its views to the meta device and take a step there, but for the update."""
    index = torch.arange(8)
    with _NamedDevices():
        views = stage.views(images[index], rng.generator(0, "views"), index)
    stage.to(META).train()
    loss = stage(tree_map_only(torch.Tensor, lambda tensor: tensor.to(META), views))
    assert loss.total.device == META
    loss.total.backward()
    stage.after_step()
    assert all(parameter.grad is None or parameter.grad.device == META for parameter in stage.parameters())


def test_a_mix_is_refused() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=META) + torch.ones(2)
    with _NamedDevices(), pytest.raises(AssertionError, match="ones is called without a device"):
        torch.ones(2)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.get(name).config_type().plans()])
def test_every_stage_keeps_to_one_device(name: str) -> None:
    plans = METHODS.get(name).config_type().plans()
    attacks = [section for section, plan in plans.items() if "steps" in type(plan).model_fields]
    context = make_context(name, **{f"{section}.steps": 1 for section in attacks})  # all steps of an attack are alike
    for stage in METHODS.get(name)(context.recipe.config).stages(context):
        take_step(stage, context.images)


@pytest.mark.parametrize("protocol", DEFAULT_PROTOCOLS)
def test_every_protocol_keeps_to_one_device(protocol: str) -> None:
    context = make_context("simclr", **{f"{protocol}.batch_size": 8})
    data = context.recipe.dataset
    encoder = build_encoder(context.recipe.encoder, image_shape=data.image_shape, mean=data.mean, std=data.std)
    labels = torch.arange(len(context.images)) % data.num_classes
    take_step(build_protocol(protocol, context.recipe, encoder, labels, seed=0), context.images)


def test_what_a_later_stage_prepares_with_is_on_its_device() -> None:
    """An encoder that makes pseudo-labels is no module of the stage, so that moving the stage would leave it behind."""
    subject = Subject.of("advcl", data_like("digits", Path("data")), tier=load_tier("tiny"))
    *_, stage = subject.stages(META, 4)
    labels = vars(stage)["_pseudo_labels"]
    assert {parameter.device for parameter in labels._encoder.parameters()} == {META}
