"""Evaluation: accuracy on clean and corrupted images, under PGD, under AutoAttack, and on a grid of PGD's settings."""

from bench.evaluation.attack_list import phase_of
from bench.evaluation.attacked import attacked_copy
from bench.evaluation.autoattack import AUTOATTACK_PASSES, autoattack_images
from bench.evaluation.evaluation import Evaluation, evaluate
from bench.evaluation.features import attacked_features, clean_features, constant, sample_features
from bench.evaluation.progress import evaluation_progress
from bench.evaluation.strengths import START_DRAWN, Swept, sweep

__all__ = [
    "AUTOATTACK_PASSES",
    "START_DRAWN",
    "Evaluation",
    "Swept",
    "attacked_copy",
    "attacked_features",
    "autoattack_images",
    "clean_features",
    "constant",
    "evaluate",
    "evaluation_progress",
    "phase_of",
    "sample_features",
    "sweep",
]
