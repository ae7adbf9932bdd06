"""Attacks: the allowed set (`ball_around`), the attacks (`PGD`, AutoAttack), and frozen models to run them on."""

from bench.attack.ascent import PGD, pgd
from bench.attack.auto import AutoAttackResult, AutoAttackState, auto_attack, square
from bench.attack.ball import Ball, LinfBall, ball_around, distance
from bench.attack.frozen import attacking
from bench.attack.named import ATTACKS, Attack, NamedAttack, image_generators
from bench.attack.objective import GradientWatch, Objective, log_margin, margin_objective

__all__ = [
    "ATTACKS",
    "PGD",
    "Attack",
    "AutoAttackResult",
    "AutoAttackState",
    "Ball",
    "GradientWatch",
    "LinfBall",
    "NamedAttack",
    "Objective",
    "attacking",
    "auto_attack",
    "ball_around",
    "distance",
    "image_generators",
    "log_margin",
    "margin_objective",
    "pgd",
    "square",
]
