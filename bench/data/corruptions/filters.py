"""Filters that several corruptions share, batched: Gaussian and motion blur, and a zoom into the middle."""

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F


def length_scale(images: Tensor) -> float:
    """Return the factor for lengths that the paper gives in pixels of a 32 x 32 image.

    Lengths grow with the shorter side. On smaller images they stay as they are: below one pixel a filter has no effect.
    """
    return max(1.0, min(images.shape[-2:]) / 32)


def gaussian_blur(images: Tensor, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Blur float [..., H, W] by a Gaussian cut off at ``truncate`` sigma; ``mode`` is SciPy's name of the border."""
    axes = (images.ndim - 2, images.ndim - 1)
    blurred = ndimage.gaussian_filter(images.numpy(), sigma, mode=mode, truncate=truncate, axes=axes)
    return torch.from_numpy(blurred)


def convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel with a symmetric ``kernel``; the border is mirrored without its own pixel."""
    return torch.from_numpy(ndimage.convolve(images.numpy(), kernel.numpy()[None, None], mode="mirror"))


def motion_blur(images: Tensor, angles: Tensor, *, radius: float, sigma: float) -> Tensor:
    """Smear each image along its own direction, to one side only, with the weights of half a Gaussian.

    Args:
        images: float [B, C, H, W].
        angles: float [B], degrees.
        radius: pixels; 2 * radius + 1 pixels along the direction are averaged.
        sigma: of the Gaussian, in pixels.

    Source: ``MotionBlurImage`` of ImageMagick, which made the published files; the border pixels are repeated.
    """
    height, width = images.shape[-2:]
    taps = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64)
    weights = torch.exp(-taps.square() / (2 * sigma**2))
    radians = torch.deg2rad(angles.double())[:, None]
    rows = (taps * radians.sin() - 0.5).ceil().long()
    columns = (taps * radians.cos() - 0.5).ceil().long()
    pixels, blurred = images.flatten(2), torch.zeros_like(images).flatten(2)
    for tap, weight in enumerate((weights / weights.sum()).tolist()):
        row = (torch.arange(height) + rows[:, tap, None]).clamp_(0, height - 1)
        column = (torch.arange(width) + columns[:, tap, None]).clamp_(0, width - 1)
        reads = (row[:, :, None] * width + column[:, None, :]).flatten(1)
        blurred += weight * pixels.gather(2, reads[:, None].expand_as(pixels))
    return blurred.view_as(images)


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of float [B, C, H, W] by ``factor`` >= 1, bilinearly, to the same size.

    Source: ``clipped_zoom`` of hendrycks/robustness at ca36008, ``ImageNet-C/create_c/make_cifar_c.py``.
    """
    size = images.shape[-2:]
    inner = [math.ceil(side / factor) for side in size]
    cut = _middle(images, inner)
    enlarged = F.interpolate(cut, [round(side * factor) for side in inner], mode="bilinear", align_corners=True)
    return _middle(enlarged, size)


def _middle(images: Tensor, size: "list[int] | torch.Size") -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return float32 values of ``shape``, uniform in [low, high)."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def disk(radius: float, alias_blur: float) -> Tensor:
    """Return a disk of ``radius`` pixels as float [K, K] of sum 1, its edge softened by a Gaussian.

    Source: ``disk`` of hendrycks/robustness at ca36008, with OpenCV's 3 or 5 taps of the Gaussian.
    """
    reach = math.ceil(radius) + 2
    line = torch.arange(-reach, reach + 1, dtype=torch.float32)
    solid = (line[:, None] ** 2 + line**2 <= radius**2).float()
    taps = 1 if radius <= 8 else 2
    weights = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * alias_blur**2))
    soft = ndimage.correlate1d(solid.numpy(), weights, axis=0, mode="constant")
    soft = torch.from_numpy(ndimage.correlate1d(soft, weights, axis=1, mode="constant"))
    return soft / soft.sum()
