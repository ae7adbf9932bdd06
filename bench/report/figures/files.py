"""Figures on disk: PNG and SVG, the same bytes from the same numbers."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from bench.files import write_bytes
from bench.report.figures.style import styled

_DPI = 200


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``figure`` as ``name``.png and .svg into ``folder``, atomically, and return their paths.

    Raises:
        BenchError: the folder cannot be written.
    """
    paths = []
    for kind in ("png", "svg"):
        path = folder / f"{name}.{kind}"
        write_bytes(path, encoded(figure, kind))
        figure.set_layout_engine("none")  # laid out by now, which takes half of the time, and alike for both
        paths.append(path)
    return paths


def encoded(figure: Figure, kind: str) -> bytes:
    """Return ``figure`` as the content of a file of this kind, "png" or "svg", without date or program version."""
    buffer = io.BytesIO()
    # None leaves an entry out that matplotlib would otherwise fill in.
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with styled():
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
