"""Loads the dataset that the user named."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.data import folder, npz, shards
from bench.data.dataset import Dataset
from bench.data.inventory import with_inventory
from bench.data.limits import DataIn
from bench.errors import BenchError, unknown
from bench.recipe.fields import RESERVED
from bench.registry import Registry


@dataclass(frozen=True)
class Source:
    """A named dataset before it is loaded: its line in a listing, and how to get it.

    Args:
        summary: one line.
        num_classes: how many classes.
        image_shape: (channels, height, width).
        train: number of training images.
        test: number of test images.
        origin: where the data come from (a home page, a package).
        load: reads the data, or downloads them, given the data directory.
        pretrain: number of images to pre-train on, if they are not those of ``train``.
    """

    summary: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train: int
    test: int
    origin: str
    load: Callable[[Path], Dataset]
    pretrain: int | None = None


DATASETS: Registry[Source] = Registry("dataset", group="bench.datasets")
DATASETS.add("digits", "bench.data.digits:DIGITS")
DATASETS.add("cifar10", "bench.data.torchvision_sets:CIFAR10")
DATASETS.add("cifar100", "bench.data.torchvision_sets:CIFAR100")
DATASETS.add("stl10", "bench.data.torchvision_sets:STL10")

OWN_FORMS = {
    "npz": "npz:PATH, one file of arrays x_train, y_train, x_test, y_test",
    "folder": "folder:PATH, a folder of images {train,test}/<class>/<image>",
    "webdataset": "webdataset:PATH, tar files of images KEY.jpg and labels KEY.cls, train and test",
}
"""How to name your own data, for messages and listings."""


def load_dataset(source: str, data_dir: Path, data_in: DataIn = "auto") -> Dataset:
    """Return the dataset that ``source`` names.

    Args:
        source: a name out of DATASETS, ``npz:PATH``, ``folder:PATH`` or ``webdataset:PATH``.
        data_dir: where data are downloaded to, and where the cache of folders is.
        data_in: where images in files are during a run; auto: in memory if they take at most a third of what is
            available, otherwise on disk. All other data are in memory.

    Raises:
        BenchError: the name is unknown, or the data are missing, damaged, black, not in the documented form, or not of
            a kind that can stay on disk.
    """
    return with_inventory(_loaded(source, data_dir, data_in))


def check_dataset(source: str) -> None:
    """Raise BenchError if ``source`` is no name of a dataset; nothing is read or downloaded."""
    form, colon, _ = source.partition(":")
    if not (colon and form in OWN_FORMS) and source not in DATASETS:
        forms = [f"{form}:PATH" for form in OWN_FORMS]
        raise unknown("dataset", source, [*DATASETS, *forms], "`bench datasets` lists them.")


def _loaded(source: str, data_dir: Path, data_in: DataIn) -> Dataset:
    check_dataset(source)
    form, _, path = source.partition(":")
    if data_in == "disk" and form not in ("folder", "webdataset"):
        raise BenchError(
            f"--data-in disk is for images in files, and {source} is always read into memory. Leave it out, or type "
            "folder:PATH or webdataset:PATH"
        )
    if source in DATASETS:
        return DATASETS.get(source).load(data_dir)
    return _own(source, form, path, data_dir, data_in)


def _own(source: str, form: str, given: str, data_dir: Path, data_in: DataIn) -> Dataset:
    if not given:
        raise BenchError(f"{source!r} names no path. Type {OWN_FORMS[form]}.")
    path = Path(given).expanduser()
    if form == "npz":
        return npz.load(path, name=_own_name(path.stem, form), source=source)
    if form == "webdataset":
        home = path if path.is_dir() else path.parent
        name = _own_name(home.resolve().name, form)
        return shards.list_shards(str(path), name=name, source=source, data_dir=data_dir).dataset(data_dir, data_in)
    name = _own_name(path.resolve().name, form)
    return folder.list_folder(path, name=name, source=source).dataset(data_dir, data_in)


def _own_name(stem: str, form: str) -> str:
    """Return a name for folders and tables that cannot be mistaken for one of the named datasets."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem[:80]).strip("-.") or "own"
    known = {_letters(dataset) for dataset in DATASETS} | set(RESERVED)
    return f"{name}-{form}" if _letters(name) in known else name


def _letters(name: str) -> str:
    """Return ``name`` in a form in which "CIFAR-10" and "cifar10" are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
