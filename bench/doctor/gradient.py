"""Checks of the gradient that attacks follow."""

from bench.doctor.check import Check

GRADIENT: tuple[Check, ...] = ()
