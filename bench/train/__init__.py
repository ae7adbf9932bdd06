"""Training: the engine, which trains any stage, and its saved states."""

from bench.train.checkpoint import Progress, finished_path, intact_tensors, stage_progress, unfinished_path
from bench.train.engine import check_plan, train, training_modules
from bench.train.step import positions_of, take_step

__all__ = [
    "Progress",
    "check_plan",
    "finished_path",
    "intact_tensors",
    "positions_of",
    "stage_progress",
    "take_step",
    "train",
    "training_modules",
    "unfinished_path",
]
