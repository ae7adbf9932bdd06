"""``webdataset:PATH``: the user's own images in tar files, named and grouped as the package webdataset does."""

import glob
import hashlib
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.arrays import few, label_faults, unprintable
from bench.data.decode import DECODING, EXTENSIONS, Encoded, UnfitError, counted_faults
from bench.data.kept import keep, kept
from bench.data.listing import ListedSplit, Listing, natural, suffix
from bench.errors import BenchError, listed
from bench.recipe import Settings
from bench.recipe.fields import Count

_FORM = (
    "The form is a folder of uncompressed tar files with train, and test or val, in their names, or a pattern such as "
    "'shards/{train,val}-*.tar'; in them KEY.jpg (or another of " + ", ".join(EXTENSIONS) + ") and KEY.cls."
)
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
_CLASSES = ("classes.txt", "classnames.txt")
"""A file beside the shards that names the classes, one a line."""
_MOST_CLASSES = 100_000
_BLOCK = 512
"""Bytes: what tar files consist of. The last ones are zeros."""


class _Shard(Settings):
    """The samples of one tar file, in order."""

    members: list[str]
    """Names of the images."""
    first: list[Count]
    length: list[Count]
    labels: list[Count]
    skipped: dict[str, Count]


class _Index(Settings):
    """The samples of all shards: a file in the cache, since reading their headers takes minutes for a million."""

    shards: list[_Shard]


def list_shards(given: str, *, name: str, source: str, data_dir: Path) -> Listing:
    """Return the images in the shards that ``given`` names: a folder, or a pattern with braces and wildcards.

    Where they are in the shards is read once, and kept in ``data_dir/cache`` until a shard changes. The order is that
    of the shards' names, and in a shard that of its members.

    Raises:
        BenchError: the package is missing, or a split, a label or an image is, or a shard is damaged.
    """
    paths = _found(given)
    home = Path(given) if Path(given).is_dir() else Path(os.path.commonpath([path.absolute().parent for path in paths]))
    splits, left = _by_split(paths, home)
    listing_file = next((home / name for name in _CLASSES if (home / name).is_file()), None)
    names, used = _class_names(listing_file) if listing_file else None, [*splits["train"], *splits["test"]]
    stamps = [_stamp(path) for path in used]
    key = hashlib.sha256(DECODING + repr((list(map(str, used)), stamps, len(splits["train"]), names)).encode())
    fingerprint = key.hexdigest()[:16]
    shards = _index(used, data_dir / "cache" / f"{name}-{fingerprint}.index.json").shards
    places = list(zip(used, stamps, shards, strict=True))
    train, test = _listed(places[: len(splits["train"])]), _listed(places[len(splits["train"]) :])
    if faults := _label_faults(train.labels, test.labels, names):
        raise BenchError(listed(f"{given} with {listing_file.name}" if listing_file else given, faults))
    classes = names or tuple(str(label) for label in range(1 + max(train.labels + test.labels)))
    skipped = sum((Counter(shard.skipped) for shard in shards), Counter({".tar": left} if left else {}))
    return Listing(given, name, source, classes, train, test, fingerprint, skipped)


def _listed(places: Iterable[tuple[Path, tuple[int, int, int], _Shard]]) -> ListedSplit:
    images, labels = list[Encoded](), list[int]()
    for path, stamp, shard in places:
        members = zip(shard.first, shard.length, shard.members, strict=True)
        images += [Encoded(str(path), first, length, member, stamp[:2]) for first, length, member in members]
        labels += shard.labels
    return ListedSplit(images, labels)


def _package() -> Any:
    """Return the parts of webdataset that say how shards and samples are named, and what a label is."""
    try:
        from webdataset import autodecode, shardlists, tariterators
    except ImportError as error:
        raise BenchError(
            f"webdataset:PATH needs a package that is not installed ({error}). "
            "Type: pip install 'ssl-robustness-bench[webdataset]'"
        ) from None
    return autodecode, shardlists, tariterators


def _found(given: str) -> list[Path]:
    """Return the tar files that ``given`` names, in natural order."""
    _, shardlists, _ = _package()
    folder = Path(given)
    if folder.is_dir():
        names = [str(path) for path in (*folder.glob("*.t*"), *folder.glob("*/*.t*"))]
    else:
        try:
            patterns = shardlists.expand_urls(given)
        except ValueError as error:
            raise BenchError(f"{given}: {error}. {_FORM}") from error
        names = [name for pattern in patterns for name in glob.glob(pattern) or [pattern]]
    paths = sorted(map(Path, dict.fromkeys(names)), key=lambda path: natural(str(path)))
    if packed := [path for path in paths if re.search(r"\.(tar\.\w+|tgz|txz)$", path.name)]:
        raise BenchError(
            f"{packed[0]} is compressed, so that its images cannot be reached one by one. Images are compressed "
            "already: unpack it to a .tar file, for example with gunzip."
        )
    paths = [path for path in paths if path.suffix == ".tar"]
    missing = [path for path in paths if not path.is_file()]
    if not paths or missing:
        raise BenchError(f"{missing[0] if missing else given}: no such tar file. {_FORM}")
    return paths


def _by_split(paths: Sequence[Path], home: Path) -> tuple[dict[str, list[Path]], int]:
    """Return the shards of ``train`` and ``test``, and how many are left: those of ``val`` where there is a test."""
    found, unnamed = defaultdict[str, list[Path]](list), []
    for path in paths:
        words = re.findall("[a-z]+", str(path.absolute().relative_to(home.absolute())).lower())
        split = next((split for split, names in _SPLITS.items() if set(names) & set(words)), None)
        if split is None:
            unnamed.append(path)
        else:
            found[split].append(path)
    if unnamed:
        raise BenchError(f"{unnamed[0]} has neither train nor test or val in its name. {_FORM}")
    chosen = {"train": found["train"], "test": found["test"] or found["val"]}
    for split, shards in chosen.items():
        if not shards:
            raise BenchError(f"{home} has no tar file of the {split} split. {_FORM}")
    return chosen, len(found["val"]) if found["test"] else 0


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes, which the file ``path`` lists."""
    try:
        names = [line.strip() for line in path.read_text("utf-8").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read ({error}). Write one name a line, in UTF-8.") from error
    if "" in names:
        raise BenchError(f"{path}, line {names.index('') + 1} is empty. Write the name of a class in each line.")
    if unshown := unprintable(names):
        raise BenchError(f"{path} holds {few(unshown)}, which no table can show. Write names of printable signs.")
    return tuple(names)


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _index(paths: Sequence[Path], cache: Path) -> _Index:
    """Return where the samples of the shards are: from ``cache``, if it fits them, or read from their headers."""
    known = kept(cache, _Index)
    if known and len(known.shards) == len(paths) and all(map(_fits, known.shards, paths)):
        return known
    faults: list[UnfitError] = []
    index = _Index(shards=[_read(path, faults) for path in paths])
    if faults:
        raise BenchError(
            "\n".join(counted_faults(faults, len(faults) + sum(len(each.labels) for each in index.shards)))
        )
    keep(cache, index)
    return index


def _fits(shard: _Shard, path: Path) -> bool:
    """Return whether all samples of the index lie within the file."""
    lengths = {len(each) for each in (shard.members, shard.first, shard.length, shard.labels)}
    size = path.stat().st_size
    return len(lengths) == 1 and all(a + b <= size for a, b in zip(shard.first, shard.length, strict=True))


def _read(path: Path, faults: list[UnfitError]) -> _Shard:
    """Return the samples of the tar file ``path``; those that are unfit are added to ``faults``."""
    autodecode, _, tariterators = _package()
    images: list[tuple[str, int, int, int]] = []
    skipped, keys = Counter[str](), set[str]()
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as raw:
            members = _members(archive, raw, path)
            for sample in tariterators.group_by_keys(members):
                key, kinds = sample["__key__"], [kind for kind in sample if not kind.startswith("__")]
                try:
                    if key in keys:
                        raise UnfitError("twice", f"{path}: the key {key} occurs twice. Give each sample its own.")
                    keys.add(key)
                    image = sample[_image_kind(kinds, path, key)]
                    label = _label(sample.get("cls"), raw, autodecode.basichandlers, f"{path}: {key}")
                    images.append((image.name, image.offset_data, image.size, label))
                except UnfitError as fault:
                    faults.append(fault)
                others = (kind for kind in kinds if kind != "cls" and f".{kind}" not in EXTENSIONS)
                skipped.update(suffix(f"{key}.{kind}") for kind in others)
    except PermissionError as error:
        raise BenchError(f"{path}: {error.strerror}. Make the file readable.") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        cut = f"{path} was cut off, or is no tar file ({error}). Copy it again; a compressed one must be unpacked."
        raise BenchError(cut) from error
    except ValueError as error:  # of group_by_keys
        raise BenchError(f"{path}: {error.args[0]}. Give each member its own name.") from error
    if not images and not faults:
        raise BenchError(f"{path} holds no sample. {_FORM}")
    columns = list(zip(*images, strict=True)) or [()] * 4
    return _Shard(members=columns[0], first=columns[1], length=columns[2], labels=columns[3], skipped=skipped)


def _members(archive: tarfile.TarFile, raw: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the files of an archive as ``group_by_keys`` takes them, with their places instead of their content.

    Raises:
        EOFError: the end of the archive is missing.
    """
    end = 0
    for member in archive:
        end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
        if member.isreg():
            yield {"fname": member.name, "data": member, "__url__": str(path)}
    raw.seek(end)
    if raw.read(_BLOCK) != bytes(_BLOCK):
        raise EOFError("its end is missing")


def _image_kind(kinds: Iterable[str], path: Path, key: str) -> str:
    found = [kind for kind in kinds if f".{kind}" in EXTENSIONS]
    if not found:
        raise UnfitError("no image", f"{path}: the sample {key} has no image. {_FORM}")
    if len(found) > 1:
        both = " and ".join(found)
        raise UnfitError("two images", f"{path}: the sample {key} has several images ({both}). Keep one of them.")
    return found[0]


def _label(member: tarfile.TarInfo | None, raw: Any, decode: Any, what: str) -> int:
    if member is None:
        raise UnfitError("no label", f"{what} has no label: {Path(what).name}.cls, a whole number as text.")
    raw.seek(member.offset_data)
    content = raw.read(min(member.size, 32))
    with suppress(ValueError):
        label: int = decode("cls", content)
        if 0 <= label < _MOST_CLASSES:
            return label
    raise UnfitError("label", f"{what}.cls holds {content!r}, but a label is a whole number below {_MOST_CLASSES}.")


def _label_faults(train: list[int], test: list[int], names: tuple[str, ...] | None) -> list[str]:
    arrays: dict[str, Any] = {"y_train": np.array(train), "y_test": np.array(test)}
    found: Mapping[str, Any] = arrays if names is None else {**arrays, "classes": np.array(names, dtype=str)}
    return [fault.replace("y_train", "train").replace("y_test", "test") for fault in label_faults(found)]
