"""Records: what a run leaves behind, and what every table is made from."""

from bench.record.corruption import CorruptionEvaluation
from bench.record.environment import Environment, describe_environment
from bench.record.outcome import Outcome, wilson_interval
from bench.record.record import AutoAttackEvaluation, PGDEvaluation, PhaseCost, Record
from bench.record.store import load_record, record_files, record_path, save_record

__all__ = [
    "AutoAttackEvaluation",
    "CorruptionEvaluation",
    "Environment",
    "Outcome",
    "PGDEvaluation",
    "PhaseCost",
    "Record",
    "describe_environment",
    "load_record",
    "record_files",
    "record_path",
    "save_record",
    "wilson_interval",
]
