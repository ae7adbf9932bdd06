"""AdvCL's high-frequency view: an image without its coarse structure."""

import torch
from torch import Tensor


def high_pass(height: int, width: int, radius: float) -> Tensor:
    """Return the mask of a real 2-D FFT, float32 [H, W // 2 + 1]: 0 where the frequency is below ``radius``, else 1.

    Frequencies are counted in periods per image, and the mean (frequency 0) is left out too.

    Source: AdvCL's ``fr_util.py``, which builds the shifted mask of a complex FFT anew at each call.
    """
    rows, columns = torch.fft.fftfreq(height, d=1 / height), torch.fft.rfftfreq(width, d=1 / width)
    squared: Tensor = rows[:, None] ** 2 + columns**2
    return (squared >= radius**2).float()


def high_frequency(images: Tensor, mask: Tensor) -> Tensor:
    """Return [B, C, H, W] filtered by a mask of :func:`high_pass`: signed, neither clipped to [0, 1] nor rescaled."""
    high: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * mask, s=images.shape[-2:])
    return high
