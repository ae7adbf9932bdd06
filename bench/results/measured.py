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
from bench.recipe import ALL_PROTOCOLS, DatasetFacts, Threat
from bench.record import IMPORTED, Outcome, Record, RecordedRecipe, load_record

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
    def run(self) -> str:
        """The name of the run's folder, which all protocols of one encoder share."""
        record = self.record
        seed = record.seed if record.encoder_seed is None else record.encoder_seed
        own = [record.method, record.tier, record.fidelity, f"s{seed}", record.pretraining_sha256[:8]]
        parts = [self.recipe.dataset.name, *own]
        return "-".join([*parts, *([f"w{record.encoder_sha256[:8]}"] if record.method == IMPORTED else [])])

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """Yield each measurement that was made, by its name in tables."""
        yield "SA", self.record.sa
        yield "RA", self.record.ra.outcome
        if self.record.aa:
            yield "AA", self.record.aa.outcome
        for one in self.record.attacks.attacks if self.record.attacks else ():
            yield f"attacks, {one.attack},", one.outcome


def load_measured(path: Path, *, local: bool = False) -> Measured:
    """Return the record in ``path``, which is ``local`` or published.

    Raises:
        BenchError: unreadable, of an unknown schema version, incomplete, edited, or inconsistent.
    """
    record = load_record(path)
    measured = Measured(path, record, record.read_recipe(), local=local)
    facts = measured.facts
    where = "recipe.finetune.dataset" if measured.recipe.finetune else "recipe.dataset"
    for name, outcome in measured.outcomes():
        if misfit := outcome.misfit(facts.test_images):
            raise BenchError(f"{path}: {name} disagrees with {where}: {misfit}. Restore or remove it.")
    cells = record.corruptions
    if cells and cells.n != facts.test_images:
        raise BenchError(
            f"{path}: corruptions disagrees with {where}: {cells.n} images in each cell, {facts.test_images} test "
            "images. Restore or remove it."
        )
    for name, its, key, wanted in (("dataset", record.dataset, f"{where}.name", facts.name), *_stated_twice(measured)):
        if its != wanted:
            raise BenchError(f"{path}: {name} is {its}, {key} {wanted}. Restore or remove it.")
    if record.protocol not in ALL_PROTOCOLS:
        raise BenchError(f"{path}: there is no protocol {record.protocol!r}. Update the bench, or remove it.")
    if record.finished < record.started:
        raise BenchError(f"{path}: it finished at {record.finished}, before it started. Restore or remove it.")
    return measured


def _stated_twice(one: Measured) -> Iterator[tuple[str, object, str, object]]:
    """Yield what a record and its recipe both state: the record's name and value, the recipe's key and value.

    Old recipes lack some keys.
    """
    record, recipe, ra = one.record, one.record.recipe, one.record.ra
    for name in ("method", "tier", "fidelity"):
        yield name, getattr(record, name), f"recipe.{name}", recipe.get(name, getattr(record, name))
    section = recipe.get("evaluate")
    evaluate = section if isinstance(section, Mapping) else {}
    eps = evaluate.get("eps")
    yield "ra.eps", ra.eps, *(("recipe's threat.eps", one.threat.eps) if eps is None else ("recipe.evaluate.eps", eps))
    yield "ra.restarts", ra.restarts, "recipe.evaluate.pgd_restarts", evaluate.get("pgd_restarts", ra.restarts)


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
