"""What the measurements of one classifier share: test images, threat model, and the saved state."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.attack import NamedAttack
from bench.code import modules_of
from bench.data import Split, unit_pixels
from bench.device import Clock, PeakMemory, device_name
from bench.evaluation.attacked import attacked_copy
from bench.evaluation.state import Environments, EvaluationState, load_state
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier
from bench.parallel import devices, in_turn, on_first
from bench.recipe import Recipe, Threat
from bench.record import NoGradient, Phase, PhaseCost, continued, describe_environment, larger_peak, other_code
from bench.zoo import digest

T = TypeVar("T")

STATE = "evaluation.json"
"""The file of the state, in the folder of the job."""


class Measurement:
    """A classifier on the test split, measured batch by batch; the state is saved after each batch.

    Several devices work on different batches, and all of them keep the outcomes of all.
    """

    def __init__(self, classifier: Classifier, test: Split, recipe: Recipe, job: Job, caller: str) -> None:
        self.classifier, self.test, self.recipe, self.job = classifier, test, recipe, job
        self.settings = recipe.evaluate
        self.threat = Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)
        self.attacked = _Interruptible(attacked_copy(classifier, self.settings.attack_precision), job.monitor).eval()
        self.path = job.folder / STATE
        # The registry finds the attacks, no import: the digest of the code has to be told of those in other packages.
        attacks = {NamedAttack(name, self.settings).module for name in (self.settings.attack, *self.settings.attacks)}
        modules = dict.fromkeys((caller, *modules_of(classifier), *sorted(attacks)))
        self._environment = describe_environment(
            device_name(job.device), torch.get_num_threads(), modules=tuple(modules), devices=devices()
        )
        weights = digest(classifier.state_dict())
        fresh = EvaluationState(
            fingerprint=job.fingerprint, classifier_sha256=weights, answers=(), no_gradient=NoGradient()
        )
        self.state = on_first(lambda: load_state(self.path, fresh, job.monitor))
        if any(other_code(self.state.ran_with(name), self._environment) for name in self.state.seconds):
            job.monitor.note(
                "this evaluation was started with code that differs from the present code, or is not known. Its "
                "measurements are reused, its record names both, and the board marks it. To start again, remove "
                f"{self.path}"
            )

    @property
    def count(self) -> int:
        """The number of test images."""
        return len(self.test.labels)

    def begin(self, name: str) -> None:
        """Start the clock of the measurement called ``name``; :meth:`keep` reads it and restarts it."""
        self._name, self._memory, self._clock = name, PeakMemory(self.job.device), Clock()

    def batches(self, first: int, measure: Callable[[int], T]) -> Iterator[T]:
        """Return an iterator of what ``measure`` returns for the position of each batch from ``first`` on."""
        self._clock = Clock()
        return in_turn(range(first, self.count, self.settings.batch_size), measure)

    def batch(self, first: int) -> tuple[Tensor, Tensor]:
        """Return images and labels of the batch at position ``first``, unless a stop was requested."""
        self.job.monitor.check()
        batch = slice(first, first + self.settings.batch_size)
        return self.to_device(self.test.images[batch], self.test.labels[batch])

    def to_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return uint8 ``images`` as float in [0, 1], and ``labels``, on the job's device."""
        return unit_pixels(images.to(self.job.device)), labels.to(self.job.device)

    def keep(self, **finished: object) -> None:
        """Add the fields ``finished`` since the last call to the state, with their time and memory, and save it."""
        state, name = self.state, self._name
        earlier = state.peak_memory.get(name) if name in state.seconds else 0
        measured = {
            "seconds": state.seconds.get(name, 0.0) + self._clock.seconds,
            "peak_memory": larger_peak(earlier, self._memory.bytes),
            "environments": continued(state.ran_with(name), self._environment),
        }
        kept = {field: {**getattr(state, field), name: value} for field, value in measured.items()}
        self.state = state.model_copy(update={**finished, **kept})
        on_first(lambda: self.state.save(self.path))
        self._clock = Clock()

    def cost(self, images: dict[str, int]) -> dict[str, PhaseCost]:
        """Return the cost of the measurements by phase; ``images`` gives the number of images of each."""
        return {
            str(Phase("evaluate", name)): PhaseCost(
                seconds=seconds,
                images=images[name],
                peak_memory_bytes=self.state.peak_memory.get(name),
                device=device_name(self.job.device),
            )
            for name, seconds in self.state.seconds.items()
        }

    def environments(self) -> dict[str, Environments]:
        """Return the environments of the measurements by phase."""
        return {str(Phase("evaluate", name)): self.state.ran_with(name) for name in self.state.seconds}


class _Interruptible(nn.Module):
    """A model that checks for a request to stop before each forward pass: AutoAttack's batches take minutes."""

    def __init__(self, model: nn.Module, monitor: Monitor) -> None:
        super().__init__()
        self.model = model
        self._monitor = monitor

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, classes]."""
        self._monitor.check()
        logits: Tensor = self.model(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the encoder's features [B, D]."""
        self._monitor.check()
        attacked: Any = self.model
        features: Tensor = attacked.features(images)
        return features
