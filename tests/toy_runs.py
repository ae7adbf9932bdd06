"""Runs that take a second: tiny data, a listener that can stop them, and what two equal runs agree on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.monitor import Monitor
from bench.record import Record
from bench.run import RunRequest, execute, prepare

SMALL: dict[str, Any] = {
    "encoder.width": 1,
    "stage1.epochs": 2,
    "stage1.batch_size": 8,
    "stage1.projector": [4, 4],
    "slf.epochs": 2,
    "slf.batch_size": 8,
    "alf.epochs": 1,
    "alf.batch_size": 16,
    "alf.steps": 1,
    "aff.epochs": 1,
    "aff.batch_size": 8,
    "aff.steps": 1,
    "evaluate.batch_size": 8,
    "evaluate.pgd_steps": 2,
    "evaluate.autoattack": False,
}
VARYING = {"cost", "environment", "environments", "started", "finished", "sha256"}


class Listener(Monitor):
    """Keeps what it is told, and asks for a stop at the ``stop_at``-th word of progress."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        super().__init__()
        self._left = stop_at

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        assert 0 <= done <= total
        self.phases.append(phase)

    def advance(self, amount: int, detail: str = "") -> None:
        if self._left is not None:
            self._left -= 1
            self.stop_requested |= self._left == 0

    def end(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def toy_data(
    path: Path,
    *,
    images: tuple[int, int] = (24, 16),
    classes: int = 2,
    side: int = 8,
    channels: int = 3,
    contrast: int = 127,
    seed: int = 0,
) -> str:
    """Write noise that is brighter from class to class, by ``contrast`` in all, and return the dataset's name.

    ``images``: how many square ones to train on and to test with.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in zip(("train", "test"), images, strict=True):
        labels = np.arange(count) % classes
        shape = (count, side, side, 3) if channels == 3 else (count, side, side)
        brightness = (contrast * labels // (classes - 1)).reshape(-1, *[1] * (len(shape) - 1))
        pixels = rng.integers(0, 255 - contrast, shape) + brightness
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, allow_pickle=False, **arrays)
    return f"npz:{path}"


def toy_request(data: str, folder: Path, **changes: Any) -> RunRequest:
    """Return the request of SimCLR under SLF on ``data``, with ``changes``, in ``folder``."""
    request = RunRequest(
        method="simclr",
        dataset=data,
        protocols=("slf",),
        overrides=SMALL,
        runs_dir=folder / "runs",
        data_dir=folder / "data",
        device="cpu",
    )
    return replace(request, **changes)


def changed(request: RunRequest, **overrides: Any) -> RunRequest:
    """Return ``request`` with more settings, their dots written as two underscores."""
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return replace(request, overrides={**request.overrides, **keys})


def carry_out(request: RunRequest, results: Path, listener: Listener | None = None) -> list[tuple[Record, Path]]:
    """Prepare and execute ``request``."""
    listener = listener or Listener()
    return execute(prepare(request), results, listener)


def facts(record: Record) -> Mapping[str, Any]:
    """Return what two runs of the same recipe and seed must agree on."""
    return record.model_dump(exclude=VARYING)
