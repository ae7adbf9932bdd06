"""A dataset of one's own for the tests of data: a few small images, and the ways to write and load them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from bench.data import Dataset, decode, load_dataset

Arrays = dict[str, Any]


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


def forbidden(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("must not be called")


def decoded(files: Sequence[str]) -> tuple[decode.Pixels, dict[str, int]]:
    """Return the pixels of image ``files``, and what was converted."""
    images = [decode.Encoded(file) for file in files]
    decoding = decode.Decoding(decode.Decoder.of(images[0]))
    return decoding.read(images), decoding.converted()
