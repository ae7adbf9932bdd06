"""Weather: snow, frost, fog and brightness. Signatures and source as in :mod:`bench.data.corruptions.noise`."""

import math

import torch
from torch import Tensor

from bench.data.corruptions.filters import clipped_zoom, length_scale, motion_blur, uniform

_LUMA = (0.299, 0.587, 0.114)

_FROST = (
    ((78, 149, 166), 15, 1.3),
    ((201, 205, 214), 18, 0.8),
    ((201, 205, 214), 18, 0.8),
    ((138, 153, 166), 26, 0.4),
    ((112, 123, 135), 35, 1.1),
)
"""The five photographs of frost that CIFAR-C lays over its images, at its size, as (mean red, green and blue;
standard deviation within 32 x 32 pixels; exponent a of the power spectrum, f^-a)."""
_FROST_MEAN_STD = 11
"""Standard deviation of the mean of a crop from such a photograph."""


def snow(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lay two layers of falling snow, the second rotated by 180 degrees, over a paler image."""
    mean, std, zoom, threshold, radius, sigma, colour = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    scale = length_scale(images)
    batch, _, height, width = images.shape
    flakes = mean + std * torch.randn((batch, 1, height, width), generator=generator)
    flakes = clipped_zoom(flakes, scale * zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp_(0, 1)
    angles = uniform((batch,), -135, -45, generator)
    layer = motion_blur(flakes, angles, radius=scale * radius, sigma=scale * sigma)
    pale = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return colour * images + (1 - colour) * pale + layer + layer.rot90(2, (2, 3))


def frost(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lay ice crystals over the image.

    CIFAR-C takes them from photographs, which this bench may not ship. In their place stand random fields with
    each photograph's mean colour, contrast and power spectrum: only this corruption departs from the paper.
    """
    image_weight, frost_weight = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    batch, channels, height, width = images.shape
    colours, stds, exponents = (torch.tensor(column) / 1.0 for column in zip(*_FROST, strict=True))
    kind = torch.randint(len(_FROST), (batch,), generator=generator)
    texture = _random_field((batch, height, width), exponents[kind], generator) * stds[kind, None, None]
    texture = texture + _FROST_MEAN_STD * torch.randn((batch, 1, 1), generator=generator)
    colour = colours[kind] if channels == 3 else colours[kind].mean(1, keepdim=True).expand(-1, channels)
    ice = (colour[:, :, None, None] + texture[:, None]).clamp_(0, 255) / 255
    return image_weight * images + frost_weight * ice


def fog(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add a fractal haze, then darken so that the largest possible value is the same as before."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    batch, _, height, width = images.shape
    haze = _plasma(batch, max(32, 2 ** math.ceil(math.log2(max(height, width)))), decay, generator)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * haze[:, None, :height, :width]) * brightest / (brightest + strength)


def brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Raise the value of HSV, which scales a pixel's channels alike; black becomes grey."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value), brighter)


def _grey(images: Tensor) -> Tensor:
    """Return the luma of RGB, or the one channel of grey images: [B, 1, H, W]."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * torch.tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def _random_field(shape: tuple[int, int, int], exponents: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gaussian fields [B, H, W] of mean 0 and standard deviation 1 whose power falls as f^-exponent."""
    batch, height, width = shape
    # Twice as large and cut: a field from a discrete spectrum wraps around at its borders.
    size = (2 * height, 2 * width)
    noise = torch.fft.rfft2(torch.randn((batch, *size), generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1]))
    frequency[0, 0] = 1.0
    field: Tensor = torch.fft.irfft2(noise * frequency ** (-exponents[:, None, None] / 2), size)[:, :height, :width]
    field = field - field.mean((1, 2), keepdim=True)
    return field / field.std((1, 2), keepdim=True)


def _plasma(batch: int, size: int, decay: float, generator: torch.Generator) -> Tensor:
    """Return fractal height maps [B, size, size] from 0 to 1, by the diamond-square algorithm.

    Args:
        batch: how many.
        size: side, a power of two.
        decay: what the amplitude is divided by from one scale to the next.
        generator: source of all draws.
    """
    heights = torch.zeros(batch, size, size)
    wibble, step = 100.0, size

    def displaced(total: Tensor) -> Tensor:
        return total / 4 + wibble * uniform(tuple(total.shape), -wibble, wibble, generator)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = displaced(pairs + pairs.roll(-1, 2))
        heights[:, half::step, half::step] = middles
        heights[:, ::step, half::step] = displaced(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        heights[:, half::step, ::step] = displaced(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        wibble, step = wibble / decay, half
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)
