"""Where a training stage keeps its state: in its run's folder, or in one that all runs with that stage share."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.code import code_digest
from bench.files import inside, make_writable, remove_unfinished, write_json
from bench.method import Stage
from bench.recipe import canonical_digest
from bench.reporting import Reporter
from bench.run.lock import locked
from bench.run.prepare import Run
from bench.stop import Stop
from bench.train import training_modules

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of a run, and whose state it is."""

    path: Path
    owner: str
    identity: Mapping[str, Any] | None = None
    """Of a shared stage: all that decides what it learns. None: the folder is the run's own."""

    @classmethod
    def of(cls, run: Run, stage: Stage) -> "StageFolder":
        """Return where ``stage`` of ``run`` belongs; nothing is made yet."""
        if not vars(type(stage)).get("shared", False):
            return cls(run.folder.path, run.folder.owner)
        identity = stage_identity(run, stage)
        owner = canonical_digest(identity)
        name = "-".join([run.context.recipe.dataset.name, stage.name, f"s{run.seed}", owner[:16]])
        return cls(inside(run.folder.path.parent, "stages", name), owner, identity)

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

        def wait() -> None:
            nonlocal said
            if not said:
                reporter.note(f"waiting: another process trains this stage for both ({self.path})")
            said = True
            stop.check()
            time.sleep(_POLL_SECONDS)

        with locked(self.path / ".lock", wait):
            remove_unfinished(self.path)
            description = self.path / "stage.json"
            if not description.exists():
                write_json(description, {"owner": self.owner, **self.identity})
            yield


def stage_identity(run: Run, stage: Stage) -> dict[str, Any]:
    """Return all that decides what a shared ``stage`` learns, as plain values: settings, data, seed and code."""
    recipe = run.context.recipe
    return {
        "stage": f"{type(stage).__module__}.{type(stage).__qualname__}",
        "code": code_digest(*training_modules(stage)),
        "name": stage.name,
        "plan": stage.plan.model_dump(mode="json"),
        "encoder": recipe.encoder.model_dump(mode="json"),
        "dataset": recipe.dataset.model_dump(mode="json"),
        "seed": run.seed,
    }
