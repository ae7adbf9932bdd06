"""The protocols' sections of a recipe: SLF, ALF and AFF as frozen settings with named presets.

Their shared skeleton (25 epochs, batches of 512, SGD, weak views, the rate a tenth from epochs 15 and 20) is
AdvCL's (NeurIPS 2021), which DeACL follows (section 4.1). Papers differ in the rest, and a preset named after
its origin pins that; a key set beside a preset wins over it.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bench.recipe.plan import Schedule, TrainPlan
from bench.recipe.sections import Start


class ProtocolSettings(TrainPlan):
    """What the three protocols have in common."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    epochs: int = Field(default=25, ge=1)
    batch_size: int = Field(default=512, ge=2)
    drop_last: bool = False
    weight_decay: float = Field(default=2e-4, ge=0)
    schedule: Schedule = "steps"
    decay_epochs: tuple[int, ...] = (15, 20)
    flip_prob: float = Field(default=0.5, ge=0, le=1)
    """Of the weak view; 0 where the data must not be mirrored."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {**cls.presets.get(str(values.get("preset", "uniform")), {}), **values}


class SLFSettings(ProtocolSettings):
    """Standard linear finetuning: a linear classifier on the frozen encoder, trained on clean images."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "uniform": {"encoder_bn": "eval", "lr": 0.1},
        "advcl": {"encoder_bn": "eval", "lr": 0.01},
        "deacl-2024": {"encoder_bn": "train", "lr": 0.1},
    }

    preset: Literal["uniform", "advcl", "deacl-2024"] = "uniform"
    """``uniform``: encoder in eval mode, lr 0.1. ``advcl``: eval mode, lr 0.01, the paper-era protocol.
    ``deacl-2024``: DeACL's current script: lr 0.1, batch-norm statistics rewritten by clean images."""
    encoder_bn: Literal["eval", "train"] = "eval"
    """``eval``: the encoder stays frozen to the bit. ``train``: its batch-norm layers use batch statistics and
    overwrite their running statistics."""
    lr: float = Field(default=0.1, gt=0)


class AdversarialSettings(ProtocolSettings):
    """What ALF and AFF share: the loss on adversarial images, and the attack that makes them.

    Source: TRADES (Zhang et al., ICML 2019), equation 3 and algorithm 1, with the constants of DeACL's
    ``trades/trades.py`` at 3fb81e3: beta 6, ten steps of 2/255 at 8/255.
    """

    loss: Literal["trades", "pgd"] = "trades"
    """``trades``: CE(clean) + beta KL(clean || adversarial). ``pgd``: CE on the adversarial images (PGD-AT)."""
    beta: float = Field(default=6.0, ge=0)
    steps: int = Field(default=10, ge=0)
    step_size: float = Field(default=0.25, gt=0)
    """In units of eps: 2/255 at 8/255."""
    start: Start = "gaussian"
    """TRADES starts from the image plus 0.001 N(0, 1); PGD-AT usually from ``uniform``."""


class ALFSettings(AdversarialSettings):
    """Adversarial linear finetuning: a linear classifier on the frozen encoder, trained adversarially."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "uniform": {"encoder_bn": "eval", "lr": 0.1},
        "deacl-2024": {"encoder_bn": "train", "lr": 0.01},
    }

    preset: Literal["uniform", "deacl-2024"] = "uniform"
    encoder_bn: Literal["eval", "train"] = "eval"
    """As in SLF; under ``train`` the statistics move towards those of clean and adversarial images."""
    lr: float = Field(default=0.1, gt=0)


class AFFSettings(AdversarialSettings):
    """Adversarial full finetuning: encoder and classifier together, trained adversarially."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "uniform": {"lr": 0.1},
        "deacl-2024": {"lr": 0.01},
    }

    preset: Literal["uniform", "deacl-2024"] = "uniform"
    """``uniform``: lr 0.1, which also trains from scratch. ``deacl-2024``: DeACL's current script, lr 0.01."""
    lr: float = Field(default=0.1, gt=0)


PROTOCOLS = ("slf", "alf", "aff")
"""The protocols there are, in the order in which they run; each is a section of the recipe."""
