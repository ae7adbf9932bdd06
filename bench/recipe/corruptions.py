"""The common corruptions, by name: the 15 of CIFAR-10-C and CIFAR-100-C, each in five severities.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, section 4.1. Its four extra corruptions, meant for validation, are left out.
"""

from collections.abc import Mapping
from typing import Literal

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The names are those of the published files, without ``.npy``."""

CORRUPTIONS = tuple(name for names in FAMILIES.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)

CorruptionSource = Literal["none", "generate", "files"]
"""Where corrupted test images come from: nowhere, made by the bench, or files that the user has."""
