"""Corrupted copies of images, made here with the constants of CIFAR-C."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.data.corruptions import blur, digital, noise, weather
from bench.data.images import unit_pixels
from bench.errors import BenchError, unknown
from bench.recipe import SEVERITIES

PARAMETRISATION = "CIFAR-C's constants for 32 x 32 pixels; frost from random fields instead of photographs"
VERSION = 1
"""Raised whenever the same images and draws would give other pixels; cached images are then made again."""

_CORRUPTIONS: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}


def corrupt(images: Tensor, name: str, severity: int, *, generator: torch.Generator) -> Tensor:
    """Return corrupted copies of ``images``.

    Args:
        images: uint8 [B, C, H, W] on the CPU, one channel or three, at least 8 x 8 pixels.
        name: one of :data:`bench.recipe.CORRUPTIONS`.
        severity: 1 to 5.
        generator: source of all draws, on the CPU.

    Raises:
        BenchError: the name or the severity does not exist.
    """
    if name not in _CORRUPTIONS:
        raise unknown("corruption", name, _CORRUPTIONS)
    if severity not in SEVERITIES:
        raise BenchError(f"severity {severity} of {name} does not exist; choose 1, 2, 3, 4 or 5.")
    values = _CORRUPTIONS[name](unit_pixels(images), severity, generator)
    # Truncated, not rounded, as in the published files; the small addend keeps 127.99999 from becoming 127.
    return values.clamp(0, 1).mul(255).add(1e-3).floor().to(torch.uint8)
