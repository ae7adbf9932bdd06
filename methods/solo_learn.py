"""What the self-supervised frameworks of solo-learn's CIFAR model zoo have in common."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from bench.recipe import OptimizerName, Precision, TrainPlan

NATIVE_ENCODER: Mapping[str, Any] = {"stem_padding": 2, "stem_init": "default", "normalisation": "cifar"}
"""The encoder of that zoo, which DeACL uses too."""


class ZooPlan(TrainPlan):
    """The training plan of solo-learn's CIFAR model zoo in July 2021, from which DeACL took its teachers.

    This is the first of three recipes in the history of the repository. It normalises both CIFARs by the same
    constants and changes the rate once an epoch, with a warm-up from 0.003. The teachers cannot be proven to come
    from it, as their runs are older than the commit.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/*.sh`` and ``solo/args``.
    """

    epochs: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=256, ge=2)
    drop_last: Literal[True] = True
    """These losses compare the images of a batch, so every batch is whole."""
    optimizer: OptimizerName = "lars"
    lr_batch: int | None = Field(default=256, ge=1)
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.003, ge=0)
    precision: Precision = "fp16"


class GentleZooPlan(ZooPlan):
    """A plan of the zoo whose warm-up is never shortened to less than a tenth of its stage.

    As published it is a hundredth of the stage, ten epochs. In a short stage that is a few steps, too few for the
    frameworks that use this plan.
    """

    def stretched(self, epochs: int, factor: float | None = None) -> dict[str, Any]:
        """Return the values for a plan of ``epochs``, with a warm-up of at least a tenth of them or as published."""
        values = super().stretched(epochs, factor)
        shortest = min(self.warmup_epochs, epochs / 10)
        return {**values, "warmup_epochs": max(values["warmup_epochs"], shortest)}


TwoViews = tuple[Tensor, Tensor]
"""Two views of each image, float [B, C, H, W] in [0, 1]. Each has its own forward pass, is normalised by its
own batch statistics, and moves the running ones: twice a step (``solo/methods/base.py``)."""
