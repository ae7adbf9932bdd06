"""Digital: contrast, elastic, pixelate, JPEG. Signatures and source as in :mod:`bench.data.corruptions.noise`."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bench.data.corruptions.filters import gaussian_blur, uniform


def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Move every value towards its channel's mean over the image."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * kept + means


def elastic_transform(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Move three points of the image at random, then every pixel along a smooth random field.

    The constants are in units of the image's shorter side, as published.
    """
    alpha, sigma, jitter = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    batch, _, height, width = images.shape
    side = min(height, width)
    moved = _affine(images, jitter * side, generator)
    shifts = uniform((batch, 2, height, width), -1, 1, generator)
    if sigma:
        shifts = gaussian_blur(shifts, sigma * side, mode="reflect", truncate=3.0)
    shifts = alpha * side * shifts
    x, y = torch.arange(width) + shifts[:, 0], torch.arange(height)[:, None] + shifts[:, 1]
    return _sample(moved, x, y, repeat_edge=True)


def pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Shrink by box averages and enlarge again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]

    def coarse(image: Image.Image) -> Image.Image:
        small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

    return _through_pillow(images, coarse)


def jpeg_compression(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Compress as JPEG and decompress."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _through_pillow(images, compressed)


def _affine(images: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Return ``images``, transformed so that three points move by up to ``jitter`` pixels along each axis."""
    height, width = images.shape[-2:]
    reach = min(height, width) // 3
    corners = torch.tensor([[reach, reach], [reach, -reach], [-reach, -reach]]) + torch.tensor(
        [width // 2, height // 2]
    )
    ones = torch.ones(len(images), 3, 1)
    targets = corners + uniform((len(images), 3, 2), -jitter, jitter, generator)
    back = torch.linalg.solve(torch.cat([targets, ones], 2), corners.float().expand_as(targets))
    rows, columns = torch.meshgrid(torch.arange(height) / 1.0, torch.arange(width) / 1.0, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=2) @ back[:, None]
    return _sample(images, places[..., 0], places[..., 1], repeat_edge=False)


def _sample(images: Tensor, x: Tensor, y: Tensor, *, repeat_edge: bool) -> Tensor:
    """Read ``images`` bilinearly at pixel positions ``x`` and ``y``, [B, H, W]; outside they are mirrored.

    ``repeat_edge``: mirrored at the edge of the outermost pixel (it appears twice), or at its centre.
    """
    height, width = images.shape[-2:]
    if repeat_edge:
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=3)
    else:
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=3)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=not repeat_edge)


def _through_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply ``change`` to each image as a Pillow image: 8-bit RGB, or grey for one channel."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pixels = pixels.squeeze(3) if pixels.shape[3] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(changed).reshape(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2) / 255
