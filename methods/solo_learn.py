"""What the self-supervised frameworks of solo-learn's CIFAR model zoo have in common."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from bench.recipe import Precision, TrainPlan


class ZooPlan(TrainPlan):
    """The training plan of solo-learn's CIFAR model zoo in July 2021, from which DeACL took its teachers.

    Of the three recipes that the repository has had, this is the first. It normalises both CIFARs by the same
    constants and moves the rate once an epoch, warming up from 0.003. The teachers cannot be proven to come
    from it, as their runs are older than the commit.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/*.sh`` and ``solo/args``.
    """

    epochs: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=256, ge=2)
    drop_last: Literal[True] = True
    """These losses compare the images of a batch, so every batch is whole."""
    optimizer: Literal["sgd", "lars"] = "lars"
    lr_batch: int | None = Field(default=256, ge=1)
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.003, ge=0)
    precision: Precision = "fp16"


TwoViews = tuple[Tensor, Tensor]
"""Two views of each image, float [B, C, H, W] in [0, 1]. Each is its own forward pass, hence normalised by its
own batch statistics, and moves the running ones: twice a step (``solo/methods/base.py``)."""
