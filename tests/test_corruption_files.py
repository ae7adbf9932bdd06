"""Corrupted images on disk: the published form, what is refused, and sets that are made once and kept."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data import Dataset, Split
from bench.data.corruptions import CorruptedImages, corrupt, generated, generated_images, open_files, ungenerated
from bench.errors import BenchError, InterruptedRunError
from bench.monitor import Monitor
from bench.recipe import CORRUPTIONS, SEVERITIES
from bench.rng import generator

N, NAMES = 12, ("gaussian_noise", "fog")


def dataset(seed: int = 0, **facts: Any) -> Dataset:
    g = torch.Generator().manual_seed(seed)
    train, test = torch.randint(0, 256, (2, N, 3, 8, 10), generator=g, dtype=torch.uint8)
    labels = torch.arange(N) % 3
    return Dataset("toy", "toy", Split(train, labels), Split(test, labels), classes=("a", "b", "c"), **facts)


class Listener(Monitor):
    """Keeps notes and counts, and asks for a stop at the ``stop_at``-th word of progress."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.total = self.count = 0
        super().__init__()
        self._left = stop_at

    def begin(self, phase: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self.total, self.count = total, done

    def advance(self, amount: int, detail: str = "") -> None:
        self.count += amount
        if self._left is not None:
            self._left -= 1
            self.stop_requested |= self._left == 0

    def note(self, message: str) -> None:
        self.notes.append(message)


def generate(folder: Path, listener: Listener | None = None, data: Dataset | None = None) -> CorruptedImages:
    listener = listener or Listener()
    return generated_images(data or dataset(), NAMES, data_dir=folder, monitor=listener)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder of CIFAR-10-C's form, of random images."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (5 * N, 8, 10, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(N) % 3, 5).astype(np.uint8))
    return tmp_path


# Files


def test_files_are_read_severity_by_severity(published: Path) -> None:
    files = open_files(published, dataset(), NAMES)
    for name in NAMES:
        whole = np.load(published / f"{name}.npy")
        for severity in SEVERITIES:
            for batch in (slice(0, 5), slice(5, 10), slice(10, 15)):
                expected = whole[(severity - 1) * N : severity * N][batch].transpose(0, 3, 1, 2)
                assert np.array_equal(files.batch(name, severity, batch).numpy(), expected)
    assert (files.images, files.package, tuple(files.digests)) == (N, None, NAMES)


def test_the_digest_is_of_pixels_and_names(published: Path, tmp_path: Path) -> None:
    first = open_files(published, dataset(), NAMES)
    assert open_files(published, dataset(), NAMES[::-1]).sha256 == first.sha256
    assert open_files(published, dataset(), NAMES[:1]).sha256 != first.sha256
    pixels = np.load(published / "fog.npy")
    np.save(published / "fog.npy", np.asfortranarray(pixels))
    assert open_files(published, dataset(), NAMES).sha256 == first.sha256
    pixels[-1, -1, -1, -1] ^= 1
    np.save(published / "fog.npy", pixels)
    assert open_files(published, dataset(), NAMES).sha256 != first.sha256


def test_the_folder_above_will_do_for_cifar(published: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    above = tmp_path_factory.mktemp("data")
    (above / "CIFAR-10-C").symlink_to(published)
    cifar = dataset(published_as="cifar10")
    assert open_files(above, cifar, NAMES).sha256 == open_files(published, cifar, NAMES).sha256
    with pytest.raises(BenchError, match=r"Unpack CIFAR-10-C.tar of https://\S+ and name its folder"):
        open_files(above / "nowhere", cifar, NAMES)
    with pytest.raises(BenchError, match=r"nowhere: no such folder\. .*or type --corruptions generate"):
        open_files(above / "nowhere", dataset(), NAMES)


def resaved(name: str, change: Callable[[Any], Any], **options: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")), **options)


def cut(folder: Path) -> None:
    path = folder / "fog.npy"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "fog.npy").unlink(), "fog.npy is missing"),
        (lambda folder: (folder / "labels.npy").unlink(), "labels.npy is missing"),
        (cut, "fog.npy cannot be read, or was cut short"),
        (lambda folder: (folder / "fog.npy").write_bytes(b"no array"), "fog.npy cannot be read"),
        (lambda folder: (folder / "fog.npy").write_bytes(b""), "fog.npy cannot be read"),
        (resaved("fog", lambda x: x.astype(object), allow_pickle=True), "fog.npy cannot be read"),
        (resaved("fog", lambda x: x[:-N]), r"fog.npy is uint8 \[48, 8, 10, 3\], not uint8 \[60, 8, 10, 3\]"),
        (resaved("fog", lambda x: x.transpose(0, 3, 1, 2)), r"fog.npy is uint8 \[60, 3, 8, 10\], not uint8"),
        (resaved("fog", lambda x: x / 255), r"fog.npy is float64 \[60, 8, 10, 3\], not uint8"),
        (resaved("labels", lambda y: y[:N]), r"labels.npy is \[12\], not \[60\]: 5 times the test split"),
        (
            resaved("labels", lambda y: y[::-1]),
            "disagrees with the test split in 40 of 60 labels, first at 0: 2, not 0",
        ),
    ],
)
def test_files_that_are_not_what_they_should_be(published: Path, damage: Callable[[Path], Any], complaint: str) -> None:
    damage(published)
    with pytest.raises(BenchError, match=complaint) as raised:
        open_files(published, dataset(), NAMES)
    assert str(raised.value).startswith(f"corrupted images of toy in {published}: ")


def test_a_file_that_changes_while_it_is_measured_is_refused(published: Path) -> None:
    files = open_files(published, dataset(), NAMES)
    first = files.batch("fog", 1, slice(5))
    (published / "fog.npy").touch()
    assert torch.equal(files.batch("fog", 1, slice(5)), first)  # its pixels are the same
    resaved("fog", lambda x: x ^ 1)(published)
    with pytest.raises(BenchError, match=r"fog\.npy has changed since its digest was computed\. Type the command"):
        files.batch("fog", 1, slice(5))
    files.batch("gaussian_noise", 1, slice(5))


def test_all_faults_are_listed_together(published: Path) -> None:
    (published / "labels.npy").unlink()
    cut(published)
    with pytest.raises(BenchError, match=r"(?s)15 faults.*labels\.npy is missing.*shot_noise\.npy.*fog\.npy cannot"):
        open_files(published, dataset(), CORRUPTIONS)


# Made here


def test_generated_images_have_the_published_form_and_each_chunk_its_own_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "_CHUNK", 5)
    data = dataset()
    made = generate(tmp_path)
    again = open_files(made.folder, data, NAMES)
    assert again.digests == made.digests
    for name, severity, first in product(NAMES, SEVERITIES, (0, 5, 10)):
        chunk = slice(first, min(first + 5, N))
        draws = generator(0, "corruption", data.sha256, name, severity, first)
        expected = corrupt(data.test.images[chunk], name, severity, generator=draws)
        assert torch.equal(made.batch(name, severity, chunk), expected)
    assert made.package is not None
    assert "CIFAR-C" in made.parametrisation


def test_images_are_made_once(tmp_path: Path) -> None:
    assert ungenerated(dataset(), NAMES, tmp_path) == [*NAMES]
    assert list(tmp_path.iterdir()) == []
    first = generate(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    listener = Listener()
    assert generate(tmp_path, listener) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    assert (listener.total, listener.notes) == (0, [])
    assert ungenerated(dataset(), (*NAMES, "snow"), tmp_path) == ["snow"]


def test_other_data_are_other_images(tmp_path: Path) -> None:
    first, second = generate(tmp_path), generate(tmp_path, data=dataset(1))
    assert first.folder != second.folder
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 9])
def test_stopped_anywhere_it_continues_to_the_same_images(tmp_path: Path, stop_at: int) -> None:
    whole = generate(tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        generate(tmp_path / "parts", Listener(stop_at))
    folder = tmp_path / "parts" / "cache" / "corruptions" / whole.folder.name
    assert {path.name for path in folder.iterdir()} <= {path.name for path in whole.folder.iterdir()}
    listener = Listener()
    assert generate(tmp_path / "parts", listener).digests == whole.digests
    assert listener.total == listener.count == 2 * 5 * N
    assert listener.notes == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder),
        lambda folder: (folder / "fog.npy").unlink(),
        lambda folder: (folder / "fog.json").write_text("{}"),
        resaved("fog", lambda x: x ^ 1),
    ],
    ids=["cut", "deleted", "no digest", "flipped bits"],
)
def test_damaged_images_are_noticed_said_and_made_again(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    first = generate(tmp_path)
    damage(first.folder)
    listener = Listener()
    assert generate(tmp_path, listener) == first
    assert listener.count == listener.total
    (note,) = listener.notes
    assert f"{first.folder / 'fog.npy'} is damaged or missing; it is made again" in note
    assert open_files(first.folder, dataset(), NAMES).digests == first.digests


@pytest.mark.parametrize("anew", [True, False])
def test_generated_images_that_change_while_they_are_measured_are_refused(anew: bool, tmp_path: Path) -> None:
    made = generate(tmp_path)
    made = made if anew else generate(tmp_path)
    resaved("fog", lambda x: x * 0)(made.folder)
    with pytest.raises(BenchError, match=r"fog\.npy has changed since its digest was computed"):
        made.batch("fog", 3, slice(5))


def test_images_that_another_run_makes_at_the_same_time_are_the_same(tmp_path: Path) -> None:
    made = generate(tmp_path)
    expected = made.batch("fog", 3, slice(5))
    (made.folder / "fog.json").unlink()
    assert generate(tmp_path) == made
    assert torch.equal(made.batch("fog", 3, slice(5)), expected)


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(BenchError, match=r"cannot write .*cache is not a folder"):
        generate(tmp_path)
