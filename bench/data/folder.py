"""``folder:PATH``: the user's own images as files, ``{train,test}/<class>/<image>``."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.arrays import Array, few, unprintable
from bench.data.decode import DECODING, EXTENSIONS, Encoded
from bench.data.listing import ListedSplit, Listing, natural, suffix
from bench.errors import BenchError, listed

_FORM = "The form is {train,test}/<class>/<image>, with images of " + ", ".join(EXTENSIONS) + "."
_OTHER_WORDS = {"train": ("training", "Train"), "test": ("val", "valid", "validation", "testing", "Test", "Val")}
_MAX_POSITION_DIGITS = 18  # a longer number is a time stamp, and does not fit into int64


@dataclass(frozen=True)
class _Files:
    """The files of one split, in order: by class name, then by the numbers in the file's name.

    Args:
        classes: every class folder, sorted; also those without images.
        images: the files.
        labels: one per file, position in ``classes``.
        stamps: one per file, changes when the file changes.
        skipped: suffixes of the files that are not images, one per file.
        dangling: symbolic links to nothing, each from the split on.
    """

    classes: tuple[str, ...]
    images: list[Encoded]
    labels: list[int]
    stamps: list[tuple[int, int, int]]
    skipped: list[str]
    dangling: list[str]


def list_folder(root: Path, *, name: str, source: str) -> Listing:
    """Return the images in the folder ``root``; other files are counted.

    Where every training file has a different number as its name, that number is its position in the official split.

    Raises:
        BenchError: the folder, a split, a class or an image is missing or unreadable.
    """
    try:
        train, test = _list(root / "train"), _list(root / "test")
    except OSError as error:
        raise BenchError(f"cannot read {error.filename or root}: {error.strerror}. {_hint(root)}{_FORM}") from error
    if faults := _faults(train, test):
        raise BenchError(listed(str(root), faults))
    return Listing(
        what=str(root),
        name=name,
        source=source,
        classes=train.classes,
        train=ListedSplit(train.images, train.labels),
        test=ListedSplit(test.images, test.labels),
        fingerprint=_fingerprint(root, train, test),
        skipped=Counter(train.skipped + test.skipped),
        index_train=_positions(train.images),
    )


def _hint(root: Path) -> str:
    """Return what to rename, or which folder to name instead, where that can be seen; else an empty text."""
    if all((root.parent / split).is_dir() for split in _OTHER_WORDS):
        return f"{root.parent} holds train/ and test/: name that folder. "
    for split, words in _OTHER_WORDS.items():
        for word in words:
            if not (root / split).exists() and (root / word).is_dir():
                return f"There is {word}/: rename it to {split}/ if these are the {split} images. "
    return ""


def _list(split: Path) -> _Files:
    """Return the images below ``split``; raises OSError where a folder is missing or unreadable."""
    visible = _visible(split)
    classes = tuple(sorted(e.name for e in visible if e.is_dir()))
    listing = _Files(classes, [], [], [], [_suffix(e) for e in visible if not e.is_dir()], _dangling(visible, split))
    for label, name in enumerate(classes):
        visible = _visible(split / name)
        listing.dangling.extend(_dangling(visible, split))
        images = {e for e in visible if _is_image(e)}
        listing.skipped.extend(_suffix(e) for e in visible if e not in images)
        for entry in sorted(images, key=lambda e: natural(e.name)):
            stat = entry.stat()
            listing.images.append(Encoded(entry.path, stamp=(stat.st_size, stat.st_mtime_ns)))
            listing.labels.append(label)
            listing.stamps.append((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return listing


def _visible(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return [e for e in entries if not e.name.startswith(".")]


def _dangling(entries: list["os.DirEntry[str]"], split: Path) -> list[str]:
    """Return the links to nothing among ``entries``, which may be images or classes of a disk that is not mounted."""
    return [os.path.relpath(e.path, split.parent) for e in entries if e.is_symlink() and not os.path.exists(e.path)]


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def _suffix(entry: "os.DirEntry[str]") -> str:
    return "folder" if entry.is_dir() else suffix(entry.name)


def _faults(train: _Files, test: _Files) -> list[str]:
    faults = []
    if dangling := sorted(train.dangling + test.dangling):
        faults.append(
            f"symbolic links that lead to nothing: {few(dangling)}. Mount the disk that they lead to, or remove them."
        )
    if len(train.classes) < 2:
        faults.append(f"train/ holds {len(train.classes)} class folders, at least 2 are needed. {_FORM}")
    for here, there, split, other in ((train, test, "train", "test"), (test, train, "test", "train")):
        if only := sorted(set(here.classes) - set(there.classes)):
            faults.append(f"{split}/ has classes that {other}/ lacks: {few(only)}. Both need the same class folders.")
        if unshown := unprintable(here.classes):
            faults.append(f"{split}/ has classes that no table can show: {few(unshown)}. Rename these folders.")
        labels = set(here.labels)
        if empty := [c for i, c in enumerate(here.classes) if i not in labels]:
            faults.append(f"{split}/ has classes without an image: {few(empty)}. {_FORM}")
    return faults


def _fingerprint(root: Path, *listings: _Files) -> str:
    """Return a digest that changes with any file.

    It covers the folder's path and the time of each file's last change of any kind, because two unpacked archives may
    agree in names, sizes and modification times and differ only in these.
    """
    digest = hashlib.sha256(os.fsencode(root.resolve()) + DECODING)
    for listing in listings:
        for image, stamp in zip(listing.images, listing.stamps, strict=True):
            digest.update(b"\0" + os.fsencode(os.path.relpath(image.path, root)) + repr(stamp).encode())
    return digest.hexdigest()[:16]


def _positions(images: list[Encoded]) -> Array | None:
    """Return the files' names as numbers, or None if one is not a number or two are equal."""
    stems = [os.path.splitext(os.path.basename(image.path))[0] for image in images]
    if not all(stem.isdecimal() and len(stem) <= _MAX_POSITION_DIGITS for stem in stems):
        return None
    positions = np.array([int(stem) for stem in stems], np.int64)
    return positions if len(np.unique(positions)) == len(positions) else None
