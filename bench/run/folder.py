"""A run's folder: where its weights, its unfinished state and its finished records are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError, BusyRunError, DamagedFileError
from bench.files import inside, make_writable, read_json, remove_unfinished, set_aside, write_json
from bench.recipe import Recipe, canonical_digest
from bench.reporting import Reporter, Silent
from bench.run.lock import locked


@dataclass(frozen=True)
class RunFolder:
    """The folder of one (recipe, seed); its name tells them apart, so the same command finds it again."""

    path: Path
    recipe: Recipe
    seed: int
    spec: str
    """What the user called the pre-training data; it may be a path, so it is no part of the recipe."""
    weights: str | None = None
    """Digest of an encoder that was not trained in this folder but brought here; it is one of several that the
    recipe and the seed may lead to, on other machines."""

    @classmethod
    def of(cls, runs_dir: Path, recipe: Recipe, seed: int, spec: str, weights: str | None = None) -> "RunFolder":
        """Return the folder that belongs to ``recipe`` and ``seed``; nothing is made yet."""
        parts = [recipe.dataset.name, recipe.method, recipe.tier, recipe.fidelity, f"s{seed}"]
        parts += [recipe.pretraining_digest()[:8], *([f"w{weights[:8]}"] if weights else [])]
        return cls(inside(runs_dir, "-".join(parts)), recipe, seed, spec, weights)

    @property
    def owner(self) -> str:
        """The digest of all that decides the encoder, the seed included."""
        return canonical_digest([self.recipe.pretraining_digest(), self.seed, *self._brought])

    @property
    def _brought(self) -> list[str]:
        return [self.weights] if self.weights else []

    @property
    def description(self) -> Path:
        """Whose folder it is; made when the run begins."""
        return self.path / "run.json"

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
        owner = canonical_digest([digest, self.seed, *own])
        return ProtocolFolder(inside(self.path, "-".join([*parts, digest[:8]])), owner)

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
    def claimed(self, reporter: Reporter | None = None) -> Iterator[None]:
        """Make the folder, check that it is this run's, and keep other processes out of it.

        A description that is damaged is set aside and written anew, which ``reporter`` is told.

        Raises:
            BenchError: another process works in it, it cannot be written, or it holds another run.
        """
        make_writable(self.path)
        with locked(self.path / ".lock", self._refuse):
            remove_unfinished(self.path)
            self._identify(reporter or Silent())
            yield

    def _refuse(self) -> None:
        raise BusyRunError(f"another process is working on this run ({self.path}). Wait for it, or stop it.")

    def _identify(self, reporter: Reporter) -> None:
        """Write whose folder this is, or check it; where the data have moved, write where they are now."""
        identity = self._identity(reporter)
        if identity is None:
            recipe = self.recipe.model_dump(mode="json")
            write_json(self.description, {"owner": self.owner, "seed": self.seed, "spec": self.spec, "recipe": recipe})
            return
        if not isinstance(identity, dict) or identity.get("owner") != self.owner:
            raise BenchError(f"{self.path} holds another run. Move it away, or choose another --runs-dir.")
        if self.spec and identity.get("spec") != self.spec:
            started = self.description.stat().st_mtime
            write_json(self.description, {**identity, "spec": self.spec})
            os.utime(self.description, (started, started))  # it says when the run began

    def _identity(self, reporter: Reporter) -> Any:
        """Return what the folder's description says; None where there is none, or a damaged one, now set aside."""
        if not self.description.exists():
            return None
        try:
            return read_json(self.description)
        except DamagedFileError as error:
            # All that is in the folder has its owner's digest in it, so nothing of another run can be taken for ours.
            aside = set_aside(self.description)
            reporter.note(f"{error}. It is now {aside.name}, and is written anew.")
            return None


@dataclass(frozen=True)
class ProtocolFolder:
    """Where one protocol of a run keeps its classifier, its unfinished evaluation and its record."""

    path: Path
    owner: str

    @property
    def evaluation(self) -> Path:
        """The evaluation's state."""
        return self.path / "evaluation.json"

    @property
    def target(self) -> Path:
        """What the user called the protocol's data, where they are not those of pre-training."""
        return self.path / "target.json"

    @property
    def record(self) -> Path:
        """The finished record; its copy under ``results/`` is the one that counts."""
        return self.path / "record.json"
