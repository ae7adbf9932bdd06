"""Shards of WebDataset: their images in their order, an index that is made once, and every fault named."""

import json
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import forbidden, numbers
from webdataset import TarWriter

from bench.data import DataIn, Dataset, StoredImages, StreamedImages, load_dataset, shards
from bench.errors import BenchError

SPLITS = {"train": ((5, 4, 0), (3, 2, 1)), "val": ((7, 6),)}
"""Seeds of the images of each shard; an image's class is its seed modulo 2."""


def sample(seed: int, **changes: Any) -> Mapping[str, Any]:
    """Return a sample as the package writes it; ``None`` leaves a part out."""
    whole = {"__key__": f"{seed:05d}", "png": numbers(9, 10, 3, seed=seed), "cls": seed % 2, "json": {"seed": seed}}
    return {name: value for name, value in (whole | changes).items() if value is not None}


def write(path: Path, *samples: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), mtime=0) as writer:
        for each in samples:
            writer.write(each)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, parts in SPLITS.items():
        for number, seeds in enumerate(parts):
            write(tmp_path / "set" / f"my-{split}-{number}.tar", *map(sample, seeds))
    return tmp_path / "set"


def load(root: Path | str, data_in: DataIn = "memory") -> Dataset:
    home = Path(str(root).partition("set")[0])
    return load_dataset(f"webdataset:{root}", home / "data", data_in)


def test_shards_are_the_images_in_their_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, on_disk = load(root), load(root, "disk")
    seeds = {"train": [5, 4, 0, 3, 2, 1], "test": [7, 6]}
    for data in (in_memory, on_disk):
        for split, wanted in seeds.items():
            images, labels = getattr(data, split).images, getattr(data, split).labels
            expected = torch.stack([torch.from_numpy(numbers(9, 10, 3, seed=seed)).permute(2, 0, 1) for seed in wanted])
            assert torch.equal(images[:], expected)
            assert labels.tolist() == [seed % 2 for seed in wanted]
        assert (data.name, data.classes, data.index_train) == ("set", ("0", "1"), None)
        assert data.inventory is not None
        assert data.inventory.skipped == {".json": 8}
    assert isinstance(on_disk.train.images, StoredImages)
    assert on_disk.sha256 == in_memory.sha256
    assert on_disk.inventory == in_memory.inventory
    source = StreamedImages(on_disk.train.images, torch.device("cpu"), 1)
    assert torch.equal(torch.cat(list(source.in_order(4))), in_memory.train.images)

    monkeypatch.setattr(shards, "_read", forbidden)
    assert load(root, "disk").sha256 == in_memory.sha256


def test_a_pattern_names_the_same_shards(root: Path) -> None:
    (root / "classes.txt").write_text("even\nodd\n")
    whole = load(root)
    assert whole.classes == ("even", "odd")
    for pattern in ("my-{train,val}-*.tar", "my-{train-{0..1},val-0}.tar"):
        assert load(root / pattern).sha256 == whole.sha256
    with pytest.raises(BenchError, match=r"my-\{train-0\.tar: Unbalanced.*The form is a folder"):
        load(root / "my-{train-0.tar")
    write(root / "my-test-0.tar", sample(9), sample(8))
    both = load(root)
    assert both.test.labels.tolist() == [1, 0]
    assert both.inventory is not None
    assert both.inventory.skipped == {".json": 8, ".tar": 1}


def test_a_changed_shard_is_read_again(root: Path) -> None:
    before = load(root, "disk")
    write(root / "my-val-0.tar", sample(9), sample(8))
    with pytest.raises(BenchError, match=r"my-val-0\.tar has changed since it was listed"):
        before.test.images[:]
    assert load(root, "disk").test.labels.tolist() == [1, 0]
    assert load(root, "disk").sha256 == load(root).sha256 != before.sha256


def other_label(index: dict[str, Any]) -> None:
    index["content"]["shards"][0]["labels"][0] = 0


@pytest.mark.parametrize("damage", [other_label, lambda index: index["content"]["shards"].clear(), dict.clear, None])
def test_an_index_that_was_changed_is_made_again(damage: Callable[[Any], None] | None, root: Path) -> None:
    before = load(root, "disk")
    (path,) = (root.parent / "data" / "cache").glob("*.index.json")
    text = path.read_text()
    if damage is None:
        path.write_text("rubbish")
    else:
        damage(index := json.loads(text))
        path.write_text(json.dumps(index))
    after = load(root, "disk")
    assert after.train.labels.tolist() == before.train.labels.tolist() == [1, 0, 0, 1, 0, 1]
    assert path.read_text() == text


def cut(at: float) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "my-train-1.tar"
        whole = path.read_bytes()
        with tarfile.open(path) as archive:
            last = archive.getmembers()[-1]
        path.write_bytes(whole[: int(at * last.offset)])

    return spoil


def replaced(*samples: Mapping[str, Any], name: str = "my-train-1.tar") -> Callable[[Path], Any]:
    return lambda root: write(root / name, *samples)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no shard": (lambda r: r.rename(r / ".." / "away"), r"set: no such tar file.*train, and test or val"),
    "no test": (lambda r: (r / "my-val-0.tar").unlink(), "has no tar file of the test split"),
    "no split": (lambda r: (r / "my-val-0.tar").rename(r / "more.tar"), r"more\.tar has neither train nor test or val"),
    "compressed": (lambda r: (r / "my-val-0.tar").rename(r / "my-val-0.tar.gz"), r"val-0\.tar\.gz is compressed"),
    "no tar": (lambda r: (r / "my-train-0.tar").write_bytes(b"x" * 2000), r"train-0\.tar was cut off, or is no tar"),
    "cut in an image": (cut(0.5), r"train-1\.tar was cut off.*Copy it again"),
    "cut between two": (cut(1), r"train-1\.tar was cut off.*its end is missing.*Copy it again"),
    "classes": (lambda r: (r / "classes.txt").write_bytes(b"\xff\xfe"), r"classes\.txt cannot be read.*in UTF-8"),
    "no sample": (replaced(), r"train-1\.tar holds no sample"),
    "no image": (
        replaced(sample(1, png=None), sample(2, png=None), sample(3)),
        r"train-1\.tar: the sample 00001 has no image\. .*This applies to 2 of 8 images",
    ),
    "two images": (
        replaced(sample(1, jpg=numbers(9, 10, 3))),
        r"sample 00001 has several images \(.*\)\. Keep one",
    ),
    "no label": (replaced(sample(1, cls=None)), r"00001 has no label: .*00001\.cls, a whole number"),
    "label in words": (replaced(sample(1, cls=b"cat")), r"00001\.cls holds b'cat', but a label is a whole number"),
    "negative label": (
        replaced(sample(1, cls=-1)),
        r"00001\.cls holds b'-1', but a label is a whole number below 100000",
    ),
    "label that no image has": (replaced(sample(1, cls=5)), "the labels run to 5 but only 3 of them occur"),
    "same key": (replaced(sample(1), sample(2), sample(1)), r"train-1\.tar: the key 00001 occurs twice"),
    "same name": (replaced(sample(1), sample(1)), r"train-1\.tar: 00001\.cls: duplicate file name"),
    "label outside the classes": (
        lambda r: (r / "classes.txt").write_text("one"),
        r"with classes\.txt: 2 faults\n  - train holds 1, labels of 1 classes",
    ),
    "empty line among the classes": (
        lambda r: (r / "classes.txt").write_text("even\n\nodd\n"),
        r"classes\.txt, line 2 is empty\. Write the name of a class in each line",
    ),
    "unprintable class": (
        lambda r: (r / "classes.txt").write_text("ev\x07en\nodd\n"),
        r"classes\.txt holds 'ev\\x07en', which no table can show",
    ),
    "label too large": (replaced(sample(1, cls=1000000)), r"00001\.cls holds b'1000000', but a label is a whole"),
    "repeated classes": (
        lambda r: (r / "classes.txt").write_text("crane\ncrane\n"),
        "classes holds a name more than once: crane",
    ),
    "odd size": (replaced(sample(1, png=numbers(12, 9, 3))), r"train-1\.tar: 00001\.png is 9x12 pixels, but .*is 10x9"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_shard_fault(case: str, root: Path) -> None:
    spoil, message = FAULTS[case]
    spoil(root)
    with pytest.raises(BenchError, match=message):
        load(root)


def test_without_the_package_it_says_what_to_type(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(BenchError, match=r"pip install 'ssl-robustness-bench\[webdataset\]'"):
        load(root)
