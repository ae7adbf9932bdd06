"""Shared by all tests."""

from collections.abc import Iterator

import pytest
import torch

# With a second process on the machine, a pool of threads makes tiny tensors twenty times slower.
torch.set_num_threads(1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On images this small threads only wait for each other, for a minute where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
