"""The state of a stage in training: everything the next step depends on, in one file."""

from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from bench.errors import BenchError, DamagedFileError
from bench.files import inside, set_aside
from bench.job import Job
from bench.method import Stage
from bench.monitor import Monitor
from bench.optim import optimizer_tensors, restore_optimizer
from bench.recipe import Settings
from bench.record import Environment, PhaseCost
from bench.zoo import TensorFile, load_tensors, save_tensors


class Progress(Settings):
    """How far a stage has come."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of the recipe and the seed that this state belongs to."""
    stage: str
    epoch: int = 0
    """0-based epoch of the next step."""
    step: int = 0
    """0-based number of the next step within its epoch."""
    loss_sum: dict[str, float] = {}
    """Sums of the logged scalars over the steps of the unfinished epoch."""
    history: list[dict[str, float]] = []
    """One entry a finished epoch: the mean of each logged scalar, and the learning rate."""
    loss_scale: float | None = None
    """The gradient scaler's factor under fp16."""
    scale_growth: int = 0
    """Its count of steps since the factor last moved."""
    cost: PhaseCost
    environments: tuple[Environment | None, ...] = (None,)
    """All that it was trained with, in order, each once; None: with what a state does not say that was written
    before this was kept."""

    @model_validator(mode="before")
    @classmethod
    def _no_peak_of_the_process(cls, values: Any) -> Any:
        """Drop the peak memory of a state from before the environments: it was that of the process so far."""
        if isinstance(values, dict) and "environments" not in values and isinstance(values.get("cost"), dict):
            return {**values, "cost": {**values["cost"], "peak_memory_bytes": None}}
        return values


def save_state(path: Path, stage: Stage, optimizer: Optimizer | None, progress: Progress) -> None:
    """Write the stage, its optimiser (None once training is over) and ``progress`` to ``path``, atomically."""
    save_tensors(path, _tensors(stage, optimizer), progress.model_dump(mode="json"))


def nonfinite(stage: Stage, optimizer: Optimizer) -> list[str]:
    """Return the names of the weights, buffers and momenta that are not finite."""
    tensors = {name: value for name, value in _tensors(stage, optimizer).items() if value.is_floating_point()}
    # One answer for all of them, so that the device is waited for once.
    device = next((parameter.device for parameter in stage.parameters()), None)
    if not tensors or bool(torch.stack([value.isfinite().all().to(device) for value in tensors.values()]).all()):
        return []
    return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


def _tensors(stage: Stage, optimizer: Optimizer | None) -> dict[str, Tensor]:
    tensors = {f"stage.{name}": value for name, value in stage.state_dict().items()}
    if optimizer is not None:
        kept = optimizer_tensors(optimizer, stage)
        tensors |= {f"optimizer.{name}": value for name, value in kept.items()}
    return tensors


def load_state(path: Path, job: Job, stage: Stage, optimizer: Optimizer | None) -> Progress | None:
    """Restore ``stage`` and ``optimizer`` in place from ``path`` and return how far they had come.

    None, and nothing restored, where there is no such file, or where it is damaged: then it is set aside, which
    the job's monitor is told.

    Raises:
        BenchError: the file belongs to another recipe, seed or stage.
    """
    file = intact_tensors(path, job.monitor)
    if file is None:
        return None
    tensors, metadata = file
    progress = Progress.parse(metadata, str(path))
    if (progress.fingerprint, progress.stage) != (job.fingerprint, stage.name):
        raise BenchError(
            f"{path} belongs to another run (stage {progress.stage!r}, recipe and seed {progress.fingerprint[:12]}; "
            f"this run is {job.fingerprint[:12]}). Move it away, or choose another --runs-dir."
        )
    try:
        stage.load_state_dict(_under("stage.", tensors))
    except RuntimeError as error:
        raise BenchError(f"{path} does not fit this stage: {error}") from error
    if optimizer is not None:
        # Before a file held the whole state, it held the momentum of SGD and LARS, which was all of it.
        momenta = {f"momentum_buffer.{name}": value for name, value in _under("momentum.", tensors).items()}
        restore_optimizer(optimizer, stage, {**momenta, **_under("optimizer.", tensors)})
    return progress


def intact_tensors(path: Path, monitor: Monitor) -> TensorFile | None:
    """Return what ``path`` holds, None where it is missing, or damaged and now set aside, which is said."""
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except DamagedFileError as error:
        aside = set_aside(path)
        monitor.note(f"{error} It is now {aside.name}, and what it held is made again.")
        return None


def stage_progress(folder: Path, stage: str) -> Progress | None:
    """Return how far the stage called ``stage`` has come in ``folder``, None where nothing readable is there."""
    for path in (finished_path(folder, stage), unfinished_path(folder, stage)):
        if path.exists():
            try:
                return Progress.parse(load_tensors(path).metadata, str(path))
            except BenchError:
                return None
    return None


def finished_path(folder: Path, stage: str) -> Path:
    """Return where a stage's trained state is kept."""
    return inside(folder, f"{stage}.safetensors")


def unfinished_path(folder: Path, stage: str) -> Path:
    """Return where the state of a stage in training is kept."""
    return inside(folder, f"{stage}.training.safetensors")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
