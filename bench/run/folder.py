"""A run's folder: where its weights, its unfinished state and its finished records are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, BusyRunError
from bench.files import make_writable, read_json, remove_unfinished, write_json
from bench.recipe import Recipe, canonical_digest
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
        return cls(runs_dir / "-".join(parts), recipe, seed, spec, weights)

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
        return ProtocolFolder(self.path / "-".join([*parts, digest[:8]]), owner)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, check that it is this run's, and keep other processes out of it.

        Raises:
            BenchError: another process works in it, it cannot be written, or it holds another run.
        """
        make_writable(self.path)
        with locked(self.path / ".lock", self._refuse):
            remove_unfinished(self.path)
            self._identify()
            yield

    def _refuse(self) -> None:
        raise BusyRunError(f"another process is working on this run ({self.path}). Wait for it, or stop it.")

    def _identify(self) -> None:
        """Write whose folder this is, or check it; where the data have moved, write where they are now."""
        if not self.description.exists():
            recipe = self.recipe.model_dump(mode="json")
            write_json(self.description, {"owner": self.owner, "seed": self.seed, "spec": self.spec, "recipe": recipe})
            return
        identity = read_json(self.description)
        if not isinstance(identity, dict) or identity.get("owner") != self.owner:
            raise BenchError(f"{self.path} holds another run. Move it away, or choose another --runs-dir.")
        if self.spec and identity.get("spec") != self.spec:
            started = self.description.stat().st_mtime
            write_json(self.description, {**identity, "spec": self.spec})
            os.utime(self.description, (started, started))  # it says when the run began


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
