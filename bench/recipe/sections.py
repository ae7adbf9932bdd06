"""The sections of a recipe that every method shares: encoder and evaluation."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bench.errors import unknown
from bench.own_code import is_in_file, is_own
from bench.recipe.corruptions import CORRUPTIONS, CorruptionSource
from bench.recipe.settings import Settings

Fidelity = Literal["uniform", "native"]
Normalisation = Literal["dataset", "cifar", "imagenet", "constants", "none"]
Start = Literal["uniform", "uniform-clamped", "gaussian", "clean"]
"""Where an attack takes its first gradient: the image plus U(-eps, eps), as DeACL and ACL do; the same clipped to
[0, 1], as RoCL does; the image plus 0.001 N(0, 1), as TRADES does; the image itself."""

_Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of the pixels of a channel, so bounded that normalised pixels are finite in float32."""

STEMMED = ("resnet18", "resnet34", "resnet50")
"""The networks that have the option ``stem``."""


def attack_name(attack: str, steps: int | None) -> str:
    """Return an attack and its steps, where it has a number of them, as papers write them: PGD-20."""
    name = "PGD" if attack == "pgd" else attack
    return name if steps is None else f"{name}-{steps}"


class AttackSettings(Settings):
    """The attack of a training stage: projected gradient ascent, as in :class:`bench.attack.PGD`."""

    steps: int = Field(default=5, ge=0)
    """Gradient steps of the attack, not of training. With 0, training uses the start: noise, not an attack."""
    step_size: float = Field(default=0.25, gt=0)
    """In units of eps: 2/255 at 8/255."""
    start: Start = "uniform"


class EncoderSettings(Settings):
    """The settings of the encoder in which papers differ."""

    later = {"options": {}, "constants": None}

    arch: str = "resnet18"
    """A network of the bench, ``timm:NAME``, ``torchvision:NAME``, or one of your own: ``FILE.py:NAME``."""
    width: int = Field(default=64, ge=1, le=1024)
    """Channels of the first stage; the published ResNet-18 has 64 and gives 512 features."""
    stem_padding: int = Field(default=1, ge=0, le=2)
    """Zero padding of the 3x3 stem. DeACL and solo-learn use 2, which enlarges every feature map."""
    stem_init: Literal["kaiming", "default"] = "kaiming"
    """How the stem is initialised: as all other convolutions, or by the framework's default (solo-learn)."""
    options: dict[str, Any] = {}
    """Further arguments of the encoder, as ``{patch_size = 4}``. Those of timm, torchvision and a user's own file also
    have ``input_size``, the side that images are resized to. The bench's post-activation ResNets have one: ``stem``,
    which is ``cifar`` or ``imagenet`` (7x7 of stride 2, then a max-pool)."""
    normalisation: Normalisation = "dataset"
    """Constants of the input normalisation inside the encoder: of the training pixels, of CIFAR-10 as
    solo-learn and DeACL use them for every dataset, of ImageNet (ACL, DynACL, AIR, AP-DPE), those in ``constants``, or
    none (RoCL, AdvCL)."""
    constants: tuple[tuple[_Mean, ...], tuple[_Deviation, ...]] | None = None
    """Mean and standard deviation of each channel, for ``normalisation = "constants"`` only."""

    @property
    def from_outside(self) -> bool:
        """Whether a library or a user's file makes the network: then width and stem are none of its settings."""
        return ":" in self.arch or is_own(self.arch)

    @property
    def described(self) -> str:
        """What is built, in words: only the bench's own networks, and installed ones, have a width."""
        return self.arch if self.from_outside else f"{self.arch} of width {self.width}"

    @field_validator("arch")
    @classmethod
    def _loads_nothing(cls, arch: str) -> str:
        # A recipe may come from a stranger's file; only what the user types may load code.
        if is_in_file(arch):
            raise ValueError(f"a file is loaded where it is typed alone: bench run METHOD --encoder {arch}")
        return arch

    @model_validator(mode="after")
    def _has_the_constants_that_it_names(self) -> Self:
        if (self.normalisation == "constants") != (self.constants is not None):
            raise ValueError('normalisation = "constants" and constants = [[means], [deviations]] go together')
        if self.constants and (not self.constants[0] or len({len(each) for each in self.constants}) > 1):
            means, deviations = map(len, self.constants)
            raise ValueError(f"constants must be one mean and one deviation a channel, not {means} and {deviations}")
        return self


class EvaluationSettings(Settings):
    """How a classifier is attacked: RA by PGD, AA by AutoAttack (DeACL section 4.1); and common corruptions."""

    later = {"attack": "pgd", "attack_precision": "fp32", "attacks": []}

    eps: float | None = Field(default=None, ge=0, le=1000)
    """Radius to evaluate at, in the threat model's norm; None: its radius."""
    batch_size: int = Field(default=256, ge=1)
    attack: str = "pgd"
    """The attack of RA, by name: ``pgd``, or another (docs/attack_suite.md). The steps, step size and start below are
    those of attacks that are made from them; others have their own."""
    pgd_steps: int = Field(default=20, ge=1)
    pgd_step_size: float = Field(default=0.25, gt=0)
    """In units of eps: 0.25 is 2/255 at eps 8/255."""
    pgd_start: Start = "uniform"
    pgd_restarts: int = Field(default=1, ge=1)
    """An image counts as robust if it survives every restart; all but the first attack only those that still do."""
    attack_precision: Literal["fp32", "bf16"] = "fp32"
    """In which RA and AA compute gradients; the images that they return are judged in fp32. In fp16 small gradients
    would vanish."""
    autoattack: bool = True
    autoattack_images: int | None = Field(default=None, ge=1)
    """Attack a seeded random subset of this many test images; None: all of them."""
    autoattack_batch: int = Field(default=256, ge=1)
    attacks: tuple[str, ...] = ()
    """Further attacks by name, in this order, on the images of AutoAttack and in its batches: each attacks those that
    the ones before it left standing. RA and AA do not depend on them."""
    corruptions: CorruptionSource = "none"
    """``files`` come from ``--corruptions PATH``; the recipe holds their digest, not the path."""
    corruption_names: tuple[str, ...] = CORRUPTIONS
    corruption_files: str | None = None
    """SHA-256 of the corrupted images in the files; filled in when they are read."""

    @field_validator("attack", "attacks")
    @classmethod
    def _loads_nothing(cls, names: Any) -> Any:
        for name in [names] if isinstance(names, str) else names:
            if is_in_file(name):  # as for encoder.arch
                raise ValueError(f"a file is loaded where it is typed alone: bench run METHOD --attacks {name}")
        return names

    @field_validator("attacks")
    @classmethod
    def _each_attack_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise ValueError(f"{twice} is there twice; name each attack once")
        return names

    @field_validator("corruption_names")
    @classmethod
    def _names_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("name at least one corruption, or type --corruptions none")
        if faults := [str(unknown("corruption", name, CORRUPTIONS)) for name in names if name not in CORRUPTIONS]:
            raise ValueError(" ".join(faults))
        return tuple(name for name in CORRUPTIONS if name in names)
