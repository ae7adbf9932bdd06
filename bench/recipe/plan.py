"""The training plan: how one stage is optimised, as numbers."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bench.errors import BenchError
from bench.recipe.settings import Settings

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["warmup-cosine", "steps", "rocl", "acl", "advcl"]
"""Shapes of the learning rate; ``bench.train.schedule`` has their formulas."""

_LARGEST = 1e30


class TrainPlan(Settings):
    """Epochs, batches, optimiser and schedule of one training stage.

    A stage's own settings class extends this one with the constants of its loss, so that everything a stage
    needs stands in one section of the recipe (``stage2.epochs``, ``stage2.steps``).
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    drop_last: bool = True
    """Leave out the images of an epoch that do not fill a batch."""

    optimizer: Literal["sgd", "lars"] = "sgd"
    lr: float = Field(gt=0)
    """Peak learning rate, as published for batches of ``lr_batch`` images."""
    short_lr: float | None = Field(default=None, gt=0)
    """``lr`` in tiers that keep less than a tenth of the published epochs, where the published rate gets nowhere
    in so few steps; None: no other."""
    lr_batch: int | None = Field(default=None, ge=1)
    """The linear scaling rule's reference batch; None: ``lr`` holds for any batch."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    lars_eta: float = Field(default=0.02, gt=0)
    """Trust coefficient of LARS."""
    lars_clip: bool = True
    """Never let LARS exceed the rate ``lr`` (LARC's clipping)."""
    lars_exclude_vectors: bool = True
    """Leave one-dimensional tensors (biases, batch-norm) undecayed and unscaled by LARS."""

    lars_lr_in_momentum: bool = False
    """Accumulate lr times the scaled gradient, as ACL's LARS does, not the gradient alone."""

    schedule: Schedule = "warmup-cosine"
    decay_epochs: tuple[int, ...] = ()
    """``steps``: the 0-based epochs from which the rate is a tenth of what it was before."""
    warmup_epochs: float = Field(default=0, ge=0)
    """A tier may leave a fraction of one: then the warm-up is that share of an epoch's steps."""
    warmup_start: float = Field(default=0.0, ge=0)
    lr_floor: float = Field(default=0.0, ge=0)
    schedule_unit: Literal["epoch", "step"] = "epoch"
    """How often the learning rate moves: once an epoch, or once a step."""

    precision: Precision = "fp32"

    @property
    def effective_lr(self) -> float:
        """The peak learning rate at this plan's own batch size."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch

    @property
    def trains_batch_norm(self) -> bool:
        """Whether its steps put batches through batch-norm in training mode."""
        return True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} exceed epochs {self.epochs}; set both")
        if max(self.lr, self.effective_lr, self.weight_decay) > _LARGEST:
            raise ValueError(f"lr and weight_decay have to stay below {_LARGEST:g}; float32 ends at 3e38")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of batches that ``images`` images make in one epoch."""
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def check_batches(self, section: str, images: int) -> None:
        """Raise BenchError where ``images`` images do not make batches that a step can take.

        Batch-norm cannot normalise one image whose feature map is one pixel, nor one row of features.

        Args:
            section: of the recipe, for the message: "stage1".
            images: how many there are to train on.
        """
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

    def stretched(self, epochs: int, factor: float | None = None) -> dict[str, Any]:
        """Return the settings that make this plan ``epochs`` long, its warm-up and decays in proportion.

        A warm-up is not rounded to whole epochs, since schedules that move each step can warm up for a part of one.
        ``factor`` is by what the rest grows where that is not the ratio of the epochs, which are whole.
        """
        factor = epochs / self.epochs if factor is None else factor
        return {
            "epochs": epochs,
            "warmup_epochs": min(epochs, round(self.warmup_epochs * factor, 6)),
            "decay_epochs": tuple(round(epoch * factor) for epoch in self.decay_epochs),
        }
