"""The state of a stage in training: one file with everything that the next step depends on."""

from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from bench.code import code_digest
from bench.errors import BenchError, DamagedFileError
from bench.files import inside, set_aside
from bench.job import Job
from bench.method import Stage
from bench.monitor import Monitor
from bench.nn import load_tensors_into
from bench.optim import optimizer_tensors, restore_optimizer
from bench.recipe import Settings
from bench.record import Environment, PhaseCost
from bench.zoo import TensorFile, load_tensors, save_tensors


class Progress(Settings):
    """The progress of a stage."""

    fingerprint: str = Field(validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of the recipe and the seed that this state belongs to."""
    start_sha256: str | None = None
    """Digest of the weights that it started from; None: of no earlier training, or in states of older versions."""
    stage: str
    epoch: int = 0
    """0-based epoch of the next step."""
    step: int = 0
    """0-based number of the next step within its epoch."""
    loss_sum: dict[str, float | None] = {}
    """Sums of the logged scalars over the steps of the unfinished epoch; None: not finite."""
    history: list[dict[str, float]] = []
    """One entry per finished epoch: the mean of each logged scalar that is finite, and the learning rate."""
    loss_scale: float | None = None
    """The gradient scaler's factor under fp16."""
    scale_growth: int = 0
    """The scaler's number of steps since the factor last changed."""
    cost: PhaseCost
    environments: tuple[Environment | None, ...] = (None,)
    """All environments that it was trained in, in order, each once; None: one that is not known, in states of older
    versions."""

    @model_validator(mode="before")
    @classmethod
    def _no_peak_of_the_process(cls, values: Any) -> Any:
        """Drop the peak memory of a state without environments: older versions stored that of the whole process."""
        if isinstance(values, dict) and "environments" not in values and isinstance(values.get("cost"), dict):
            return {**values, "cost": {**values["cost"], "peak_memory_bytes": None}}
        return values

    @property
    def by_other_code(self) -> bool:
        """Whether any part of it was trained by code that differs from the present code, or is not known."""
        return any(one is None or one.code != code_digest(*one.modules) for one in self.environments)

    def epochs(self, steps: int) -> float:
        """Return the trained epochs, each of ``steps`` steps, with the share of the unfinished one."""
        return self.epoch + self.step / steps


def save_state(path: Path, stage: Stage, optimizer: Optimizer | None, progress: Progress) -> None:
    """Write the stage, its optimiser (None after the end of training) and ``progress`` to ``path``, atomically."""
    save_tensors(path, training_tensors(stage, optimizer), progress.model_dump(mode="json"))


def nonfinite(stage: Stage, optimizer: Optimizer) -> list[str]:
    """Return the names of the weights, buffers and momenta that are not finite."""
    tensors = {name: value for name, value in training_tensors(stage, optimizer).items() if value.is_floating_point()}
    # One result for all tensors, so that the CPU waits for the device only once.
    device = next((parameter.device for parameter in stage.parameters()), None)
    if not tensors or bool(torch.stack([value.isfinite().all().to(device) for value in tensors.values()]).all()):
        return []
    return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


def own_buffers(stage: Stage) -> set[str]:
    """Return the names, as in :func:`nonfinite`, of all buffers but running statistics, which follow the weights."""
    return {
        f"stage.{prefix}.{name}".replace("..", ".")
        for prefix, module in stage.named_modules()
        if not isinstance(module, _NormBase)
        for name in module._buffers
    }


def training_tensors(stage: Stage, optimizer: Optimizer | None) -> dict[str, Tensor]:
    """Return the tensors of the stage and of its optimiser (None: without) by name."""
    tensors = {f"stage.{name}": value for name, value in stage.state_dict().items()}
    if optimizer is not None:
        kept = optimizer_tensors(optimizer, stage)
        tensors |= {f"optimizer.{name}": value for name, value in kept.items()}
    return tensors


def load_state(path: Path, job: Job, stage: Stage, optimizer: Optimizer | None) -> Progress | None:
    """Restore ``stage`` and ``optimizer`` in place from ``path`` and return their progress.

    Returns None and restores nothing if the file is missing, damaged, or started from other weights than those of the
    job; the latter two are renamed and reported to the job's monitor.

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
    if progress.start_sha256 not in (None, job.start_sha256):
        aside = set_aside(path)
        job.monitor.note(
            f"{path} started from other weights: those of the training before it have changed since. It was renamed to "
            f"{aside.name}, and stage {stage.name} is trained again."
        )
        return None
    try:
        load_tensors_into(stage, _under("stage.", tensors))
    except RuntimeError as error:
        raise BenchError(f"{path} does not fit this stage: {error}") from error
    if optimizer is not None:
        # Older files hold only the momentum of SGD and LARS, which is their whole state.
        momenta = {f"momentum_buffer.{name}": value for name, value in _under("momentum.", tensors).items()}
        restore_optimizer(optimizer, stage, {**momenta, **_under("optimizer.", tensors)})
    return progress


def intact_tensors(path: Path, monitor: Monitor) -> TensorFile | None:
    """Return the content of ``path``; None if it is missing, or damaged (then it is renamed and reported)."""
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except DamagedFileError as error:
        aside = set_aside(path)
        monitor.note(f"{error} It was renamed to {aside.name}, and its content is made again.")
        return None


def stage_progress(folder: Path, stage: str) -> Progress | None:
    """Return the progress of the stage called ``stage`` in ``folder``; None if there is no readable state."""
    for path in (finished_path(folder, stage), unfinished_path(folder, stage)):
        if path.exists():
            try:
                return Progress.parse(load_tensors(path).metadata, str(path))
            except BenchError:
                return None
    return None


def finished_path(folder: Path, stage: str) -> Path:
    """Return the path of a stage's trained state."""
    return inside(folder, f"{stage}.safetensors")


def unfinished_path(folder: Path, stage: str) -> Path:
    """Return the path of the state of a stage in training."""
    return inside(folder, f"{stage}.training.safetensors")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
