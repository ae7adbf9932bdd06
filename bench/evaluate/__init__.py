"""Evaluation: accuracy on clean images, under PGD, and under AutoAttack."""

from bench.evaluate.evaluate import Evaluation, autoattack_images, evaluate

__all__ = ["Evaluation", "autoattack_images", "evaluate"]
