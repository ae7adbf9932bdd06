"""Corrupted test images on disk, in the form of CIFAR-10-C: one ``.npy`` a corruption, and ``labels.npy``.

``<corruption>.npy`` is uint8 [5 N, H, W, C]: the N test images at severity 1, then at 2, and so on.
``labels.npy`` holds the labels of these 5 N images.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.dataset import Dataset
from bench.errors import BenchError, listed
from bench.files import stamp
from bench.recipe import SEVERITIES, canonical_digest

_PUBLISHED = {
    "cifar10": ("CIFAR-10-C", "https://zenodo.org/records/2535967"),
    "cifar100": ("CIFAR-100-C", "https://zenodo.org/records/3555552"),
}


@dataclass(frozen=True)
class CorruptedImages:
    """Corrupted copies of a whole test split, read from disk on demand; files that change meanwhile are noticed.

    Args:
        folder: where the files lie.
        images: test images in each (corruption, severity).
        digests: SHA-256 of the pixels of each corruption.
        parametrisation: what defines the severities.
        package: name and version of the program that made them; None if unknown.
        stamps: of the files, from before they were hashed; one without a stamp is hashed again when it is first read.
    """

    folder: Path
    images: int
    digests: Mapping[str, str]
    parametrisation: str
    package: tuple[str, str] | None = None
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sha256(self) -> str:
        """Digest of all corruptions together; it does not depend on their order."""
        return canonical_digest(dict(self.digests))

    def batch(self, name: str, severity: int, images: slice) -> Tensor:
        """Return uint8 [B, C, H, W]: these ``images`` of the test split under a corruption.

        Raises:
            BenchError: they can no longer be read, or are not those of the digest.
        """
        first = (severity - 1) * self.images
        rows = range(first, first + self.images)[images]
        pixels = np.array(open_array(self.folder / f"{name}.npy")[rows.start : rows.stop])
        self._check_unchanged(name)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _check_unchanged(self, name: str) -> None:
        """Hash a file again whose stamp has changed: another run may have made the same images at the same time."""
        path = self.folder / f"{name}.npy"
        found = stamp(path)
        if found == self.stamps.get(name):
            return
        if pixels_digest(name, open_array(path)) != self.digests[name]:
            raise BenchError(f"{path} has changed since its digest was computed. Type the command again.")
        self.stamps[name] = found


def open_files(folder: Path, dataset: Dataset, names: Sequence[str]) -> CorruptedImages:
    """Return the files in ``folder`` as corrupted copies of the dataset's test split; every pixel is hashed.

    ``folder`` may also be the parent folder, as RobustBench lays out ``CIFAR-10-C``.

    Raises:
        BenchError: a file is missing, damaged or of another form, or its labels differ; all faults together.
    """
    home, address = _PUBLISHED.get(dataset.published_as or "", ("", ""))
    folder = folder.expanduser()
    if home and (folder / home).is_dir():
        folder /= home
    if not folder.is_dir():
        where = f"Unpack {home}.tar of {address} and name its folder" if home else "Name a folder of .npy files"
        raise BenchError(f"{folder}: no such folder. {where}, or type --corruptions generate.")
    channels, height, width = dataset.image_shape
    shape = (len(SEVERITIES) * len(dataset.test), height, width, channels)
    faults, digests, stamps = _label_faults(folder, dataset), {}, stamps_in(folder, names)
    for name in names:
        try:
            pixels = open_array(folder / f"{name}.npy")
        except BenchError as error:
            faults.append(str(error))
            continue
        if pixels.dtype != np.uint8 or pixels.shape != shape:
            faults.append(f"{name}.npy is {pixels.dtype} {list(pixels.shape)}, not uint8 {list(shape)}")
        elif not faults:
            digests[name] = pixels_digest(name, pixels)
    if faults:
        raise BenchError(listed(f"corrupted images of {dataset.name} in {folder}", faults))
    return CorruptedImages(folder, len(dataset.test), digests, "that of the files", stamps=stamps)


def stamps_in(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the stamps of the corruptions called ``names`` whose files exist."""
    return {name: stamp(path) for name in names if (path := folder / f"{name}.npy").exists()}


def _label_faults(folder: Path, dataset: Dataset) -> list[str]:
    try:
        labels = open_array(folder / "labels.npy")
    except BenchError as error:
        return [str(error)]
    expected = np.tile(dataset.test.labels.numpy(), len(SEVERITIES))
    if labels.shape != expected.shape:
        return [f"labels.npy is {list(labels.shape)}, not {list(expected.shape)}: 5 times the test split"]
    wrong = np.flatnonzero(labels != expected)
    if not len(wrong):
        return []
    first = int(wrong[0])
    return [
        f"labels.npy disagrees with the test split in {len(wrong)} of {len(expected)} labels, first at {first}: "
        f"{labels[first]}, not {expected[first]}. The files belong to other data, or are in another order"
    ]


def open_array(path: Path) -> NDArray[Any]:
    """Return the array in ``path``, mapped rather than read, and never unpickled; raises BenchError."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise BenchError(f"{path.name} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise BenchError(f"{path.name} cannot be read, or was cut short ({error}); copy it again") from error


def pixels_digest(name: str, pixels: Iterable[NDArray[Any]]) -> str:
    """Return the SHA-256 of a corruption's name, a line feed, and its images in order, uint8 [H, W, C] each."""
    digest = hashlib.sha256(f"{name}\n".encode())
    for image in pixels:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
