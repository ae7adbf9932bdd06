"""Evaluation: accuracy on clean images, under PGD, under AutoAttack, and along a grid of PGD's sizes."""

from bench.evaluate.evaluate import Evaluation, autoattack_images, evaluate
from bench.evaluate.sweep import Swept, sweep

__all__ = ["Evaluation", "Swept", "autoattack_images", "evaluate", "sweep"]
