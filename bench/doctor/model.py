"""Checks of the model: it answers as an evaluation takes for granted."""

from bench.doctor.check import Check

MODEL: tuple[Check, ...] = ()
