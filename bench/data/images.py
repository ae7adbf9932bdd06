"""Moves images from where they are stored to the training device, and converts bytes to numbers in [0, 1]."""

from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import torch
from torch import Tensor

from bench.data.stored import StoredImages
from bench.data.workers import decoded_batches, free_cores
from bench.errors import warn

_DEVICE_SHARE = 0.5
"""Of a GPU's free memory: what images may take there at most; the rest is for weights and activations."""


class ImageSource(Protocol):
    """The training images, in a fixed order. A source larger than the device's memory moves them batch by batch."""

    def __len__(self) -> int:
        """Return how many images there are."""

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions`` (int64 [B]) as uint8 [B, C, H, W] on the training device."""

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield :meth:`batch` of each of ``positions``; later ones may be prepared while the first is used."""

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

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each of ``positions``."""
        return map(self.batch, positions)

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Yield all images in their order."""
        yield from self._images.split(size)


class StreamedImages:
    """Images in memory or on disk that move to the training device batch by batch.

    Worker processes decode the coming batches of those on disk. If one is lost, as when the system runs short of
    memory, this process decodes the rest.

    Args:
        images: uint8 [N, C, H, W]: a tensor on the CPU, or stored images.
        device: where to train.
        workers: processes that decode; None: one for each core that this process does not need itself, up to 16.
    """

    def __init__(self, images: Tensor, device: torch.device, workers: int | None = None) -> None:
        self._images, self._device = images, device
        self._workers = free_cores() if workers is None else workers

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions``."""
        return self._images[positions.cpu()].to(self._device)

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each of ``positions``."""
        done, images = 0, self._images
        if self._workers and isinstance(images, StoredImages) and len(positions) > 1:
            wanted = [each.tolist() for each in positions]
            try:
                for batch in decoded_batches(images, wanted, self._workers):
                    yield batch.to(self._device)
                    done += 1
            except BrokenProcessPool:
                warn("a process that decodes images was lost; this process decodes them itself until the epoch ends")
        yield from map(self.batch, positions[done:])

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Yield all images in their order."""
        return self.batches(torch.arange(len(self)).split(size))


def on_device(images: Tensor | ImageSource, device: torch.device) -> ImageSource:
    """Return a tensor of images as a source on ``device``, and any other source as it is."""
    if not isinstance(images, Tensor):
        return images
    if isinstance(images, StoredImages) or not _fits(images, device):
        return StreamedImages(images, device)
    return ImagesOnDevice(images, device)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Return whether ``images`` may be moved to ``device`` at once."""
    if device.type != "cuda" or images.device == device:
        return True
    return images.nbytes <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def unit_pixels(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [0, 1], the form in which images are attacked and enter an encoder."""
    return images.float().div_(255)
