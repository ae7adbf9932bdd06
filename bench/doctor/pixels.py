"""Checks of the pixels: what reaches the encoder, and what attacks return."""

from bench.doctor.check import Check

PIXELS: tuple[Check, ...] = ()
