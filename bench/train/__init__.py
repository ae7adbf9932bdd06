"""Training: the engine that takes any stage to a trained encoder, and what it needs."""

from bench.train.checkpoint import Progress, stage_progress
from bench.train.cost import Cost, device_name
from bench.train.engine import check_plan, forward, train

__all__ = ["Cost", "Progress", "check_plan", "device_name", "forward", "stage_progress", "train"]
