"""Loads the dataset that the user named."""

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.data import folder, npz, shards
from bench.data.arrays import MIN_SIDE
from bench.data.dataset import Dataset
from bench.data.inventory import with_inventory
from bench.data.limits import DataIn
from bench.data.listing import Listing
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
"""How to name your own data, for messages and listings. ``folder@224:PATH`` resizes the images, and shards take the
same."""

_OWN = re.compile(rf"(?P<form>{'|'.join(OWN_FORMS)})(@(?P<side>\d+))?:(?P<path>.*)", re.DOTALL)
_MAX_SIDE = 2048
_SIDE_DIGITS = 9
"""More are out of range, and of thousands Python makes no number."""


def load_dataset(source: str, data_dir: Path, data_in: DataIn = "auto") -> Dataset:
    """Return the dataset that ``source`` names.

    Own data are named after their file or folder, in ASCII; where letters are lost, as of 数据.npz, the name ends in
    digits of the data's SHA-256, so that no other data have it.

    Args:
        source: a name out of DATASETS, ``npz:PATH``, ``folder:PATH`` or ``webdataset:PATH``; of the last two also
            ``folder@224:PATH``, which resizes each image so that its shorter side is 8/7 of 224, and cuts out the
            centre.
        data_dir: where data are downloaded to, and where the cache of folders is.
        data_in: where images in files are during a run; auto: in memory if they take at most a third of what is
            available, otherwise on disk. All other data are in memory.

    Raises:
        BenchError: the name is unknown, or the data are missing, damaged, black, not in the documented form, or not of
            a kind that can stay on disk.
    """
    dataset = with_inventory(_loaded(source, data_dir, data_in))
    own = _OWN.fullmatch(source)
    if own is None or _plain(_stem(own)).isascii():
        return dataset
    return replace(dataset, name=f"{dataset.name}-{dataset.sha256[:6]}")


def recorded_name(source: str) -> str:
    """Return the name that records have for the data that ``source`` names, which are not read.

    Raises:
        BenchError: own data whose name ends in digits of their SHA-256.
    """
    own = _OWN.fullmatch(source)
    if own is None or not own["path"]:
        return source
    name = _own_name(own)
    if not _plain(_stem(own)).isascii():
        raise BenchError(
            f"the name of {source} in records is {name}- and six digits of its SHA-256. Type that name; "
            "`bench runs` lists it."
        )
    return name


def same_source(first: str, second: str) -> bool:
    """Return whether both name the same data: the same name, or the same place in the same form, however typed."""
    return _placed(first) == _placed(second)


def _placed(source: str) -> tuple[str, ...]:
    own = _OWN.fullmatch(source)
    if own is None:
        return (source,)
    return own["form"], own["side"] or "", str(Path(own["path"]).expanduser().resolve())


def typed_source(name: str) -> str:
    """Return what a user types for the data called ``name``: npz:PATH for own data, whose place is not known."""
    return name if name in DATASETS else "npz:PATH"


def check_dataset(source: str) -> None:
    """Raise BenchError if ``source`` is no name of a dataset; nothing is read or downloaded."""
    if re.search(r":\w+://", source):
        raise BenchError(f"{source}: own data are files, not addresses. Download them, and name their path.")
    if source not in DATASETS and not _OWN.fullmatch(source):
        if os.path.exists(source):
            raise BenchError(f"{source!r} is {_kind(source)}, not the name of a dataset. Type {_form_at(source)}")
        forms = [*(f"{form}:PATH" for form in OWN_FORMS), *(f"{form}@SIZE:PATH" for form in OWN_FORMS if form != "npz")]
        raise unknown("dataset", source, [*DATASETS, *forms], "`bench datasets` lists them.")


def _refuse_other_form(form: str, path: str) -> None:
    """Raise BenchError if there is a file where ``form`` has a folder, or the other way round."""
    place = Path(path).expanduser()
    other = {"npz": place.is_dir(), "folder": place.is_file(), "webdataset": place.suffix == ".npz"}[form]
    if other and place.exists():
        raise BenchError(f"{path} is {_kind(place)}, which {form}: does not read. Type {_form_at(path)}")


def _kind(path: str | Path) -> str:
    return "a folder" if os.path.isdir(path) else "a file"


def _form_at(path: str) -> str:
    """Return how to name the data at ``path``, and what they are."""
    form = "folder" if Path(path).expanduser().is_dir() else "webdataset" if path.endswith(".tar") else "npz"
    return OWN_FORMS[form].replace("PATH", path)


def _loaded(source: str, data_dir: Path, data_in: DataIn) -> Dataset:
    check_dataset(source)
    own = _OWN.fullmatch(source)
    in_files = own is not None and own["form"] != "npz"
    if data_in == "disk" and not in_files:
        raise BenchError(
            f"--data-in disk is for images in files, and {source} is always read into memory. Leave it out, or type "
            "folder:PATH or webdataset:PATH"
        )
    if own is None:
        return DATASETS.get(source).load(data_dir)
    form, path = own["form"], Path(own["path"]).expanduser()
    if not own["path"]:
        raise BenchError(f"{source!r} names no path. Type {OWN_FORMS[form]}.")
    _refuse_other_form(form, own["path"])
    name = _own_name(own)
    if in_files:
        return _listed(form, path, name, _side(source, own["side"]), source, data_dir).dataset(data_dir, data_in)
    if own["side"]:
        raise BenchError(f"{source}: arrays have one size. Type npz:{path}, with the images resized before.")
    return npz.load(path, name=name, source=source)


def _listed(form: str, path: Path, name: str, side: int | None, source: str, data_dir: Path) -> Listing:
    """Return the images of a folder or of shards."""
    if form == "folder":
        listing = folder.list_folder(path, name=name, source=source)
    else:
        listing = shards.list_shards(str(path), name=name, source=source, data_dir=data_dir)
    return replace(listing, side=side)


def _side(source: str, text: str | None) -> int | None:
    """Return the side that images are resized to; raises BenchError if it is out of range."""
    if text is None:
        return None
    if len(text) <= _SIDE_DIGITS and MIN_SIDE <= int(text) <= _MAX_SIDE:
        return int(text)
    raise BenchError(f"{source}: images of side {text}; choose one from {MIN_SIDE} to {_MAX_SIDE}, such as @224.")


def _stem(own: re.Match[str]) -> str:
    """Return what own data are named after: their file without its ending, or the folder that they are in."""
    path = Path(own["path"]).expanduser()
    if own["form"] == "npz":
        return path.stem
    return (path if own["form"] == "folder" or path.is_dir() else path.parent).resolve().name


def _plain(stem: str) -> str:
    """Return ``stem`` without accents: "données" as "donnees"; letters without an ASCII form stay what they are."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(sign))


def _own_name(own: re.Match[str]) -> str:
    """Return a name for folders and tables that cannot be mistaken for one of the named datasets.

    Data that are resized to another side get another name.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _plain(_stem(own))[:80]).strip("-.") or "own"
    known = {_letters(dataset) for dataset in DATASETS} | set(RESERVED)
    name = f"{name}-{own['form']}" if _letters(name) in known else name
    return f"{name}-{own['side'].lstrip('0')}" if own["side"] else name


def _letters(name: str) -> str:
    """Return ``name`` in a form in which "CIFAR-10" and "cifar10" are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
