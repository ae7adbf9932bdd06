"""Image files to one array of pixels, on all cores."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.arrays import MIN_SIDE
from bench.errors import BenchError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_CHUNK = 256  # files a task: a task for each file of 60,000 would cost as much as decoding a small image

Pixels = NDArray[np.uint8]


def decode(paths: Sequence[str]) -> Pixels:
    """Return the images as uint8 [N, H, W, 3]: RGB, without transparency.

    Raises:
        BenchError: names the first file that cannot be decoded, or differs in size from the first of all.
    """
    first = _decode_one(paths[0])
    if min(first.shape[:2]) < MIN_SIDE:
        raise BenchError(f"{paths[0]} is {_size(first)} pixels, below {MIN_SIDE}x{MIN_SIDE}. Enlarge the images.")
    pixels = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(paths))):
            image = _decode_one(paths[i])
            if image.shape != first.shape:
                raise BenchError(
                    f"{paths[i]} is {_size(image)} pixels, but {paths[0]} is {_size(first)}: all images must "
                    "have one size. Resize or remove it."
                )
            pixels[i] = image

    # Threads, because PIL decodes outside the interpreter's lock. Results are awaited in order, so the file
    # named in an error is the first in order, not the first in time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(0, len(paths), _CHUNK)):
            pass
    return pixels


def _decode_one(path: str) -> Pixels:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise BenchError(f"{path} has more than 8 bits a channel. Convert it to an 8-bit image.")
            return np.asarray(image.convert("RGB"))
    except BenchError:
        raise
    except Exception as error:  # Decoders raise nearly anything at a broken file.
        raise BenchError(f"{path} cannot be decoded: {error}. Copy it again, or remove it.") from error


def _size(image: Pixels) -> str:
    """Return width by height, the order in which image tools speak."""
    return f"{image.shape[1]}x{image.shape[0]}"
