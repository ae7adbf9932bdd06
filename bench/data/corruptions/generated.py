"""Corrupted test images made here once per dataset, and kept in the form of the published files."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy

from bench import __version__, rng
from bench.data.corruptions.corruption import PARAMETRISATION, VERSION, corrupt
from bench.data.corruptions.files import CorruptedImages, open_array, pixels_digest, stamps_in
from bench.data.dataset import Dataset
from bench.errors import BenchError
from bench.files import inside, read_json, write_bytes, write_json, write_stream
from bench.monitor import Monitor
from bench.recipe import SEVERITIES, canonical_digest

_CHUNK = 500
"""Images that share a generator; the pixels depend on it."""


def generated_images(dataset: Dataset, names: Sequence[str], *, data_dir: Path, monitor: Monitor) -> CorruptedImages:
    """Return corrupted copies of the dataset's test split; missing ones are made.

    The draws depend only on the data, so that every method and seed is evaluated on the same images.

    Args:
        data_dir: they are kept in its ``cache/corruptions``.
        monitor: receives progress; a requested stop takes effect within a few hundred images.

    Raises:
        BenchError: the folder cannot be written, or the disk is full.
        InterruptedRunError: a stop was requested; the finished corruptions are kept.
    """
    folder = _folder(dataset, data_dir)
    stamps = stamps_in(folder, names)
    digests = {name: digest for name in names if (digest := _kept(folder, name, monitor))}
    missing = [name for name in names if name not in digests]
    if missing:
        write_bytes(folder / "labels.npy", _labels(dataset))
        cell = len(SEVERITIES) * len(dataset.test)
        monitor.begin("corrupted images", len(names) * cell, done=len(digests) * cell)
        for name in missing:
            digests[name] = _make(folder, name, dataset, monitor)
        monitor.end()
    package = ("ssl-robustness-bench", __version__)
    return CorruptedImages(folder, len(dataset.test), digests, PARAMETRISATION, package, stamps)


def ungenerated(dataset: Dataset, names: Sequence[str], data_dir: Path) -> list[str]:
    """Return those of the corruptions called ``names`` that :func:`generated_images` would have to make."""
    return [name for name in names if not _note(_folder(dataset, data_dir), name).exists()]


def _folder(dataset: Dataset, data_dir: Path) -> Path:
    key = canonical_digest([dataset.sha256, VERSION])[:16]
    return inside(data_dir / "cache" / "corruptions", f"{dataset.name}-{key}")


def _note(folder: Path, name: str) -> Path:
    """Return the path of the file with a digest, which marks a corruption as complete."""
    return folder / f"{name}.json"


def _kept(folder: Path, name: str, monitor: Monitor) -> str | None:
    """Return the digest of a corruption that was made before, or None if it is absent or damaged (with a note)."""
    if not _note(folder, name).exists():
        return None
    with suppress(BenchError, KeyError, TypeError):
        digest = pixels_digest(name, open_array(folder / f"{name}.npy"))
        if digest == read_json(_note(folder, name))["sha256"]:
            return digest
    monitor.note(f"{folder / f'{name}.npy'} is damaged or missing; it is made again.")
    return None


def _make(folder: Path, name: str, dataset: Dataset, monitor: Monitor) -> str:
    """Write one corruption, then its digest, which marks it as complete; return the digest."""
    test = dataset.test.images
    count, channels, height, width = test.shape
    shape = (len(SEVERITIES) * count, height, width, channels)
    digest = hashlib.sha256(f"{name}\n".encode())

    def parts() -> Iterator[bytes]:
        yield _header(shape)
        for pixels in _chunks(name, dataset, monitor):
            digest.update(pixels)
            yield pixels

    write_stream(folder / f"{name}.npy", parts())
    write_json(_note(folder, name), {"sha256": digest.hexdigest()})
    return digest.hexdigest()


def _chunks(name: str, dataset: Dataset, monitor: Monitor) -> Iterator[bytes]:
    images = dataset.test.images
    for severity in SEVERITIES:
        for first in range(0, len(images), _CHUNK):
            generator = rng.generator(0, "corruption", dataset.sha256, name, severity, first)
            corrupted = corrupt(images[first : first + _CHUNK], name, severity, generator=generator)
            yield corrupted.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
            monitor.advance(len(corrupted), f"{name}, severity {severity}")
            monitor.check()


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _labels(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    np.save(file, torch.tile(dataset.test.labels, (len(SEVERITIES),)).numpy())
    return file.getvalue()
