"""The high-frequency view against its definition, complex and shifted, and on waves of known frequency."""

import math

import pytest
import torch
from torch import Tensor

from bench import rng
from methods.high_frequency import high_frequency, high_pass


def slow_high_frequency(images: Tensor, radius: float) -> Tensor:
    """Return the view by its definition: complex, shifted, with a mask filled entry by entry."""
    height, width = images.shape[2:]
    keep = torch.ones(height, width, dtype=images.dtype)
    for i in range(height):
        for j in range(width):
            if math.sqrt((i - height / 2) ** 2 + (j - width / 2) ** 2) < radius:
                keep[i, j] = 0
    if (height, width, radius) == (32, 32, 8):
        assert (keep == 0).sum() == 193
    shifted = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)) * keep
    high: Tensor = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real
    return high


@pytest.mark.parametrize(("height", "width", "radius"), [(32, 32, 8.0), (16, 16, 4.0), (16, 24, 4.5), (10, 8, 5.0)])
def test_high_frequencies_are_those_of_the_shifted_mask(height: int, width: int, radius: float) -> None:
    images = torch.rand(2, 3, height, width, generator=rng.generator(0, "fft"))
    high = high_frequency(images, high_pass(height, width, radius))
    torch.testing.assert_close(high.double(), slow_high_frequency(images.double(), radius), atol=1e-6, rtol=0)
    torch.testing.assert_close(high.mean(dim=(2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert high.min() < 0, "not cut to [0, 1]"


def test_a_wave_at_the_radius_stays_and_one_below_goes() -> None:
    x = torch.arange(32) * 2 * torch.pi / 32
    for periods, stays in ((7, False), (8, True), (9, True)):
        wave = torch.cos(periods * x).expand(1, 1, 32, 32).contiguous()
        for images in (wave, wave.mT.contiguous()):
            high = high_frequency(images, high_pass(32, 32, 8))
            torch.testing.assert_close(high, images * stays, atol=1e-5, rtol=0)
