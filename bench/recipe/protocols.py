"""The protocols' sections of a recipe: frozen settings, those of finetuning with named presets.

The common settings of finetuning (25 epochs, batches of 512, SGD, weak views, the rate divided by 10 at epochs 15 and
20) are AdvCL's (NeurIPS 2021), which DeACL follows (section 4.1). Papers differ in the rest, and a preset named after
its origin fixes all of it (``bench.recipe.presets``); a key that is set beside a preset overrides it, and so does a
tier's section of a protocol.

A protocol joins by its class here, which :data:`SECTIONS` lists, and by its stage in ``bench.protocol``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bench.errors import BenchError, unknown
from bench.recipe.plan import DecayEpoch, TrainPlan
from bench.recipe.presets import LOSSES, PRESETS
from bench.recipe.sections import AttackSettings, Start
from bench.recipe.settings import Crop, MirrorProbability, Settings


class ProtocolSettings(Settings):
    """What all protocols have in common."""

    section: ClassVar[str]
    """The protocol's name, which is also its section of the recipe."""
    title: ClassVar[str]
    """As tables write it."""
    family: ClassVar[str] = ""
    """The protocol whose presets and whose section of a tier it takes; empty: it takes none."""
    default: ClassVar[bool] = False
    """Whether it runs where the user names no protocols."""

    def check_images(self, images: int) -> None:
        """Raise BenchError where it cannot work on ``images`` training images."""


class FinetuneSettings(ProtocolSettings, TrainPlan):
    """What the protocols that train a linear classifier have in common."""

    later = {**TrainPlan.later, "crop": "padded"}

    preset: str = "uniform"
    """Origin of the settings: ``uniform``, ``advcl``, ``deacl-2024`` or ``robustssl-benchmark``."""
    epochs: int = Field(default=25, ge=1)
    batch_size: int = Field(default=512, ge=2)
    drop_last: bool = False
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=2e-4, ge=0)
    schedule: str = "steps"
    decay_epochs: tuple[DecayEpoch, ...] = (15, 20)
    flip_prob: MirrorProbability = 0.5
    """Of a flip in the weak view; 0 where the data must not be mirrored."""
    crop: Crop = "padded"
    """Of the weak view. ``padded``: the image moves by up to an eighth of its side, and zeros come in (CIFAR).
    ``resized``: a random part of 8 to 100 % of the area is resized, as on ImageNet."""
    head_init: Literal["default", "zero"] = "default"
    """Initial weights of the linear layer: the framework's random ones, or all 0, as in ACL's code."""
    selection: Literal["last", "best"] = "last"
    """Which classifier is evaluated: that of the last epoch, or of the epoch with the highest robust accuracy on
    held-out training images, the earliest of equals. The choice does not depend on the test images."""
    selection_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Under ``best``: the share held out, drawn from the run's seed; ACL holds out 5,000 of CIFAR's 50,000."""
    selection_steps: int = Field(default=20, ge=1)
    """Under ``best``: PGD steps on them, of size eps/4, from one uniform start, at the threat model's radius."""

    @property
    def unread(self) -> dict[str, str]:
        """Also what only the selection of an epoch reads."""
        selecting = () if self.selection == "best" else ("selection_fraction", "selection_steps")
        return {**super().unread, **dict.fromkeys(selecting, f"selection={self.selection}")}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        preset = PRESETS.get(str(values.get("preset", "uniform")), PRESETS["uniform"])[cls.family]
        loss = values.get("loss")
        attack = LOSSES.get(str(loss), {}) if loss != preset.get("loss") else {}
        return {**preset, **attack, **values}

    def held_out(self, images: int) -> int:
        """Return how many of ``images`` training images are held out to select the epoch."""
        return round(self.selection_fraction * images) if self.selection == "best" else 0

    def check_images(self, images: int) -> None:
        """Raise BenchError where ``images`` training images, less those held out, make no batches."""
        self.check_batches(self.section, images - self.held_out(images))

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(str(unknown("preset", name, PRESETS)))
        return name


class LinearSettings(FinetuneSettings):
    """What SLF and ALF share: the encoder's parameters are frozen, and only the linear layer learns."""

    encoder_bn: Literal["eval", "train"] = "eval"
    """``eval``: the encoder does not change at all. ``train``: its batch-norm layers use batch statistics and
    overwrite their running statistics with those of the images of SLF or ALF."""

    @property
    def trains_batch_norm(self) -> bool:
        """Only where ``encoder_bn`` asks for it."""
        return self.encoder_bn == "train"


class AdversarialSettings(FinetuneSettings, AttackSettings):
    """What ALF and AFF share: the loss on adversarial images, and the attack that makes them.

    Source: TRADES (Zhang et al., ICML 2019), equation 3 and algorithm 1, with the constants of DeACL's
    ``trades/trades.py`` at 3fb81e3: beta 6, ten steps of 2/255 at 8/255. PGD-AT (Madry et al., ICLR 2018) took 7
    steps of 2/255; its ten here are those of GodXuxilie/RobustSSL_Benchmark at 05f778a.
    """

    loss: Literal["trades", "pgd"] = "trades"
    """``trades``: CE(clean) + beta KL(clean || adversarial). ``pgd``: CE on the adversarial images (PGD-AT)."""
    beta: float = Field(default=6.0, ge=0)
    steps: int = Field(default=10, ge=0)
    start: Start = "gaussian"
    """TRADES starts from the image plus 0.001 N(0, 1), and ``loss=pgd`` from ``uniform``."""
    clean_passes: Literal[1, 2] = 1
    """How often TRADES passes the clean batch through the network. Its released code does so before and after the
    adversarial one; the second changes no gradient, but moves batch-norm's statistics further towards clean images."""

    @property
    def unread(self) -> dict[str, str]:
        """Also what only TRADES reads."""
        trades = () if self.loss == "trades" else ("beta", "clean_passes")
        return {**super().unread, **dict.fromkeys(trades, f"loss={self.loss}")}

    @model_validator(mode="after")
    def _trades_starts_beside_the_image(self) -> Self:
        if self.loss == "trades" and self.start == "clean" and self.steps:
            raise ValueError(
                "loss=trades has no gradient with start=clean: its divergence is smallest at the clean image, with a "
                "gradient of 0; use start=gaussian, as the paper does, or start=uniform"
            )
        return self


class SLFSettings(LinearSettings):
    """Standard linear finetuning: a linear classifier on the frozen encoder, trained on clean images."""

    section: ClassVar[str] = "slf"
    title: ClassVar[str] = "SLF"
    family: ClassVar[str] = "slf"
    default: ClassVar[bool] = True


class ALFSettings(AdversarialSettings, LinearSettings):
    """Adversarial linear finetuning: a linear classifier on the frozen encoder, trained adversarially."""

    section: ClassVar[str] = "alf"
    title: ClassVar[str] = "ALF"
    family: ClassVar[str] = "alf"
    default: ClassVar[bool] = True


class AFFSettings(AdversarialSettings):
    """Adversarial full finetuning: encoder and classifier together, trained adversarially."""

    section: ClassVar[str] = "aff"
    title: ClassVar[str] = "AFF"
    family: ClassVar[str] = "aff"
    default: ClassVar[bool] = True

    bn: Literal["single", "dual"] = "single"
    """``dual``: clean and adversarial images pass through branches with separate batch-norm layers, both initialised
    from the encoder's; the adversarial branch is evaluated, as in DynACL (ICLR 2023)."""

    @model_validator(mode="after")
    def _both_branches_are_trained(self) -> Self:
        if self.bn == "dual" and self.loss == "pgd":
            raise ValueError("bn=dual needs the clean images of loss=trades; PGD-AT trains on adversarial ones alone")
        return self


class FewLabelSettings(SLFSettings):
    """SLF with the labels of few training images, the same number of each class, drawn from the run's seed.

    All else is as in SLF, the number of steps too: an epoch repeats the labelled images until it has as many as the
    training split. So a difference from SLF is one of labels alone.

    Source: 1 % and 10 % of the labels, balanced, as in SimCLR (Chen et al., ICML 2020, section 6 and appendix B.5).
    """

    default: ClassVar[bool] = False

    fraction: float = Field(gt=0, le=1)
    """Of the training images; at least one of each class is labelled."""
    selection: Literal["last"] = "last"
    """No labels are left to select an epoch by."""

    @field_validator("selection", mode="before")
    @classmethod
    def _has_no_labels_to_select_by(cls, value: object) -> object:
        if value == "best":
            raise ValueError("must be 'last': there are few labels, and none are left to select an epoch by")
        return value

    def labelled(self, images: int, classes: int) -> int:
        """Return how many images of each of ``classes`` classes are labelled, of ``images`` in all."""
        return max(1, round(self.fraction * images / classes))


class OnePercentSettings(FewLabelSettings):
    """SLF with 1 % of the labels."""

    section: ClassVar[str] = "slf-1pct"
    title: ClassVar[str] = "SLF, 1 % of the labels"

    fraction: float = Field(default=0.01, gt=0, le=1)


class TenPercentSettings(FewLabelSettings):
    """SLF with 10 % of the labels."""

    section: ClassVar[str] = "slf-10pct"
    title: ClassVar[str] = "SLF, 10 % of the labels"

    fraction: float = Field(default=0.1, gt=0, le=1)


class KNNSettings(ProtocolSettings):
    """k nearest neighbours in cosine similarity s, whose votes weigh exp(s / temperature); nothing is trained.

    Source: Wu et al., CVPR 2018 (arXiv 1805.01978), section 3.4: temperature 0.07, k = 200; DINO (Caron et al., ICCV
    2021) reports k = 20 and 200.
    """

    section: ClassVar[str] = "knn"
    title: ClassVar[str] = "kNN"

    k: int = Field(default=20, ge=1, le=10**6)
    temperature: float = Field(default=0.07, ge=0.03, le=10)
    """Below 0.03 the weights of far images are rounded to 0 in float32."""

    def check_images(self, images: int) -> None:
        """Raise BenchError for fewer training images than neighbours."""
        if self.k > images:
            raise BenchError(
                f"{self.section}.k is {self.k}, but there are {images} training images. Choose fewer neighbours: "
                f"--set {self.section}.k={images}"
            )


class ManyNeighboursSettings(KNNSettings):
    """The same with 200 neighbours."""

    section: ClassVar[str] = "knn-200"
    title: ClassVar[str] = "kNN-200"

    k: int = Field(default=200, ge=1, le=10**6)


SECTIONS: Mapping[str, type[ProtocolSettings]] = {
    settings.section: settings
    for settings in (
        *(SLFSettings, ALFSettings, AFFSettings),
        *(KNNSettings, ManyNeighboursSettings, OnePercentSettings, TenPercentSettings),
    )
}
"""The settings of each protocol by its name, which is its section of the recipe; in the order in which they run."""

PROTOCOLS = tuple(SECTIONS)
DEFAULT_PROTOCOLS = tuple(name for name, settings in SECTIONS.items() if settings.default)
"""Those that run where the user names none."""

RELEASED = "released"
"""The protocol of a whole classifier that is judged as its authors released it: nothing is trained."""

ALL_PROTOCOLS = (*PROTOCOLS, RELEASED)
"""In the order of tables."""


def protocol_title(name: str) -> str:
    """Return a protocol as tables write it; a released classifier is judged "as released"."""
    if name == RELEASED:
        return "as released"
    return SECTIONS[name].title if name in SECTIONS else name.upper()


def preset_overrides(name: str) -> dict[str, Any]:
    """Return the settings that give every protocol of finetuning the preset ``name``; BenchError if there is none."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return {f"{section}.preset": name for section, settings in SECTIONS.items() if settings.family in PRESETS[name]}
