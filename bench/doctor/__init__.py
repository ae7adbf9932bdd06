"""The doctor: checks of an evaluation, run after each one, whose verdicts stand in its record."""

from bench.doctor.check import Check, Finding
from bench.doctor.examination import CHECKS, Advice, advice, examine
from bench.doctor.patient import Patient, Sample

__all__ = ["CHECKS", "Advice", "Check", "Finding", "Patient", "Sample", "advice", "examine"]
