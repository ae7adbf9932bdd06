"""What each job asks Slurm for: options over a profile file."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.grid.grid import Resource


def read_resources(
    profile: Path | None, given: Mapping[str, Resource | None], others: Sequence[str]
) -> dict[str, Resource]:
    """Return the resources of every job.

    Args:
        profile: a TOML file of names and values, such as ``partition = "gpu"``.
        given: what options of their own name; None: not given.
        others: anything else of sbatch, as ``KEY=VALUE``, or ``KEY`` for an option without a value.

    Raises:
        BenchError: the file cannot be read or holds tables, or an item without a name.
    """
    found = {} if profile is None else _profile(profile)
    found |= {name: value for name, value in given.items() if value is not None}
    for item in others:
        name, equals, value = item.partition("=")
        if not name.strip("- "):
            raise BenchError(f"--slurm {item!r} is not of the form KEY=VALUE. Type, for example, --slurm qos=long")
        found[name.strip().lstrip("-")] = value if equals else True
    return found


def _profile(path: Path) -> dict[str, Resource]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--profile {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"--profile {path} is not TOML: {error}") from None
    wrong = [name for name, value in values.items() if not isinstance(value, str | int | bool)]
    if wrong:
        raise BenchError(
            f"--profile {path}: {wrong[0]} = {values[wrong[0]]!r} is neither text nor a whole number. "
            'Write, for example, partition = "gpu"'
        )
    return values
