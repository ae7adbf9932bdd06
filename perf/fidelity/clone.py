"""A reader's clone of an upstream repository: checks its commit, and imports its modules.

A comparison runs the authors' own code, from the reader's disk. Packages that this code imports but the
comparison does not use (loggers, other backbones) need not be installed: stand-ins make the import succeed, and raise
when called.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.errors import BenchError


@dataclass(frozen=True)
class Upstream:
    """A public repository at the commit named in our sources."""

    repository: str
    """Owner and name: "pantheon5100/DeACL"."""
    commit: str
    """All 40 digits."""

    @property
    def folder(self) -> str:
        """The default name of a clone."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.repository} at {self.commit[:7]}"

    def fetching(self, folder: Path) -> str:
        """Return the command that makes ``folder`` a clone of this repository at this commit."""
        address = f"https://github.com/{self.repository}"
        return f"git clone {address} {folder} && git -C {folder} checkout {self.commit}"


@dataclass(frozen=True)
class Clone:
    """A clone on the reader's disk."""

    folder: Path
    upstream: Upstream
    doubt: str
    """How it differs from the compared commit; empty if it does not."""

    @classmethod
    def at(cls, folder: Path, upstream: Upstream) -> "Clone":
        """Return the clone in ``folder``; raises BenchError if there is none."""
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is None or Path(top) != folder.resolve():
            fetching = upstream.fetching(folder)
            raise BenchError(f"{folder} is not a clone of {upstream.repository}. Type: {fetching}")
        commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno")
        doubts = [f"it stands at {commit and commit[:7]}"] if commit != upstream.commit else []
        doubts += ["files in it were changed"] if changed else []
        return cls(folder.resolve(), upstream, " and ".join(doubts))

    def text(self, path: str) -> str:
        """Return the text of a file of the clone."""
        return (self.folder / path).read_text()

    def definitions(self, path: str, *names: str, **known: Any) -> dict[str, Any]:
        """Return functions and classes of a script that trains as soon as it is imported.

        Args:
            path: the script, below the clone's folder.
            names: what to define; nothing else of the script is run.
            known: the global names that they use.
        """
        parts = [node for node in ast.parse(self.text(path)).body if getattr(node, "name", None) in names]
        module = ast.Module(body=parts, type_ignores=[])
        exec(compile(module, str(self.folder / path), "exec"), known)
        return known

    @contextmanager
    def importing(
        self,
        root: str = ".",
        *,
        bare: Sequence[str] = (),
        absent: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Iterator[None]:
        """Let ``import`` find the clone's modules first, and forget them afterwards.

        Args:
            root: the subfolder of the clone in which its own scripts are started.
            bare: packages whose ``__init__`` is not run, because it imports far more than is compared.
            absent: packages and modules replaced by stand-ins, with the parts of them that must be real.
        """
        known, path, written = set(sys.modules), list(sys.path), sys.dont_write_bytecode
        finder = _StandIns(dict(absent or {}))
        sys.dont_write_bytecode = True  # nothing is left behind in the reader's clone
        sys.path.insert(0, str(self.folder / root))
        sys.meta_path.insert(0, finder)
        for name in bare:
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [str(self.folder / root / name.replace(".", "/"))]
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            sys.path[:], sys.dont_write_bytecode = path, written
            for name in set(sys.modules) - known:
                module = sys.modules[name]
                found = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]  # a folder has no file
                theirs = any(path is not None and Path(path).is_relative_to(self.folder) for path in found)
                if theirs or name in bare or isinstance(sys.modules[name], _StandIn):
                    del sys.modules[name]


@contextmanager
def on_cpu() -> Iterator[None]:
    """Leave tensors and modules where they are when code asks for a GPU."""

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self

    with mock.patch.object(Tensor, "cuda", stay), mock.patch.object(nn.Module, "cuda", stay):
        yield


@contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """Change the working folder, for code that reads or writes below it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Absent:
    """What a stand-in returns for every name: it can be imported, but not used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a comparison used a part of a package that a stand-in replaces")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class _StandIns(MetaPathFinder, Loader):
    """Finds a stand-in for every module of ``absent`` and everything below it."""

    def __init__(self, absent: dict[str, Mapping[str, Any]]) -> None:
        self._absent = absent

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a stand-in; None if the name is not to be replaced."""
        ours = any(fullname == name or fullname.startswith(f"{name}.") for name in self._absent)
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Add the parts that must be real."""
        for name, value in self._absent.get(module.__name__, {}).items():
            setattr(module, name, value)


class LightningModule(nn.Module):
    """As much of PyTorch Lightning's class as a training step needs: logging, and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def log(self, name: str, value: Any, **_: Any) -> None:
        """Keep ``value``."""
        self.logged[name] = value

    def log_dict(self, values: Mapping[str, Any], **_: Any) -> None:
        """Keep ``values``."""
        self.logged.update(values)


def _git(folder: Path, *command: str) -> str | None:
    if not folder.is_dir():
        return None
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
