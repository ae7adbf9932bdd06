"""Random numbers: every draw of a run comes from a named generator that is derived from one seed.

Nothing here keeps state between calls, so a resumed run draws the same numbers as an uninterrupted one.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]
"""What the random numbers of a batch come from: one generator for all its images, on their device, or one an image,
on the CPU. In the second case the numbers of an image do not depend on the batch that it is in."""


def derive(seed: int, *names: str | int) -> int:
    """Return the 63-bit seed that belongs to ``names`` under the run's ``seed``.

    SHA-256 makes the streams of neighbouring names (step 1, step 2) statistically independent; a sum of the
    numbers would not.
    """
    text = "\x1f".join([str(seed), *(f"{type(n).__name__}:{n}" for n in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device`` for the stream called ``names``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def uniform(shape: Sequence[int], generators: Generators, like: Tensor) -> Tensor:
    """Return values of ``shape`` [B, ...], uniform in [0, 1), in the dtype and on the device of ``like``."""
    return _drawn(torch.rand, shape, generators, like)


def normal(shape: Sequence[int], generators: Generators, like: Tensor) -> Tensor:
    """Return standard normal values of ``shape`` [B, ...], in the dtype and on the device of ``like``."""
    return _drawn(torch.randn, shape, generators, like)


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generators: Generators, like: Tensor) -> Tensor:
    # Drawn by shape, not with rand_like: the memory format of ``like`` must not reorder the numbers.
    if isinstance(generators, torch.Generator):
        return draw(shape, generator=generators, dtype=like.dtype, device=like.device)
    drawn = torch.empty(shape, dtype=like.dtype)
    for row, generator in zip(drawn, generators, strict=True):
        draw(row.shape, generator=generator, out=row)
    return drawn.to(like.device)


@contextmanager
def scoped(seed: int, *names: str | int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Make the global generators of torch, NumPy and Python produce the stream ``names``, and restore them afterwards.

    For code that uses only those: module constructors, attacks from other libraries, and the steps of a user's method.
    """
    device, stream = torch.device(device), derive(seed, *names)
    # All devices of this type, because torch.manual_seed reseeds each of them.
    count = 0 if device.type == "cpu" else torch.get_device_module(device).device_count()
    kind = device.type if count else "cuda"
    before = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=range(count), device_type=kind):
            # On a CPU its own generator alone: torch.manual_seed also notes a stack trace for each kind of device.
            seeded = torch.manual_seed if count else torch.default_generator.manual_seed
            seeded(stream)
            np.random.seed(stream % 2**32)
            random.seed(stream)
            yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
