"""The training plan: how one stage is optimised, as numbers."""

import math
from collections.abc import Mapping, Set
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from bench.errors import BenchError, unknown
from bench.recipe.settings import Settings

Precision = Literal["fp32", "bf16", "fp16"]
OptimizerName = Literal["sgd", "lars", "adamw"]
BatchNormScope = Literal["batch", "device"]

DecayEpoch = Annotated[NonNegativeInt | NonNegativeFloat, Field(union_mode="left_to_right")]
"""A whole number stays one, also in the files: their digests are those of before there were fractions."""

SHAPE = frozenset({"decay_epochs", "warmup_epochs", "warmup_start", "lr_floor", "schedule_unit"})
"""The fields that shape a learning rate beside its length and peak."""

_LARGEST = 1e30
_RETIRED: Mapping[str, Any] = {"short_lr": None, "lars_lr_in_momentum": False}
"""Keys that every plan once had, each with the value that has no effect. Recipes keep them, so that old and new ones
can be read and compared and have the same digests; single methods now implement their effects."""


class Schedule(Protocol):
    """The shape of a learning rate: a pure function of the plan and of the progress of training."""

    def __call__(self, plan: Any, *, epoch: int, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of 0-based ``step`` of 0-based ``epoch``."""


def tenths(plan: "TrainPlan", *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the peak rate, divided by 10 at each of the plan's ``decay_epochs``."""
    now = epoch if plan.schedule_unit == "epoch" else epoch + step / steps_per_epoch
    return plan.effective_lr * 0.1 ** sum(now >= decay for decay in plan.decay_epochs)


def warmup_cosine(plan: "TrainPlan", *, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the rate of unit n, an epoch or a step: linear warm-up, then cosine.

    With W the warm-up's length, T the total, s the start, l the peak and f the floor: n < W:
    s + n (l - s) / (W - 1); n >= W: f + (l - f) / 2 (1 + cos(pi (n - W) / (T - W))).

    Source: DeACL's and solo-learn's LinearWarmupCosineAnnealing. Its divisor W - 1 lets the peak hold for
    two units; the last unit's rate is small but not the floor.
    """
    n, warmup, total = plan.units(epoch, step, steps_per_epoch)
    peak = plan.effective_lr
    if n < warmup:
        return plan.warmup_start + n * (peak - plan.warmup_start) / max(1, warmup - 1)
    progress = (n - warmup) / max(1, total - warmup)
    return plan.lr_floor + (peak - plan.lr_floor) / 2 * (1 + math.cos(math.pi * progress))


class TrainPlan(Settings):
    """Epochs, batches, optimiser and schedule of one training stage.

    A stage's own settings class extends this one with the constants of its loss, so that everything a stage
    needs is in one section of the recipe (``stage2.epochs``, ``stage2.steps``). A paper's own schedule is added to
    ``schedules``, its optimiser by :meth:`bench.method.Stage.optimizer`, its changes under short tiers by
    :meth:`scaled`.
    """

    schedules: ClassVar[Mapping[str, Schedule]] = {"warmup-cosine": warmup_cosine, "steps": tenths}
    """The values of ``schedule``; a stage's settings may add their paper's."""
    shaped_by: ClassVar[Mapping[str, Set[str]]] = {
        "warmup-cosine": {"warmup_epochs", "warmup_start", "lr_floor", "schedule_unit"},
        "steps": {"decay_epochs", "schedule_unit"},
    }
    """Which of :data:`SHAPE` each schedule reads; one that is not named here may read all."""

    later = {"beta2": 0.999, "batch_norm": "batch", "accumulate": 1}

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    drop_last: bool = True
    """Leave out the images of an epoch that do not fill a batch."""

    optimizer: OptimizerName = "sgd"
    lr: float = Field(gt=0)
    """Peak learning rate, as published for batches of ``lr_batch`` images."""
    lr_batch: int | None = Field(default=None, ge=1)
    """The linear scaling rule's reference batch; None: ``lr`` holds for any batch."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Under ``adamw``: beta 1."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Under ``adamw``: beta 2."""
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    lars_eta: float = Field(default=0.02, gt=0)
    """Trust coefficient of LARS."""
    lars_clip: bool = True
    """Never let LARS exceed the rate ``lr`` (LARC's clipping)."""
    lars_exclude_vectors: bool = True
    """Exclude one-dimensional tensors (biases, batch-norm) from weight decay and from LARS's scaling."""

    schedule: str = "warmup-cosine"
    """Shape of the learning rate: ``warmup-cosine``, ``steps``, or the paper's own by its name."""
    decay_epochs: tuple[DecayEpoch, ...] = ()
    """``steps``: the 0-based epochs from which the rate is a tenth of the rate before. A tier may make them fractions:
    the rate then falls within an epoch where it changes each step, otherwise with the next epoch."""
    warmup_epochs: float = Field(default=0, ge=0)
    """A tier may make it less than one: then the warm-up is that share of an epoch's steps."""
    warmup_start: float = Field(default=0.0, ge=0)
    lr_floor: float = Field(default=0.0, ge=0)
    schedule_unit: Literal["epoch", "step"] = "epoch"
    """How often the learning rate changes: once an epoch, or once a step."""

    precision: Precision = "fp32"
    batch_norm: BatchNormScope = "batch"
    """The images that an encoder's batch-norm takes its statistics over when several devices train it: the whole
    ``batch``, as on one device, or the share of each ``device``, as under DataParallel."""
    accumulate: int = Field(default=1, ge=1)
    """Parts of a batch that are computed one after the other, their gradients added: less memory. Batch-norm in
    training sees one part at a time, so its statistics are those of parts."""

    @property
    def effective_lr(self) -> float:
        """The peak learning rate at this plan's own batch size."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    def parts(self, images: int) -> int:
        """Return in how many parts a batch of ``images`` images is computed: batch-norm needs two images in each."""
        return max(1, min(self.accumulate, images // 2))

    @property
    def trains_batch_norm(self) -> bool:
        """Whether its steps put batches through batch-norm in training mode."""
        return True

    @property
    def unread(self) -> dict[str, str]:
        """The fields that nothing reads beside the values of others, each with the setting that leaves it unread."""
        others = {"lars": ("lars_eta", "lars_clip", "lars_exclude_vectors"), "adamw": ("beta2",)}
        idle = [name for optimizer, names in others.items() if optimizer != self.optimizer for name in names]
        shapeless = SHAPE - self.shaped_by.get(self.schedule, SHAPE)
        return {
            **dict.fromkeys(idle, f"optimizer={self.optimizer}"),
            **dict.fromkeys(shapeless, f"schedule={self.schedule}"),
        }

    @model_validator(mode="before")
    @classmethod
    def _read_retired(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        idle = {key for key, value in _RETIRED.items() if key not in cls.model_fields and values.get(key) == value}
        return {key: value for key, value in values.items() if key not in idle}

    @model_serializer(mode="wrap")
    def _keep_retired(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**_RETIRED, **plain(self)}

    @field_validator("schedule")
    @classmethod
    def _schedule_exists(cls, name: str) -> str:
        if name not in cls.schedules:
            raise ValueError(str(unknown("schedule", name, cls.schedules)))
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} exceed epochs {self.epochs}; set both")
        moves_by_epoch = self.schedule == "warmup-cosine" and self.schedule_unit == "epoch"
        if moves_by_epoch and round(self.warmup_epochs) == 1 and self.warmup_start == 0:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is an epoch at rate 0 where the rate changes once an epoch; set "
                "schedule_unit=step, a warmup_start above 0, or warmup_epochs=0"
            )
        if max(self.lr, self.effective_lr, self.weight_decay) > _LARGEST:
            raise ValueError(f"lr and weight_decay must be below {_LARGEST:g}; float32 ends at 3e38")
        if self.nesterov and (self.momentum == 0 or self.optimizer == "adamw"):
            raise ValueError("nesterov needs momentum above 0, and optimizer sgd or lars")
        return self

    def rate(self, epoch: int, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of 0-based ``step`` of 0-based ``epoch``."""
        return self.schedules[self.schedule](self, epoch=epoch, step=step, steps_per_epoch=steps_per_epoch)

    def units(self, epoch: int, step: int, steps_per_epoch: int) -> tuple[int, int, int]:
        """Return the progress of training, its warm-up and its length, all in ``schedule_unit``."""
        if self.schedule_unit == "epoch":
            return epoch, round(self.warmup_epochs), self.epochs
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        return epoch * steps_per_epoch + step, warmup, total

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of batches that ``images`` images make in one epoch."""
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def check_batches(self, section: str, images: int) -> None:
        """Raise BenchError where ``images`` images do not give batches that a step can train on.

        Batch-norm cannot normalise one image whose feature map is one pixel, nor one row of features.
        """
        if images < 2:
            raise BenchError(f"{section} has {images} image to train on, and a batch needs two. Give more images.")
        if self.batch_size > images:
            raise BenchError(
                f"{section}.batch_size is {self.batch_size}, but there are {images} images to train on. "
                f"Choose a smaller one: --set {section}.batch_size={max(2, images // 2)}"
            )
        if images % self.batch_size == 1 and not self.drop_last and self.trains_batch_norm:
            raise BenchError(
                f"{images} images in batches of {self.batch_size} ({section}.batch_size) leave a last batch of one "
                f"image, which batch-norm cannot train on. Leave it out with --set {section}.drop_last=true, or choose "
                f"another {section}.batch_size."
            )

    def images_per_epoch(self, images: int) -> int:
        """Return how many of ``images`` images one epoch processes."""
        return self.steps_per_epoch(images) * self.batch_size if self.drop_last else images

    def scaled(self, factor: float) -> dict[str, Any]:
        """Return the settings of this plan under a tier that keeps ``factor`` of the published epochs."""
        return self.stretched(max(1, round(self.epochs * factor)), factor)

    def stretched(self, epochs: int, factor: float | None = None) -> dict[str, Any]:
        """Return the settings that make this plan ``epochs`` long, its decays at the same shares of it.

        ``factor`` scales the warm-up; None: the ratio of the epochs, which are whole numbers. Neither warm-up nor
        decays are rounded to whole epochs, since schedules that move each step can warm up or decay within one; a
        decay that is rounded to epoch 0 would lower the rate of the whole stage.
        """
        ratio = epochs / self.epochs
        return {
            "epochs": epochs,
            "warmup_epochs": min(epochs, round(self.warmup_epochs * (ratio if factor is None else factor), 6)),
            "decay_epochs": tuple(round(epoch * ratio, 6) for epoch in self.decay_epochs),
        }
