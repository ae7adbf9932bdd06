"""The two pipelines of the papers: a weak view, and the strong view of contrastive learning.

Unlike a PIL pipeline, nothing is rounded to 8 bits between two steps.
"""

from typing import Annotated, Literal, NamedTuple, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from bench.data.images import unit_pixels
from bench.data.views.batch import draw_events
from bench.data.views.blur import blur_radius, draw_sigmas, gaussian_blur_
from bench.data.views.colour import JitterDraws, draw_jitter, grayscale_, jitter_, solarize_
from bench.data.views.geometry import CropBoxes, Interpolation, draw_crops, draw_shifts, resized_crop_, shift
from bench.errors import BenchError
from bench.parallel import over_devices
from bench.recipe import Crop, MirrorProbability, Settings


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower end comes first: write ({bounds[1]}, {bounds[0]})")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
Ordered = AfterValidator(_ordered)


class WeakDraws(NamedTuple):
    """What ``WeakView`` draws: shifts int64 [B, 2], flip bool [B]."""

    shifts: Tensor
    flip: Tensor


class StrongDraws(NamedTuple):
    """What ``StrongView`` draws: grey, solarized and flip are bool [B], sigmas float [B] (0: no blur)."""

    boxes: CropBoxes
    jitter: JitterDraws
    grey: Tensor
    sigmas: Tensor
    solarized: Tensor
    flip: Tensor


class WeakView(Settings):
    """A random crop, then a random horizontal flip: that of papers on CIFAR, or on ImageNet.

    Sources: AdvCL's weak view, for ``padded``; for ``resized`` Szegedy et al. 2014 (arXiv 1409.4842, section 6), as
    torchvision's RandomResizedCrop by default.
    """

    later = {"crop": "padded"}

    crop: Crop = "padded"
    """``padded``: the image moves, and zeros come in. ``resized``: a part of 8 to 100 % of the area, of a shape between
    3:4 and 4:3, is resized."""
    padding: Annotated[int, Field(ge=0)] | None = None
    """Of ``padded``: pixels of zeros on each side; by default an eighth of the shorter side, 4 at 32 x 32."""
    flip_prob: MirrorProbability = 0.5

    def draw(self, batch: int, size: tuple[int, int], generator: torch.Generator) -> WeakDraws:
        """Draw the parameters of ``batch`` padded views of images of ``size`` (height, width)."""
        return WeakDraws(
            shifts=draw_shifts(batch, self._padding(size), generator=generator),
            flip=draw_events(batch, self.flip_prob, generator=generator),
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each image, uint8 [B, C, H, W] -> float32 [B, C, H, W] in [0, 1].

        Raises BenchError if ``images`` are not such a batch.
        """
        size, batch, device = _checked_size(images), len(images), images.device
        if self.crop == "padded":
            shifts, flip = _moved(self.draw(batch, size, generator), device)
            return unit_pixels(shift(images, shifts, flip, padding=self._padding(size)))
        boxes = draw_crops(batch, size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), generator=generator)
        flip = draw_events(batch, self.flip_prob, generator=generator).to(device)
        return resized_crop_(unit_pixels(images), _moved(boxes, device), flip, interpolation="bilinear")

    def _padding(self, size: tuple[int, int]) -> int:
        return min(size) // 8 if self.padding is None else self.padding


class StrongView(Settings):
    """Random resized crop, colour jitter, grayscale, Gaussian blur, solarise and flip.

    The defaults are SimCLR's on CIFAR in solo-learn. No field sets the position of the flip: it commutes with
    the blur and with every step that works pixel by pixel, and before a crop it only mirrors the box, which is
    as likely as the box itself. So ACL's and AdvCL's order (crop, flip, jitter, grayscale) is
    ``crop_first``, and RoCL's (jitter, grayscale, flip, crop) is ``jitter_first``.
    """

    order: Literal["crop_first", "jitter_first"] = "crop_first"
    """Which comes first: the crop, or the colour steps and the blur."""
    crop_scale: Annotated[tuple[Share, Share], Ordered] = (0.08, 1.0)
    """Area of the crop, as a share of the image's area."""
    crop_ratio: Annotated[tuple[Positive, Positive], Ordered] = (3 / 4, 4 / 3)
    """Width of the crop divided by its height."""
    interpolation: Interpolation = "bicubic"
    jitter: tuple[Strength, Strength, Strength, Hue] = (0.8, 0.8, 0.8, 0.2)
    """Strength of brightness, contrast, saturation and hue; for hue in turns of the colour wheel."""
    jitter_prob: Probability = 0.8
    grayscale_prob: Probability = 0.2
    blur_prob: Probability = 0.5
    blur_sigma: Annotated[tuple[Positive, Positive], Ordered] = (0.1, 2.0)
    """Standard deviation of the blur, in pixels."""
    solarize_prob: Probability = 0.0
    solarize_threshold: Annotated[float, Field(ge=0, le=1)] = 128 / 255
    """Values from here up are inverted; PIL's default."""
    flip_prob: MirrorProbability = 0.5

    def draw(self, batch: int, size: tuple[int, int], generator: torch.Generator) -> StrongDraws:
        """Draw the parameters of ``batch`` views of images of ``size`` (height, width).

        Every step draws, whatever its probability, so switching one off does not change the draws of the others.
        """
        return StrongDraws(
            boxes=draw_crops(batch, size, scale=self.crop_scale, ratio=self.crop_ratio, generator=generator),
            jitter=draw_jitter(batch, self.jitter, prob=self.jitter_prob, generator=generator),
            grey=draw_events(batch, self.grayscale_prob, generator=generator),
            sigmas=draw_sigmas(batch, self.blur_sigma, prob=self.blur_prob, generator=generator),
            solarized=draw_events(batch, self.solarize_prob, generator=generator),
            flip=draw_events(batch, self.flip_prob, generator=generator),
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each image, uint8 [B, C, H, W] -> float32 [B, C, H, W] in [0, 1].

        Raises BenchError if ``images`` are not such a batch, or if colours change and C is not 3.
        """
        size = _checked_size(images)
        if self._changes_colours() and images.shape[1] != 3:
            raise BenchError(
                f"colour jitter and grayscale need images of 3 channels, but these have {images.shape[1]}. "
                "Set jitter_prob = 0 and grayscale_prob = 0, or repeat the channel three times."
            )
        draws = _moved(self.draw(len(images), size, generator), images.device)
        return over_devices(lambda own, drawn: self.apply_(unit_pixels(own), drawn), images, draws)

    def apply_(self, images: Tensor, draws: StrongDraws) -> Tensor:
        """Turn images, float [B, C, H, W] in [0, 1], into the views that ``draws`` describe, in place."""
        if self.order == "jitter_first":
            return self._crop_(self._filter_(images, draws), draws)
        return self._filter_(self._crop_(images, draws), draws)

    def _crop_(self, images: Tensor, draws: StrongDraws) -> Tensor:
        return resized_crop_(images, draws.boxes, draws.flip, interpolation=self.interpolation)

    def _filter_(self, images: Tensor, draws: StrongDraws) -> Tensor:
        """Apply all steps that do not move pixels."""
        if self._changes_colours():
            jitter_(images, draws.jitter)
            grayscale_(images, draws.grey)
        radius = blur_radius((images.shape[2], images.shape[3]), self.blur_sigma[1])
        gaussian_blur_(images, draws.sigmas, radius=radius)
        return solarize_(images, draws.solarized, threshold=self.solarize_threshold)

    def _changes_colours(self) -> bool:
        return self.jitter_prob > 0 or self.grayscale_prob > 0


_Draws = TypeVar("_Draws", bound=NamedTuple)


def _moved(draws: _Draws, device: torch.device) -> _Draws:
    """Return the named tuple ``draws`` with every tensor in it, however deep, on ``device``."""
    return draws._make(d.to(device) if isinstance(d, Tensor) else _moved(d, device) for d in draws)


def _checked_size(images: Tensor) -> tuple[int, int]:
    """Return (height, width); raise BenchError unless ``images`` are uint8 [B, C, H, W]."""
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise BenchError(
            f"views are made from a uint8 batch [B, C, H, W], not from {images.dtype} {list(images.shape)}. "
            "Pass the dataset's own images, before any division by 255."
        )
    return images.shape[2], images.shape[3]
