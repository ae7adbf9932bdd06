"""Evaluation: accuracy on clean and corrupted images, under PGD, under AutoAttack, and on a grid of PGD's settings."""

from bench.evaluate.attacked import attacked_copy
from bench.evaluate.autoattack import autoattack_images
from bench.evaluate.evaluation import Evaluation, evaluate
from bench.evaluate.features import attacked_features, clean_features, constant, sample_features
from bench.evaluate.strengths import Swept, sweep

__all__ = [
    "Evaluation",
    "Swept",
    "attacked_copy",
    "attacked_features",
    "autoattack_images",
    "clean_features",
    "constant",
    "evaluate",
    "sample_features",
    "sweep",
]
