"""The folders of a run, of its protocols and of stages that runs share: where state, weights and records are."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, Field

from bench.code import code_digest
from bench.errors import BenchError, BusyRunError, DamagedFileError
from bench.files import inside, make_writable, read_json, remove_unfinished, set_aside, write_json
from bench.method import Stage
from bench.monitor import Monitor
from bench.recipe import Recipe, Settings, canonical_digest
from bench.recipe.fields import Seed
from bench.run.locks import locked
from bench.train import training_modules

_POLL_SECONDS = 0.5
_DESCRIPTION, _TARGET = "run.json", "target.json"


class RunDescription(Settings):
    """What ``run.json`` in a run's folder says: whose folder it is."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Of all that decides the encoder."""
    seed: Seed
    source: str = Field(validation_alias=AliasChoices("source", "spec"))
    """What the user called the pre-training data."""
    recipe: dict[str, Any]
    """As plain values: to list runs needs no method installed."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the description in ``folder``.

        Raises:
            DamagedFileError: it is cut short or changed.
            BenchError: it is another program's, or cannot be read.
        """
        path = folder / _DESCRIPTION
        return cls.parse(read_json(path), str(path))


@dataclass(frozen=True)
class RunFolder:
    """The folder of one (recipe, seed); its name tells them apart, so the same command finds it again."""

    path: Path
    recipe: Recipe
    seed: int
    source: str
    """What the user called the pre-training data; it may be a path, so it is no part of the recipe."""
    weights: str | None = None
    """Digest of an encoder that was not trained in this folder but brought here; it is one of several that the
    recipe and the seed may lead to, on other machines."""

    @classmethod
    def of(cls, runs_dir: Path, recipe: Recipe, seed: int, source: str, weights: str | None = None) -> "RunFolder":
        """Return the folder that belongs to ``recipe`` and ``seed``; nothing is made yet."""
        parts = [recipe.dataset.name, recipe.method, recipe.tier, recipe.fidelity, f"s{seed}"]
        parts += [recipe.pretraining_digest()[:8], *([f"w{weights[:8]}"] if weights else [])]
        return cls(inside(runs_dir, "-".join(parts)), recipe, seed, source, weights)

    @property
    def fingerprint(self) -> str:
        """The digest of all that decides the encoder, the seed included."""
        return canonical_digest([self.recipe.pretraining_digest(), self.seed, *self._brought])

    @property
    def _brought(self) -> list[str]:
        return [self.weights] if self.weights else []

    @property
    def description(self) -> Path:
        """Whose folder it is; made when the run begins."""
        return self.path / _DESCRIPTION

    @property
    def encoder(self) -> Path:
        """The pre-trained encoder's weights."""
        return self.path / "encoder.safetensors"

    def protocol(self, name: str, seed: int | None = None) -> "ProtocolFolder":
        """Return the place of the protocol ``name`` with the recipe's settings of it.

        Args:
            name: the protocol.
            seed: of protocol and evaluation; None: that of the encoder.
        """
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
        """Return where ``stage`` of this run belongs; nothing is made yet."""
        if not vars(type(stage)).get("shared", False):
            return StageFolder(self.path, self.fingerprint)
        recipe = self.recipe
        identity = {  # all that decides what it learns
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
        """When the run began; raises BenchError where its folder has been moved or deleted meanwhile."""
        try:
            return datetime.fromtimestamp(self.description.stat().st_mtime, UTC)
        except OSError:
            raise BenchError(
                f"{self.path} was moved or deleted during the run. Bring it back to go on from there, or run the same "
                "command again to begin anew."
            ) from None

    @contextmanager
    def claimed(self, monitor: Monitor | None = None) -> Iterator[None]:
        """Make the folder, check that it is this run's, and keep other processes out of it.

        A description that is damaged is set aside and written anew, which ``monitor`` is told.

        Raises:
            BenchError: another process works in it, it cannot be written, or it holds another run.
        """
        make_writable(self.path)
        with locked(self.path / ".lock", self._refuse):
            remove_unfinished(self.path)
            self._identify(monitor or Monitor())
            yield

    def check_free(self) -> None:
        """Raise BusyRunError if another process works in the folder; nothing is made."""
        lock = self.path / ".lock"
        if lock.is_file():
            with locked(lock, self._refuse):
                pass

    def _refuse(self, holder: str) -> None:
        raise BusyRunError(f"{holder} is working on this run ({self.path}). Wait for it, or stop it.")

    def _identify(self, monitor: Monitor) -> None:
        """Write whose folder this is, or check it; where the data have moved, write where they are now."""
        found = self._described(monitor)
        if found is None:
            recipe = self.recipe.model_dump(mode="json")
            found = RunDescription(fingerprint=self.fingerprint, seed=self.seed, source=self.source, recipe=recipe)
            write_json(self.description, found.model_dump(mode="json"))
        if found.fingerprint != self.fingerprint:
            raise BenchError(f"{self.path} holds another run. Move it away, or choose another --runs-dir.")
        if self.source and found.source != self.source:
            started = self.description.stat().st_mtime
            write_json(self.description, {**found.model_dump(mode="json"), "source": self.source})
            os.utime(self.description, (started, started))  # it says when the run began

    def _described(self, monitor: Monitor) -> RunDescription | None:
        """Return what the folder's description says; None where there is none, or a damaged one, now set aside."""
        if not self.description.exists():
            return None
        try:
            return RunDescription.load(self.path)
        except DamagedFileError as error:
            # All that is in the folder has its fingerprint in it, so nothing of another run can be taken for ours.
            aside = set_aside(self.description)
            monitor.note(f"{error}. It is now {aside.name}, and is written anew.")
            return None
        except BenchError as error:
            raise BenchError(f"{self.path} holds another run. Move it away, or choose another --runs-dir.") from error


@dataclass(frozen=True)
class ProtocolFolder:
    """Where one protocol of a run keeps its classifier, its unfinished evaluation and its record."""

    path: Path
    fingerprint: str

    def keep_source(self, source: str) -> None:
        """Note what the user called the protocol's data, where they are not those of pre-training."""
        write_json(self.path / _TARGET, {"source": source})

    @property
    def record(self) -> Path:
        """The finished record; its copy under ``results/`` is the one that counts."""
        return self.path / "record.json"


class _Target(Settings):
    """What ``target.json`` says."""

    source: str = Field(validation_alias=AliasChoices("source", "spec"))


def other_source(protocol: Path) -> str:
    """Return what the user called the data of the protocol in the folder ``protocol``; raises BenchError."""
    return _Target.parse(read_json(protocol / _TARGET), str(protocol / _TARGET)).source


def other_sources(run: Path) -> list[str]:
    """Return what the user called the data of the protocols in ``run`` that use others than pre-training."""
    return sorted({other_source(path.parent) for path in run.glob(f"*/{_TARGET}")})


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of a run, and whose state it is."""

    path: Path
    fingerprint: str
    identity: Mapping[str, Any] | None = None
    """Of a shared stage: all that decides what it learns. None: the folder is the run's own."""

    @contextmanager
    def claimed(self, monitor: Monitor) -> Iterator[None]:
        """Make a shared folder and keep other processes out of it; the run's own is claimed already.

        Where another process trains the same stage, this waits for it and says so.

        Raises:
            BenchError: the folder cannot be written.
            InterruptedRunError: a stop was requested while waiting.
        """
        if self.identity is None:
            yield
            return
        make_writable(self.path)
        said = False

        def wait(holder: str) -> None:
            nonlocal said
            if not said:
                monitor.note(f"waiting: {holder} trains this stage for both ({self.path})")
            said = True
            monitor.check()
            time.sleep(_POLL_SECONDS)

        with locked(self.path / ".lock", wait):
            remove_unfinished(self.path)
            description = self.path / "stage.json"
            if not description.exists():
                write_json(description, {"fingerprint": self.fingerprint, **self.identity})
            yield
