"""``folder:PATH``: the user's own images as files, ``{train,test}/<class>/<image>``."""

import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from bench.data import npz
from bench.data.arrays import Array, dataset_from_arrays, few
from bench.data.dataset import Dataset, Split
from bench.data.decode import EXTENSIONS, Decoder, Decoding, Encoded
from bench.data.limits import DataIn, check_size, stay_on_disk
from bench.data.stored import StoredImages
from bench.data.survey import surveyed
from bench.errors import BenchError, listed
from bench.record import Inventory

_FORM = "The form is {train,test}/<class>/<image>, with images of " + ", ".join(EXTENSIONS) + "."
_DECODING = b"upright, on white"  # to be changed when the same files give other pixels, so that no older cache is used
_CONVERTED = "converted"
_OTHER_WORDS = {"train": ("training", "Train"), "test": ("val", "valid", "validation", "testing", "Test", "Val")}
_MAX_POSITION_DIGITS = 18  # a longer number is a time stamp, and does not fit into int64


@dataclass(frozen=True)
class _Listing:
    """The files of one split, in order: by class name, then by the numbers in the file's name.

    Args:
        classes: every class folder, sorted; also those without images.
        images: the files.
        labels: one per file, position in ``classes``.
        stamps: one per file, changes when the file changes.
        skipped: suffixes of the files that are not images, one per file.
    """

    classes: tuple[str, ...]
    images: list[Encoded]
    labels: list[int]
    stamps: list[tuple[int, int, int]]
    skipped: list[str]


def load(root: Path, *, name: str, source: str, data_dir: Path, data_in: DataIn = "auto") -> Dataset:
    """Return the dataset in the folder ``root``; other files are ignored and counted.

    In memory, decoded pixels are kept in ``data_dir/cache``, and reused until a file changes. Images that stay on disk
    are read once, and decoded when they are used; what they say together is kept there. Where every training file has a
    different number as its name, that number is its position in the official split.

    Raises:
        BenchError: the folder, a split, a class or an image is missing, unreadable or differs from the others.
    """
    try:
        train, test = _list(root / "train"), _list(root / "test")
    except OSError as error:
        raise BenchError(f"cannot read {error.filename or root}: {error.strerror}. {_hint(root)}{_FORM}") from error
    if faults := _faults(train, test):
        raise BenchError(listed(str(root), faults))
    cache = data_dir / "cache" / f"{name}-{_fingerprint(root, train, test)}.npz"
    inventory = Inventory(skipped=dict(sorted(Counter(train.skipped + test.skipped).items())))
    decoder = Decoder.of(train.images[0])
    count = len(train.images) + len(test.images)
    size = count * math.prod(decoder.shape)
    if stay_on_disk(size, data_in):
        return surveyed(_stored(train, test, decoder, inventory, name, source), cache.with_suffix(".json"))
    with suppress(BenchError, ValueError, KeyError):  # An absent or damaged cache is made again.
        kept, unreadable = npz.read_arrays(cache, also=(_CONVERTED,))
        inventory = inventory.model_copy(update={"converted": json.loads(str(kept[_CONVERTED]))})
        cached = dataset_from_arrays(kept, what=str(cache), name=name, source=source, unreadable=unreadable)
        return replace(cached, inventory=inventory)
    check_size(f"{count} images of {decoder.size[0]}x{decoder.size[1]}", size)
    arrays, converted = _arrays(train, test, decoder)
    _keep(cache, {**arrays, _CONVERTED: np.array(json.dumps(converted))})
    dataset = dataset_from_arrays(arrays, what=str(root), name=name, source=source)
    return replace(dataset, inventory=inventory.model_copy(update={"converted": converted}))


def _stored(train: _Listing, test: _Listing, decoder: Decoder, inventory: Inventory, name: str, source: str) -> Dataset:
    """Return the dataset of images that stay on disk."""
    index = _positions(train.images)
    return Dataset(
        name=name,
        source=source,
        train=Split(StoredImages(train.images, decoder), torch.tensor(train.labels)),
        test=Split(StoredImages(test.images, decoder), torch.tensor(test.labels)),
        classes=train.classes,
        index_train=None if index is None else torch.from_numpy(index),
        inventory=inventory,
    )


def _hint(root: Path) -> str:
    """Return what to rename where a folder has another word for ``train`` or ``test``; else an empty text."""
    for split, words in _OTHER_WORDS.items():
        for word in words:
            if not (root / split).exists() and (root / word).is_dir():
                return f"There is {word}/: rename it to {split}/ if these are the {split} images. "
    return ""


def _list(split: Path) -> _Listing:
    """Return the images below ``split``; raises OSError where a folder is missing or unreadable."""
    with os.scandir(split) as entries:
        visible = [e for e in entries if not e.name.startswith(".")]
    classes = tuple(sorted(e.name for e in visible if e.is_dir()))
    listing = _Listing(classes, [], [], [], [_suffix(e) for e in visible if not e.is_dir()])
    for label, name in enumerate(classes):
        with os.scandir(split / name) as entries:
            visible = [e for e in entries if not e.name.startswith(".")]
        images = [e for e in visible if _is_image(e)]
        listing.skipped.extend(_suffix(e) for e in visible if e not in set(images))
        for entry in sorted(images, key=lambda e: _natural(e.name)):
            stat = entry.stat()
            listing.images.append(Encoded(entry.path))
            listing.labels.append(label)
            listing.stamps.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return listing


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def _suffix(entry: "os.DirEntry[str]") -> str:
    suffix = os.path.splitext(entry.name)[1].lower()
    return "folder" if entry.is_dir() else suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "other"


def _natural(name: str) -> tuple[list[str | int], str]:
    """Return the sorting key that puts 2.png before 10.png; the name itself orders 1.png and 01.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _faults(train: _Listing, test: _Listing) -> list[str]:
    faults = []
    if len(train.classes) < 2:
        faults.append(f"train/ holds {len(train.classes)} class folders, at least 2 are needed. {_FORM}")
    for here, there, split, other in ((train, test, "train", "test"), (test, train, "test", "train")):
        if only := sorted(set(here.classes) - set(there.classes)):
            faults.append(f"{split}/ has classes that {other}/ lacks: {few(only)}. Both need the same class folders.")
        if empty := [c for i, c in enumerate(here.classes) if i not in set(here.labels)]:
            faults.append(f"{split}/ has classes without an image: {few(empty)}. {_FORM}")
    return faults


def _fingerprint(root: Path, *listings: _Listing) -> str:
    """Return a digest that changes with any file.

    It covers the folder's path and the time of each file's last change of any kind, because two unpacked archives may
    agree in names, sizes and modification times and differ only in these.
    """
    digest = hashlib.sha256(os.fsencode(root.resolve()) + _DECODING)
    for listing in listings:
        for image, stamp in zip(listing.images, listing.stamps, strict=True):
            digest.update(b"\0" + os.fsencode(os.path.relpath(image.path, root)) + repr(stamp).encode())
    return digest.hexdigest()[:16]


def _arrays(train: _Listing, test: _Listing, decoder: Decoder) -> tuple[dict[str, Array], dict[str, int]]:
    decoding = Decoding(decoder)
    pixels = decoding.read(train.images + test.images)
    converted = decoding.converted()
    arrays: dict[str, Array] = {
        "x_train": pixels[: len(train.images)],
        "y_train": np.array(train.labels, np.int64),
        "x_test": pixels[len(train.images) :],
        "y_test": np.array(test.labels, np.int64),
        "classes": np.array(train.classes, dtype=str),
    }
    positions = _positions(train.images)
    return (arrays if positions is None else arrays | {"index_train": positions}), converted


def _positions(images: list[Encoded]) -> Array | None:
    """Return the files' names as numbers, or None if one is not a number or two are equal."""
    stems = [os.path.splitext(os.path.basename(image.path))[0] for image in images]
    if not all(stem.isdecimal() and len(stem) <= _MAX_POSITION_DIGITS for stem in stems):
        return None
    positions = np.array([int(stem) for stem in stems], np.int64)
    return positions if len(np.unique(positions)) == len(positions) else None


def _keep(cache: Path, arrays: Mapping[str, Array]) -> None:
    """Write ``arrays`` to ``cache`` completely or not at all; warn if the disk refuses."""
    partial = cache.with_name(f".{cache.name}.{uuid4().hex}.partial")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, cache)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"decoded images cannot be cached in {cache.parent}: {error}", stacklevel=2)
