"""Random numbers: every draw of a run comes from a named generator that is derived from one seed.

Nothing here keeps state between calls, so a resumed run draws the same numbers as an uninterrupted one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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


@contextmanager
def scoped(seed: int, *names: str | int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Make the global generators produce the stream called ``names``, and restore them afterwards.

    For code that uses only the global generators: module constructors, and attacks from other libraries.
    """
    device = torch.device(device)
    # All devices of this type, because torch.manual_seed reseeds each of them.
    count = 0 if device.type == "cpu" else torch.get_device_module(device).device_count()
    kind = device.type if count else "cuda"
    with torch.random.fork_rng(devices=range(count), device_type=kind):
        torch.manual_seed(derive(seed, *names))
        yield
