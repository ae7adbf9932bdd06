"""Training: the engine that takes any stage to a trained encoder, and what it needs."""

from bench.train.checkpoint import Progress, intact_tensors, stage_progress
from bench.train.engine import check_plan, take_step, train, training_modules

__all__ = [
    "Progress",
    "check_plan",
    "intact_tensors",
    "stage_progress",
    "take_step",
    "train",
    "training_modules",
]
