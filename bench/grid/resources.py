"""What each job asks Slurm for: options over a profile file, which may have a section for each method."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError, listed, unknown
from bench.grid.grid import GridJob, Resource

_SHARED = "shared"
"""The section of jobs that train shared stages."""
_DECIDED = {
    **dict.fromkeys(("array", "dependency", "job-name", "output", "requeue", "no-requeue", "wrap"), "Leave it out"),
    "signal": "Type --slurm grace=SECONDS",
}
"""Options of sbatch that follow from the grid, and what to do about them."""
_SBATCH = (
    "account acctg-freq batch bb bbf begin chdir cluster-constraint clusters comment constraint container container-id "
    "contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot distribution error exclude "
    "exclusive export export-file extra extra-node-info get-user-env gid gpu-bind gpu-freq gpus-per-socket "
    "gpus-per-task gres gres-flags hint hold input kill-on-invalid-dep licenses mail-type mail-user mcs-label mem "
    "mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile nodelist nodes ntasks ntasks-per-core "
    "ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode overcommit oversubscribe partition power prefer "
    "priority profile propagate qos quiet reboot reservation resv-ports segment sockets-per-node spread-job stepmgr "
    "switches thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid use-min-nodes wait-all-nodes "
    "wckey"
)
"""The options of sbatch, version 24.11, under their long names; a cluster may have more, of plug-ins."""
_LONG = {
    **{"c": "cpus", "cpus-per-task": "cpus", "gpus-per-node": "gpus", "array-parallelism": "array_parallelism"},
    **{"A": "account", "C": "constraint", "p": "partition", "q": "qos", "t": "time"},
}
"""From other names of sbatch to those here."""
_WHOLE = ("array_parallelism", "cpus", "grace")
"""Whole numbers from 1."""
_KNOWN = {*_SBATCH.split(), *_WHOLE, *_DECIDED, "gpus"}
_TIME = re.compile(
    r"\d+|(\d+|\d+:[0-5]?\d):[0-5]?\d|\d+-([01]?\d|2[0-3])(:[0-5]?\d){0,2}|unlimited|infinite", re.IGNORECASE
)
"""The forms that sbatch reads: minutes, minutes:seconds, hours:minutes:seconds, and days before hours."""
_DIGITS = re.compile(r"\d{1,18}")
_GPUS = re.compile(r"([\w.-]+:)?\d+(,[\w.-]+:\d+)*")
"""A number, or numbers of types of GPUs."""


class Resources(NamedTuple):
    """What jobs ask Slurm for."""

    of_all: dict[str, Resource]
    of_one: dict[str, dict[str, Resource]]
    """By section of the file: what the jobs of one method ask for instead, or those that train shared stages."""

    @property
    def names(self) -> set[str]:
        """Everything that any job asks for."""
        return set(self.of_all).union(*self.of_one.values())

    def given(self, jobs: Iterable[GridJob]) -> tuple[GridJob, ...]:
        """Return ``jobs`` with what their sections ask for."""
        return tuple(job.model_copy(update={"resources": self.of_one.get(_section(job), {})}) for job in jobs)


def _section(job: GridJob) -> str:
    return _SHARED if "--shared-only" in job.command else job.method.partition("+")[0]


def read_resources(
    profile: Path | None, given: Mapping[str, Resource | None], others: Sequence[str], methods: Iterable[str]
) -> Resources:
    """Return the resources of all jobs.

    Args:
        profile: a TOML file of names and values, such as ``partition = "gpu"``, in sections for single methods.
        given: what options of their own name; None: not given. They override the file, its sections too.
        others: anything else of sbatch, as ``KEY=VALUE``, or ``KEY`` for an option without a value.
        methods: what sections may be called, beside ``shared``.

    Raises:
        BenchError: the file cannot be read, or has other sections, names or values, all of which are listed; an item
            has no name or one that was given already, is what the grid decides, or a value that sbatch cannot read.
    """
    typed = {name: _typed(f"--{name}", name, value) for name, value in given.items() if value is not None}
    for item in others:
        name, equals, value = item.partition("=")
        if not name.strip("- "):
            raise BenchError(f"--slurm {item!r} is not of the form KEY=VALUE. Type, for example, --slurm qos=long")
        name = _named(name.strip().lstrip("-"))
        if name in typed:
            raise BenchError(f"--slurm {item}: {name} is given twice. Leave out one of them.")
        typed[name] = _typed(f"--slurm {item}", name, value if equals else True)
    of_all, of_one = ({}, {}) if profile is None else _profile(profile, {*methods, _SHARED})
    for section in of_one.values():
        for name in typed.keys() & section:
            del section[name]
    return Resources({**of_all, **typed}, of_one)


def _named(name: str) -> str:
    name = name.replace("_", "-")
    return _LONG.get(name, name)


def _typed(source: str, name: str, value: Resource) -> Resource:
    try:
        return _checked(name, value)
    except BenchError as error:
        raise BenchError(f"{source}: {error}") from None


def _checked(name: str, value: Resource) -> Resource:
    """Return ``value``, as a number where ``name`` is one; raise BenchError for a bad one, or what the grid decides."""
    if name in _DECIDED:
        raise BenchError(f"{name} follows from the grid. {_DECIDED[name]}.")
    if name == "time" and not _TIME.fullmatch(str(value)):
        raise BenchError(f"time must be such as 90 (minutes), 12:00:00 or 2-12:00:00 (given: {value}).")
    if name == "gpus" and not _GPUS.fullmatch(str(value)):
        raise BenchError(f"gpus must be a whole number from 0, or such as a100:2 (given: {value}).")
    if name not in _WHOLE:
        return value
    if isinstance(value, bool) or not _DIGITS.fullmatch(str(value)) or int(value) < 1:
        raise BenchError(f"{name} must be a whole number from 1 (given: {value}).")
    return int(value)


def _profile(path: Path, sections: Iterable[str]) -> tuple[dict[str, Resource], dict[str, dict[str, Resource]]]:
    """Return what the file asks for of all jobs, and what each section does."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--profile {path} cannot be read: {error}") from None
    except ValueError as error:  # also of a number that has thousands of digits
        raise BenchError(f"--profile {path} is not TOML: {error}") from None
    own = {name: table.pop(name) for name in list(table) if isinstance(table[name], dict)}
    hint = f"A section is a method, or {_SHARED} for the stages that several cells share."
    faults = [str(unknown("section", name, sections, hint)) for name in own if name not in sections]
    of_all = _values(table, "", faults)
    of_one = {name: _values(values, f"[{name}] ", faults) for name, values in own.items()}
    if faults:
        raise BenchError(listed(f"--profile {path}", faults))
    return of_all, of_one


def _values(table: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Resource]:
    """Return the values of ``table``, a part of the file, by the names here; what is wrong is added to ``faults``."""
    values: dict[str, Resource] = {}
    for written, value in table.items():
        name = _named(written)
        try:
            if name in values:
                raise BenchError(f"{name} is given twice. Leave out one of them.")
            if name not in _KNOWN:
                hint = f"What your cluster adds to sbatch is typed: --slurm {written}=VALUE"
                raise unknown("option of sbatch", written, _KNOWN, hint)
            if not isinstance(value, str | int | bool):
                raise BenchError(
                    f'{written} = {value!r} is neither text nor a whole number. Write, for example, partition = "gpu"'
                )
            values[name] = _checked(name, value)
        except BenchError as error:
            faults.append(f"{where}{error}")
    return values
