"""The doctor: checks of an evaluation, run after each one, whose verdicts stand in its record."""

from bench.doctor.check import Check, Finding
from bench.doctor.examination import CHECKS, examine
from bench.doctor.patient import Patient, Sample

__all__ = ["CHECKS", "Check", "Finding", "Patient", "Sample", "examine"]
