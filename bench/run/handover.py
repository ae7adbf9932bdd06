"""Checks the stages of a method, and the encoder that it hands over, before anything is trained."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.data import unit_pixels
from bench.device import refuse_default_type, same_default_type
from bench.errors import BenchError, Faults
from bench.files import inside
from bench.method import METHODS, Method, MethodContext, Stage
from bench.nn import Encoder
from bench.parallel import refuse_uneven
from bench.recipe import TrainPlan
from bench.run.encoder import plain_encoder
from bench.train import check_plan, positions_of

_LONGEST_NAME = 100
"""Characters of the name of a stage."""


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
    for stage in _stages(name, method, replace(ctx, device=torch.device("cpu"))):
        _check_name(name, stage, stages)
        stages.append(stage.name)
        section = ctx.recipe.config.section_of(stage.plan)
        with faults:
            check_plan(stage, len(positions_of(stage, len(ctx.images))), ctx.device, section)
        with faults:
            refuse_uneven(section or stage.name, stage.plan.batch_size)
    faults.refuse()
    handed, plain = _encoder(name, "result()", method.result()), _encoder(name, "form()", plain_encoder(ctx.recipe))
    _check_form(name, handed, plain, unit_pixels(ctx.images[:2]))


def _stages(name: str, method: Method, ctx: MethodContext) -> Iterator[Stage]:
    """Yield what ``method`` does; raise BenchError where that is no stage with a plan."""
    made: object = method.stages(ctx)
    if not isinstance(made, Iterable):
        raise BenchError(f"method {name!r} returned a {type(made).__name__} from stages(). It must yield its stages.")
    for stage in made:
        if not isinstance(stage, Stage):
            raise BenchError(
                f"method {name!r} yields a {type(stage).__name__} from stages(). It must yield objects of classes made "
                "from bench.method.Stage."
            )
        if not isinstance(plan := getattr(stage, "plan", None), TrainPlan):
            raise BenchError(
                f"method {name!r} has a stage whose plan is a {type(plan).__name__}; set the plan of "
                f"{type(stage).__name__} to its settings, a bench.recipe.TrainPlan."
            )
        yield stage


def _check_name(method: str, stage: Stage, others: Collection[str]) -> None:
    name = getattr(stage, "name", None)
    if not isinstance(name, str):
        raise BenchError(
            f'method {method!r} has a stage without a name; give {type(stage).__name__} one: name = "ssl".'
        )
    if name in others:
        raise BenchError(f"method {method!r} has two stages called {name!r}; rename one.")
    if name == "encoder" or name.endswith(".training"):
        raise BenchError(f"method {method!r} has a stage called {name!r}, as another file of a run is; rename it.")
    try:
        inside(Path(), name)
        fits = name.isprintable() and len(name) <= _LONGEST_NAME
    except BenchError:
        fits = False
    if not fits:
        raise BenchError(
            f"method {method!r} has a stage called {name!r}, which cannot be the name of a file; rename it."
        )


def _encoder(name: str, verb: str, returned: object) -> Encoder:
    if not isinstance(returned, Encoder):
        raise BenchError(
            f"method {name!r} returned a {type(returned).__name__} from {verb}. It must return an encoder, such as one "
            "made by ctx.new_encoder()."
        )
    return returned


@contextmanager
def unchanged(images: Tensor, method: str) -> Iterator[None]:
    """Raise BenchError if ``images``, or torch's default type, are changed: the protocols and next seeds read them."""
    refuse_default_type()
    before = images._version
    with same_default_type(f"method {method!r}"):
        yield
    if images._version != before:
        raise BenchError(
            f"method {method!r} changes the training images in place, and its protocols would train on what it made of "
            "them. Change a copy, such as ctx.images.clone()."
        )


@torch.no_grad()
def _check_form(name: str, handed: Encoder, plain: Encoder, images: Tensor) -> None:
    ours, theirs = (
        {(key, value.dtype, *value.shape) for key, value in encoder.state_dict().items()} for encoder in (plain, handed)
    )
    if differing := sorted({key for key, *_ in ours ^ theirs}):
        fault = f"has {len(differing)} tensors with other names, shapes or types, the first {differing[0]!r}"
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
