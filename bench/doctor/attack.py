"""Checks of the attack: whether it is as strong as it should be."""

from bench.doctor.check import Check

ATTACK: tuple[Check, ...] = ()
