"""Shared by all tests."""

import pytest
import torch

from methods.ap_dpe import attention

# With a second process on the machine, a pool of threads makes tiny tensors twenty times slower.
torch.set_num_threads(1)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of AP-DPE's attention instead of thirteen: every term is still there, in a fraction of the time."""
    monkeypatch.setattr(attention, "_LAYERS", 2)
