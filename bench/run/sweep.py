"""Sweeps of finished runs: each classifier on the same grid; earlier measurements are read from the results."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.data import Dataset
from bench.device import device_name
from bench.errors import BenchError
from bench.evaluation import START_DRAWN, Swept, sweep
from bench.files import make_writable, remove_unfinished
from bench.job import Job
from bench.monitor import Monitor
from bench.parallel import devices, first_then_others, held_by_first, on_first
from bench.recipe import Norm, outside
from bench.record import (
    Sweep,
    SweepKind,
    SweepSettings,
    describe_environment,
    load_sweep,
    save_sweep,
    sweep_files,
    sweep_identity,
)
from bench.run.finished import Finished
from bench.run.locks import locked, refusing

DEFAULT_STEPS = (1, 2, 5, 10, 20, 50, 100)
_EPS_VALUES = 9
"""Number of values in the default grid, from 0 to twice the usual radius: 0, 2/255, ..., 16/255 for Linf on CIFAR."""
_PGD_STEPS = 20


class SweepRequest(NamedTuple):
    """The options of `bench sweep-eps` and `bench sweep-steps`; None: the default."""

    kind: SweepKind
    eps: tuple[float, ...] | None = None
    """Radii for pixels in [0, 1]: the grid if eps varies; one value, by default the dataset's, if the steps vary."""
    steps: tuple[int, ...] | None = None
    """The grid if the steps vary; one value, by default 20, if eps varies."""
    step_size: float = 0.25
    """In units of eps."""

    def settings(self, finished: Finished) -> SweepSettings:
        """Return the attack on ``finished``; it is the same for all runs on one dataset under one norm.

        Raises:
            BenchError: a grid that does not ascend, or values out of range.
        """
        recipe, norm = finished.recipe, finished.recipe.threat.norm
        return self._under(norm, recipe.dataset.radius(norm), recipe.evaluate.batch_size)

    def check(self) -> None:
        """Raise BenchError for faults that do not depend on the runs; radii are checked under the widest norm."""
        self._under("l2", 1.0, 1)

    def _under(self, norm: Norm, usual: float, batch_size: int) -> SweepSettings:
        grid = tuple(2 * usual * value / (_EPS_VALUES - 1) for value in range(_EPS_VALUES))
        values = {
            "kind": self.kind,
            "norm": norm,
            "eps": self.eps or (grid if self.kind == "eps" else (usual,)),
            "steps": self.steps or (DEFAULT_STEPS if self.kind == "steps" else (_PGD_STEPS,)),
            "step_size": self.step_size,
            "batch_size": batch_size,
        }
        return SweepSettings.parse(values, f"sweep of {self.kind}")


def sweep_runs(
    chosen: Sequence[Finished],
    request: SweepRequest,
    results_dir: Path,
    *,
    data_dir: Path,
    device: torch.device,
    withdrawn: Collection[str] = (),
    monitor: Monitor | None = None,
) -> list[tuple[Sweep, Path]]:
    """Return the sweep of each of ``chosen``, and its file under ``results_dir``.

    Sweeps that the results hold already are not measured again, and an interrupted sweep is continued.

    Args:
        withdrawn: digests of records that no longer count: the sweeps of these do not count either.

    Raises:
        BenchError: invalid settings, missing data or weights, damaged results, a full disk.
        BusyRunError: another process is sweeping one of the runs.
        InterruptedRunError: a stop was requested; the same call continues.
    """
    monitor = monitor or Monitor()
    attacks = [request.settings(finished) for finished in chosen]
    on_first(lambda: make_writable(results_dir))
    on_first(lambda: remove_unfinished(results_dir))
    known = on_first(lambda: _known(results_dir, withdrawn, monitor))
    load = _loader(data_dir)
    found = []
    for number, (finished, settings) in enumerate(zip(chosen, attacks, strict=True), 1):
        identity = _identity(finished, settings)
        if identity not in known:
            name = f"{number}/{len(chosen)} {finished.record.title}, seed {finished.record.seed}"
            swept = _sweep(finished, settings, load(finished), device, monitor, name)
            made = _described(finished, settings, swept, device).sealed()
            known[identity] = made, on_first(partial(save_sweep, results_dir, made, monitor))
        found.append(known[identity])
    return found


def _known(results_dir: Path, withdrawn: Collection[str], monitor: Monitor) -> dict[str, tuple[Sweep, Path]]:
    """Return the sweeps that count by identity; a damaged one is left out and reported to ``monitor``."""
    known = {}
    for path in sweep_files(results_dir):
        try:
            found = load_sweep(path)
        except BenchError as error:
            monitor.note(f"left out {path}: {str(error).removeprefix(f'{path}: ')}")
        else:
            if found.record_sha256 not in withdrawn:
                known[found.identity] = found, path
    return known


def _loader(data_dir: Path) -> Callable[[Finished], Dataset]:
    """Return a function that loads the data of a run, with a cache for repeated data."""
    loaded: dict[tuple[str, str], Dataset] = {}

    def load(finished: Finished) -> Dataset:
        key = finished.source, finished.recipe.dataset.sha256
        if key not in loaded:
            loaded[key] = first_then_others(lambda: finished.dataset(data_dir))
        return loaded[key]

    return load


def _identity(finished: Finished, settings: SweepSettings) -> str:
    record = finished.record
    return sweep_identity(record.classifier_sha256, finished.recipe.dataset.sha256, record.seed, settings)


def _sweep(
    finished: Finished, settings: SweepSettings, dataset: Dataset, device: torch.device, monitor: Monitor, name: str
) -> Swept:
    folder = finished.path
    with held_by_first(lambda: locked(folder / ".lock", refusing(f"sweeping this run ({folder})"))):
        on_first(lambda: remove_unfinished(folder))
        job = Job(folder, _identity(finished, settings), finished.record.seed, device, monitor)
        return sweep(finished.classifier(device), dataset.test, settings, job, name=name)


def _described(finished: Finished, settings: SweepSettings, swept: Swept, device: torch.device) -> Sweep:
    record = finished.record
    return Sweep(
        method=record.method,
        title=record.title,
        year=record.year,
        dataset=record.dataset,
        dataset_sha256=finished.recipe.dataset.sha256,
        pretrained_on=record.pretrained_on,
        tier=record.tier,
        fidelity=record.fidelity,
        seed=record.seed,
        protocol=record.protocol,
        overrides=outside(record.overrides, "evaluate"),
        pretraining_sha256=record.pretraining_sha256,
        protocol_sha256=record.protocol_sha256,
        classifier_sha256=record.classifier_sha256,
        record_sha256=record.sha256,
        settings=settings,
        start_drawn=START_DRAWN,
        outcomes=swept.outcomes,
        worst=swept.worst,
        no_gradient=swept.no_gradient,
        cost=swept.cost,
        environment=describe_environment(device_name(device), torch.get_num_threads(), devices=devices()),
        environments=swept.environments,
        finished=datetime.now(UTC),
    )
