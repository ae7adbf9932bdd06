"""Crops and flips. Cropping, resizing and flipping together are one linear map per axis.

An output row is a weighted mean of a few input rows, and so is a column. With one small matrix per
axis and image, the whole transform of a batch is two batched matrix products.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.views.batch import chunks, uniform

Interpolation = Literal["bilinear", "bicubic"]

_TRIES = 10
"""How many boxes torchvision's RandomResizedCrop draws before it takes the central one."""


class CropBoxes(NamedTuple):
    """One box per image, in whole pixels: four int64 [B] tensors; the box lies inside the image."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_crops(
    batch: int,
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> CropBoxes:
    """Draw boxes as RandomResizedCrop does: area uniform, aspect ratio log-uniform, position uniform.

    Args:
        batch: number of boxes.
        size: (height, width) of the images.
        scale: smallest and largest area of a box, as a share of the image's, in (0, 1].
        ratio: smallest and largest width / height of a box.
        generator: source of all draws; the boxes are on its device.

    Source: Szegedy et al. 2014 (arXiv 1409.4842, section 6), with torchvision's ten tries and fallback.
    """
    image_height, image_width = size
    area = uniform((batch, _TRIES), *scale, generator=generator).mul_(image_height * image_width)
    low, high = map(math.log, ratio)
    aspect = uniform((batch, _TRIES), low, high, generator=generator).exp_()
    place = uniform((2, batch), 0.0, 1.0, generator=generator)

    width, height = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (width >= 1) & (width <= image_width) & (height >= 1) & (height <= image_height)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first maximum, hence the first box that fits
    height, width = height.gather(1, first).squeeze(1), width.gather(1, first).squeeze(1)
    # A product of a draw just below 1 may round up to the next whole number, so the result is held back.
    top = torch.minimum((place[0] * (image_height - height + 1)).floor_(), image_height - height)
    left = torch.minimum((place[1] * (image_width - width + 1)).floor_(), image_width - width)

    found = fits.any(dim=1)
    pairs = zip((top, left, height, width), _centre(size, ratio), strict=True)
    return CropBoxes(*(torch.where(found, drawn, spare).long() for drawn, spare in pairs))


def _centre(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the largest central box whose aspect ratio is allowed."""
    image_height, image_width = size
    height = min(image_height, round(image_width / ratio[0]))
    width = min(image_width, round(image_height * ratio[1]))
    return (image_height - height) // 2, (image_width - width) // 2, height, width


def resized_crop_(images: Tensor, boxes: CropBoxes, flip: Tensor, *, interpolation: Interpolation) -> Tensor:
    """Cut a box from each image, resize it to the image's own size, then mirror it where ``flip`` is True.

    A box is never larger than its image, so this only enlarges: antialiasing, which widens the kernel when
    shrinking, has no effect, and PIL's resize reduces to its bicubic kernel (a = -0.5).
    Bicubic weights are partly negative; the overshoot is clipped to [0, 1], as PIL clips it to [0, 255].

    Args:
        images: float [B, C, H, W] in [0, 1], changed in place and returned.
        boxes: one box an image.
        flip: bool [B].
        interpolation: kernel of the resize.

    Source: equals torchvision's ``resized_crop(..., antialias=True)``, a clamp and ``horizontal_flip``.
    """
    height, width = images.shape[-2:]
    rows = _axis_taps(height, boxes.top, boxes.height, torch.zeros_like(flip), interpolation)
    columns = _axis_taps(width, boxes.left, boxes.width, flip, interpolation)
    for part in chunks(images, len(images)):
        crops = per_axis(images[part], _matrix(rows, part), _matrix(columns, part))
        images[part] = crops.clamp_(0, 1)
    return images


def per_axis(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return ``rows @ image @ columns.T`` for each channel of each image.

    Args:
        images: float [B, C, H, W].
        rows: float [B, H, H], output row x input row.
        columns: float [B, W, W], output column x input column.
    """
    # All channels share an image's matrix, so along the width one product serves them all.
    across = (images.flatten(1, 2) @ columns.mT).view_as(images)
    return torch.matmul(rows.unsqueeze(1), across)


class _Taps(NamedTuple):
    """Which pixels of an axis each output pixel reads, int64 [B, size, taps], and their float weights."""

    reads: Tensor
    weights: Tensor


def _axis_taps(size: int, first: Tensor, length: Tensor, mirrored: Tensor, interpolation: Interpolation) -> _Taps:
    """Return how ``size`` output pixels sample the ``length`` pixels of an axis from ``first`` on."""
    offsets, *coefficients = torch.tensor(_KERNELS[interpolation], device=first.device)
    pixel = torch.arange(size, device=first.device, dtype=torch.float32)
    first, length = first.float()[:, None, None], length.float()[:, None, None]
    output = torch.where(mirrored[:, None], pixel.flip(0), pixel).unsqueeze(2)
    centre = torch.addcmul(first - 0.5, output + 0.5, length / size)
    below = centre.floor()
    weights = coefficients[0]
    for coefficient in coefficients[1:]:
        weights = torch.addcmul(coefficient, weights, centre - below)
    reads = below + offsets
    # The resize ignores pixels outside the box; the other weights are scaled to sum to 1.
    weights = weights * ((reads >= first) & (reads < first + length))
    return _Taps(reads.clamp_(0, size - 1).long(), weights / weights.sum(dim=2, keepdim=True))


def _matrix(taps: _Taps, part: slice) -> Tensor:
    """Return ``taps`` of the images in ``part`` as float [B, size, size], output pixel x input pixel."""
    reads, weights = taps.reads[part], taps.weights[part]
    batch, size, _ = reads.shape
    return weights.new_zeros(batch, size, size).scatter_add_(2, reads, weights)


_KERNELS = {
    "bilinear": ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)),
    "bicubic": (
        (-1.0, 0.0, 1.0, 2.0),
        (-0.5, 1.5, -1.5, 0.5),
        (1.0, -2.5, 2.0, -0.5),
        (-0.5, 0.0, 0.5, 0.0),
        (0.0, 1.0, 0.0, 0.0),
    ),
}
"""Which pixels an output reads, counted from the one at or before it; then their weights as polynomials in the
distance to that pixel, highest power first. Bicubic is Keys' kernel with a = -0.5 (IEEE
TASSP 1981)."""


def draw_shifts(batch: int, padding: int, *, generator: torch.Generator) -> Tensor:
    """Draw int64 [batch, 2], uniform in [-padding, padding]: how far the window moves down and right."""
    return torch.randint(
        -padding, padding + 1, (batch, 2), generator=generator, device=generator.device, dtype=torch.int64
    )


def shift(images: Tensor, shifts: Tensor, flip: Tensor, *, padding: int) -> Tensor:
    """Move the window over each zero-padded image, then mirror its content where ``flip`` is True.

    Args:
        images: any dtype [B, C, H, W].
        shifts: int64 [B, 2], down and right, in [-padding, padding].
        flip: bool [B].
        padding: pixels of zeros on each side.

    Returns:
        [B, C, H, W] of the same dtype: RandomCrop(H, padding) and RandomHorizontalFlip.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, top, left, H, W]: a view, no copy
    top, left = (shifts + padding).unbind(1)
    shown = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip[:, None, None, None], shown.flip(3), shown)
