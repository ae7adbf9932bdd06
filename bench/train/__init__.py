"""Training: the engine that takes any stage to a trained encoder, and what it needs."""

from bench.train.checkpoint import Progress, stage_progress
from bench.train.cost import device_name
from bench.train.engine import check_plan, forward, train, training_modules
from bench.train.probe import Passes, StageProbe
from bench.train.rounds import StepTimes, line, time_in_turn

__all__ = [
    "Passes",
    "Progress",
    "StageProbe",
    "StepTimes",
    "check_plan",
    "device_name",
    "forward",
    "line",
    "stage_progress",
    "time_in_turn",
    "train",
    "training_modules",
]
