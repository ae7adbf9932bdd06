"""The folders of a run, of its protocols and of stages that runs share: where state, weights and records are."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout, UnixFileLock

from bench.code import code_digest
from bench.errors import BenchError, BusyRunError, DamagedFileError
from bench.files import inside, make_writable, read_json, remove_unfinished, set_aside, write_json
from bench.method import Stage
from bench.recipe import Recipe, canonical_digest
from bench.reporting import Reporter, Silent
from bench.stop import Stop
from bench.train import training_modules

_POLL_SECONDS = 0.5


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

    def stage(self, stage: Stage) -> "StageFolder":
        """Return where ``stage`` of this run belongs; nothing is made yet."""
        if not vars(type(stage)).get("shared", False):
            return StageFolder(self.path, self.owner)
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
        owner = canonical_digest(identity)
        name = "-".join([recipe.dataset.name, stage.name, f"s{self.seed}", owner[:16]])
        return StageFolder(inside(self.path.parent, "stages", name), owner, identity)

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

    def check_free(self) -> None:
        """Raise BusyRunError if another process works in the folder; nothing is made."""
        lock = self.path / ".lock"
        if lock.is_file():
            with locked(lock, self._refuse):
                pass

    def _refuse(self, holder: str) -> None:
        raise BusyRunError(f"{holder} is working on this run ({self.path}). Wait for it, or stop it.")

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


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of a run, and whose state it is."""

    path: Path
    owner: str
    identity: Mapping[str, Any] | None = None
    """Of a shared stage: all that decides what it learns. None: the folder is the run's own."""

    @contextmanager
    def claimed(self, reporter: Reporter, stop: Stop) -> Iterator[None]:
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
                reporter.note(f"waiting: {holder} trains this stage for both ({self.path})")
            said = True
            stop.check()
            time.sleep(_POLL_SECONDS)

        with locked(self.path / ".lock", wait):
            remove_unfinished(self.path)
            description = self.path / "stage.json"
            if not description.exists():
                write_json(description, {"owner": self.owner, **self.identity})
            yield


@contextmanager
def locked(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path``, which the system lets go of however its holder ends.

    On a disk without locks the file itself is one, and that of a process which has ended is taken over.

    Args:
        path: made if need be.
        busy: called again and again while another process holds the lock, with who that is: it waits a little, or
            raises.

    Raises:
        BenchError: the file cannot be made or locked.
    """
    lock = FileLock(path, timeout=0)
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            busy(_holder(path))
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BenchError(
                f"cannot lock {path}: {reason}. Make it writable, or choose another --runs-dir."
            ) from error
    try:
        if isinstance(lock, UnixFileLock):  # the other kind holds these lines already
            with suppress(OSError):  # a full disk
                path.write_text(f"{os.getpid()}\n{platform.node()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Return who holds the lock file ``path``, as far as it says so."""
    try:
        number, host, *_ = path.read_text().split("\n")
    except (OSError, ValueError):
        return "another process"
    return f"another process ({number} on {host})" if number.isdecimal() else "another process"
