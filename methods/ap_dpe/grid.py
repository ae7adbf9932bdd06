"""Images cut into a 4x4 grid of cells, reordering of the cells, and quarter turns."""

import torch
from torch import Tensor

from bench.errors import BenchError

SIDE = 4
"""Cells per row and per column of the grid."""
CELLS = SIDE * SIDE


def cells(images: Tensor) -> Tensor:
    """Return the grid's cells in row-major order: [B, C, H, W] -> [B, 16, C, H / 4, W / 4]."""
    batch, channels, height, width = images.shape
    grid: Tensor = images.reshape(batch, channels, SIDE, height // SIDE, SIDE, width // SIDE)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def assemble(parts: Tensor) -> Tensor:
    """Put ``cells`` together again: [B, 16, C, h, w] -> [B, C, 4 h, 4 w]."""
    grid: Tensor = parts.unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)


def reorder(images: Tensor, orders: Tensor) -> Tensor:
    """Return images whose cell j is the input's cell ``orders[:, j]``.

    Args:
        images: [B, C, H, W].
        orders: int64 [B, 16], a permutation of 0..15 per image.
    """
    rows = torch.arange(len(images), device=images.device)[:, None]
    return assemble(cells(images)[rows, orders])


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each square image counter-clockwise by ``turns`` (int64 [B], 0..3) times 90 degrees."""
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]


def check_gridded(shape: tuple[int, int, int]) -> None:
    """Raise BenchError unless images of ``shape`` (C, H, W) are square and can be cut into the grid."""
    _, height, width = shape
    if height != width or height % SIDE:
        raise BenchError(
            f"AP-DPE turns images by 90 degrees and cuts them into a {SIDE}x{SIDE} grid, which images of "
            f"{height}x{width} pixels do not allow. Bring the dataset to square images whose side is a multiple of "
            f"{SIDE}, such as 32x32, or choose another dataset with --dataset."
        )
