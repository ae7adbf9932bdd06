"""Section 5: a run of DeACL at tier ``short``, from images to a record, as far as the time goes."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from conditions import Conditions
from sections import Finding, Part
from torch.nn import functional as F

from bench.data import Split, load_dataset
from bench.errors import InterruptedRunError
from bench.monitor import Monitor
from bench.record import Record
from bench.run import RunRequest, execute, prepare

_SIDE = 32
_MARGIN = 0.1
"""Share of the time that is left for the end of a step or batch and the saving of its state."""
_SMALLEST = {
    **{"encoder.width": 2, "stage1.epochs": 1, "stage2.epochs": 1, "slf.epochs": 1},
    **{"stage1.batch_size": 8, "stage2.batch_size": 8, "slf.batch_size": 8, "stage1.precision": "fp32"},
    **{"evaluate.autoattack": False, "evaluate.pgd_steps": 1},
}


@dataclass
class _Phase:
    name: str
    total: int
    unit: str
    start: float
    done: int = 0
    detail: str = ""
    seconds: float = field(default=0.0)


class Run:
    """The section; also the reporter of its run."""

    def __init__(self, given: Conditions) -> None:
        self._given = given
        self._phases: list[_Phase] = []

    def parts(self) -> list[Part]:
        """Return the only part."""
        return [Part(f"DeACL, tier short, {self._given.dataset or 'digits at 32 x 32'}, SLF", self._run)]

    def _run(self, left: float) -> Finding:
        given = self._given
        request = RunRequest(
            method="deacl",
            dataset=given.dataset or self._digits(),
            tier="short",
            protocols=["slf"],
            overrides={} if given.run_images is None else _SMALLEST,
            runs_dir=given.folder / "runs",
            data_dir=given.data_dir,
            device=str(given.device),
        )
        monitor = Monitor(self)
        with _stopped_after(left * (1 - _MARGIN), monitor):
            try:
                ((record, _),) = execute(prepare(request), given.folder / "results", monitor)
                end, figures = _result(record), record.model_dump(mode="json", include={"cost", "sa", "ra", "aa"})
            except InterruptedRunError:
                self.end()
                end, figures = "stopped, the time was up", {}
        phases = [self._text(phase) for phase in self._phases]
        return Finding("; ".join([end, *phases]), {**figures, "phases": [vars(phase) for phase in self._phases]})

    def _digits(self) -> str:
        """Write the digits in the shape of CIFAR-10, and return how a dataset is named that lies in a file."""
        digits, path = load_dataset("digits", self._given.data_dir), self._given.folder / "digits-32.npz"
        arrays = {"classes": np.array(digits.classes)}
        for name, split in (("train", digits.train), ("test", digits.test)):
            arrays[f"x_{name}"], arrays[f"y_{name}"] = self._enlarged(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **arrays)
        return f"npz:{path}"

    def _enlarged(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        images, labels = split.images[: self._given.run_images], split.labels[: self._given.run_images]
        wide = F.interpolate(images.float(), size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        return wide.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()

    @staticmethod
    def _text(phase: _Phase) -> str:
        speed = f"{phase.done / phase.seconds:,.0f} {phase.unit}/s" if phase.seconds else ""
        return (
            f"{phase.name}: {phase.done:,} of {phase.total:,} in {phase.seconds:.1f} s, {speed} {phase.detail}".strip()
        )

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        """Open a phase."""
        self._phases.append(_Phase(phase, total, unit, time.perf_counter()))

    def advance(self, amount: int, detail: str = "") -> None:
        """Count what is done."""
        phase = self._phases[-1]
        phase.done, phase.detail = phase.done + amount, detail or phase.detail

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Not used."""

    def end(self) -> None:
        """Close the phase."""
        if self._phases:
            self._phases[-1].seconds = time.perf_counter() - self._phases[-1].start

    def note(self, message: str) -> None:
        """Not used."""


@contextmanager
def _stopped_after(seconds: float, monitor: Monitor) -> Iterator[None]:
    """Request a stop of ``monitor`` after ``seconds``, if this block then still runs."""

    def stop() -> None:
        monitor.stop_requested = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _result(record: Record) -> str:
    numbers: dict[str, Any] = {"SA": record.sa, "RA": record.ra.outcome, "AA": record.aa and record.aa.outcome}
    return ", ".join(f"{name} {one.accuracy:.1%}" for name, one in numbers.items() if one)
