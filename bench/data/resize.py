"""Images of one dataset brought to the size of another's, so that one encoder can see both."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.dataset import CIFAR_EPS, CIFAR_SIDE, Dataset, Split

_CHUNK = 512  # images in float64 at a time


def resized(dataset: Dataset, size: tuple[int, int]) -> Dataset:
    """Return ``dataset`` with train and test images of ``size`` (height, width), and without pre-training images.

    Bilinear interpolation with antialiasing: when images shrink, each new pixel is a mean over the area that it
    covers, weighted by a triangle, as in Pillow. In float64, so that every machine rounds to the same pixels and
    finds the same hash. Large images that become small have the radius and the conventions of small ones.
    """
    if max(size) <= CIFAR_SIDE and dataset.conventions == "imagenet":
        dataset = replace(dataset, eps=CIFAR_EPS, conventions="cifar")
    return replace(
        dataset,
        train=Split(_resize(dataset.train.images, size), dataset.train.labels),
        test=Split(_resize(dataset.test.images, size), dataset.test.labels),
        pretrain=None,
        known=None,
    )


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, C, *size]."""
    return torch.cat([_resize_chunk(chunk, size) for chunk in images.split(_CHUNK)])


def _resize_chunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    exact = F.interpolate(images.double(), size=size, mode="bilinear", antialias=True)
    return exact.round().clamp(0, 255).to(torch.uint8)
