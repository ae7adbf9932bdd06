"""Datasets: what they hold is exact and hashed, known names are theirs alone, and digits are the same everywhere."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_data import Arrays, good, numbers, save
from own_data import own as own

from bench.data import DATASETS, Dataset, Source, Split, load_dataset, recorded_name, same_source
from bench.errors import BenchError
from bench.run.data import dataset_facts

# Made by `load_dataset("digits", ...).sha256` with scikit-learn 1.9 and torch 2.15 on x86-64. The pixels are
# exact sums and the split is a hash, so another machine that finds another value has other data.
DIGITS_SHA256 = "dc75f6f0d5df9ef627406c2cfeecf64d37c3d30397bfb1dc7f182d9bff7707f4"


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
    assert replace(dataset, name="other", source="other", eps=0.5).sha256 == dataset.sha256
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
    ("source", "message"),
    [
        (
            "cifar-10",
            r"unknown dataset 'cifar-10'. Did you mean 'cifar10'.*folder:PATH.*npz:PATH.*bench datasets",
        ),
        ("zip:x", "unknown dataset 'zip:x'"),
        ("webdataset:https://a.org/{train,test}.tar", "own data are files, not addresses. Download them, and name"),
        ("folder@224x224:x", "unknown dataset 'folder@224x224:x'.*folder@SIZE:PATH"),
        ("npz:", "'npz:' names no path. Type npz:PATH"),
        ("folder:", "'folder:' names no path. Type folder:PATH"),
    ],
)
def test_an_unknown_source(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=message):
        load_dataset(source, tmp_path)


def test_a_path_without_its_kind_is_answered_with_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source, kind in {"digit": "folder", "./my.npz": "npz", "my.tar": "webdataset"}.items():
        Path(source).mkdir() if kind == "folder" else Path(source).touch()
        with pytest.raises(BenchError, match=f"'{source}' is a .*, not the name of a dataset. Type {kind}:{source}, "):
            load_dataset(source, tmp_path)


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("npz:photos", "folder"),
        ("folder:my.npz", "npz"),
        ("folder@32:my.npz", "npz"),
        ("folder:my.tar", "webdataset"),
        ("webdataset:my.npz", "npz"),
    ],
)
def test_a_path_under_another_kind_is_answered_with_its_kind(
    given: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("my.npz", "my.tar"):
        Path(name).touch()
    kind, path = given.split(":")
    message = f"^{path} is a (file|folder), which {kind.partition('@')[0]}: does not read. Type {form}:{path}, "
    with pytest.raises(BenchError, match=message):
        load_dataset(given, tmp_path)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("own", "own"),
        ("cifar10", "cifar10-npz"),
        ("CIFAR-10", "CIFAR-10-npz"),
        ("cifar10-exact", "cifar10-exact"),
        ("my data (2)", "my-data-2"),
        ("---", "own"),
        ("ünï cödé", "uni-code"),
        ("u\u0308ni\u0308 co\u0308de\u0301", "uni-code"),  # as macOS writes it
        ("ｃｉｆａｒ１０", "cifar10-npz"),
    ],
)
def test_own_data_never_bear_a_known_name(stem: str, name: str, tmp_path: Path) -> None:
    spec = save(tmp_path / f"{stem}.npz", good())
    dataset = load_dataset(spec, tmp_path)
    assert (dataset.name, dataset.source, dataset.published_as) == (name, spec, None)
    assert recorded_name(spec) == name, "also where nothing is read"


@pytest.mark.parametrize(("stem", "begins"), [("数据", "own"), ("图像", "own"), ("数据 2", "2"), ("größe", "gro-e")])
def test_data_whose_name_loses_letters_have_a_name_of_their_own(stem: str, begins: str, tmp_path: Path) -> None:
    first = load_dataset(save(tmp_path / f"{stem}.npz", good()), tmp_path)
    other = load_dataset(save(tmp_path / f"{stem}.npz", good() | {"x_test": numbers(3, 9, 10, 3, seed=2)}), tmp_path)
    assert [each.name for each in (first, other)] == [f"{begins}-{each.sha256[:6]}" for each in (first, other)]
    assert first.name != other.name
    with pytest.raises(BenchError, match=f"in records is {begins}- and six digits of its SHA-256. Type that name"):
        recorded_name(first.source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits"),
        ("my", "my"),
        ("folder:some/photos", "photos"),
        ("folder@224:some/cifar10", "cifar10-folder-224"),
        ("webdataset:some/photos/{train,val}.tar", "photos"),
        ("npz:", "npz:"),
    ],
)
def test_the_name_that_records_have_is_known_without_the_data(source: str, name: str) -> None:
    assert recorded_name(source) == name


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("npz:my.npz", True),
        ("npz:./my.npz", True),
        ("npz:{here}/my.npz", True),
        ("npz:~/my.npz", True),
        ("npz:other/my.npz", False),
        ("folder:my.npz", False),
        ("npz@32:my.npz", False),
        ("my.npz", False),
        ("digits", False),
    ],
)
def test_own_data_are_the_same_at_the_same_place(
    other: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert same_source("npz:my.npz", other.format(here=tmp_path)) is same
    assert same_source("digits", "digits")


@pytest.mark.parametrize(("field", "value"), [("name", "my data"), ("name", "../up"), ("eps", -1.0)])
def test_a_plug_in_whose_facts_are_none_is_a_mistake_with_a_message(
    field: str, value: Any, own: Callable[[Arrays], Dataset]
) -> None:
    dataset = own(good())
    with pytest.raises(BenchError, match=rf"^dataset {re.escape(dataset.source)}: {field}: .*\(given: {value!r}\)$"):
        dataset_facts(replace(dataset, **{field: value}))


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
