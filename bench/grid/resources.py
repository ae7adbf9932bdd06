"""What each job asks Slurm for: options over a profile file, which may have a section for each method."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError, unknown
from bench.grid.grid import GridJob, Resource

_SHARED = "shared"
"""The section of jobs that train shared stages."""
_DECIDED = {
    **dict.fromkeys(("array", "dependency", "job-name", "output", "requeue", "no-requeue", "wrap"), "Leave it out"),
    "signal": "Type --slurm grace=SECONDS",
}
"""Options of sbatch that follow from the grid, and what to do about them."""
_LONG = {
    **{"c": "cpus", "cpus-per-task": "cpus", "gpus-per-node": "gpus"},
    **{"A": "account", "C": "constraint", "p": "partition", "q": "qos", "t": "time"},
}
"""From other names of sbatch to those here."""
_WHOLE = ("array_parallelism", "cpus", "grace")
"""Whole numbers from 1."""
_TIME = re.compile(r"\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}|unlimited|infinite", re.IGNORECASE)
"""The forms that sbatch reads: minutes, minutes:seconds, hours:minutes:seconds, and days before hours."""


class Resources(NamedTuple):
    """What jobs ask Slurm for."""

    of_all: dict[str, Resource]
    of_one: dict[str, dict[str, Resource]]
    """By section of the file: what the jobs of one method ask for instead, or those that train shared stages."""

    @property
    def names(self) -> set[str]:
        """Everything that any job asks for."""
        return set(self.of_all).union(*self.of_one.values())

    def given(self, jobs: Iterable[GridJob], methods: Iterable[str]) -> tuple[GridJob, ...]:
        """Return ``jobs`` with what their sections ask for.

        Raises:
            BenchError: a section that is neither one of ``methods`` nor of a job.
        """
        sections = {job.name: _section(job) for job in jobs}
        allowed = {*methods, *sections.values(), _SHARED}
        for name in self.of_one.keys() - allowed:
            hint = f"A section is a method, or {_SHARED} for the stages that several cells share."
            raise unknown("section of --profile", name, allowed, hint)
        return tuple(job.model_copy(update={"resources": self.of_one.get(sections[job.name], {})}) for job in jobs)


def _section(job: GridJob) -> str:
    return _SHARED if "--shared-only" in job.command else job.method.partition("+")[0]


def read_resources(profile: Path | None, given: Mapping[str, Resource | None], others: Sequence[str]) -> Resources:
    """Return the resources of all jobs.

    Args:
        profile: a TOML file of names and values, such as ``partition = "gpu"``, in sections for single methods.
        given: what options of their own name; None: not given. They override the file, its sections too.
        others: anything else of sbatch, as ``KEY=VALUE``, or ``KEY`` for an option without a value.

    Raises:
        BenchError: the file cannot be read or holds other values, an item has no name or one that was given already, it
            is what the grid decides, or a number or time that sbatch cannot read.
    """
    typed = {name: _checked(f"--{name}", name, value) for name, value in given.items() if value is not None}
    for item in others:
        name, equals, value = item.partition("=")
        if not name.strip("- "):
            raise BenchError(f"--slurm {item!r} is not of the form KEY=VALUE. Type, for example, --slurm qos=long")
        name = name.strip().lstrip("-")
        name = _LONG.get(name, name)
        if name in typed:
            raise BenchError(f"--slurm {item}: {name} is given twice. Leave out one of them.")
        typed[name] = _checked(f"--slurm {item}", name, value if equals else True)
    values = {} if profile is None else _profile(profile)
    sections = {name: values.pop(name) for name in list(values) if isinstance(values[name], dict)}
    for where, found in (("", values), *sections.items()):
        wrong = [name for name, value in found.items() if not isinstance(value, str | int | bool)]
        if wrong:
            raise BenchError(
                f"--profile {profile}: {f'[{where}] ' if where else ''}{wrong[0]} = {found[wrong[0]]!r} is neither "
                'text nor a whole number. Write, for example, partition = "gpu"'
            )
        named = {_LONG.get(name, name): each for name, each in found.items()}
        checked = {name: _checked(f"--profile {profile}", name, each) for name, each in named.items()}
        found.clear()
        found.update(checked)
    of_one = {where: {key: value for key, value in own.items() if key not in typed} for where, own in sections.items()}
    return Resources({**values, **typed}, of_one)


def _checked(source: str, name: str, value: Resource) -> Resource:
    """Return ``value``, as a number where ``name`` is one; raise BenchError for a bad one, or what the grid decides."""
    if name in _DECIDED:
        raise BenchError(f"{source}: {name} follows from the grid. {_DECIDED[name]}.")
    if name == "time" and not _TIME.fullmatch(str(value)):
        raise BenchError(f"{source}: Slurm reads no time {str(value)!r}. Type, for example, 12:00:00 or 2-12:00:00.")
    if name not in _WHOLE:
        return value
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise BenchError(f"{source}: {name} must be a whole number from 1 (given: {value}).")
    return int(value)


def _profile(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--profile {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"--profile {path} is not TOML: {error}") from None
