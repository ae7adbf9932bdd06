"""What the transforms share: draws on the generator's device, and the loop over a batch in chunks."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_CACHED_VALUES = 3 * 2**16
"""Values in one chunk on the CPU, 768 KiB: each step then finds the result of the previous one in the cache.

Measured at 32 x 32: smaller chunks cost more calls, larger ones newly allocated memory.
"""


def uniform(shape: tuple[int, ...], low: float, high: float, *, generator: torch.Generator) -> Tensor:
    """Return float32 values of ``shape``, uniform in [low, high]."""
    return torch.rand(shape, generator=generator, device=generator.device).mul_(high - low).add_(low)


def draw_events(batch: int, prob: float, *, generator: torch.Generator) -> Tensor:
    """Return bool [batch], each True with probability ``prob``: which images a transform touches."""
    return torch.rand(batch, generator=generator, device=generator.device) < prob


def chunks(images: Tensor, count: int) -> Iterator[slice]:
    """Yield slices of ``count`` rows: cache-sized on the CPU, the whole batch elsewhere."""
    fitting = _CACHED_VALUES // math.prod(images.shape[1:]) if images.device.type == "cpu" else count
    step = max(fitting, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
