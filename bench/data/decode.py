"""Encoded images to arrays of pixels; what is not 8-bit RGB is converted and counted, or refused."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.data.arrays import MIN_SIDE
from bench.data.limits import check_expansion
from bench.errors import BenchError
from bench.files import stamp

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
BACKGROUND = "white"
"""The background of transparent images."""

DECODING = b"upright, on white"
"""To be changed when the same files give other pixels, so that no older cache is used."""

_MARGIN = 256 / 224
"""The shorter side of an image before its centre is cut out, in units of the side afterwards: as classifiers of
ImageNet are tested (He et al., CVPR 2016, section 3.4)."""
_MOST_ELONGATED = 64
"""The longest side of an image that is resized, in units of its shortest: it grows with the shortest, and with it the
memory that the image takes before its centre is cut out."""
_CHUNK = 256  # files a task, at most: a task costs about as much as decoding a small image
_ORIENTATION = 0x0112  # the EXIF tag: 1 is upright, 5 to 8 swap width and height
_KINDS = {"1": "grey", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


class UnfitError(Exception):
    """An image that cannot be used: the kind of fault, and the message that names it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Encoded(NamedTuple):
    """One encoded image: a file, or a part of one."""

    path: str
    first: int = 0
    """Where it begins in the file."""
    length: int | None = None
    """Its bytes; None: the whole file."""
    member: str = ""
    """Its name within the file."""
    stamp: tuple[int, int] | None = None
    """Of the file when it was listed; None: not compared."""

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else self.path

    def open(self) -> Image.Image:
        """Return the image, of which only the header is decoded."""
        if self.length is None:
            self._check_unchanged(self.path)
            return Image.open(self.path)
        with open(self.path, "rb") as file:
            self._check_unchanged(file.fileno())
            file.seek(self.first)
            return Image.open(io.BytesIO(file.read(self.length)))

    def _check_unchanged(self, file: str | int) -> None:
        if self.stamp not in (None, stamp(file)):
            raise UnfitError("changed", f"{self.path} has changed since it was listed. Start again.")

    def size(self) -> int:
        """Return its number of bytes."""
        return os.path.getsize(self.path) if self.length is None else self.length


@dataclass(frozen=True)
class Decoder:
    """Decodes images to one size: upright and in RGB; transparent ones are laid on white."""

    size: Size
    """Width and height."""
    like: str
    """The image that has this size, for messages."""
    square: bool = False
    """Whether images of any size are brought to it, which is then square."""

    @classmethod
    def of(cls, first: Encoded, side: int | None = None) -> "Decoder":
        """Return the decoder for images of the size of ``first``, or for images of any size that get this ``side``.

        Raises:
            BenchError: the first image is unfit or too small.
        """
        if side is not None:
            return cls((side, side), f"@{side}", square=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limits are more precise
                pixels, _ = _decode_one(first, None)
        except UnfitError as error:
            raise BenchError(str(error)) from error
        height, width = pixels.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise BenchError(f"{first} is {width}x{height} pixels, below {MIN_SIDE}x{MIN_SIDE}. Enlarge the images.")
        return cls((width, height), str(first))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: height, width, channels."""
        return self.size[1], self.size[0], 3


class Decoding:
    """Decodes many images in threads, counts what had to be converted, and collects the faults of all of them.

    Args:
        decoder: for one of them.
        threads: None: one a core.
    """

    def __init__(self, decoder: Decoder, threads: int | None = None) -> None:
        self._decoder, self._threads = decoder, threads or os.cpu_count() or 1
        self._converted, self._unfit, self._total = Counter[str](), list[UnfitError](), 0

    def read(self, images: Sequence[Encoded]) -> Pixels:
        """Return ``images`` as uint8 [N, H, W, 3]; the pixels of unfit ones are undefined until :meth:`converted`."""
        pixels = np.empty((len(images), *self._decoder.shape), np.uint8)
        size = max(1, min(_CHUNK, -(-len(images) // self._threads)))

        def fill(start: int) -> tuple[Counter[str], list[UnfitError]]:
            kinds, unfit = Counter[str](), []
            for i in range(start, min(start + size, len(images))):
                try:
                    pixels[i], done = _decode_one(images[i], self._decoder)
                    kinds.update(done)
                except UnfitError as error:
                    unfit.append(error)
            return kinds, unfit

        # Threads, because PIL decodes outside the interpreter's lock. Results are awaited in order, so the image
        # named in an error is the first in order, not the first in time.
        with warnings.catch_warnings(), ThreadPoolExecutor(self._threads) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for kinds, faults in (map if self._threads == 1 else pool.map)(fill, range(0, len(images), size)):
                self._converted += kinds
                self._unfit += faults
        self._total += len(images)
        return pixels

    def converted(self) -> dict[str, int]:
        """Return how many images were not plain upright RGB, by kind.

        Raises:
            BenchError: an image cannot be decoded, differs in size, has more than 8 bits a channel, or expands
                implausibly; for each kind the first such image is named, with the number of images.
        """
        if self._unfit:
            raise BenchError("\n".join(counted_faults(self._unfit, self._total)))
        return dict(sorted(self._converted.items()))


def counted_faults(unfit: Sequence[UnfitError], total: int) -> list[str]:
    """Return the first message of each kind, and how many of ``total`` images it applies to."""
    counts = Counter(error.kind for error in unfit)
    firsts: dict[str, str] = {}
    for error in unfit:
        firsts.setdefault(error.kind, str(error))
    return [
        text + (f" This applies to {counts[kind]} of {total} images." if counts[kind] > 1 else "")
        for kind, text in firsts.items()
    ]


def _decode_one(image: Encoded, decoder: Decoder | None) -> tuple[Pixels, list[str]]:
    """Return the pixels of ``image`` and the conversions it needed; without a decoder it may have any size."""
    try:
        with image.open() as opened:
            _check_header(opened, image, decoder)
            return _upright_rgb(opened, image, decoder)
    except UnfitError:
        raise
    except BenchError as error:
        raise UnfitError("expansion", str(error)) from error
    except Exception as error:  # Decoders raise almost any exception for a broken file.
        message = f"{image} cannot be decoded: {error}. Copy it again, or remove it."
        raise UnfitError("undecodable", message) from error


def _check_header(opened: Image.Image, image: Encoded, decoder: Decoder | None) -> None:
    """Refuse an image by its header, before the pixels are decoded."""
    deep = any(re.search(r";16[A-Z]", str(tile[3])) for tile in getattr(opened, "tile", ()))
    if deep or opened.mode.startswith(("I", "F")):
        raise UnfitError(
            "deep",
            f"{image} has more than 8 bits a channel. Convert it to an 8-bit image, scaled by the largest value that "
            "your data can have (12-bit values: divide by 16).",
        )
    width, height = opened.size
    check_expansion(str(image), 3 * width * height, image.size())
    if decoder and not decoder.square and sorted(decoder.size) != sorted(opened.size):
        raise _odd_size(image, opened.size, decoder)
    if decoder and decoder.square and max(width, height) > _MOST_ELONGATED * min(width, height):
        raise UnfitError(
            "elongated",
            f"{image} is {width}x{height} pixels, and only images up to {_MOST_ELONGATED} times as long as wide are "
            "resized. Crop or remove it.",
        )


def _upright_rgb(opened: Image.Image, image: Encoded, decoder: Decoder | None) -> tuple[Pixels, list[str]]:
    kinds = [] if opened.mode in ("RGB", "RGBA", "RGBX") else [_KINDS.get(opened.mode, opened.mode)]
    if getattr(opened, "n_frames", 1) > 1:
        kinds.append("first of several frames")
    if opened.getexif().get(_ORIENTATION, 1) in range(2, 9):
        kinds.append("turned upright, as EXIF says")
        opened = ImageOps.exif_transpose(opened)
    if decoder and not decoder.square and opened.size != decoder.size:
        raise _odd_size(image, opened.size, decoder)
    if opened.has_transparency_data:
        opened = opened.convert("RGBA")
        opaque = opened.getchannel("A").getextrema() == (255, 255)
        kinds.append("opaque alpha channel dropped" if opaque else f"transparency laid on {BACKGROUND}")
        opened = Image.alpha_composite(Image.new("RGBA", opened.size, BACKGROUND), opened)
    opened = opened.convert("RGB")
    if decoder and decoder.square and opened.size != decoder.size:
        kinds += ["enlarged"] if min(opened.size) < round(_MARGIN * decoder.size[0]) else []
        opened = _centre(opened, decoder.size[0])
    return np.asarray(opened), kinds


def _centre(image: Image.Image, side: int) -> Image.Image:
    """Return the centre of ``image``, resized first; to the pixel what torchvision's Resize and CenterCrop return."""
    shorter, shortest = round(_MARGIN * side), min(image.size)
    width, height = (int(shorter * length / shortest) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))


def _odd_size(image: Encoded, found: Size, decoder: Decoder) -> UnfitError:
    width, height = decoder.size
    return UnfitError(
        "size",
        f"{image} is {found[0]}x{found[1]} pixels, but {decoder.like} is {width}x{height}: all images must have one "
        "size. Resize or remove it, or have all images resized: folder@SIZE:PATH or webdataset@SIZE:PATH.",
    )
