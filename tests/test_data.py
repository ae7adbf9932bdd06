"""Datasets: what they hold is exact and hashed, and every fault of somebody's own data is named."""

import errno
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as tv

from bench.data import DATASETS, Dataset, Source, Split, decode, folder, load_dataset
from bench.errors import BenchError

Arrays = dict[str, Any]

# Made by `load_dataset("digits", ...).sha256` with scikit-learn 1.9 and torch 2.15 on x86-64. The pixels are
# exact sums and the split is a hash, so another machine that finds another value has other data.
DIGITS_SHA256 = "dc75f6f0d5df9ef627406c2cfeecf64d37c3d30397bfb1dc7f182d9bff7707f4"


def numbers(*shape: int, seed: int = 0, high: int = 256) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def good() -> Arrays:
    return {
        "x_train": numbers(6, 9, 10, 3),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": numbers(3, 9, 10, 3, seed=1),
        "y_test": np.array([2, 1, 0]),
        "classes": np.array(["ant", "bee", "cat"]),
        "index_train": np.array([5, 4, 3, 2, 1, 9]),
    }


def save(path: Path, arrays: Arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture
def own(tmp_path: Path) -> Callable[[Arrays], Dataset]:
    return lambda arrays: load_dataset(save(tmp_path / "own.npz", arrays), tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset("digits", tmp_path_factory.mktemp("data"))


# --- the nouns ---------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_pixels(own: Callable[[Arrays], Dataset]) -> None:
    images = numbers(6, 9, 10, 3)
    images[..., 1] = 51  # a constant channel: dividing by its deviation must change nothing
    dataset = own(good() | {"x_train": images})
    scaled = images.astype(np.float64) / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    assert dataset.mean == pytest.approx(mean.round(4), abs=1e-12)
    assert dataset.std == pytest.approx([std[0].round(4), 1.0, std[2].round(4)], abs=1e-12)
    assert dataset.mean[1] == 0.2


def test_hash_is_the_documented_layout(own: Callable[[Arrays], Dataset]) -> None:
    arrays = good()
    parts = [
        (b"train.images uint8 6x3x9x10\n", arrays["x_train"].transpose(0, 3, 1, 2)),
        (b"train.labels int64 6\n", arrays["y_train"].astype("<i8")),
        (b"test.images uint8 3x3x9x10\n", arrays["x_test"].transpose(0, 3, 1, 2)),
        (b"test.labels int64 3\n", arrays["y_test"].astype("<i8")),
    ]
    expected = hashlib.sha256(b"".join(header + array.tobytes() for header, array in parts)).hexdigest()
    assert own(arrays).sha256 == expected


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_hash_changes_with_one_number(key: str, own: Callable[[Arrays], Dataset]) -> None:
    before, arrays = own(good()), good()
    arrays[key].flat[-1] = (int(arrays[key].flat[-1]) + 1) % 3
    assert own(arrays).sha256 != before.sha256


def test_hash_covers_pretraining_images_but_no_names(own: Callable[[Arrays], Dataset]) -> None:
    dataset = own(good())
    assert replace(dataset, name="other", spec="other", eps=0.5).sha256 == dataset.sha256
    more = replace(dataset, pretrain=dataset.train.images)
    assert more.sha256 != dataset.sha256
    assert more.pretraining_images is more.pretrain
    assert dataset.pretraining_images is dataset.train.images


def test_our_own_mistakes_are_asserted() -> None:
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(AssertionError, match=r"uint8, not torch\.float32"):
        Split(images.float(), labels)
    with pytest.raises(AssertionError, match=r"4 images need labels of shape \[4\]"):
        Split(images, labels[:3])
    with pytest.raises(AssertionError, match="0 to 1 for 1 classes"):
        Dataset("d", "d", Split(images, labels), Split(images, labels), ("only",))


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "stl10"])
def test_a_listing_loads_nothing(name: str) -> None:
    source = DATASETS.get(name)
    assert isinstance(source, Source)
    assert "\n" not in source.summary
    assert source.num_classes in (10, 100)
    assert source.image_shape[0] == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "cifar-10",
            r"unknown dataset 'cifar-10'. Did you mean 'cifar10'.*folder:PATH.*npz:PATH.*bench datasets",
        ),
        ("zip:x", "unknown dataset 'zip:x'"),
        ("npz:", "'npz:' names no path. Type npz:PATH"),
        ("folder:", "'folder:' names no path. Type folder:PATH"),
    ],
)
def test_unknown_spec(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=message):
        load_dataset(spec, tmp_path)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("own", "own"),
        ("cifar10", "cifar10-npz"),
        ("CIFAR-10", "CIFAR-10-npz"),
        ("cifar10-exact", "cifar10-exact"),
        ("my data (2)", "my-data-2"),
    ],
)
def test_own_data_never_bear_a_known_name(stem: str, name: str, tmp_path: Path) -> None:
    spec = save(tmp_path / f"{stem}.npz", good())
    dataset = load_dataset(spec, tmp_path)
    assert (dataset.name, dataset.spec, dataset.published_as) == (name, spec, None)


# --- digits ------------------------------------------------------------------------------------------------


def test_digits_are_the_same_everywhere(digits: Dataset) -> None:
    assert digits.sha256 == DIGITS_SHA256


def test_digits_match_their_listing(digits: Dataset) -> None:
    source = DATASETS.get("digits")
    assert (len(digits.train), len(digits.test)) == (source.train, source.test) == (1437, 360)
    assert digits.image_shape == source.image_shape == (3, 16, 16)
    assert digits.num_classes == source.num_classes
    assert digits.eps == 16 / 255
    assert digits.published_as is None


def test_digits_split_is_stratified_and_loses_no_image(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    train, test = (torch.bincount(split.labels, minlength=10) for split in (digits.train, digits.test))
    assert torch.equal(train + test, torch.from_numpy(np.bincount(raw.target)))
    assert ((test - (train + test) / 5).abs() < 1).all()
    # Bilinear enlargement keeps the four corners, so they identify the pixels 0..16 they came from.
    corner = torch.cat([digits.train.images, digits.test.images])[:, 0, -1, 0].double().sum()
    assert corner == np.round(raw.images[:, -1, 0] * 255 / 16).sum()


def test_digits_are_grey_and_span_the_range(digits: Dataset) -> None:
    images = digits.train.images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert (int(images.min()), int(images.max())) == (0, 255)


# --- npz ---------------------------------------------------------------------------------------------------


def test_npz_round_trip(own: Callable[[Arrays], Dataset]) -> None:
    arrays, dataset = good(), own(good())
    assert np.array_equal(dataset.train.images.permute(0, 2, 3, 1).numpy(), arrays["x_train"])
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), arrays["x_test"])
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test.labels.tolist() == [2, 1, 0]
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.index_train is not None
    assert dataset.index_train.tolist() == [5, 4, 3, 2, 1, 9]
    assert dataset.image_shape == (3, 9, 10)
    assert dataset.eps == 8 / 255


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 1)])
def test_grey_becomes_three_equal_channels(shape: tuple[int, ...], own: Callable[[Arrays], Dataset]) -> None:
    grey = numbers(6, *shape)
    images = own(good() | {"x_train": grey}).train.images
    for channel in images.unbind(1):
        assert np.array_equal(channel.numpy(), grey.reshape(6, 9, 10))


def test_classes_are_numbered_where_none_are_named(own: Callable[[Arrays], Dataset]) -> None:
    arrays = {key: good()[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    dataset = own(arrays | {"y_train": arrays["y_train"].astype(np.uint8)})
    assert dataset.classes == ("0", "1", "2")
    assert dataset.index_train is None


NPZ_FAULTS: dict[str, tuple[Arrays, str]] = {
    "missing": ({"y_test": None}, "y_test missing. Required: x_train, y_train, x_test, y_test"),
    "float": (
        {"x_train": np.ones((6, 9, 10, 3))},
        "x_train is float64.*multiply by 255 and convert to uint8",
    ),
    "int32": ({"x_test": np.ones((3, 9, 10, 3), np.int32)}, "x_test is int32, images must be uint8"),
    "channels first": ({"x_train": numbers(6, 3, 9, 10)}, r"\[6, 3, 9, 10\].*x.transpose\(0, 2, 3, 1\)"),
    "flat": ({"x_train": numbers(6, 270)}, r"x_train has shape \[6, 270\], allowed: \[N, H, W, 3\]"),
    "empty": ({"x_test": numbers(0, 9, 10, 3), "y_test": np.zeros(0, int)}, "x_test is empty"),
    "sizes": ({"x_test": numbers(3, 10, 9, 3)}, "x_train holds 9x10 images but x_test 10x9 images"),
    "lengths": ({"y_train": np.arange(5) % 3}, "x_train holds 6 images but y_train 5 labels"),
    "float labels": ({"y_train": np.ones(6)}, "y_train is float64, labels must be integers"),
    "one-hot": ({"y_test": np.eye(3, dtype=int)}, r"y_test has shape \[3, 3\], labels must be \[N\]"),
    "column": ({"y_test": np.zeros((3, 1), int)}, r"labels must be \[N\], one an image: y.squeeze\(1\)"),
    "negative": ({"y_test": np.array([0, -1, 2])}, "y_test holds -1, labels run from 0"),
    "beyond": ({"y_test": np.array([0, 3, 2])}, "y_test holds 3, labels of 3 classes run to 2"),
    "gaps": ({"y_test": np.array([0, 7, 2]), "classes": None}, "run to 7 but only 4 of them occur"),
    "one class": ({"y_train": np.zeros(6, int)}, "y_train holds one class only, at least 2"),
    "numeric classes": ({"classes": np.arange(3)}, "classes is int64 .*class names must be strings"),
    "pickled classes": (
        {"classes": np.array(["a", 1, None], object)},
        "classes cannot be read.*Python objects",
    ),
    "index length": ({"index_train": np.arange(5)}, "index_train holds 5 positions but x_train 6 images"),
    "index repeated": ({"index_train": np.zeros(6, int)}, "index_train holds negative or repeated"),
    "index kind": ({"index_train": np.ones(6)}, "index_train is float64"),
}


@pytest.mark.parametrize("case", NPZ_FAULTS)
def test_npz_fault(case: str, own: Callable[[Arrays], Dataset]) -> None:
    change, message = NPZ_FAULTS[case]
    arrays = {key: array for key, array in (good() | change).items() if array is not None}
    with pytest.raises(BenchError, match=message) as caught:
        own(arrays)
    assert "own.npz: " in str(caught.value)
    assert "faults" not in str(caught.value), "one fault is reported as one"


def test_tiny_images(own: Callable[[Arrays], Dataset]) -> None:
    tiny = {"x_train": numbers(6, 7, 10, 3), "x_test": numbers(3, 7, 10, 3)}
    with pytest.raises(
        BenchError, match=r"x_train holds 7x10 images, they must be at least 8x8.*\n.*x_test holds 7x10"
    ):
        own(good() | tiny)


def test_npz_faults_are_listed_together(own: Callable[[Arrays], Dataset]) -> None:
    arrays = good() | {"x_train": np.ones((6, 9, 10, 3)), "y_test": np.array([0, -1])}
    del arrays["y_train"]
    with pytest.raises(BenchError) as caught:
        own(arrays)
    first, *faults = str(caught.value).splitlines()
    assert first.endswith("own.npz: 4 faults")
    for fault, word in zip(
        faults, ("y_train missing", "x_train is float64", "x_test holds 3", "y_test holds -1"), strict=True
    ):
        assert word in fault


def flip(path: Path, member: str, offset: int) -> None:
    """Flip one bit of a member, ``offset`` bytes behind its array header's start."""
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"\x93NUMPY", start) + offset] ^= 2
    path.write_bytes(raw)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    spec = save(tmp_path / "own.npz", good())
    flip(tmp_path / "own.npz", "x_test.npy", 200)
    with pytest.raises(BenchError, match=r"x_test cannot be read: the file is corrupt \(Bad CRC-32"):
        load_dataset(spec, tmp_path)


def test_a_flipped_bit_in_a_shape_is_found(tmp_path: Path) -> None:
    """3 channels become 1: a legal grey array, and numpy alone would read it without a word."""
    path = tmp_path / "own.npz"
    labels = {"y_train": np.arange(120) % 3, "index_train": np.arange(120)}
    spec = save(path, good() | labels | {"x_train": numbers(120, 9, 10, 3)})
    flip(path, "x_train.npy", path.read_bytes().index(b"3), }") - path.read_bytes().index(b"\x93NUMPY"))
    with np.load(path) as archive:
        assert archive["x_train"].shape == (120, 9, 10, 1)
    with pytest.raises(BenchError, match=r"x_train cannot be read: .*longer than its header"):
        load_dataset(spec, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"x_train": 1})])
def test_what_is_no_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(BenchError, match=r"own\.npz: not an \.npz file, or cut short"):
        load_dataset(f"npz:{tmp_path / 'own.npz'}", tmp_path)


def test_npz_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    spec = save(path, good())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BenchError, match="cut short"):
        load_dataset(spec, tmp_path)


def test_npz_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"none\.npz: no such file"):
        load_dataset(f"npz:{tmp_path / 'none.npz'}", tmp_path)
    with pytest.raises(BenchError, match=r"it is a folder\. Type folder:"):
        load_dataset(f"npz:{tmp_path}", tmp_path)


# --- folder ------------------------------------------------------------------------------------------------

CLASSES = ("ant", "bee")
NAMES = {"train": ("10.png", "9.png"), "test": ("2.png", "11.png")}  # as a plain sort would not order them


def picture(path: Path, seed: int, size: tuple[int, int] = (10, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers(size[1], size[0], 3, seed=seed)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images; those of the second class are numbered from 20, so that no number repeats."""
    for split, names in NAMES.items():
        for label, name in enumerate(CLASSES):
            for file in names:
                number = int(file.split(".")[0]) + 20 * label
                picture(tmp_path / "pics" / split / name / f"{number}.png", seed=number)
    return tmp_path / "pics"


def load_folder(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}", root.parent / "data")


def test_folder_is_the_npz_of_its_pixels(root: Path, tmp_path: Path) -> None:
    order = {"train": (9, 10, 29, 30), "test": (2, 11, 22, 31)}
    arrays: Arrays = {"classes": np.array(CLASSES)}
    for split, seeds in order.items():
        arrays[f"x_{split}"] = np.stack([numbers(9, 10, 3, seed=seed) for seed in seeds])
        arrays[f"y_{split}"] = np.array([0, 0, 1, 1])
    from_folder, from_npz = load_folder(root), load_dataset(save(tmp_path / "pics.npz", arrays), tmp_path)
    assert from_folder.sha256 == from_npz.sha256
    assert from_folder.classes == from_npz.classes
    assert (from_folder.name, from_folder.spec) == ("pics", f"folder:{root}")
    assert from_folder.index_train is not None
    assert from_folder.index_train.tolist() == [9, 10, 29, 30]


@pytest.mark.parametrize("name", ["ten.png", "9.png"])
def test_names_that_are_no_positions(name: str, root: Path) -> None:
    (root / "train" / "bee" / "30.png").rename(root / "train" / "bee" / name)
    assert load_folder(root).index_train is None


def test_names_are_in_natural_order(tmp_path: Path) -> None:
    names = ["b2_10.png", "b10_1.png", "a.png", "b2_9.png", "07.png", "7.png"]
    for name in names:
        picture(tmp_path / "ant" / name, seed=0)
    listed = [Path(path).name for path in folder._list(tmp_path).paths]
    assert listed == ["07.png", "7.png", "a.png", "b2_9.png", "b2_10.png", "b10_1.png"]


def test_every_kind_of_image_is_read_as_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(numbers(8, 8, 3))
    for name in ("0.PNG", "1.jpg", "2.jpeg", "3.bmp", "4.webp"):
        image.save(tmp_path / name)
    image.convert("RGBA").save(tmp_path / "5.png")
    image.quantize(256).save(tmp_path / "6.png")
    image.convert("L").save(tmp_path / "7.png")
    files = sorted(str(path) for path in tmp_path.iterdir())
    pixels = decode.decode(files)
    assert pixels.shape == (8, 8, 8, 3)
    for lossless in (0, 3, 5):
        assert np.array_equal(pixels[lossless], numbers(8, 8, 3))
    assert np.array_equal(pixels[7, ..., 0], pixels[7, ..., 2])


def forbidden(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("must not be called")


def test_second_time_comes_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_folder(root)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode", forbidden)
        second = load_folder(root)
        assert (second.sha256, second.classes) == (first.sha256, first.classes)
        assert second.index_train is not None
        assert second.index_train.tolist() == [9, 10, 29, 30]
    picture(root / "train" / "ant" / "9.png", seed=99)
    assert load_folder(root).sha256 != first.sha256


def test_a_change_that_keeps_size_and_time_is_seen(root: Path) -> None:
    """Reproducible archives give every file one time, and bitmaps of one size all weigh the same."""
    path = root / "train" / "ant" / "9.bmp"
    picture(path, seed=1)
    first, before = load_folder(root), path.stat()
    picture(path, seed=2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert load_folder(root).sha256 != first.sha256


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_corrupt_cache_is_made_again(damage: bytes | None, root: Path) -> None:
    first = load_folder(root)
    (cache,) = (root.parent / "data" / "cache").iterdir()
    raw = bytearray(cache.read_bytes())
    raw[300] ^= 1
    cache.write_bytes(raw if damage is None else damage)
    assert load_folder(root).sha256 == first.sha256
    with np.load(cache) as archive:
        assert len(archive["x_train"]) == 4


def test_a_cache_that_cannot_be_written_is_done_without(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_folder(root)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="decoded images cannot be cached"):
        assert load_dataset(f"folder:{root}", tmp_path / "file").sha256 == reference.sha256

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert load_dataset(f"folder:{root}", tmp_path / "full").sha256 == reference.sha256
    assert list((tmp_path / "full" / "cache").iterdir()) == [], "half a cache was left behind"


def empty_class(root: Path) -> None:
    for path in (root / "test" / "bee").iterdir():
        path.rename(path.with_suffix(".txt"))


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.zeros((9, 10), np.uint16)).save(root / "test" / "bee" / "31.png")


def truncated(root: Path) -> None:
    path = root / "train" / "bee" / "29.png"
    path.write_bytes(path.read_bytes()[:200])


def single_class(root: Path) -> None:
    for split in NAMES:
        (root / split / "bee").rename(root.parent / split)


def tiny(root: Path) -> None:
    picture(root / "train" / "ant" / "9.png", seed=0, size=(7, 9))


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no train": (
        lambda r: (r / "train").rename(r / "training"),
        r"pics.train: No such file.*\{train,test\}/<class>",
    ),
    "no test": (lambda r: (r / "test").rename(r / "val"), r"cannot read .*pics.test: No such file"),
    "class names": (
        lambda r: (r / "test" / "ant").rename(r / "test" / "asp"),
        "2 faults\n  - train/ has classes that test/ lacks: ant.*\n  - test/ has .* train/ lacks: asp",
    ),
    "empty class": (empty_class, r"test/ has classes without an image: bee.*\.png, \.jpg"),
    "single class": (single_class, "train/ holds 1 class folders, at least 2"),
    "odd size": (
        lambda r: picture(r / "train" / "bee" / "30.png", seed=0, size=(12, 9)),
        r"bee.30\.png is 12x9 pixels, but .*ant.9\.png is 10x9",
    ),
    "tiny": (tiny, r"ant.9\.png is 7x9 pixels, below 8x8"),
    "undecodable": (
        lambda r: (r / "test" / "ant" / "2.png").write_text("no image"),
        r"ant.2\.png cannot be decoded",
    ),
    "truncated": (truncated, r"bee.29\.png cannot be decoded"),
    "16 bits": (sixteen_bits, r"bee.31\.png has more than 8 bits a channel"),
}


@pytest.mark.parametrize("case", FOLDER_FAULTS)
def test_folder_fault(case: str, root: Path) -> None:
    spoil, message = FOLDER_FAULTS[case]
    spoil(root)
    with pytest.raises(BenchError, match=message):
        load_folder(root)


def test_the_first_odd_file_is_named_whatever_thread_finds_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_CHUNK", 1)
    for name in ("10.png", "9.png"):
        picture(root / "test" / "bee" / name, seed=0, size=(12, 9))
    with pytest.raises(BenchError, match=r"bee.9\.png is 12x9"):
        load_folder(root)


# --- torchvision -------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> NoReturn:
        raise URLError("name resolution failed")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def archive(kind: Any, files: dict[str, bytes], data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``files`` as the archive of torchvision's ``kind``, and have ``kind`` expect their checksums."""

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    data_dir.mkdir(exist_ok=True)
    path = data_dir / str(kind.filename)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(kind, "tgz_md5", md5(path.read_bytes()))
    for group in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, group) if name in files]
        monkeypatch.setattr(kind, group, [[name, md5(files[name])] for name in names])
    if meta := getattr(kind, "meta", None):
        monkeypatch.setattr(kind, "meta", meta | {"md5": md5(files[meta["filename"]])})
    return path


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    batch = {"data": numbers(4, 3072), "labels": [3, 1, 0, 9]}
    test = {"data": numbers(2, 3072, seed=1), "labels": [2, 8]}
    files = {"data_batch_1": batch, "test_batch": test, "batches.meta": {"label_names": list("abcdefghij")}}
    return archive(tv.CIFAR10, {k: pickle.dumps(v) for k, v in files.items()}, tmp_path / "data", monkeypatch)


@pytest.mark.usefixtures("offline")
def test_cifar_from_an_archive_put_in_place(tiny_cifar: Path) -> None:
    dataset = load_dataset("cifar10", tiny_cifar.parent)
    assert np.array_equal(dataset.train.images.numpy(), numbers(4, 3072).reshape(4, 3, 32, 32))
    assert np.array_equal(dataset.test.images.numpy(), numbers(2, 3072, seed=1).reshape(2, 3, 32, 32))
    assert dataset.train.labels.tolist() == [3, 1, 0, 9]
    assert dataset.test.labels.tolist() == [2, 8]
    assert dataset.classes == tuple("abcdefghij")
    assert dataset.published_as == dataset.name == "cifar10"
    assert dataset.index_train is not None
    assert dataset.index_train.tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("offline")
def test_stl10_pretrains_on_all_of_its_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train_X.bin": 3, "unlabeled_X.bin": 2, "test_X.bin": 2}
    columns = {name: numbers(n, 3, 96, 96, seed=n, high=9) for name, n in sizes.items()}
    files = {name: array.tobytes() for name, array in columns.items()}
    files |= {
        "train_y.bin": bytes([1, 3, 2]),
        "test_y.bin": bytes([2, 1]),
        "class_names.txt": b"jay\nkit\nlynx\n",
    }
    data_dir = archive(tv.STL10, files, tmp_path, monkeypatch).parent
    dataset = load_dataset("stl10", data_dir)
    upright = {name: torch.from_numpy(array).transpose(2, 3) for name, array in columns.items()}
    assert torch.equal(dataset.train.images, upright["train_X.bin"])
    assert torch.equal(dataset.test.images, upright["test_X.bin"])
    assert torch.equal(dataset.pretraining_images, torch.cat([upright["train_X.bin"], upright["unlabeled_X.bin"]]))
    assert dataset.train.labels.tolist() == [0, 2, 1]
    assert dataset.test.labels.tolist() == [1, 0]
    assert dataset.classes == ("jay", "kit", "lynx")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "kind", "home"),
    [
        ("cifar10", tv.CIFAR10, "www.cs.toronto.edu/~kriz/cifar.html"),
        ("cifar100", tv.CIFAR100, "www.cs.toronto.edu/~kriz/cifar.html"),
        ("stl10", tv.STL10, "cs.stanford.edu/~acoates/stl10"),
    ],
)
def test_without_network_the_file_to_fetch_is_named(name: str, kind: Any, home: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError) as caught:
        load_dataset(name, tmp_path / "data")
    needed = (
        kind.filename,
        kind.tgz_md5,
        home,
        str(tmp_path / "data"),
        "same command",
        "npz:PATH",
        "folder:PATH",
    )
    for word in needed:
        assert word in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_corrupt_archive_is_named(tiny_cifar: Path) -> None:
    tiny_cifar.write_bytes(tiny_cifar.read_bytes()[:-1])
    with pytest.raises(BenchError, match=r"cifar-10-python.tar.gz is corrupt: its MD5 is \w{32}, not .*Delete it"):
        load_dataset("cifar10", tiny_cifar.parent)


@pytest.mark.usefixtures("offline")
def test_a_damaged_batch_is_never_unpickled_but_unpacked_again(tiny_cifar: Path) -> None:
    first = load_dataset("cifar10", tiny_cifar.parent)
    (tiny_cifar.parent / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(forbidden))
    assert load_dataset("cifar10", tiny_cifar.parent).sha256 == first.sha256


@pytest.mark.usefixtures("offline")
def test_a_damaged_folder_is_named(tiny_cifar: Path) -> None:
    """Torchvision unpacks again only for the batches: without their names it gives up."""
    load_dataset("cifar10", tiny_cifar.parent)
    (tiny_cifar.parent / "cifar-10-batches-py" / "batches.meta").unlink()
    with pytest.raises(BenchError, match=r"cifar-10-batches-py is damaged.*Delete that folder"):
        load_dataset("cifar10", tiny_cifar.parent)


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=r"cannot keep CIFAR10 in .*file: .*--data-dir"):
        load_dataset("cifar10", tmp_path / "file")


# --- real files, where there are any -----------------------------------------------------------------------

REAL = Path(os.environ.get("BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(not (REAL / "cifar10-exact.npz").is_file(), reason="set BENCH_TEST_DATA to run it")
def test_a_real_subset(tmp_path: Path) -> None:
    dataset = load_dataset(f"npz:{REAL / 'cifar10-exact.npz'}", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (5438, 1017)
    assert dataset.name == "cifar10-exact"
    assert dataset.published_as is None
    assert dataset.classes[3] == "cat"
    # The moments of the whole of CIFAR-10, as every paper normalises with them, within a subset's error.
    assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.005)
    assert dataset.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.005)
