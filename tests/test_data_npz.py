"""An .npz of one's own is read to the last pixel, and every fault in it is named."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_data import Arrays, good, numbers, save
from own_data import own as own

from bench.data import Dataset, load_dataset
from bench.errors import BenchError


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
    "float labels": (
        {"y_train": np.ones(6)},
        r"y_train is float64, labels must be integers 0..K-1: y.astype\('int64'\)",
    ),
    "truth": ({"y_test": np.array([True, False, True])}, r"y_test is bool, .*: y.astype\('int64'\)"),
    "fractions": ({"y_test": np.array([0, 0.5, 1])}, "y_test is float64, .*: 1 of 3 are fractions, such as 0.5"),
    "nan": ({"y_test": np.array([0, np.nan, 1])}, "y_test is float64, .*: 1 of 3 are nan; leave those images out"),
    "names": (
        {"y_test": np.array(["a", "b", "a"])},
        r"y_test is <U1, .* np.unique\(\[\*y_train, \*y_test\], return_inv",
    ),
    "one-hot": ({"y_test": np.eye(3, dtype=int)}, r"y_test has shape \[3, 3\] and is one-hot.*: y.argmax\(1\)"),
    "one-hot floats": (
        {"y_test": np.eye(3)},
        r"has shape \[3, 3\] and is one-hot, labels must be \[N\].*: y.argmax\(1\)",
    ),
    "matrix": ({"y_test": np.full((3, 3), 2)}, r"y_test has shape \[3, 3\], labels must be \[N\]"),
    "column": ({"y_test": np.zeros((3, 1), int)}, r"labels must be \[N\], one an image: y.squeeze\(1\)"),
    "negative": ({"y_test": np.array([0, -1, 2])}, "y_test holds -1, labels run from 0"),
    "beyond": ({"y_test": np.array([0, 3, 2])}, "y_test holds 3, labels of 3 classes run to 2"),
    "gaps": ({"y_test": np.array([0, 7, 2]), "classes": None}, "run to 7 but only 4 of them occur"),
    "untrained": (
        {"y_train": np.array([0, 1, 0, 1, 0, 1]), "y_test": np.array([2, 2, 0])},
        "y_test holds 2 labels that no training image has: 2. Both splits need the same classes",
    ),
    "one class": (
        {"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)},
        "y_train holds one class only, at least 2",
    ),
    "numeric classes": ({"classes": np.arange(3)}, "classes is int64 .*class names must be strings"),
    "repeated classes": (
        {"classes": np.array(["a", "b", "a"])},
        "classes holds a name more than once: a. Give each class a name of its own",
    ),
    "unprintable classes": (
        {"classes": np.array(["a", "\x1b[31mred", " "])},
        r"classes holds '\\x1b\[31mred', ' ', which no table can show",
    ),
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
