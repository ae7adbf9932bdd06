"""A job: interruptible work such as training, evaluation and sweeps."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.monitor import Monitor


@dataclass(frozen=True)
class Job:
    """The state folder of some work, its fingerprint, seed, device and monitor."""

    folder: Path
    """Holds the state files, which are updated often and from which the same job continues."""
    fingerprint: str
    """Digest of everything that determines the outcome; a state with another fingerprint is refused."""
    seed: int
    """All random numbers are derived from it."""
    device: torch.device
    monitor: Monitor = field(default_factory=Monitor)
    """Receives progress; requests to stop are checked at safe points."""
    start_sha256: str | None = None
    """Digest of the weights that training starts from; a state that started from others is set aside. None: of no
    earlier training."""
