"""Where a run took place: code version, packages, machine."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import __version__
from bench.recipe import Settings
from bench.recipe.fields import Commit, Count, Name, Text

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pillow",
    "scikit-learn",
    "accelerate",
    "pyautoattack",
    "autoattack",
)


class Environment(Settings):
    """Code, packages and machine of a run."""

    bench: Name
    commit: Commit | None = None
    """Git commit of the code; None when it does not run from a checkout."""
    dirty: bool | None = None
    """Whether the checkout's code had uncommitted changes."""
    packages: dict[Name, Name]
    python: Name
    platform: Text
    device: Text
    threads: Count


def describe_environment(device: str, threads: int) -> Environment:
    """Return the present environment, on a ``device`` of that name."""
    commit, dirty = _code_version()
    return Environment(
        bench=__version__,
        commit=commit,
        dirty=dirty,
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
        threads=threads,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _code_version() -> tuple[str | None, bool | None]:
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None, None
    commit = _git(home, "rev-parse", "HEAD")
    # Records and documents may lie uncommitted; only changed code makes a result unrepeatable.
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
