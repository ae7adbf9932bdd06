"""Shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_runs import Listener, changed, toy_data, toy_request

from bench.doctor import examine
from bench.run import examination, execute, prepare
from methods.ap_dpe import attention

# With a second process on the machine, a pool of threads makes tiny tensors twenty times slower: here, and in the
# programs that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def without_fsync() -> Iterator[None]:
    """No test cuts the power, and thousands of files would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def without_doctor() -> Iterator[None]:
    """The doctor's visit takes longer than a toy run, of which tests make hundreds: they ask for ``doctor``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "examine", lambda patient, monitor: ())
        yield


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluations of this test end with the doctor's checks."""
    monkeypatch.setattr(examination, "examine", examine)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of AP-DPE's attention instead of thirteen: every term is still there, in a fraction of the time."""
    monkeypatch.setattr(attention, "_LAYERS", 2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On images this small threads only wait for each other, for a minute where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``toy.npz``, a run of SimCLR on it under SLF and kNN (k = 3), and its records, which are local."""
    folder = tmp_path_factory.mktemp("finished")
    request = toy_request(toy_data(folder / "toy.npz", classes=4), folder, protocols=("slf", "knn"))
    execute(prepare(changed(request, knn__k=3)), folder / "results" / "local", Listener())
    return folder
