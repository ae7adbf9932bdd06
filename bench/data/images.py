"""Moves images from where they are stored to the training device, and converts bytes to numbers in [0, 1]."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class ImageSource(Protocol):
    """The training images, in a fixed order. A source larger than the device's memory moves them batch by batch."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions`` (int64 [B]) as uint8 [B, C, H, W] on the training device."""

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Yield all images in their order, ``size`` at a time, as :meth:`batch` returns them."""


class ImagesOnDevice:
    """All images in one tensor on the training device.

    Args:
        images: uint8 [N, C, H, W], anywhere.
        device: where to train.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self._images = images.to(device)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions``."""
        return self._images[positions]

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Yield all images in their order."""
        yield from self._images.split(size)


def on_device(images: Tensor | ImageSource, device: torch.device) -> ImageSource:
    """Return a tensor of images as a source on ``device``, and any other source as it is."""
    return ImagesOnDevice(images, device) if isinstance(images, Tensor) else images


def unit_pixels(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [0, 1], the form in which images are attacked and enter an encoder."""
    return images.float().div_(255)
