"""The encoder: input normalisation and a backbone, from pixels in [0, 1] to features."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.nn.adapted import Outsider, own_backbone
from bench.nn.copying import frozen_copy, prepare_in_place
from bench.own_code import is_own, typed
from bench.parallel import over_devices
from bench.recipe import EncoderSettings
from bench.registry import Registry


class BackboneFactory(Protocol):
    """Builds a backbone with an int attribute ``feature_dim``; draws its weights from the global generator.

    A backbone may offer more: methods (:class:`Preparable`, :class:`bench.nn.multi_norm.OwnNorms`), and its
    ``memory_format``, where it needs another than channels last.
    """

    def __call__(
        self, width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, **options: Any
    ) -> nn.Module:
        """Return the backbone for images [C, H, W]; ``options`` are those of the recipe's ``encoder.options``."""


@runtime_checkable
class Preparable(Protocol):
    """A backbone that can be made cheaper to attack."""

    def prepare_for_attack(self) -> None:
        """Make it so in place and permanently, for eval mode; it computes the same function."""


ENCODERS: Registry[BackboneFactory] = Registry(
    "encoder",
    group="bench.encoders",
    hint="Or timm:NAME, torchvision:NAME, or FILE.py:NAME of your own.",
    fault=lambda entry: "" if callable(entry) else "is no function or class that makes a network.",
)
ENCODERS.add("resnet18", "bench.nn.resnet:resnet18")
ENCODERS.add("resnet34", "bench.nn.resnet:resnet34")
ENCODERS.add("resnet50", "bench.nn.resnet:resnet50")
ENCODERS.add("preact-resnet18", "bench.nn.preact:preact_resnet18")
ENCODERS.add("preact-resnet34", "bench.nn.preact:preact_resnet34")
ENCODERS.add("preact-resnet50", "bench.nn.preact:preact_resnet50")
ENCODERS.add("wide-resnet28-10", "bench.nn.wide_resnet:wide_resnet28_10")
ENCODERS.add("wrn28-10", "bench.nn.wide_resnet:wrn28_10")
ENCODERS.add("wrn34-10", "bench.nn.wide_resnet:wrn34_10")
ENCODERS.add("timm:*", "bench.nn.libraries:timm_backbone")
ENCODERS.add("torchvision:*", "bench.nn.libraries:torchvision_backbone")
ENCODERS.add("robustbench:*", "bench.zoo.released.network:released_backbone")

FIXED_CONSTANTS = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel, by the name of a normalisation that does not depend on the data."""


class Normalise(nn.Module):
    """(x - mean) / std per channel; the constants are buffers and travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> the same shape, standardised; raises BenchError for another number of channels."""
        channels = self.mean.shape[0]
        if images.ndim != 4 or images.shape[1] != channels:  # subtraction would broadcast one channel to many
            raise BenchError(
                f"the encoder takes images [B, C, H, W] with C = {channels}; these have the shape {[*images.shape]}. "
                "Give images with as many channels as those that it was trained on."
            )
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class Encoder(nn.Module):
    """[B, C, H, W] in [0, 1] -> [B, feature_dim].

    Normalisation is the first layer, so that attacks work on pixels and eps has its usual meaning.
    """

    source: object = None
    """What :func:`bench.load_encoder` was asked for; None: it was made in another way."""

    def __init__(self, backbone: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.feature_dim: int = backbone.feature_dim  # type: ignore[assignment]  # the factory promises an int
        self.to(memory_format=self._memory_format)

    @property
    def _memory_format(self) -> torch.memory_format:
        # Not an attribute: torch.save, which takes pickle's second protocol, could not save the module.
        return getattr(self.backbone, "memory_format", torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of ``images`` [B, C, H, W] in [0, 1]; raises BenchError for what are no such images."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            raise BenchError(
                f"the encoder takes images [B, C, H, W] in [0, 1], as a tensor of floats; given: {_kind(images)}. Make "
                "one image a batch with image[None], and integers from 0 to 255 floats with images / 255."
            )
        if images.dtype != torch.float32:
            self._refuse_other(images)
        return over_devices(self._features, images)

    def _refuse_other(self, images: Tensor) -> None:
        """Raise BenchError if the encoder cannot compute with ``images`` of another precision than float32."""
        lowered = images.dtype != torch.float64 and torch.is_autocast_enabled(images.device.type)
        if not lowered and any(weight.dtype == torch.float32 for weight in self.parameters()):
            kind = str(images.dtype).removeprefix("torch.")
            raise BenchError(f"the encoder computes in float32, and these images are {kind}. Give images.float().")

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(self.normalise(images.contiguous(memory_format=self._memory_format)))
        return features

    @torch.no_grad()
    def prepared(self) -> Self:
        """Return a frozen eval-mode copy that is cheaper to attack, such as with batch-norm folded into convolutions.

        In exact arithmetic it is the same function as this encoder in eval mode; in float32 features agree
        to about 1e-6. A backbone that is not Preparable is copied unchanged.
        """
        copy = frozen_copy(self)
        if isinstance(copy.backbone, Preparable):
            prepare_in_place(copy.backbone)
        return copy.eval().requires_grad_(False)


def _kind(value: object) -> str:
    """Return the type of ``value``, and the shape of a tensor, for a message."""
    return f"{value.dtype} {[*value.shape]}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def with_loaded_encoder(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides``, which a user typed, with an encoder ``FILE.py:NAME`` loaded and under its name in records.

    Raises:
        BenchError: as :meth:`bench.registry.Registry.name_of`.
    """
    arch = overrides.get("encoder.arch")
    return {**overrides, "encoder.arch": ENCODERS.name_of(arch)} if isinstance(arch, str) else dict(overrides)


def backbone_factory(arch: str) -> BackboneFactory:
    """Return what builds the backbone ``arch``; raises BenchError if there is none, or its file is not loaded."""
    factory = ENCODERS.get(arch)
    return own_backbone(typed(arch), factory) if is_own(arch) else factory


def unread_settings(arch: str) -> list[str]:
    """Return those of a recipe's settings of the encoder that the network ``arch`` does not read.

    A network of timm or torchvision has a form of its own, and a user's own function reads the settings that it names.
    """
    factory, names = ENCODERS.get(arch), ["width", "stem_padding", "stem_init"]
    if is_own(arch):
        return [name for name in names if name not in signature(factory).parameters]
    return names if isinstance(factory, Outsider) else []


def build_encoder(
    settings: EncoderSettings, *, image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> Encoder:
    """Return a new encoder, its weights drawn from torch's global generator (see ``bench.rng.scoped``).

    Args:
        settings: the recipe's encoder section.
        image_shape: (C, H, W) of the images.
        mean: the dataset's channel means, used when ``normalisation`` is ``dataset``.
        std: its channel standard deviations.

    Raises:
        BenchError: an unknown ``arch``, or options that it does not take.
    """
    factory = backbone_factory(settings.arch)
    arguments = (settings.width, tuple(image_shape), settings.stem_padding, settings.stem_init)
    try:
        signature(factory).bind(*arguments, **settings.options)
    except TypeError as error:
        raise BenchError(f"encoder.options do not fit the encoder {settings.arch!r}: {error}.") from None
    backbone = factory(*arguments, **settings.options)
    if settings.normalisation == "none":
        return Encoder(backbone, nn.Identity())
    if settings.constants is not None:
        return Encoder(backbone, Normalise(*settings.constants))
    return Encoder(backbone, Normalise(*FIXED_CONSTANTS.get(settings.normalisation, (mean, std))))
