"""Attacks: the allowed set (`ball_around`), the attacks (`PGD`, AutoAttack), and frozen models to run them on."""

from bench.attack.ascent import PGD, pgd
from bench.attack.auto import (
    AutoAttackResult,
    AutoAttackState,
    auto_attack,
    check_autoattack,
    square,
    square_fits,
)
from bench.attack.ball import Ball, LinfBall, ball_around, distance
from bench.attack.frozen import attacking
from bench.attack.minimal import MinimumNorm
from bench.attack.named import ATTACKS, Attack, NamedAttack, image_generators
from bench.attack.objective import GradientWatch, Loss, Objective, cross_entropy, log_margin, margin, margin_objective
from bench.attack.supervised import Ascent, Embedding
from bench.attack.verdict import correct

__all__ = [
    "ATTACKS",
    "PGD",
    "Ascent",
    "Attack",
    "AutoAttackResult",
    "AutoAttackState",
    "Ball",
    "Embedding",
    "GradientWatch",
    "LinfBall",
    "Loss",
    "MinimumNorm",
    "NamedAttack",
    "Objective",
    "attacking",
    "auto_attack",
    "ball_around",
    "check_autoattack",
    "correct",
    "cross_entropy",
    "distance",
    "image_generators",
    "log_margin",
    "margin",
    "margin_objective",
    "pgd",
    "square",
    "square_fits",
]
