"""One training step of a stage; and what a stage must return from its methods, which may be a user's own."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.device import autocast, same_default_type
from bench.errors import BenchError
from bench.method import Stage, StepLoss
from bench.parallel import copy_from_first, sharing, synchronise
from bench.recipe import Settings
from bench.recipe.fields import Scalar, Text

LOGGED = ("loss", "lr")
"""The numbers of an epoch that the engine logs itself."""


def take_step(
    stage: Stage,
    images: Tensor,
    index: Tensor,
    generator: torch.Generator,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
) -> StepLoss:
    """Take one training step of ``stage`` on a batch of uint8 ``images`` and return its loss.

    The loss is computed in the precision of the stage's plan; views are computed in full precision. On several devices
    all of them call this with the same arguments.
    """
    plan, total, scalars = stage.plan, torch.zeros((), device=images.device), dict[str, Tensor]()
    parts = plan.parts(len(images))
    optimizer.zero_grad(set_to_none=True)
    with sharing(plan.batch_norm), same_default_type(f"stage {stage.name!r}"):
        for part, where in zip(images.tensor_split(parts), index.tensor_split(parts), strict=True):
            views = stage.views(part, generator, where)
            with autocast(images.device, plan.precision):
                loss = _checked(stage, stage(views))
            weight = len(part) / len(images)
            scaler.scale(loss.total * weight).backward()
            total = total + loss.total.detach() * weight
            for name, value in loss.scalars.items():
                scalars[name] = scalars.get(name, 0.0) + value * weight
        synchronise(stage)
        scaler.step(optimizer)
        scaler.update()
        stage.after_step()
    if plan.batch_norm == "device":
        copy_from_first(stage.buffers())
    return StepLoss(total, scalars)


def numbers_of(stage: Stage, returned: object) -> dict[str, float]:
    """Return what ``stage`` returned from after_epoch; raises BenchError unless these are numbers by name."""
    try:
        return {name: float(value) for name, value in returned.items()}  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise BenchError(
            f"stage {stage.name!r} ({type(stage).__name__}) returned a {type(returned).__name__} from after_epoch "
            f"that is no mapping of numbers: {str(returned)[:80]}. It must return numbers by name; {{}} for none."
        ) from None


class _Numbers(Settings):
    """Numbers by name, as a record holds them."""

    numbers: dict[Text, Scalar]


def recordable(stage: Stage, numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the ``numbers`` of an epoch; raises BenchError for a name or a number that no record can hold."""
    return _Numbers.parse({"numbers": numbers}, f"stage {stage.name!r} logs what no record can hold").numbers


def positions_of(stage: Stage, count: int) -> Tensor:
    """Return the positions that ``stage`` trains on; raises BenchError unless they are some among ``count``, int64."""
    found: object = stage.positions(count)
    what = f"a {type(found).__name__}"
    if isinstance(found, Tensor):
        whole = found.dtype == torch.int64 and found.ndim == 1 and len(found) > 0
        if whole and bool(((found >= 0) & (found < count)).all()):
            return found
        what = f"{found.dtype} {tuple(found.shape)}"
    raise BenchError(
        f"stage {stage.name!r} returned {what} from positions. It must return a tensor, int64 [n], of at least one "
        f"position, each from 0 to {count - 1}."
    )


def _checked(stage: Stage, returned: object) -> StepLoss:
    """Return what ``stage`` returned from forward; raise BenchError unless it is a loss that can be minimised."""
    if fault := _fault(returned):
        raise BenchError(
            f"stage {stage.name!r} ({type(stage).__name__}) returned {fault} from forward. It must return "
            "StepLoss(total, scalars): the loss to minimise, a tensor of one number, and further such numbers by name."
        )
    assert isinstance(returned, StepLoss)
    return returned


def _fault(returned: object) -> str | None:
    if not isinstance(returned, StepLoss):
        return f"a {type(returned).__name__}"
    for name, value in {"the loss": returned.total, **returned.scalars}.items():
        if not isinstance(value, Tensor):
            return f"{name!r} as a {type(value).__name__}"
        if value.numel() != 1:
            return f"{name!r} of shape {tuple(value.shape)}"
        if name in LOGGED:
            return f"a scalar called {name!r}, which the bench logs itself,"
    return None if returned.total.requires_grad else "a loss without a gradient"
