"""Records: the results of runs, from which every table is made."""

from bench.record.attacks import AttackList, ListedAttack, MinimalPerturbations
from bench.record.correction import REASONS, Correction, correct, correction_files, load_correction
from bench.record.corruption import CorruptionEvaluation
from bench.record.cost import COST_REFERENCE, PhaseCost, larger_peak
from bench.record.diagnosis import Diagnosis, Verdict
from bench.record.environment import Environment, continued, describe_environment, other_code
from bench.record.gap import RA_AND_AA, ra_and_aa
from bench.record.inventory import Inventory
from bench.record.outcome import Drawn, NoGradient, Outcome, Shared, shared
from bench.record.phase import Phase
from bench.record.recipe import RecordedRecipe
from bench.record.record import IMPORTED, AutoAttackEvaluation, Doubt, Known, LabelledSubset, PGDEvaluation, Record
from bench.record.shares import TOLERANCE, verdict_on
from bench.record.statistics import (
    MeanDifference,
    Pairs,
    exact_mean,
    mcnemar_exact,
    newcombe_interval,
    sample_std,
    welch,
    wilson_interval,
)
from bench.record.store import (
    LOCAL,
    RecordName,
    load_record,
    load_sweep,
    may_be_of,
    may_be_of_run,
    record_files,
    record_path,
    save_record,
    save_sweep,
    sweep_files,
    sweep_path,
)
from bench.record.submission import (
    SUBMISSIONS,
    Submission,
    SubmittedWeights,
    load_submission,
    published_from,
    submission_folders,
    submitted_record,
    weights_needed,
)
from bench.record.sweep import Sweep, SweepKind, SweepSettings, grid_fault, sweep_identity
from bench.record.trusted import load_trusted
from bench.record.verification import (
    Flip,
    Reason,
    Verification,
    load_verification,
    person,
    save_verification,
    signed,
    verification_files,
)

__all__ = [
    "COST_REFERENCE",
    "IMPORTED",
    "LOCAL",
    "RA_AND_AA",
    "REASONS",
    "SUBMISSIONS",
    "TOLERANCE",
    "AttackList",
    "AutoAttackEvaluation",
    "Correction",
    "CorruptionEvaluation",
    "Diagnosis",
    "Doubt",
    "Drawn",
    "Environment",
    "Flip",
    "Inventory",
    "Known",
    "LabelledSubset",
    "ListedAttack",
    "MeanDifference",
    "MinimalPerturbations",
    "NoGradient",
    "Outcome",
    "PGDEvaluation",
    "Pairs",
    "Phase",
    "PhaseCost",
    "Reason",
    "Record",
    "RecordName",
    "RecordedRecipe",
    "Shared",
    "Submission",
    "SubmittedWeights",
    "Sweep",
    "SweepKind",
    "SweepSettings",
    "Verdict",
    "Verification",
    "continued",
    "correct",
    "correction_files",
    "describe_environment",
    "exact_mean",
    "grid_fault",
    "larger_peak",
    "load_correction",
    "load_record",
    "load_submission",
    "load_sweep",
    "load_trusted",
    "load_verification",
    "may_be_of",
    "may_be_of_run",
    "mcnemar_exact",
    "newcombe_interval",
    "other_code",
    "person",
    "published_from",
    "ra_and_aa",
    "record_files",
    "record_path",
    "sample_std",
    "save_record",
    "save_sweep",
    "save_verification",
    "shared",
    "signed",
    "submission_folders",
    "submitted_record",
    "sweep_files",
    "sweep_identity",
    "sweep_path",
    "verdict_on",
    "verification_files",
    "weights_needed",
    "welch",
    "wilson_interval",
]
