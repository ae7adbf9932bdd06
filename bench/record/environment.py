"""Where a phase of a run took place: code version, packages, machine."""

import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import __version__
from bench.code import code_digest
from bench.recipe import Settings
from bench.recipe.fields import Commit, Count, Digest, Name, Text

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pillow",
    "scikit-learn",
    "accelerate",
    "timm",
    "pyautoattack",
    "autoattack",
)


class Environment(Settings):
    """Code, packages and machine of a run, or of one phase of it."""

    bench: Name
    commit: Commit | None = None
    """Git commit of the code; None when it does not run from a checkout."""
    dirty: bool | None = None
    """Whether the checkout's code had uncommitted changes."""
    modules: tuple[Name, ...] = ()
    """Of a phase: the modules that carried it out."""
    code: Digest | None = None
    """Of a phase: the digest of these modules and of all that they reach (:func:`bench.code.code_digest`)."""
    packages: dict[Name, Name]
    python: Name
    platform: Text
    device: Text
    threads: Count
    devices: Count = 1
    """Of a phase: how many devices carried it out together, each with a process of that many threads."""
    precision: Name | None = None
    """Of a phase that trains: fp32, bf16 or fp16."""


def describe_environment(
    device: str, threads: int, *, modules: Sequence[str] = (), precision: str | None = None, devices: int = 1
) -> Environment:
    """Return the current environment, on ``device``.

    Args:
        modules: the modules that carry out the phase; empty: not the environment of a phase.
        precision: of a phase that trains.
        devices: how many carry out the phase together.
    """
    commit, dirty = _code_version()
    return Environment(
        bench=__version__,
        commit=commit,
        dirty=dirty,
        modules=tuple(modules),
        code=code_digest(*modules) if modules else None,
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        threads=threads,
        devices=devices,
        precision=precision,
    )


def continued(ran: Sequence[Environment | None], now: Environment) -> tuple[Environment | None, ...]:
    """Return the environments of a phase that continues in ``now``: in order, each once."""
    return tuple(ran) if now in ran else (*ran, now)


def other_code(ran: Sequence[Environment | None], now: Environment) -> bool:
    """Return whether any part of a phase ran with other code than that of ``now``, or with unknown code."""
    return any(one is None or one.code != now.code for one in ran)


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache  # a checkout may change while its older code still runs
def _code_version() -> tuple[str | None, bool | None]:
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None, None
    commit = _git(home, "rev-parse", "HEAD")
    # Records and documents may be uncommitted; only changed code makes a result unrepeatable.
    changed = _git(home, "status", "--porcelain", "--", "bench", "methods", "pyproject.toml")
    return commit, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
