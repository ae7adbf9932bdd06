"""Checks of the protocol: the encoder, the data and the classifier that was trained."""

from bench.doctor.check import Check

PROTOCOL: tuple[Check, ...] = ()
