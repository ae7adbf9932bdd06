"""Blur: defocus, frosted glass, motion and zoom. Signatures and source as in :mod:`bench.data.corruptions.noise`."""

import numpy as np
import torch
from torch import Tensor

from bench.data.corruptions.filters import (
    clipped_zoom,
    convolve,
    disk,
    gaussian_blur,
    length_scale,
    uniform,
)
from bench.data.corruptions.filters import (
    motion_blur as smear,
)


def defocus_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Convolve with a disk, as a lens out of focus does. Below a radius of 1 only its soft edge blurs."""
    radius, alias_blur = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    scale = length_scale(images)
    return convolve(images, disk(scale * radius, scale * alias_blur))


def glass_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Frosted glass: blur, replace each pixel by one nearby, and blur again.

    The published code is meant to swap the two pixels, but array views turn the swap into a copy, and so it is in the
    published files. With a reach of one pixel no copy reads what another wrote, so all are done at once.
    """
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    scale = length_scale(images)
    sigma, reach = scale * sigma, round(scale * reach)
    height, width = images.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    shuffled = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    pixels = torch.floor(gaussian_blur(images, sigma) * 255).div_(255).flatten(2)
    for _ in range(rounds):
        shift = torch.randint(-reach, reach, (2, len(images), height, width), generator=generator) * shuffled
        reads = ((rows + shift[0]) * width + columns + shift[1]).flatten(1)
        pixels = pixels.gather(2, reads[:, None].expand_as(pixels))
    return gaussian_blur(pixels.view_as(images), sigma)


def motion_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Smear, as a moving camera does, along a direction within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    scale = length_scale(images)
    angles = uniform((len(images),), -45, 45, generator)
    return smear(images, angles, radius=scale * radius, sigma=scale * sigma)


def zoom_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Average enlargements, as from a camera that approaches its object; the image itself is added once more."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, largest, 0.01)  # as published: rounding decides whether the end is included
    zoomed = sum((clipped_zoom(images, factor) for factor in factors), start=images)
    return zoomed / (len(factors) + 1)
