"""Images that stay on disk: the same pixels, batches and numbers as in memory, and faults said in one sentence."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import forbidden, numbers
from PIL import Image
from torchvision.transforms import functional as F
from toy_runs import SMALL, Listener, carry_out, facts, toy_request

from bench.data import (
    DataIn,
    Dataset,
    ImagesOnDevice,
    StoredImages,
    StreamedImages,
    images,
    limits,
    load_dataset,
    survey,
    workers,
)
from bench.device import memory
from bench.errors import BenchError, InterruptedRunError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 24 + 16 images in two classes, one of them grey."""
    root, number = tmp_path_factory.mktemp("disk") / "pics", 0
    for split, count in (("train", 12), ("test", 8)):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for _ in range(count):
                pixels = numbers(8, 10, 3, seed=number, high=128) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number}.jpg")
                number += 1
    Image.fromarray(numbers(8, 10)).save(root / "test" / "bee" / f"{number - 1}.jpg")
    return root


def load(root: Path, data_in: DataIn) -> Dataset:
    return load_dataset(f"folder:{root}", root.parent / "data", data_in)


@pytest.fixture(scope="module")
def in_memory(root: Path) -> Dataset:
    return load(root, "memory")


@pytest.fixture(scope="module")
def on_disk(root: Path) -> Dataset:
    return load(root, "disk")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process decodes, however many cores there are."""
    monkeypatch.setattr(images, "free_cores", lambda: 1)


def test_all_that_is_known_of_the_data_is_the_same(
    root: Path, in_memory: Dataset, on_disk: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_CHUNK", 5)
    shutil.rmtree(root.parent / "data" / "cache")
    read_in_parts = load(root, "disk")
    monkeypatch.setattr(survey, "_made", forbidden)
    for disk in (on_disk, read_in_parts, load(root, "disk")):
        for fact in ("sha256", "mean", "std", "inventory", "classes", "image_shape", "name", "source"):
            assert getattr(disk, fact) == getattr(in_memory, fact), fact
        assert in_memory.index_train is not None
        assert disk.index_train is not None
        assert torch.equal(disk.index_train, in_memory.index_train)
        for one, other in ((disk.train, in_memory.train), (disk.test, in_memory.test)):
            assert isinstance(one.images, StoredImages)
            assert torch.equal(one.labels, other.labels)
            flags = other.labels == 1
            for index in (slice(None), slice(None, None, 3), [3, 0, 3], torch.tensor([5, 2]), flags, 4, -1):
                assert torch.equal(one.images[index], other.images[index])
            assert torch.equal(torch.cat(list(one.images.split(7))), other.images)


def test_a_survey_that_was_changed_is_made_again(root: Path, in_memory: Dataset, tmp_path: Path) -> None:
    for _ in range(2):
        assert load_dataset(f"folder:{root}", tmp_path, "disk").sha256 == in_memory.sha256
        (file,) = (tmp_path / "cache").iterdir()
        text = file.read_text()
        file.write_text(text.replace(in_memory.sha256, "0" * 64))
        assert file.read_text() != text


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_are_those_in_memory(processes: int, in_memory: Dataset, on_disk: Dataset) -> None:
    source = StreamedImages(on_disk.train.images, CPU, processes)
    positions = torch.randperm(len(source), generator=torch.Generator().manual_seed(0)).split(5)
    for batch, wanted in zip(source.batches(positions), positions, strict=True):
        assert torch.equal(batch, in_memory.train.images[wanted])
    assert torch.equal(torch.cat(list(source.in_order(9))), in_memory.train.images)
    assert torch.equal(source.batch(positions[0]), in_memory.train.images[positions[0]])


@pytest.mark.usefixtures("worker")
def test_a_run_on_disk_in_two_parts_is_the_run_in_memory(root: Path, tmp_path: Path) -> None:
    """The stop comes in the second of three steps of an epoch, while the third batch is decoded ahead."""
    settings = {**SMALL, "aff.selection": "best", "aff.selection_fraction": 0.2}
    asked = {"protocols": ("aff", "knn"), "overrides": {**settings, "knn.k": 3}}
    expected = carry_out(toy_request(f"folder:{root}", tmp_path / "memory", data_in="memory", **asked), tmp_path / "m")
    on_disk = toy_request(f"folder:{root}", tmp_path / "disk", data_in="disk", **asked)
    with pytest.raises(InterruptedRunError):
        carry_out(on_disk, tmp_path / "d", Listener(stop_at=5))
    found = carry_out(on_disk, tmp_path / "d")
    assert [facts(record) for record, _ in found] == [facts(record) for record, _ in expected]


def test_auto_is_memory_only_where_the_images_fit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 40 * 8 * 10 * 3
    for available, kept in ((3 * size, False), (3 * size - 3, True)):
        monkeypatch.setattr(limits, "available_memory", lambda available=available: available)
        assert isinstance(load(root, "auto").train.images, StoredImages) == kept
    monkeypatch.setattr(limits, "available_memory", lambda: 10**12)
    monkeypatch.setenv(limits.VARIABLE, "0.000001")
    assert isinstance(load(root, "auto").train.images, StoredImages), "what may not be read into memory stays on disk"
    with pytest.raises(BenchError, match="the limit is 1e-06 GB"):
        load(root, "memory")


@pytest.mark.parametrize("size", [(40, 31), (31, 40), (57, 33), (20, 25), (37, 37)])
def test_resized_images_are_those_of_torchvision(size: tuple[int, int], tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbers(height, width, 3)) for width, height in (size, (32, 32))]
    for split in ("train", "test"):
        for name, picture in zip(("ant", "bee"), pictures, strict=True):
            (tmp_path / "pics" / split / name).mkdir(parents=True)
            picture.save(tmp_path / "pics" / split / name / "1.png")
    with pytest.raises(BenchError, match=r"all images must have one size.*folder@SIZE:PATH"):
        load(tmp_path / "pics", "memory")
    expected = F.center_crop(F.resize(pictures[0], [37]), [32, 32])  # 37 is 8/7 of 32, rounded
    kept: tuple[DataIn, ...] = ("memory", "disk")
    for data_in in kept:
        data = load_dataset(f"folder@32:{tmp_path / 'pics'}", tmp_path / "data", data_in)
        assert np.array_equal(data.train.images[0].permute(1, 2, 0), np.asarray(expected))
        assert np.array_equal(data.train.images[1].permute(1, 2, 0), np.asarray(pictures[1])), "it has the size already"
        assert data.name == "pics-32"
        assert data.inventory is not None
        assert data.inventory.converted == ({"enlarged": 2} if min(size) < 37 else {})


@pytest.mark.parametrize(("width", "fits"), [(64 * 9, True), (64 * 9 + 1, False)])
def test_an_elongated_image_is_refused(width: int, fits: bool, tmp_path: Path) -> None:
    """Its shorter side grows to SIZE, and the longer one with it: a file of kilobytes would take gigabytes."""
    for split in ("train", "test"):
        for name, size in (("ant", (9, width)), ("bee", (9, 9))):
            (tmp_path / "pics" / split / name).mkdir(parents=True)
            Image.fromarray(numbers(*size, 3)).save(tmp_path / "pics" / split / name / "1.png")
    source = f"folder@16:{tmp_path / 'pics'}"
    if fits:
        assert load_dataset(source, tmp_path / "data").image_shape == (3, 16, 16)
        return
    with pytest.raises(BenchError, match=r"1.png is 577x9 pixels, and only images up to 64 times as long as wide"):
        load_dataset(source, tmp_path / "data")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder@7:pics", "images of side 7; choose one from 8 to 2048, such as @224"),
        pytest.param(f"folder@{'1' * 5000}:pics", "choose one from 8 to 2048", id="thousands of digits"),
        ("webdataset@9999:pics", "images of side 9999; choose"),
        ("npz@32:my.npz", "npz@32:my.npz: arrays have one size"),
        ("folder@:pics", "unknown dataset 'folder@:pics'"),
        ("folder@32:", "'folder@32:' names no path"),
    ],
)
def test_a_size_that_cannot_be(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=message):
        load_dataset(source, tmp_path)


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (
            "0::/jobs/one\n",
            {"memory.max": "1000", "memory.current": "300", "memory.stat": "inactive_file 50\n"},
        ),
        (
            "3:cpu:/\n4:memory:/jobs/one\n",
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "300",
                "memory.stat": "total_inactive_file 50\n",
            },
        ),
    ],
)
def test_the_memory_of_a_container_counts(
    own: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is that of a parent; the group itself has none."""
    assert memory.available_memory() > 10**6
    (tmp_path / "own").write_text(own)
    root = tmp_path / ("memory" if "memory" in own else "")
    (root / "jobs" / "one").mkdir(parents=True)
    (root / "jobs" / "one" / "memory.max").write_text("max")
    for name, content in files.items():
        (root / "jobs" / name).write_text(content)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    assert memory.available_memory() == 750


def test_what_does_not_fit_on_the_gpu_stays_in_memory(in_memory: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    size = in_memory.train.images.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size - 2, 10 * size))
    source = images.on_device(in_memory.train.images, torch.device("cuda"))
    assert isinstance(source, StreamedImages)
    assert isinstance(images.on_device(in_memory.train.images, CPU), ImagesOnDevice)
    on_cpu = StreamedImages(in_memory.train.images, CPU)
    assert torch.equal(torch.cat(list(on_cpu.in_order(7))), in_memory.train.images)


def test_what_needs_all_images_at_once_says_so(on_disk: Dataset) -> None:
    with pytest.raises(BenchError, match=r"stay on disk.*take them as images\[positions\]"):
        on_disk.train.images.float()
    assert repr(on_disk.train.images) == "StoredImages([24, 3, 8, 10])"


@pytest.mark.parametrize("source", ["digits", "npz:my.npz"])
def test_other_data_cannot_stay_on_disk(source: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=f"{source} is always read into memory.*folder:PATH"):
        load_dataset(source, tmp_path, "disk")


def test_an_image_that_changes_during_the_run_is_named(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pics"
    shutil.copytree(root, copy)
    disk = load(copy, "disk")
    changed = copy / "train" / "ant" / "1.jpg"
    changed.write_bytes((copy / "train" / "ant" / "2.jpg").read_bytes())
    with pytest.raises(BenchError, match=r"ant.1\.jpg has changed since it was listed\. Start again"):
        list(StreamedImages(disk.train.images, CPU, 1).in_order(4))
    assert load(copy, "disk").sha256 != disk.sha256
    changed.write_bytes(b"")
    with pytest.raises(BenchError, match=r"ant.1\.jpg cannot be decoded"):
        load(copy, "disk")


def test_a_lost_process_is_done_without(in_memory: Dataset, on_disk: Dataset) -> None:
    source = StreamedImages(on_disk.train.images, CPU, 1)
    batches = source.in_order(2)
    found = [next(batches)]
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.warns(UserWarning, match="a process that decodes images was lost"):
        found += batches
    assert torch.equal(torch.cat(found), in_memory.train.images)


def test_a_process_ends_with_the_one_that_it_works_for() -> None:
    orphan = multiprocessing.get_context("fork").Process(target=workers._end_with, args=(0,))
    orphan.start()
    orphan.join(10)
    assert orphan.exitcode == 1
