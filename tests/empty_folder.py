"""The program in an empty folder, with the smallest dataset and the smallest run to give it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Said, say

SMALL = {
    "encoder.width": "1",
    "stage1.epochs": "1",
    "stage1.batch_size": "8",
    "stage1.projector": "[4,4]",
    "slf.epochs": "1",
    "slf.batch_size": "8",
    "evaluate.pgd_steps": "1",
    "evaluate.autoattack": "false",
}


Bench = Callable[..., Said]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """Return the program, run in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(say, monkeypatch, capsys)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """Return the name of a dataset of 16 + 8 images in two classes."""
    folder = tmp_path / "given"
    folder.mkdir()
    save(folder / "toy.npz")
    return f"npz:{folder / 'toy.npz'}"


def save(path: Path, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(16) % 2,
        "x_test": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 2,
        **changes,
    }
    np.savez(path, allow_pickle=False, **arrays)


def small(*, without: str = "", protocols: str = "slf") -> list[str]:
    """Return the options of the smallest run."""
    settings = [f"{key}={value}" for key, value in SMALL.items() if key != without]
    return [part for setting in settings for part in ("--set", setting)] + ["--device", "cpu", "--protocols", protocols]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
