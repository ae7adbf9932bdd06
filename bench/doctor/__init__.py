"""The doctor: checks of an evaluation, run after each one, whose verdicts stand in its record."""

from bench.doctor.check import Check, Finding
from bench.doctor.examination import CHECKS, Advice, advice, examine
from bench.doctor.gradient import input_gradient, nearby_cosines
from bench.doctor.patient import SAMPLE, Patient, Sample
from bench.doctor.surrogate import trained_surrogate

__all__ = [
    "CHECKS",
    "SAMPLE",
    "Advice",
    "Check",
    "Finding",
    "Patient",
    "Sample",
    "advice",
    "examine",
    "input_gradient",
    "nearby_cosines",
    "trained_surrogate",
]
