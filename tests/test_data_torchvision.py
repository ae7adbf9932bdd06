"""CIFAR and STL-10 as torchvision keeps them: read offline from an archive, and what is damaged or missing is named."""

import hashlib
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest
import torch
from own_data import forbidden, numbers
from torchvision import datasets as tv

from bench.data import load_dataset
from bench.downloads import one_at_a_time
from bench.errors import BenchError


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
    (data_dir / "stl10_binary" / "class_names.txt").unlink()
    with pytest.raises(BenchError, match=r"stl10_binary is damaged: class_names.txt is missing. Delete that folder"):
        load_dataset("stl10", data_dir)


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
    with pytest.raises(BenchError, match=r"cannot keep CIFAR10 in .*file: it is a file\. .*--data-dir"):
        load_dataset("cifar10", tmp_path / "file")


@pytest.mark.usefixtures("offline")
def test_a_second_command_waits_for_the_download_of_the_first(
    tiny_cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision writes under the final name: a second download would destroy the first."""
    content, begun, told = tiny_cifar.read_bytes(), Event(), Queue[str]()
    monkeypatch.setattr("bench.downloads.warn", told.put)

    def download() -> None:
        with one_at_a_time(tiny_cifar):
            tiny_cifar.write_bytes(content[: len(content) // 2])
            begun.set()
            assert told.get(timeout=60) == f"waiting for another process, which downloads {tiny_cifar}"
            tiny_cifar.write_bytes(content)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(download)
        begun.wait(60)
        assert len(load_dataset("cifar10", tiny_cifar.parent).train) == 4
        first.result()


@pytest.mark.usefixtures("offline")
def test_where_no_lock_can_be_made_nothing_is_locked(tiny_cifar: Path) -> None:
    tiny_cifar.with_name(f".{tiny_cifar.name}.lock").mkdir()
    assert len(load_dataset("cifar10", tiny_cifar.parent).train) == 4
