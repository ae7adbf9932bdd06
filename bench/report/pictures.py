"""Pictures as PNG: the outcomes of the test images, and images themselves, enlarged without blur."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bench.report.verdict import Verdict

VERDICT_COLOURS: dict[Verdict, tuple[int, int, int, int]] = {
    Verdict.ROBUST: (0x2A, 0x9D, 0x8F, 255),
    Verdict.BROKEN: (0xDF, 0x61, 0x38, 255),
    Verdict.WRONG: (0x8B, 0x91, 0x9B, 255),
    Verdict.ABSENT: (0x8B, 0x91, 0x9B, 40),
}
"""RGBA colours that differ on white and on black, and for red-green colour-blind readers."""

_PLACE = {verdict: place for place, verdict in enumerate(VERDICT_COLOURS)}
_NOTHING = len(_PLACE)
_PALETTE = bytes(value for colour in VERDICT_COLOURS.values() for value in colour) + bytes(4)


def verdict_grid(verdicts: Sequence[Verdict]) -> bytes:
    """Return a PNG of one pixel an image, row by row in the order of ``verdicts``, nearly square."""
    columns = math.ceil(math.sqrt(len(verdicts)))
    places = bytearray([_NOTHING]) * (math.ceil(len(verdicts) / columns) * columns)
    places[: len(verdicts)] = bytes(map(_PLACE.__getitem__, verdicts))
    image = Image.frombytes("P", (columns, len(places) // columns), bytes(places))
    image.putpalette(_PALETTE, "RGBA")
    return _encoded(image)


def picture(image: np.ndarray, *, side: int) -> bytes:
    """Return a PNG of ``image``, uint8 [C, H, W] of 1 or 3 channels, at least ``side`` pixels high.

    It is enlarged by a whole factor, so that each of its pixels stays one square.
    """
    factor = max(1, math.ceil(side / image.shape[1]))
    large = image.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)
    pixels = large[:, :, 0] if large.shape[2] == 1 else large
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def data_url(png: bytes) -> str:
    """Return ``png`` as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
