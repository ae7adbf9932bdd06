"""Attacks: what an attacker may do (`Threat`), how hard it tries (`PGD`, AutoAttack), on frozen models."""

from bench.attack.auto import AutoAttackResult, AutoAttackState, auto_attack
from bench.attack.frozen import attacking
from bench.attack.objective import GradientWatch, Objective, log_margin, margin_objective
from bench.attack.pgd import PGD
from bench.attack.threat import Ball, Threat

__all__ = [
    "PGD",
    "AutoAttackResult",
    "AutoAttackState",
    "Ball",
    "GradientWatch",
    "Objective",
    "Threat",
    "attacking",
    "auto_attack",
    "log_margin",
    "margin_objective",
]
