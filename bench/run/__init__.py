"""A run: one method from raw images to records."""

from bench.run.command import to_finish, unfinished
from bench.run.encoder import EncoderFile, import_encoder, load_encoder
from bench.run.execution import execute, shared_stages, train_shared
from bench.run.finished import (
    Finished,
    by_preference,
    described_recipe,
    finished_in,
    finished_protocols,
    kept_of,
    one_a_classifier,
    run_folder,
    run_folders,
    select_finished,
)
from bench.run.folder import ProtocolFolder, RunFolder
from bench.run.listing import list_runs
from bench.run.named import WeightChoices, encoder_path, is_named
from bench.run.preparation import Run, RunRequest, check_ready, kept_bytes, prepare
from bench.run.pretrained import EvaluationRequest, prepare_evaluation
from bench.run.projection import peak_memory, project
from bench.run.sweep import SweepRequest, sweep_runs
from bench.run.threads import choose_threads, threads_as_begun, threads_open
from bench.run.verification import VerificationRequest, Verified, verify
from bench.run.visit import Visit, finished_of, visit_encoder, visit_finished

__all__ = [
    "EncoderFile",
    "EvaluationRequest",
    "Finished",
    "ProtocolFolder",
    "Run",
    "RunFolder",
    "RunRequest",
    "SweepRequest",
    "VerificationRequest",
    "Verified",
    "Visit",
    "WeightChoices",
    "by_preference",
    "check_ready",
    "choose_threads",
    "described_recipe",
    "encoder_path",
    "execute",
    "finished_in",
    "finished_of",
    "finished_protocols",
    "import_encoder",
    "is_named",
    "kept_bytes",
    "kept_of",
    "list_runs",
    "load_encoder",
    "one_a_classifier",
    "peak_memory",
    "prepare",
    "prepare_evaluation",
    "project",
    "run_folder",
    "run_folders",
    "select_finished",
    "shared_stages",
    "sweep_runs",
    "threads_as_begun",
    "threads_open",
    "to_finish",
    "train_shared",
    "unfinished",
    "verify",
    "visit_encoder",
    "visit_finished",
]
