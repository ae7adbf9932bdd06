"""Image files to one array of pixels, on all cores; what is not 8-bit RGB is converted and counted, or refused."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.data.arrays import MIN_SIDE
from bench.data.limits import check_expansion, check_size
from bench.errors import BenchError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
BACKGROUND = "white"
"""The background of transparent images."""

_CHUNK = 256  # files a task: a task costs about as much as decoding a small image
_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 5 to 8 swap width and height
_KINDS = {"1": "grey", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


class Decoded(NamedTuple):
    """Images, and what was done to them."""

    pixels: Pixels
    """uint8 [N, H, W, 3]."""
    converted: dict[str, int]
    """Images that were not plain upright RGB, by kind."""


class _UnfitError(Exception):
    """A file that cannot be used: the kind of fault, and the message that names the file."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def decode(paths: Sequence[str]) -> Decoded:
    """Return the images, upright and in RGB; transparent ones are laid on white.

    Raises:
        BenchError: a file cannot be decoded, differs in size from the first, has more than 8 bits a channel, or expands
            implausibly; for each kind the first such file is named, with the number of files.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limits are more precise
            first, _ = _decode_one(paths[0], None)
    except _UnfitError as error:
        raise BenchError(str(error)) from error
    height, width = first.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BenchError(f"{paths[0]} is {width}x{height} pixels, below {MIN_SIDE}x{MIN_SIDE}. Enlarge the images.")
    check_size(f"{len(paths)} images of {width}x{height}", len(paths) * first.size)
    pixels = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> tuple[Counter[str], list[_UnfitError]]:
        kinds, unfit = Counter[str](), []
        for i in range(start, min(start + _CHUNK, len(paths))):
            try:
                pixels[i], done = _decode_one(paths[i], (width, height), like=paths[0])
                kinds.update(done)
            except _UnfitError as error:
                unfit.append(error)
        return kinds, unfit

    # Threads, because PIL decodes outside the interpreter's lock. Results are awaited in order, so the file
    # named in an error is the first in order, not the first in time.
    converted, unfit = Counter[str](), list[_UnfitError]()
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for kinds, faults in pool.map(fill, range(0, len(paths), _CHUNK)):
            converted += kinds
            unfit += faults
    if unfit:
        raise BenchError("\n".join(_counted(unfit, len(paths))))
    return Decoded(pixels, dict(sorted(converted.items())))


def _counted(unfit: list[_UnfitError], total: int) -> list[str]:
    """Return the first message of each kind, and how many files it applies to."""
    counts = Counter(error.kind for error in unfit)
    firsts: dict[str, str] = {}
    for error in unfit:
        firsts.setdefault(error.kind, str(error))
    return [
        text + (f" This applies to {counts[kind]} of {total} images." if counts[kind] > 1 else "")
        for kind, text in firsts.items()
    ]


def _decode_one(path: str, size: Size | None, like: str = "") -> tuple[Pixels, list[str]]:
    """Return the image at ``path``, which must have ``size`` (width, height), and the conversions it needed."""
    try:
        with Image.open(path) as image:
            _check_header(image, path, size, like)
            return _upright_rgb(image, path, size, like)
    except _UnfitError:
        raise
    except BenchError as error:
        raise _UnfitError("expansion", str(error)) from error
    except Exception as error:  # Decoders raise almost any exception for a broken file.
        message = f"{path} cannot be decoded: {error}. Copy it again, or remove it."
        raise _UnfitError("undecodable", message) from error


def _check_header(image: Image.Image, path: str, size: Size | None, like: str) -> None:
    """Refuse a file by its header, before the pixels are decoded."""
    deep = any(re.search(r";16[A-Z]", str(tile[3])) for tile in getattr(image, "tile", ()))
    if deep or image.mode.startswith(("I", "F")):
        raise _UnfitError(
            "deep",
            f"{path} has more than 8 bits a channel. Convert it to an 8-bit image, scaled by the largest value that "
            "your data can have (12-bit values: divide by 16).",
        )
    width, height = image.size
    check_expansion(path, 3 * width * height, os.path.getsize(path))
    if size and sorted(size) != sorted(image.size):
        raise _odd_size(path, image.size, size, like)


def _upright_rgb(image: Image.Image, path: str, size: Size | None, like: str) -> tuple[Pixels, list[str]]:
    kinds = [] if image.mode in ("RGB", "RGBA", "RGBX") else [_KINDS.get(image.mode, image.mode)]
    if getattr(image, "n_frames", 1) > 1:
        kinds.append("first of several frames")
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        kinds.append("turned upright, as EXIF says")
        image = ImageOps.exif_transpose(image)
    if size and image.size != size:
        raise _odd_size(path, image.size, size, like)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (255, 255)
        kinds.append("opaque alpha channel dropped" if opaque else f"transparency laid on {BACKGROUND}")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return np.asarray(image.convert("RGB")), kinds


def _odd_size(path: str, found: Size, size: Size, like: str) -> _UnfitError:
    return _UnfitError(
        "size",
        f"{path} is {found[0]}x{found[1]} pixels, but {like} is {size[0]}x{size[1]}: all images must have one size. "
        "Resize or remove it.",
    )
