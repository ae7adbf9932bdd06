"""Images that stay encoded on disk, for data that do not fit into memory."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bench.data.decode import Decoder, Decoding, Encoded
from bench.errors import BenchError


class StoredImages(Tensor):
    """uint8 [N, C, H, W] of which an index decodes a part: ``images[positions]`` is an ordinary tensor.

    So all that takes images by their positions works on it unchanged. It holds no pixels: what would need all images at
    once is refused.

    Args:
        encoded: the N images, in order.
        decoder: for all of them.
    """

    encoded: Sequence[Encoded]
    decoder: Decoder

    @staticmethod
    def __new__(cls, encoded: Sequence[Encoded], decoder: Decoder) -> "StoredImages":
        """Make a tensor without storage."""
        height, width, channels = decoder.shape
        size = (len(encoded), channels, height, width)
        images: StoredImages = Tensor._make_wrapper_subclass(cls, size, dtype=torch.uint8)
        images.encoded, images.decoder = encoded, decoder
        return images

    def __getitem__(self, index: Any) -> Tensor:
        """Decode the images at ``index``: a slice, a list, or a tensor of positions or of N flags.

        Raises:
            BenchError: one of them was changed, or cannot be read any longer.
        """
        positions = torch.arange(len(self))[index]
        return self.decoded(positions.flatten().tolist()).view(*positions.shape, *self.shape[1:])

    def decoded(self, positions: Sequence[int], threads: int | None = None) -> Tensor:
        """Return the images at ``positions``, decoded by so many ``threads``; None: one a core."""
        decoding = Decoding(self.decoder, threads)
        pixels = decoding.read([self.encoded[position] for position in positions])
        decoding.converted()
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def split(self, split_size: Any, dim: int = 0) -> Any:
        """Yield the images in order, ``split_size`` at a time."""
        return (self[start : start + split_size] for start in range(0, len(self), split_size))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[position] for position in range(len(self)))

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"StoredImages({list(self.shape)})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:  # type: ignore[override]
        raise BenchError(
            f"{func} needs all images at once, but they stay on disk and are decoded by their positions: take them as "
            "images[positions]. Or type --data-in memory, if they fit."
        )
