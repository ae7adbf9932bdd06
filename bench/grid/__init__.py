"""Grids: jobs in a folder, run by workers on this machine or on Slurm. Nothing here imports torch or needs a daemon."""

from bench.grid.grid import MAKE_ANEW, Grid, GridFolder, GridJob, JobFolder, JobState, Resource
from bench.grid.local import Device, run_local
from bench.grid.progress import Progress, ProgressFile
from bench.grid.resources import read_resources
from bench.grid.signals import stop_on_signals
from bench.grid.slurm import Script, cancel_queued, check_cluster, requeue, scripts, submit
from bench.grid.status import JobStatus, grid_status, to_start
from bench.grid.worker import work

__all__ = [
    "MAKE_ANEW",
    "Device",
    "Grid",
    "GridFolder",
    "GridJob",
    "JobFolder",
    "JobState",
    "JobStatus",
    "Progress",
    "ProgressFile",
    "Resource",
    "Script",
    "cancel_queued",
    "check_cluster",
    "grid_status",
    "read_resources",
    "requeue",
    "run_local",
    "scripts",
    "stop_on_signals",
    "submit",
    "to_start",
    "work",
]
