"""CIFAR-10, CIFAR-100 and STL-10: torchvision downloads, verifies (MD5) and reads them.

Sources: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
A. Coates, H. Lee, A. Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011.
"""

import errno
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import Dataset, Split
from bench.data.load import Source
from bench.downloads import one_at_a_time
from bench.errors import BenchError

_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_STL10_HOME = "https://cs.stanford.edu/~acoates/stl10/"

_FAILURES = (OSError, RuntimeError, HTTPException, EOFError, zlib.error, tarfile.TarError)
_DISK = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR, errno.EROFS}


def _load_cifar(name: str, data_dir: Path) -> Dataset:
    """Return CIFAR-10 or CIFAR-100 (fine labels), 32x32; raises BenchError if it is not available."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    with _explained(kind, _CIFAR_HOME, data_dir):
        train = _fetched(kind, data_dir, train=True)
        test = kind(data_dir, train=False)
    return Dataset(
        name=name,
        source=name,
        train=Split(_channels_first(train.data), torch.tensor(train.targets)),
        test=Split(_channels_first(test.data), torch.tensor(test.targets)),
        classes=tuple(train.classes),
        published_as=name,
        index_train=torch.arange(len(train.targets)),
    )


def _load_stl10(data_dir: Path) -> Dataset:
    """Return STL-10, 96x96: labelled splits, and all 105,000 training images for pre-training."""
    from torchvision import datasets

    with _explained(datasets.STL10, _STL10_HOME, data_dir):
        everything = _fetched(datasets.STL10, data_dir, split="train+unlabeled")
        test = datasets.STL10(data_dir, split="test")
    images = torch.from_numpy(np.ascontiguousarray(everything.data))
    labelled = int((everything.labels >= 0).sum())
    return Dataset(
        name="stl10",
        source="stl10",
        # A view, not a copy: the labelled images come first, and the whole is nearly 3 GB.
        train=Split(images[:labelled], torch.from_numpy(everything.labels[:labelled]).to(torch.int64)),
        test=Split(torch.from_numpy(np.ascontiguousarray(test.data)), torch.from_numpy(test.labels).to(torch.int64)),
        classes=tuple(everything.classes),
        published_as="stl10",
        index_train=torch.arange(labelled),
        pretrain=images,
    )


def _fetched(kind: Any, data_dir: Path, **split: Any) -> Any:
    """Return a split of torchvision's ``kind``, downloaded and unpacked if it is not in ``data_dir``.

    Torchvision writes an archive under its final name, so a second download at the same time would destroy the first.
    """
    with suppress(RuntimeError):
        return _whole(kind(data_dir, **split))
    with one_at_a_time(data_dir / kind.filename):
        return _whole(kind(data_dir, **split, download=True))


def _whole(dataset: Any) -> Any:
    """Return torchvision's ``dataset``, unless a file is missing that torchvision reads only if it is there."""
    if not hasattr(dataset, "classes"):
        raise RuntimeError(f"{dataset.class_names_file} is missing")
    return dataset


def _channels_first(images: "np.ndarray[Any, np.dtype[np.uint8]]") -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@contextmanager
def _explained(kind: Any, home: str, data_dir: Path) -> Iterator[None]:
    """Turn an error of torchvision into a message on what the user can do.

    Args:
        kind: torchvision's class, with its archive's name, address and MD5.
        home: the dataset's own page.
        data_dir: folder of the archive.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield
    except _FAILURES as error:
        raise BenchError(_remedy(kind, home, data_dir, error)) from error


def _remedy(kind: Any, home: str, data_dir: Path, error: Exception) -> str:
    if _is_disk(error):
        reason = "it is a file" if data_dir.is_file() else error
        return (
            f"cannot keep {kind.__name__} in {data_dir}: {reason}. "
            "Free some space there, or name another folder with --data-dir."
        )
    archive, extracted = data_dir / kind.filename, data_dir / kind.base_folder
    fetch = (
        f"Get {kind.filename} (MD5 {kind.tgz_md5}) from {home}, put it into {data_dir}, and run the same "
        "command again; or use data of your own with npz:PATH or folder:PATH."
    )
    found = _md5(archive)
    if found is None:
        return f"{kind.__name__} is not in {data_dir} and cannot be downloaded: {error}. {fetch}"
    if found != kind.tgz_md5:
        return f"{archive} is corrupt: its MD5 is {found}, not {kind.tgz_md5}. Delete it. {fetch}"
    return f"{extracted} is damaged: {error}. Delete that folder; {archive} is intact and will be unpacked again."


def _is_disk(error: Exception) -> bool:
    """Return whether the cause is a folder that cannot be written, not the network: both raise OSError."""
    return isinstance(error, OSError) and not isinstance(error, URLError) and error.errno in _DISK


def _md5(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except OSError:
        return None


CIFAR10 = Source(
    summary="small photographs of ten classes; 170 MB",
    num_classes=10,
    image_shape=(3, 32, 32),
    train=50_000,
    test=10_000,
    origin=_CIFAR_HOME,
    load=partial(_load_cifar, "cifar10"),
)
CIFAR100 = Source(
    summary="small photographs of a hundred classes (fine labels); 169 MB",
    num_classes=100,
    image_shape=(3, 32, 32),
    train=50_000,
    test=10_000,
    origin=_CIFAR_HOME,
    load=partial(_load_cifar, "cifar100"),
)
STL10 = Source(
    summary="photographs of ten classes, and 100,000 more without labels for pre-training; 2.6 GB",
    num_classes=10,
    image_shape=(3, 96, 96),
    train=5_000,
    test=8_000,
    origin=_STL10_HOME,
    load=_load_stl10,
    pretrain=105_000,
)
