"""Records: the results of runs, from which every table is made."""

from bench.record.corruption import CorruptionEvaluation
from bench.record.cost import COST_REFERENCE, PhaseCost, larger_peak
from bench.record.diagnosis import Diagnosis, Verdict
from bench.record.environment import Environment, continued, describe_environment, other_code
from bench.record.inventory import Inventory
from bench.record.outcome import Drawn, NoGradient, Outcome, Shared, shared
from bench.record.phase import Phase
from bench.record.recipe import RecordedRecipe
from bench.record.record import IMPORTED, AutoAttackEvaluation, Doubt, LabelledSubset, PGDEvaluation, Record
from bench.record.statistics import (
    MeanDifference,
    Pairs,
    mcnemar_exact,
    newcombe_interval,
    sample_std,
    welch,
    wilson_interval,
)
from bench.record.store import (
    LOCAL,
    load_record,
    load_sweep,
    may_be_of,
    record_files,
    record_path,
    save_record,
    save_sweep,
    sweep_files,
    sweep_path,
)
from bench.record.sweep import Sweep, SweepKind, SweepSettings, grid_fault, sweep_identity

__all__ = [
    "COST_REFERENCE",
    "IMPORTED",
    "LOCAL",
    "AutoAttackEvaluation",
    "CorruptionEvaluation",
    "Diagnosis",
    "Doubt",
    "Drawn",
    "Environment",
    "Inventory",
    "LabelledSubset",
    "MeanDifference",
    "NoGradient",
    "Outcome",
    "PGDEvaluation",
    "Pairs",
    "Phase",
    "PhaseCost",
    "Record",
    "RecordedRecipe",
    "Shared",
    "Sweep",
    "SweepKind",
    "SweepSettings",
    "Verdict",
    "continued",
    "describe_environment",
    "grid_fault",
    "larger_peak",
    "load_record",
    "load_sweep",
    "may_be_of",
    "mcnemar_exact",
    "newcombe_interval",
    "other_code",
    "record_files",
    "record_path",
    "sample_std",
    "save_record",
    "save_sweep",
    "shared",
    "sweep_files",
    "sweep_identity",
    "sweep_path",
    "welch",
    "wilson_interval",
]
