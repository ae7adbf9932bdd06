"""A folder of one's own images: natural order, a cache that is never trusted blindly, and every fault named."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from own_data import Arrays, decoded, forbidden, numbers, save
from PIL import Image

from bench.data import Dataset, decode, folder, listing, load_dataset
from bench.errors import BenchError

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
    assert (from_folder.name, from_folder.source) == ("pics", f"folder:{root}")
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
    listed = [Path(image.path).name for image in folder._list(tmp_path).images]
    assert listed == ["07.png", "7.png", "a.png", "b2_9.png", "b2_10.png", "b10_1.png"]


def test_every_kind_of_image_is_read_as_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(numbers(8, 8, 3))
    for name in ("0.PNG", "1.jpg", "2.jpeg", "3.bmp", "4.webp"):
        image.save(tmp_path / name)
    image.convert("RGBA").save(tmp_path / "5.png")
    image.quantize(256).save(tmp_path / "6.png")
    image.convert("L").save(tmp_path / "7.png")
    files = sorted(str(path) for path in tmp_path.iterdir())
    pixels, converted = decoded(files)
    assert converted == {"grey": 1, "opaque alpha channel dropped": 1, "palette": 1}
    assert pixels.shape == (8, 8, 8, 3)
    for lossless in (0, 3, 5):
        assert np.array_equal(pixels[lossless], numbers(8, 8, 3))
    assert np.array_equal(pixels[7, ..., 0], pixels[7, ..., 2])


def test_second_time_comes_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_folder(root)
    with monkeypatch.context() as patch:
        patch.setattr(listing, "Decoding", forbidden)
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


def test_what_a_killed_process_left_of_a_cache_is_deleted(root: Path) -> None:
    """It has the size of all images."""
    code = (
        "import os, sys; from pathlib import Path; from bench.data import load_dataset\n"
        "os.fsync = lambda number: os._exit(9)  # as if it were killed while it writes\n"
        "load_dataset(sys.argv[1], Path(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", code, f"folder:{root}", root.parent / "data"], check=False)
    (left,) = (root.parent / "data" / "cache").iterdir()
    assert (done.returncode, left.suffix) == (9, ".unfinished")
    load_folder(root)
    (cache,) = (root.parent / "data" / "cache").iterdir()
    assert cache.suffix == ".npz"


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


def links_to_nothing(root: Path) -> None:
    """Beside them, one that leads to an image, and one to a class."""
    (root / "train" / "ant" / "8.png").symlink_to(root / "unmounted" / "8.png")
    (root / "test" / "cat").symlink_to(root / "unmounted" / "cat")
    (root / "train" / "bee").rename(root.parent / "bees")
    (root / "train" / "bee").symlink_to(root.parent / "bees")
    (root / "train" / "ant" / "7.png").symlink_to(root / "train" / "ant" / "9.png")


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
    "unprintable class": (
        lambda r: [(r / split / "ant").rename(r / split / "an\tt") for split in ("train", "test")],
        r"train/ has classes that no table can show: 'an\\tt'\. Rename these folders",
    ),
    "links to nothing": (
        links_to_nothing,
        "pics: symbolic links that lead to nothing: test/cat, train/ant/8.png. Mount the disk",
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


@pytest.mark.parametrize("part", ["train", "test", "none"])
def test_a_part_of_a_folder_is_answered_with_the_whole(part: str, root: Path) -> None:
    with pytest.raises(BenchError, match=rf"cannot read .*{part}.train: .* {root} holds train/ and test/: name that"):
        load_folder(root / part)


def test_the_first_odd_file_is_named_whatever_thread_finds_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_CHUNK", 1)
    for name in ("10.png", "9.png"):
        picture(root / "test" / "bee" / name, seed=0, size=(12, 9))
    with pytest.raises(BenchError, match=r"bee.9\.png is 12x9"):
        load_folder(root)
