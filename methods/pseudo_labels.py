"""Pseudo-labels: which of K clusters an image belongs to, for several K; made without true labels."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench import rng
from bench.data import ImageSource, unit_pixels
from bench.errors import BenchError, listed
from bench.nn import Encoder


class PseudoLabels(Protocol):
    """A source of pseudo-labels for a training set of N images."""

    classes: tuple[int, ...]
    """K of each clustering, which is the number of its classifier's outputs."""

    def compute(self, images: ImageSource) -> Tensor:
        """Return the labels of the training ``images``, int64 [len(classes), N]: row i within 0..classes[i] - 1."""


def clusters_made(wanted: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the number of clusters that k-means makes of ``count`` images for each ``wanted`` one: at most half."""
    return tuple(min(k, count // 2) for k in wanted)


class KMeansLabels:
    """k-means on the features of an ordinary SSL encoder, a separate run for each k.

    Features are the pooled ones of the un-augmented images in eval mode, scaled to length 1; k-means starts
    once, from k-means++, and ends after 300 iterations or on convergence; an empty cluster is re-seeded. AdvCL
    describes none of this, and its own encoder (trained on ImageNet) is not available: these choices are ours.

    If k is more than half the number of images, half that number of clusters is made instead; AdvCL says so.

    Args:
        encoder: used only in :meth:`compute`; it may be trained until then.
        clusters: the wanted k.
        count: N >= 2, the number of training images.
        seed: the run's seed.
    """

    def __init__(self, encoder: Encoder, clusters: Sequence[int], *, count: int, seed: int) -> None:
        self.classes = clusters_made(clusters, count)
        self._encoder, self._clusters, self._seed = encoder, clusters, seed

    def compute(self, images: ImageSource) -> Tensor:
        """Cluster the features; the same encoder, seed and number of threads give the same labels."""
        from sklearn.cluster import KMeans

        features = pooled_features(self._encoder, images).numpy()
        rows = []
        for wanted, k in zip(self._clusters, self.classes, strict=True):
            state = rng.derive(self._seed, "pseudo_labels", wanted) % 2**32
            kmeans = KMeans(k, init="k-means++", n_init=1, max_iter=300, random_state=state)
            rows.append(torch.from_numpy(kmeans.fit_predict(features)).long())
        return torch.stack(rows)


@torch.no_grad()
def pooled_features(encoder: Encoder, images: ImageSource) -> Tensor:
    """Return the features of N ``images`` in eval mode, scaled to length 1: float32 [N, D] on the CPU."""
    encoder = encoder.prepared()
    batches = [encoder(unit_pixels(batch)).float().cpu() for batch in images.in_order(512)]
    return F.normalize(torch.cat(batches), dim=1)


class FileLabels:
    """Labels published image by image: arrays ``k2``, ``k10``, ... of an ``.npz`` file.

    With ``index``, arrays longer than its largest entry are in the order of the official split; all others must
    be as long as the training set and in its order.

    Args:
        path: the file; nothing in it is ever unpickled.
        clusters: the wanted k; the file must hold an array for each.
        count: N, the number of training images.
        index: int64 [N], their positions in the official split, if there is one.
        sha256: of the file that is meant; None: of whatever stands there now.

    Raises:
        BenchError: another file than the one that is meant; lists every fault of the file together.
    """

    def __init__(
        self, path: Path, clusters: Sequence[int], *, count: int, index: Tensor | None, sha256: str | None = None
    ) -> None:
        self.classes = tuple(clusters)
        arrays = _read(path, clusters, sha256)
        faults = list(_faults(arrays, clusters, count, index))
        if faults:
            raise BenchError(listed(str(path), faults))
        labels = torch.from_numpy(np.stack([arrays[_name(k)] for k in clusters]).astype(np.int64))
        self._labels = labels[:, index] if index is not None and _is_official(labels.shape[1], index) else labels

    def compute(self, images: ImageSource) -> Tensor:
        """Return the labels of the file."""
        return self._labels


_Arrays = Mapping[str, NDArray[Any]]

_DAMAGE = (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _name(k: int) -> str:
    return f"k{k}"


def _is_official(length: int, index: Tensor) -> bool:
    return length > int(index.max())


def _read(path: Path, clusters: Sequence[int], sha256: str | None) -> _Arrays:
    """Return those of the needed arrays that are present."""
    arrays = {}
    try:
        content = path.read_bytes()
        _refuse_other(path, hashlib.sha256(content).hexdigest(), sha256)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = set(archive.namelist())
            for name in map(_name, clusters):
                if f"{name}.npy" in members:
                    with archive.open(f"{name}.npy") as file:
                        arrays[name] = npy.read_array(file, allow_pickle=False)
    except _DAMAGE as error:
        raise BenchError(
            f"{path}: cannot be read as an .npz file of plain arrays ({error}). Write one with "
            f"np.savez(path, {', '.join(f'{_name(k)}=...' for k in clusters)})."
        ) from error
    return arrays


def _refuse_other(path: Path, found: str, meant: str | None) -> None:
    if meant not in (None, found):
        raise BenchError(
            f"the pseudo-labels in {path} are not those of this run: their SHA-256 is {found}, and the recipe has "
            f"{meant}. Restore the file, or begin another run with the new one."
        )


def _faults(arrays: _Arrays, clusters: Sequence[int], count: int, index: Tensor | None) -> Iterator[str]:
    missing = [_name(k) for k in clusters if _name(k) not in arrays]
    if missing:
        needed = ", ".join(map(_name, clusters))
        yield f"{', '.join(missing)} missing; needed are {needed}, one integer array [N] for each number of clusters"
    for k in clusters:
        if _name(k) in arrays:
            yield from _array_faults(_name(k), arrays[_name(k)], k, count, index)
    lengths = {name: array.size for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        yield f"the arrays differ in length: {', '.join(f'{name} {length}' for name, length in lengths.items())}"


def _array_faults(name: str, array: NDArray[Any], k: int, count: int, index: Tensor | None) -> Iterator[str]:
    if array.ndim != 1:
        yield f"{name} has shape {list(array.shape)}, labels must be [N], one an image"
    elif len(array) != count and not (index is not None and _is_official(len(array), index)):
        split = "" if index is None else f", whose positions in the official split run to {int(index.max())}"
        yield f"{name} holds {len(array)} labels but the training set {count} images{split}"
    if array.dtype.kind not in "iu":
        yield f"{name} is {array.dtype}, labels must be integers 0..{k - 1}: y.astype('int64') if its values are"
    elif array.size and (array.min() < 0 or array.max() >= k):
        yield f"{name} holds labels {array.min()}..{array.max()}, those of {k} clusters are 0..{k - 1}"
