"""The folders of a run, its protocols and shared stages: the paths of state, weights and records."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import AliasChoices, Field

from bench.code import code_digest
from bench.errors import BenchError, DamagedFileError
from bench.files import inside, make_writable, read_json, remove_unfinished, set_aside, write_bytes, write_json
from bench.method import Stage
from bench.monitor import Monitor, plural
from bench.own_code import own_imports, own_text
from bench.recipe import Recipe, Settings, canonical_digest
from bench.recipe.fields import Seed, without_folders
from bench.run.locks import locked, refusing
from bench.train import training_modules

_POLL_SECONDS = 0.5
_DESCRIPTION, _TARGET = "run.json", "target.json"


class RunDescription(Settings):
    """The content of ``run.json`` in a run's folder, which identifies the run."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of everything that determines the encoder."""
    seed: Seed
    source: str = Field(validation_alias=AliasChoices("source", "spec"))
    """The user's name for the pre-training data."""
    recipe: dict[str, Any]
    """As plain values, so that runs can be listed without their methods installed."""
    files: dict[str, str] = {}
    """The settings ``file:PATH`` as the user typed them; the recipe has none of their folders."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads that it began with; None: not known, in folders of older versions."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the description in ``folder``.

        Raises DamagedFileError if it is damaged, and BenchError if it is another program's or cannot be read.
        """
        path = folder / _DESCRIPTION
        return cls.parse(read_json(path), str(path))


@dataclass(frozen=True)
class RunFolder:
    """The folder of one (recipe, seed); its name depends on them, so the same command finds it again."""

    path: Path
    recipe: Recipe
    seed: int
    source: str
    """The user's name for the pre-training data; it may be a path, so it is not part of the recipe."""
    weights: str | None = None
    """Digest of an encoder that was not trained in this folder; other machines may train other weights from the same
    recipe and seed."""

    @classmethod
    def of(cls, runs_dir: Path, recipe: Recipe, seed: int, source: str, weights: str | None = None) -> "RunFolder":
        """Return the folder of ``recipe`` and ``seed``; nothing is created yet."""
        parts = [recipe.dataset.name, recipe.method, recipe.tier, recipe.fidelity, f"s{seed}"]
        parts += [recipe.pretraining_digest()[:8], *([f"w{weights[:8]}"] if weights else [])]
        return cls(inside(runs_dir, "-".join(parts)), recipe, seed, source, weights)

    @property
    def fingerprint(self) -> str:
        """The digest of everything that determines the encoder, including the seed."""
        return canonical_digest([self.recipe.pretraining_digest(), self.seed, *self._brought])

    @property
    def _brought(self) -> list[str]:
        return [self.weights] if self.weights else []

    @property
    def description(self) -> Path:
        """The file that identifies the run; written when the run begins."""
        return self.path / _DESCRIPTION

    @property
    def threads(self) -> int | None:
        """The number of CPU threads that the run began with; None: it has not begun, or the number is not known."""
        try:
            return RunDescription.load(self.path).threads if self.description.exists() else None
        except BenchError:
            return None

    @property
    def encoder(self) -> Path:
        """The pre-trained encoder's weights."""
        return self.path / "encoder.safetensors"

    def protocol(self, name: str, seed: int | None = None) -> "ProtocolFolder":
        """Return the folder of the protocol ``name``; ``seed`` is the evaluation's, None: that of the encoder."""
        digest, parts = self.recipe.protocol_digest(name), [name]
        own: list[str | int] = [*self._brought]
        if self.recipe.finetune and self.recipe.pretrained_on:
            parts.append(self.recipe.finetune.dataset.name)
        if seed is not None and seed != self.seed:
            parts.append(f"s{seed}")
            own.append(seed)
        fingerprint = canonical_digest([digest, self.seed, *own])
        return ProtocolFolder(inside(self.path, "-".join([*parts, digest[:8]])), fingerprint)

    def stage(self, stage: Stage) -> "StageFolder":
        """Return the folder of ``stage`` of this run; nothing is created yet."""
        if not vars(type(stage)).get("shared", False):
            return StageFolder(self.path, self.fingerprint)
        recipe = self.recipe
        identity = {  # everything that determines what it learns
            "stage": f"{type(stage).__module__}.{type(stage).__qualname__}",
            "code": code_digest(*training_modules(stage)),
            "name": stage.name,
            "plan": stage.plan.model_dump(mode="json"),
            "encoder": recipe.encoder.model_dump(mode="json"),
            "dataset": recipe.dataset.model_dump(mode="json"),
            "seed": self.seed,
        }
        fingerprint = canonical_digest(identity)
        name = "-".join([recipe.dataset.name, stage.name, f"s{self.seed}", fingerprint[:16]])
        return StageFolder(inside(self.path.parent, "stages", name), fingerprint, identity)

    @property
    def started(self) -> datetime:
        """When the run began; raises BenchError if its folder has been moved or deleted since then."""
        try:
            return datetime.fromtimestamp(self.description.stat().st_mtime, UTC)
        except OSError:
            raise BenchError(
                f"{self.path} was moved or deleted during the run. Restore it to continue, or run the same command "
                "again to start from the beginning."
            ) from None

    @contextmanager
    def claimed(self, monitor: Monitor | None = None) -> Iterator[None]:
        """Create the folder, check that it belongs to this run, and lock it against other processes.

        A damaged description is renamed, written again, and reported to ``monitor``. Raises BenchError if another
        process is using the folder, it cannot be written, or it holds another run.
        """
        with self.reserved():
            remove_unfinished(self.path)
            self._identify(monitor or Monitor())
            yield

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Create the folder and lock it against other processes, before anything is known of what it holds.

        Raises BenchError if another process is using the folder, or it cannot be written.
        """
        make_writable(self.path)
        with self._locked():
            yield

    def check_free(self) -> None:
        """Raise BusyRunError if another process is using the folder; nothing is created."""
        if (self.path / ".lock").is_file():
            with self._locked():
                pass

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.path / ".lock", refusing(f"working on this run ({self.path})"))

    def _identify(self, monitor: Monitor) -> None:
        """Write the description of this run, or check it; if data or files have moved, update their paths."""
        found = self._described(monitor)
        if found is None:
            self._keep_own_text(monitor)
            recipe = self.recipe.model_dump(mode="json")
            found = RunDescription(
                fingerprint=self.fingerprint,
                seed=self.seed,
                source=self.source,
                recipe=recipe,
                files=self._files,
                threads=torch.get_num_threads(),
            )
            write_json(self.description, found.model_dump(mode="json"))
        if found.fingerprint != self.fingerprint:
            raise self._another_run()
        moved = {"source": self.source or found.source, "files": self._files or found.files}
        if moved != {"source": found.source, "files": found.files}:
            started = self.description.stat().st_mtime
            write_json(self.description, {**found.model_dump(mode="json"), **moved})
            os.utime(self.description, (started, started))  # its time is when the run began

    @property
    def _files(self) -> dict[str, str]:
        overrides = self.recipe.overrides
        return {key: value for key, value in overrides.items() if without_folders(value) != value}

    def _keep_own_text(self, monitor: Monitor) -> None:
        """Write the code of the method that comes from a file, if it does, and name the latest run of other code."""
        recipe, text = self.recipe, own_text(self.recipe.method)
        if text is None:
            return
        write_bytes(self.path / "method.py", text.encode())
        imported = own_imports(recipe.method)
        for file, content in imported.items():
            write_bytes(self.path / "imported" / file, content.encode())
        name = recipe.method.partition("+")[0]
        pattern = f"{recipe.dataset.name}-{name}+*-{recipe.tier}-{recipe.fidelity}-s{self.seed}-*"
        others = [path for path in self.path.parent.glob(pattern) if f"-{recipe.method}-" not in path.name]
        if others:
            latest = max(others, key=lambda path: path.stat().st_mtime).name
            rest = f" and {plural(len(others) - 1, 'other run')}" if others[1:] else ""
            kept = (
                "method.py and imported/ in each run's folder hold"
                if imported
                else "method.py in each run's folder holds"
            )
            monitor.note(
                f"the code of {name} differs from that of {latest}{rest}, so this is another run. {kept} its code."
            )

    def _described(self, monitor: Monitor) -> RunDescription | None:
        """Return the folder's description; None if there is none, or if it was damaged and is now renamed."""
        if not self.description.exists():
            return None
        try:
            return RunDescription.load(self.path)
        except DamagedFileError as error:
            # Every file in the folder holds its fingerprint, so a file of another run cannot be used by mistake.
            aside = set_aside(self.description)
            monitor.note(f"{error}. It was renamed to {aside.name}, and is written again.")
            return None
        except BenchError as error:
            raise self._another_run() from error

    def _another_run(self) -> BenchError:
        return BenchError(f"{self.path} holds another run. Move it away, or choose another --runs-dir.")


@dataclass(frozen=True)
class ProtocolFolder:
    """The folder of one protocol of a run: its classifier, its unfinished evaluation and its record."""

    path: Path
    fingerprint: str

    def keep_source(self, source: str) -> None:
        """Save the user's name for the protocol's data; for data other than those of pre-training."""
        write_json(self.path / _TARGET, {"source": source})

    @property
    def record(self) -> Path:
        """The finished record; the copy under ``results/`` is the one that boards read."""
        return self.path / "record.json"


class _Target(Settings):
    """The content of ``target.json``."""

    source: str = Field(validation_alias=AliasChoices("source", "spec"))


def other_source(protocol: Path) -> str:
    """Return the user's name for the data of the protocol in the folder ``protocol``; raises BenchError."""
    return _Target.parse(read_json(protocol / _TARGET), str(protocol / _TARGET)).source


def other_sources(run: Path, dataset: str = "") -> list[str]:
    """Return the user's names for the data of those protocols in ``run`` that do not use the pre-training data.

    ``dataset``: only for the data of this name.
    """
    return sorted({other_source(path.parent) for path in run.glob(f"*{dataset}*/{_TARGET}")})


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of a run, and the fingerprint of its state."""

    path: Path
    fingerprint: str
    identity: Mapping[str, Any] | None = None
    """Of a shared stage: everything that determines what it learns. None: the stage uses the run's folder."""

    @contextmanager
    def claimed(self, monitor: Monitor) -> Iterator[None]:
        """Create a shared folder and lock it against other processes; the run's own folder is locked already.

        If another process is training the same stage, wait for it and report that. Raises BenchError if the folder
        cannot be written, and InterruptedRunError if a stop was requested while waiting.
        """
        if self.identity is None:
            yield
            return
        make_writable(self.path)
        said = False

        def wait(holder: str) -> None:
            nonlocal said
            if not said:
                monitor.note(f"waiting: {holder} is training this stage for both runs ({self.path})")
            said = True
            monitor.check()
            time.sleep(_POLL_SECONDS)

        with locked(self.path / ".lock", wait):
            remove_unfinished(self.path)
            description = self.path / "stage.json"
            if not description.exists():
                write_json(description, {"fingerprint": self.fingerprint, **self.identity})
            yield
