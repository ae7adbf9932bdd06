"""Gaussian blur with its own sigma for each image, as one linear map per axis.

The kernel is the true Gaussian; PIL's GaussianBlur approximates it by repeated box filters.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.views.batch import chunks, draw_events, uniform
from bench.data.views.geometry import per_axis


def draw_sigmas(batch: int, sigma: tuple[float, float], *, prob: float, generator: torch.Generator) -> Tensor:
    """Draw float [batch], uniform in ``sigma`` with probability ``prob``, else 0, which means no blur."""
    sigmas = uniform((batch,), *sigma, generator=generator)
    return sigmas.mul_(draw_events(batch, prob, generator=generator))


def blur_radius(size: tuple[int, int], largest: float) -> int:
    """Return 4 times the ``largest`` sigma as a radius, or the largest radius that a reflection allows.

    An image can be reflected by one pixel less than its shorter side.
    """
    return min(math.ceil(4 * largest), min(size) - 1)


def gaussian_blur_(images: Tensor, sigmas: Tensor, *, radius: int) -> Tensor:
    """Blur each image; the border is reflected without repeating the edge pixel.

    Args:
        images: float [B, C, H, W], changed in place and returned.
        sigmas: float [B]; an image with 0 stays as it is.
        radius: the kernel has 2 * radius + 1 taps; smaller than both sides of the image.

    Source: equals torchvision's ``gaussian_blur`` with that kernel size.
    """
    chosen = sigmas.nonzero().squeeze(1)
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernels = (taps / sigmas[chosen, None]).square_().mul_(-0.5).exp_()
    kernels = kernels.div_(kernels.sum(dim=1, keepdim=True))
    height, width = images.shape[-2:]
    down, across = _reads(height, radius, kernels), _reads(width, radius, kernels)
    for part in chunks(images, len(chosen)):
        rows = (kernels[part] @ down).view(-1, height, height)
        columns = (kernels[part] @ across).view(-1, width, width)
        images[chosen[part]] = per_axis(images[chosen[part]], rows, columns)
    return images


def _reads(size: int, radius: int, like: Tensor) -> Tensor:
    """Return [taps, size * size], 1 where a tap of an output pixel reads an input pixel.

    These are reflected unit vectors, seen through the window of each output pixel.
    """
    identity = torch.eye(size, device=like.device)
    windows = F.pad(identity[None], (radius, radius), mode="reflect")[0].unfold(1, 2 * radius + 1, 1)
    return windows.permute(2, 1, 0).flatten(1)
