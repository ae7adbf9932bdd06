"""What is exported: an encoder, alone or with the classifier of a protocol, and how the result is loaded."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from bench import rng
from bench.errors import BenchError
from bench.nn import Classifier, Encoder
from bench.recipe import RELEASED, EncoderSettings
from bench.record import Record

TOLERANCE = 1e-5
"""By how much an exported network may differ, relative to the largest output."""


@dataclass(frozen=True)
class Model:
    """A network in eval mode on the CPU, and its form."""

    network: Encoder | Classifier
    settings: EncoderSettings
    image_shape: tuple[int, int, int]
    title: str
    year: int
    trained_on: str = ""
    """The name of the data of pre-training; empty: not known."""
    trained_on_sha256: str | None = None
    """Their digest; None: not known."""
    paper: str = ""
    """The title of its paper; empty: not known."""
    link: str = ""
    """Where the paper can be read."""
    record: Record | None = None
    """Of the classifier; None: it is an encoder alone."""

    @property
    def encoder(self) -> Encoder:
        """The encoder, without the classifier's head."""
        return self.network.encoder if isinstance(self.network, Classifier) else self.network

    @property
    def classes(self) -> int | None:
        """The number of classes; None: it is an encoder alone."""
        if isinstance(self.network, Classifier):
            return self.network.head.out_features
        return self.encoder.feature_dim if self.record and self.record.protocol == RELEASED else None

    @property
    def output(self) -> str:
        """What it returns: ``logits`` or ``features``."""
        return "features" if self.classes is None else "logits"

    @property
    def constants(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation of each channel of the normalisation inside; None: there is none."""
        buffers = self.encoder.normalise.state_dict()
        return (buffers["mean"].tolist(), buffers["std"].tolist()) if buffers else None

    def images(self, count: int = 3) -> Tensor:
        """Return random images, float [count, C, H, W] in [0, 1], the same each time."""
        return torch.rand(count, *self.image_shape, generator=rng.generator(0, "export"))

    @torch.no_grad()
    def check_same(self, found: Tensor, images: Tensor, to: str) -> None:
        """Raise BenchError if ``found`` is not what the network returns for ``images``."""
        expected: Tensor = self.network(images)
        off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not off <= TOLERANCE:
            raise BenchError(
                f"--to {to}: the exported network gives other {self.output} (by {off:.1e} of the largest), so it is "
                "not written. Type another format."
            )


class Loading(NamedTuple):
    """How an export is loaded without the bench."""

    code: str
    """Lines of Python, run in the export's folder; the last ones make ``model``: images in [0, 1] -> output."""
    library: str
    """As the Hub calls it."""
    needs: str
    """What to install."""
    files: tuple[tuple[str, str], ...]
    """Name and meaning of each file."""


def need(extra: str, *packages: str) -> None:
    """Raise BenchError if one of ``packages`` is not installed, with the name of the ``extra`` that has it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise BenchError(
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed. Type: pip install "
            f"'ssl-robustness-bench[{extra}]'"
        )
