"""Attacks: what an attacker may do (`Threat`), how hard it tries (`PGD`, AutoAttack), on frozen models."""

from bench.attack.auto import AutoAttackResult, AutoAttackState, auto_attack
from bench.attack.frozen import attacking
from bench.attack.pgd import PGD, Objective, cross_entropy_objective
from bench.attack.threat import Ball, Threat

__all__ = [
    "PGD",
    "AutoAttackResult",
    "AutoAttackState",
    "Ball",
    "Objective",
    "Threat",
    "attacking",
    "auto_attack",
    "cross_entropy_objective",
]
