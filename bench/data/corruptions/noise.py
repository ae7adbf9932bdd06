"""Noise: Gaussian, shot and impulse noise, drawn for each channel of each pixel.

Each function takes float [B, C, H, W] in [0, 1], a severity of 1 to 5 and a generator, and returns the same
shape; the caller clips. Constants are CIFAR-C's.

Source: hendrycks/robustness at ca36008, ``ImageNet-C/create_c/make_cifar_c.py``.
"""

import torch
from torch import Tensor


def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise, as low light does."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + scale * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Draw each value as a Poisson count, since light is discrete."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return torch.poisson(images * photons, generator=generator) / photons


def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Set a share of the values to 0 or 1 with equal probability, as bit errors do."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    flipped = torch.rand(images.shape, generator=generator) < share
    salt = (torch.rand(images.shape, generator=generator) < 0.5).float()
    return torch.where(flipped, salt, images)
