"""Evaluation: accuracy on clean images, under PGD, under AutoAttack, and along a grid of PGD's sizes."""

from bench.evaluate.autoattack import autoattack_images
from bench.evaluate.evaluation import Evaluation, evaluate
from bench.evaluate.features import attacked_features, clean_features, constant, sample_features
from bench.evaluate.strengths import Swept, sweep

__all__ = [
    "Evaluation",
    "Swept",
    "attacked_features",
    "autoattack_images",
    "clean_features",
    "constant",
    "evaluate",
    "sample_features",
    "sweep",
]
