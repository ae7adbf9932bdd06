"""Records that can be trusted: sealed, and consistent with the facts about their data."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.recipe import DatasetFacts, Threat
from bench.record import Record, RecordedRecipe, load_trusted

_MANY = 500
"""Records from which on several processes read them: fewer are read before a process has started."""


class Measured(NamedTuple):
    """A record that can be trusted: sealed, and consistent with the facts about its data."""

    path: Path
    record: Record
    recipe: RecordedRecipe
    commits: Mapping[str, tuple[str, ...]] = {}
    """By stage: the commits that records name for the same training, where there are several."""
    local: bool = False
    """Whether it is one of the user's own records, kept apart from the published ones."""

    @property
    def facts(self) -> DatasetFacts:
        """The data that the classifier was trained and evaluated on."""
        return self.recipe.downstream.dataset

    @property
    def threat(self) -> Threat:
        """The adversary that it was evaluated under."""
        return self.recipe.downstream.threat

    @property
    def runs(self) -> tuple[str, str, str]:
        """The names of the run's folder: without a digest, with it, and as it is for an encoder that was brought."""
        record = self.record
        parts = [self.recipe.dataset.name, record.method, record.tier, record.fidelity, f"s{record.pretraining_seed}"]
        name, digest, weights = "-".join(parts), record.pretraining_sha256[:8], record.encoder_sha256[:8]
        return name, f"{name}-{digest}", f"{name}-{digest}-w{weights}"


def load_measured(path: Path, *, local: bool = False) -> Measured:
    """Return the record in ``path``, which is ``local`` or published.

    Errors are those of :func:`bench.record.load_trusted`.
    """
    trusted = load_trusted(path)
    return Measured(path, trusted.record, trusted.recipe, local=local)


class Fault(NamedTuple):
    """Why a file cannot be trusted."""

    path: Path
    reason: str


def load_all(paths: Sequence[tuple[Path, bool]], *, history: bool = False) -> tuple[list[Measured], list[Fault]]:
    """Return the records that can be trusted, in the order of ``paths``, and the faults of the others.

    Many are read by one process a core.

    Args:
        paths: each file, and whether it is local.
        history: whether to keep the histories of training, which take most of a record's memory.
    """
    read = partial(_load, history=history)
    processes = _processes(len(paths))
    with without_garbage_collection():
        if processes == 1:
            found = list(map(read, paths))
        else:
            context = multiprocessing.get_context("fork")
            # Ctrl-C reaches all processes; the first one ends the others.
            ignoring = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
            with ProcessPoolExecutor(processes, context, initializer=ignoring) as pool:
                found = list(pool.map(read, paths, chunksize=50))
    return [one for one in found if isinstance(one, Measured)], [one for one in found if isinstance(one, Fault)]


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Let no collection look through the records in memory: they have no cycles, and it takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(named: tuple[Path, bool], *, history: bool) -> Measured | Fault:
    path, local = named
    try:
        measured = load_measured(path, local=local)
    except BenchError as error:
        return Fault(path, str(error).removeprefix(f"{path}: "))
    return measured if history else measured._replace(record=measured.record.without_history())


def _processes(files: int) -> int:
    """Return how many processes read ``files`` records: one where a fork may copy another thread's locked lock."""
    if files < _MANY or sys.platform != "linux" or "torch" in sys.modules or threading.active_count() > 1:
        return 1
    return len(os.sched_getaffinity(0))
