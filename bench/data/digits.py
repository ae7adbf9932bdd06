"""``digits``: handwritten digits that ship with scikit-learn, so that the first run needs no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.dataset import Dataset, Split
from bench.data.load import Source
from bench.rng import derive

_SPLIT_SEED = 0


def _load(data_dir: Path) -> Dataset:
    """Return the 1,797 digits as 16x16 images; ``data_dir`` is not used, since they come with a package."""
    images, labels, train, test = _arrays()
    return Dataset(
        name="digits",
        source="digits",
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        classes=tuple("0123456789"),
        eps=16 / 255,
        mirror=False,
    )


@cache
def _arrays() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images, labels, and the positions of the train and of the test images."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    labels = torch.from_numpy(raw.target).to(torch.int64)
    return _upsample(torch.from_numpy(raw.images)), labels, *_split(labels)


def _upsample(grey: Tensor) -> Tensor:
    """Return [N, 8, 8] images of values 0..16 as uint8 [N, 3, 16, 16], values 0..255.

    Bilinear, because repeated pixels would add a grid of edges to every image, and bicubic leaves the range. For a
    factor of two the weights are 1, 3, 3 and 9 sixteenths: every sum is exact, and the hash is the same everywhere.
    """
    wide = F.interpolate(grey.float()[:, None], scale_factor=2, mode="bilinear", align_corners=False)
    return (wide * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the train and of the test images: the same for every run, whatever its seed.

    Images are sorted by class and, within a class, by a hash of the position; every fifth is a test image. It is a hash
    and not a random permutation, so that no library release can change it.
    """
    order = sorted(range(len(labels)), key=lambda i: (int(labels[i]), derive(_SPLIT_SEED, "digits", "split", i)))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[order[::5]] = True
    return (~is_test).nonzero().squeeze(1), is_test.nonzero().squeeze(1)


DIGITS = Source(
    summary="handwritten digits, 8x8 enlarged to 16x16; ships with scikit-learn, nothing to download",
    num_classes=10,
    image_shape=(3, 16, 16),
    train=1437,
    test=360,
    origin="scikit-learn",
    load=_load,
)
