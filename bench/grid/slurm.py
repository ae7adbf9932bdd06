"""A grid on Slurm: one array a set of jobs that wait for the same ones, submitted through submitit."""

import getpass
import os
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.files import make_writable, read_json, write_json
from bench.grid.grid import GridFolder, GridJob, Resource
from bench.grid.nodes import check_seen, check_shared
from bench.grid.worker import program
from bench.recipe import Settings, canonical_digest

GRACE_SECONDS = 90
"""Before the time limit, a job is asked to save its state and stop."""
_SAME = (
    *("partition", "account", "qos", "constraint", "gres", "time", "nodes", "exclude", "mem", "nodelist", "exclusive"),
    *("comment", "array_parallelism"),
)
_OF_SUBMITIT = {**{name: name for name in _SAME}, "gpus": "gpus_per_node", "cpus": "cpus_per_task"}
"""From the names of resources here to those of submitit; every other name is passed on to sbatch as it is."""
_MOST_TASKS = 1000
"""Of an array: Slurm's own default limit, MaxArraySize, is one more."""
_REQUEUE_SECONDS = 60.0
_WITHOUT = (
    "Type the command where you submit jobs; without Slurm, run with --on local or see the scripts with --dry-run."
)


class _Submission(Settings):
    """An array that was submitted, in a file that is called after its number."""

    jobs: tuple[str, ...]
    """Their names, in the order of the tasks."""


@dataclass(frozen=True)
class Batch:
    """The jobs of one array, all of which wait for the same jobs and ask for the same resources."""

    jobs: tuple[GridJob, ...]
    needs: tuple[str, ...]

    @property
    def resources(self) -> Mapping[str, Resource]:
        """What they ask for, beside what every job of the grid does."""
        return self.jobs[0].resources


class Queued(NamedTuple):
    """A job in Slurm's queue."""

    number: str
    """Slurm's, of the array and the task: "12_3"."""
    state: str
    """Slurm's word: PENDING, RUNNING, ..."""
    reason: str


def batches(jobs: Iterable[GridJob]) -> list[Batch]:
    """Return ``jobs`` in arrays, those that others need first."""
    alike: dict[tuple[tuple[str, ...], str], list[GridJob]] = defaultdict(list)
    for job in jobs:
        alike[job.needs, canonical_digest(job.resources)].append(job)
    return [
        Batch(tuple(own[start : start + _MOST_TASKS]), needs)
        for (needs, _), own in sorted(alike.items(), key=lambda item: len(item[0][0]))
        for start in range(0, len(own), _MOST_TASKS)
    ]


def script(folder: GridFolder, batch: Batch, dependency: str | None = None) -> str:
    """Return the sbatch script of ``batch``, which can also be submitted by hand.

    Args:
        dependency: Slurm's condition, such as ``afterok:12``; None: none.
    """
    executor = _executor(folder, batch, dependency)
    text: str = executor._make_submission_file_text(_command(folder), "")
    return text


class Script(NamedTuple):
    """A script for use by hand, and the command that submits it."""

    path: str
    """Where it is, once it is written."""
    text: str
    command: str


def scripts(folder: GridFolder) -> list[Script]:
    """Return the scripts of all jobs that are not finished, for use by hand, in their order; none is written."""
    made: list[Script] = []
    variables: dict[str, str] = {}
    for count, batch in enumerate(batches(job for job in folder.grid.jobs if not job.finished), 1):
        path, text = folder.slurm / f"by-hand-{count}.sh", script(folder, batch)
        variables |= {job.name: f"${{array{count}}}_{task}" for task, job in enumerate(batch.jobs)}
        waits = ":".join(variables[need] for need in batch.needs if need in variables)
        words = [f"--dependency=afterok:{waits}"] if waits else []
        command = f"array{count}=$({' '.join(['sbatch', '--parsable', *words, shlex.quote(str(path))])})"
        made.append(Script(str(path), text, command))
    return made


def submit(folder: GridFolder, jobs: Iterable[GridJob]) -> list[str]:
    """Submit ``jobs`` and return Slurm's numbers of the arrays. Jobs that are finished satisfy those that need them.

    Raises:
        BenchError: there is no Slurm, it refuses the jobs (its own message is passed on), or its nodes cannot see the
            folder.
    """
    resources, folders = folder.grid.resources, [folder.path, *map(Path, folder.grid.folders)]
    nodes = check_cluster(resources)
    check_shared(folders, len(nodes))
    check_seen(folders, [name for name, state in nodes.items() if state == "idle"], resources)
    numbers = {name: queued.number for name, queued in in_queue(folder).items()}
    submitted = []
    make_writable(folder.slurm)
    for batch in batches(jobs):
        waits = [numbers[need] for need in batch.needs if not folder.jobs[need].finished and need in numbers]
        dependency = f"afterok:{':'.join(waits)}" if waits else None
        number = _submit(folder, batch, dependency)
        submission = _Submission(jobs=tuple(job.name for job in batch.jobs))
        write_json(folder.slurm / f"{number}.json", submission.model_dump(mode="json"))
        numbers |= {job.name: f"{number}_{task}" for task, job in enumerate(batch.jobs)}
        submitted.append(number)
    return submitted


def check_cluster(resources: Mapping[str, Resource]) -> dict[str, str]:
    """Return the state of each node that jobs with ``resources`` may get, by its name.

    Raises BenchError if there is no Slurm, or it does not answer.
    """
    if shutil.which("sbatch") is None:
        raise BenchError(f"there is no Slurm here: sbatch is not on the PATH. {_WITHOUT}")
    where = [f"--partition={resources['partition']}"] if "partition" in resources else []
    try:
        lines = _slurm("sinfo", "--noheader", "--Node", "--format=%N %t", *where).splitlines()
    except BenchError as error:
        raise BenchError(f"{error}. {_WITHOUT}") from None
    return dict(line.split() for line in lines)


def in_queue(folder: GridFolder) -> dict[str, Queued]:
    """Return the jobs of the grid that are in Slurm's queue, by name; empty if none was ever submitted.

    Raises:
        BenchError: Slurm does not answer.
    """
    arrays = dict(submissions(folder))
    if not arrays:
        return {}
    lines = _slurm("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%F|%K|%T|%r")
    found = {}
    for line in lines.splitlines():
        number, task, state, reason = line.split("|", 3)
        names = arrays.get(number, [])
        if task.isdecimal() and int(task) < len(names):
            found[names[int(task)]] = Queued(f"{number}_{task}", state, "" if reason == "None" else reason)
    return found


def submissions(folder: GridFolder) -> Iterator[tuple[str, list[str]]]:
    """Yield Slurm's number and the names of the jobs of each array that was submitted."""
    numbered = [path for path in folder.slurm.glob("*.json") if path.stem.isdecimal()]
    for path in sorted(numbered, key=lambda path: int(path.stem)):
        yield path.stem, list(_Submission.parse(read_json(path), str(path), from_file=True).jobs)


def cancel_queued(folder: GridFolder) -> int:
    """Cancel the jobs of the grid that are in Slurm's queue, and return how many they were."""
    queued = in_queue(folder)
    if queued:
        _slurm("scancel", *sorted({each.number.partition("_")[0] for each in queued.values()}))
    return len(queued)


def requeue(stop: Event) -> None:
    """Put the Slurm job that this process belongs to back into the queue, and wait for the signal to end.

    A job that Slurm itself is ending is left to it: one that was cancelled, or one that Slurm requeues.

    Args:
        stop: what the signal sets; see :func:`bench.grid.stop_on_signals`.
    """
    number = _own_number(os.environ)
    shown = _slurm("scontrol", "show", "job", "--oneliner", number)
    if "JobState=RUNNING" in shown:
        stop.clear()
        _slurm("scontrol", "requeue", number)
        stop.wait(_REQUEUE_SECONDS)


def _own_number(variables: Mapping[str, str]) -> str:
    """Return Slurm's number of this task alone: SLURM_JOB_ID of one task of an array means the whole array."""
    array, task = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else variables["SLURM_JOB_ID"]


def _command(folder: GridFolder) -> str:
    return f'{shlex.join(program())} matrix work {shlex.quote(str(folder.path))} "${{JOBS[$SLURM_ARRAY_TASK_ID]}}"'


def _submit(folder: GridFolder, batch: Batch, dependency: str | None) -> str:
    from submitit.core.utils import FailedJobError

    executor = _executor(folder, batch, dependency)
    try:
        with redirect_stderr(StringIO()):  # the message of sbatch, which is also in the error
            number: str = executor._submit_command(_command(folder)).job_id
    except FailedJobError as error:
        said = [line for line in str(error).splitlines() if line.startswith("sbatch:")]
        raise BenchError(f"Slurm refuses the jobs: {' '.join(said) or error}") from None
    return number


def _executor(folder: GridFolder, batch: Batch, dependency: str | None) -> Any:
    """Return submitit's executor for ``batch``; it writes scripts and submits them, and pickles nothing."""
    try:
        from submitit import SlurmExecutor
    except ImportError as error:
        raise BenchError(
            f"--on slurm needs a package that is not installed ({error}). "
            "Type: pip install 'ssl-robustness-bench[slurm]'"
        ) from None

    class Executor(SlurmExecutor):
        """Writes scripts on machines without Slurm, too."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    executor = Executor(folder.slurm)
    executor.update_parameters(**_parameters({**folder.grid.resources, **batch.resources}, batch, dependency))
    executor.parameters["map_count"] = len(batch.jobs)
    return executor


def _parameters(resources: Mapping[str, Resource], batch: Batch, dependency: str | None) -> dict[str, Any]:
    """Return submitit's parameters for ``batch``."""
    asked = dict(resources)
    grace = asked.pop("grace", GRACE_SECONDS)
    known = {_OF_SUBMITIT[name]: value for name, value in asked.items() if name in _OF_SUBMITIT}
    other = {name: value for name, value in asked.items() if name not in _OF_SUBMITIT}
    kinds = "stages" if not batch.needs and any("--shared-only" in job.command for job in batch.jobs) else "cells"
    return {
        "job_name": f"bench-{kinds}",
        "time": None,  # submitit's own default is five minutes
        "wckey": None,
        "stderr_to_stdout": True,
        "array_parallelism": _MOST_TASKS,
        "dependency": dependency,
        "setup": [f"JOBS=({shlex.join(job.name for job in batch.jobs)})"],
        # srun of Slurm 22.05 and later does not take over the CPUs of sbatch.
        "srun_args": [f"--cpus-per-task={asked['cpus']}"] if "cpus" in asked else [],
        # TERM stops a run at its next step, and is also what Slurm sends to a job that must make room for another.
        "additional_parameters": {
            "signal": f"TERM@{grace}",
            "requeue": True,
            **({"kill-on-invalid-dep": "yes"} if dependency else {}),
            **other,
        },
        **known,
    }


def _slurm(*command: str) -> str:
    """Return what a command of Slurm prints; raises BenchError with its own message if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise BenchError(f"there is no Slurm here: {command[0]} is not on the PATH.") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"Slurm does not answer: {shlex.join(command)} took more than a minute.") from None
    if done.returncode:
        raise BenchError(f"Slurm says: {' '.join(done.stderr.split())} ({shlex.join(command)})")
    return done.stdout
