"""Where a run computes."""

import torch
from accelerate import PartialState

from bench.errors import BenchError


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called ``name`` ("cpu", "cuda", "cuda:1"), or this process's best one for None.

    Raises:
        BenchError: no such device here.
    """
    if name is None:
        best = PartialState().device
        # Projections are computed in float64, which Apple's GPUs lack.
        return torch.device("cpu") if best.type == "mps" else torch.device(best)
    try:
        device = torch.device(name)
        torch.empty(1, device=device, dtype=torch.float64).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise BenchError(f"device {name!r} cannot be used here. Allowed: {', '.join(found)}.") from error
    return device


def use_threads(count: int | None) -> None:
    """Let this process compute with ``count`` CPU threads; None: as many as PyTorch chooses."""
    if count is not None:
        torch.set_num_threads(count)
