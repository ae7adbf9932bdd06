"""A dataset as plain arrays: the form that ``npz:PATH`` reads and that decoded folders are cached in."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.dataset import Dataset, Split
from bench.errors import BenchError, listed

Array = NDArray[Any]

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("classes", "index_train")
MIN_SIDE = 8
"""Pixels: a ResNet-18 with a CIFAR stem halves the image three times."""


def dataset_from_arrays(
    arrays: Mapping[str, Array],
    *,
    what: str,
    name: str,
    source: str,
    unreadable: Mapping[str, str] | None = None,
) -> Dataset:
    """Return the dataset that ``arrays`` hold.

    Args:
        arrays: ``x_train`` and ``x_test``, uint8 [N, H, W, 3], or grey [N, H, W, 1] or [N, H, W];
            ``y_train`` and ``y_test``, integers [N], 0..K-1; optionally ``classes``, strings [K], all different, and
            ``index_train``, integers [N], positions in the official training split.
        what: the source of the arrays, for the message.
        name: the dataset's short name.
        source: what the user typed.
        unreadable: arrays that are present but could not be read, each with its reason.

    Raises:
        BenchError: lists every fault together.
    """
    faults = [f"{key} cannot be read: {reason}" for key, reason in (unreadable or {}).items()]
    faults += _faults(arrays, present={*arrays, *(unreadable or {})})
    if faults:
        raise BenchError(listed(what, faults))
    index = arrays.get("index_train")
    return Dataset(
        name=name,
        source=source,
        train=_split(arrays["x_train"], arrays["y_train"]),
        test=_split(arrays["x_test"], arrays["y_test"]),
        classes=_classes(arrays),
        index_train=None if index is None else torch.from_numpy(index.astype(np.int64)),
    )


def few(values: Sequence[object]) -> str:
    """Return the first five of ``values`` as text, and how many more there are."""
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def unprintable(names: Iterable[str]) -> list[str]:
    """Return those of the ``names`` of classes that are blank or hold signs which no screen shows, in ASCII."""
    return [ascii(name) for name in names if not name.strip() or not name.isprintable()]


def _split(images: Array, labels: Array) -> Split:
    return Split(_channels_first(images), torch.from_numpy(labels.astype(np.int64)))


def _channels_first(images: Array) -> Tensor:
    """Return [N, H, W], [N, H, W, 1] or [N, H, W, 3] as [N, 3, H, W]: encoders see three channels."""
    tensor = torch.from_numpy(images if images.ndim == 4 else images[..., None])
    return tensor.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous()


def _classes(arrays: Mapping[str, Array]) -> tuple[str, ...]:
    if "classes" in arrays:
        return tuple(str(name) for name in arrays["classes"])
    return tuple(str(label) for label in range(1 + max(arrays["y_train"].max(), arrays["y_test"].max())))


def _faults(arrays: Mapping[str, Array], present: set[str]) -> Iterator[str]:
    missing = [key for key in REQUIRED if key not in present]
    if missing:
        yield (
            f"{', '.join(missing)} missing. Required: {', '.join(REQUIRED)}; "
            f"optional: {', '.join(OPTIONAL)}; present: {', '.join(sorted(present)) or 'none of these'}"
        )
    for split in ("train", "test"):
        images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
        if images is not None:
            yield from _image_faults(f"x_{split}", images)
        if labels is not None:
            yield from _label_faults(f"y_{split}", labels)
        if images is not None and labels is not None and images.shape[:1] != labels.shape[:1]:
            yield f"x_{split} holds {_length(images)} images but y_{split} {_length(labels)} labels"
    yield from _size_faults(arrays)
    yield from label_faults(arrays)
    yield from _index_faults(arrays)


def label_faults(arrays: Mapping[str, Array]) -> list[str]:
    """Return the faults between the labels ``y_train`` and ``y_test``, and with ``classes`` if they are there."""
    return list(_class_faults(arrays)) or list(_untrained_faults(arrays))


def _image_faults(key: str, images: Array) -> Iterator[str]:
    if images.dtype.kind == "f":
        yield (
            f"{key} is {images.dtype}, images must be uint8, 0..255. For values in [0, 1], multiply by 255 "
            "and convert to uint8: (x * 255).round().astype('uint8')"
        )
    elif images.dtype != np.uint8:
        yield f"{key} is {images.dtype}, images must be uint8, 0..255: x.astype('uint8') if its values are"
    if not _is_images(images):
        channels_first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = ". Channels come last: x.transpose(0, 2, 3, 1)" if channels_first else ""
        allowed = "[N, H, W, 3], or grey [N, H, W, 1] or [N, H, W]"
        yield f"{key} has shape {_shape(images)}, allowed: {allowed}{hint}"
    elif len(images) == 0:
        yield f"{key} is empty, but each split needs at least one image"
    elif min(images.shape[1:3]) < MIN_SIDE:
        yield f"{key} holds {_size(images)} images, they must be at least {MIN_SIDE}x{MIN_SIDE}: enlarge them"


def _label_faults(key: str, labels: Array) -> Iterator[str]:
    if labels.ndim == 2 and _is_one_hot(labels):
        yield f"{key} has shape {_shape(labels)} and is one-hot, labels must be [N], one an image: y.argmax(1)"
        return
    if labels.dtype.kind not in "iu":
        yield f"{key} is {labels.dtype}, labels must be integers 0..K-1: {_as_integers(labels)}"
    if labels.ndim != 1:
        hint = ": y.squeeze(1)" if labels.ndim == 2 and labels.shape[1] == 1 else ""
        yield f"{key} has shape {_shape(labels)}, labels must be [N], one an image{hint}"


def _is_one_hot(labels: Array) -> bool:
    if labels.dtype.kind not in "biuf" or labels.shape[1] < 2:
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all())


def _as_integers(labels: Array) -> str:
    """Return how to make integers of ``labels``, or why it cannot be done."""
    if labels.dtype.kind not in "bf":
        return "number the values of both splits together, np.unique([*y_train, *y_test], return_inverse=True)[1]"
    unknown = labels[~np.isfinite(labels)]
    if unknown.size:
        return f"{unknown.size} of {labels.size} are {unknown[0]}; leave those images out, or give them their classes"
    broken = labels[labels != np.floor(labels)] if labels.dtype.kind == "f" else labels[:0]
    if broken.size:
        return f"{broken.size} of {labels.size} are fractions, such as {broken[0]:g}, which are no classes"
    return "y.astype('int64')"


def _size_faults(arrays: Mapping[str, Array]) -> Iterator[str]:
    sizes = [_size(arrays[key]) for key in ("x_train", "x_test") if key in arrays and _is_images(arrays[key])]
    if len(set(sizes)) > 1:
        yield f"x_train holds {sizes[0]} images but x_test {sizes[1]} images: resize one of them"


def _class_faults(arrays: Mapping[str, Array]) -> Iterator[str]:
    """Yield the faults between labels and classes, for arrays that are valid labels."""
    labels = {key: arrays[key] for key in ("y_train", "y_test") if key in arrays}
    labels = {key: y for key, y in labels.items() if y.dtype.kind in "iu" and y.size}
    for key, y in labels.items():
        if y.min() < 0:
            yield f"{key} holds {y.min()}, labels run from 0"
    names = arrays.get("classes")
    if names is None:
        yield from _numbering_faults(labels)
    elif names.ndim != 1 or names.dtype.kind != "U":
        found = f"{names.dtype} {_shape(names)}"
        yield f"classes is {found}, class names must be strings [K]: np.array([...], dtype=str)"
    else:
        for key, y in labels.items():
            if y.max() >= len(names):
                yield f"{key} holds {y.max()}, labels of {len(names)} classes run to {len(names) - 1}"
        if unshown := unprintable(names.tolist()):
            yield f"classes holds {few(unshown)}, which no table can show. Give each class a name of printable signs"
        if repeated := [name for name, count in Counter(names.tolist()).items() if count > 1]:
            yield f"classes holds a name more than once: {few(repeated)}. Give each class a name of its own"
    if "y_train" in labels and len(np.unique(labels["y_train"])) < 2:
        yield "y_train holds one class only, at least 2 are needed"


def _untrained_faults(arrays: Mapping[str, Array]) -> Iterator[str]:
    train, test = arrays.get("y_train"), arrays.get("y_test")
    if train is None or test is None or not (train.dtype.kind in "iu" and test.dtype.kind in "iu" and test.size):
        return
    untrained = np.setdiff1d(test, train)
    if untrained.size:
        count = int(np.isin(test, untrained).sum())
        yield (
            f"y_test holds {count} labels that no training image has: {few(untrained.tolist())}. Both splits need "
            "the same classes"
        )


def _numbering_faults(labels: Mapping[str, Array]) -> Iterator[str]:
    """Yield a fault if labels skip numbers, as years or ImageNet ids do, and no ``classes`` explain it."""
    seen = {label for y in labels.values() for label in np.unique(y).tolist() if label >= 0}
    if len(labels) == 2 and seen and len(seen) <= max(seen):
        yield (
            f"the labels run to {max(seen)} but only {len(seen)} of them occur: renumber them 0..K-1, "
            "or name every class in `classes`"
        )


def _index_faults(arrays: Mapping[str, Array]) -> Iterator[str]:
    index, images = arrays.get("index_train"), arrays.get("x_train")
    if index is None:
        return
    if index.ndim != 1 or index.dtype.kind not in "iu":
        yield f"index_train is {index.dtype} {_shape(index)}, positions must be integers [N]"
    elif images is not None and len(index) != _length(images):
        yield f"index_train holds {len(index)} positions but x_train {_length(images)} images"
    elif index.size and (index.min() < 0 or len(np.unique(index)) < len(index)):
        yield "index_train holds negative or repeated positions, but each image has its own position, from 0"


def _is_images(images: Array) -> bool:
    return images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))


def _length(array: Array) -> int:
    return len(array) if array.ndim else 0


def _size(images: Array) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


def _shape(array: Array) -> str:
    return str(list(array.shape))
