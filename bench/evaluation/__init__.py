"""Evaluation: accuracy on clean and corrupted images, under PGD, under AutoAttack, and on a grid of PGD's settings."""

from bench.evaluation.attacked import attacked_copy
from bench.evaluation.autoattack import autoattack_images
from bench.evaluation.evaluation import Evaluation, evaluate
from bench.evaluation.features import attacked_features, clean_features, constant, sample_features
from bench.evaluation.strengths import START_DRAWN, Swept, sweep

__all__ = [
    "START_DRAWN",
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
