"""A run: one method from raw images to records."""

from bench.run.checkpoint import CheckpointRequest, prepare_checkpoint
from bench.run.execute import execute
from bench.run.finished import Finished, finished_in, finished_protocols
from bench.run.folder import RunFolder
from bench.run.prepare import Run, RunRequest, prepare
from bench.run.project import PhaseEstimate, project
from bench.run.ready import check_ready
from bench.run.seeds import parse_seeds
from bench.run.select import select_finished
from bench.run.sweep import SweepRequest, sweep_runs

__all__ = [
    "CheckpointRequest",
    "Finished",
    "PhaseEstimate",
    "Run",
    "RunFolder",
    "RunRequest",
    "SweepRequest",
    "check_ready",
    "execute",
    "finished_in",
    "finished_protocols",
    "parse_seeds",
    "prepare",
    "prepare_checkpoint",
    "project",
    "select_finished",
    "sweep_runs",
]
