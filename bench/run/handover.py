"""Checks the stages of a method, and the encoder that it hands over, before anything is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.data import unit_pixels
from bench.errors import BenchError, Faults
from bench.files import inside
from bench.method import METHODS, Method, MethodContext
from bench.nn import Encoder
from bench.parallel import refuse_uneven
from bench.run.encoder import plain_encoder
from bench.train import check_plan


def check_stages(ctx: MethodContext) -> None:
    """Raise BenchError for faults that would stop a run during or after its pre-training.

    All stages are built once, untrained, on the CPU. Each needs a name of its own, for its files, and a plan that works
    on the data and the run's device. The method's encoder must have the form of :func:`plain_encoder`, which its
    weights are loaded into, and must compute the same features with the same weights. The images must stay as they are.
    """
    with unchanged(ctx.images, ctx.recipe.method):
        _check_stages(ctx)


def _check_stages(ctx: MethodContext) -> None:
    name = ctx.recipe.method
    method: Method = METHODS.get(name)(ctx.recipe.config)
    stages, faults = list[str](), Faults()
    for stage in method.stages(replace(ctx, device=torch.device("cpu"))):
        if not isinstance(getattr(stage, "name", None), str):
            raise BenchError(
                f'method {name!r} has a stage without a name; give {type(stage).__name__} one: name = "ssl".'
            )
        if stage.name in stages:
            raise BenchError(f"method {name!r} has two stages called {stage.name!r}; rename one.")
        if stage.name == "encoder" or stage.name.endswith(".training"):
            raise BenchError(
                f"method {name!r} has a stage called {stage.name!r}, as another file of a run is; rename it."
            )
        try:
            inside(Path(), stage.name)
        except BenchError:
            raise BenchError(
                f"method {name!r} has a stage called {stage.name!r}, which cannot be the name of a file; rename it."
            ) from None
        stages.append(stage.name)
        section = ctx.recipe.config.section_of(stage.plan)
        with faults:
            check_plan(stage, len(stage.positions(len(ctx.images))), ctx.device, section)
        with faults:
            refuse_uneven(section or stage.name, stage.plan.batch_size)
    faults.refuse()
    _check_form(name, method.result(), plain_encoder(ctx.recipe), unit_pixels(ctx.images[:2]))


@contextmanager
def unchanged(images: Tensor, method: str) -> Iterator[None]:
    """Raise BenchError if ``images`` are changed within: the protocols and the next seeds read them, too."""
    before = images._version
    yield
    if images._version != before:
        raise BenchError(
            f"method {method!r} changes the training images in place, and its protocols would train on what it made of "
            "them. Change a copy, such as ctx.images.clone()."
        )


@torch.no_grad()
def _check_form(name: str, handed: Encoder, plain: Encoder, images: Tensor) -> None:
    ours, theirs = ({(key, *value.shape) for key, value in encoder.state_dict().items()} for encoder in (plain, handed))
    if differing := sorted(ours ^ theirs):
        fault = f"has {len(differing)} tensors with other names or shapes, the first {differing[0][0]!r}"
    else:
        plain.load_state_dict(handed.state_dict())
        found, expected = (encoder.eval()(images) for encoder in (handed, plain))
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
            return
        fault = "computes other features with the same weights"
    raise BenchError(
        f"the encoder that method {name!r} hands over does not have the form that its recipe describes, and could not "
        f"be loaded: it {fault}. Nothing is trained. Return an encoder made by ctx.new_encoder() from result(), or "
        "write a form() that makes the other form (bench.method.OwnForm)."
    )
