"""A piece of work that can be interrupted: what training, evaluation and sweeps have in common."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.monitor import Monitor


@dataclass(frozen=True)
class Job:
    """Where work keeps its state and whose that is, what decides its chance, where it runs, and who watches."""

    folder: Path
    """Of the state files, which are written again and again and from which the same job continues."""
    fingerprint: str
    """Digest of all that decides the outcome; the state of another is refused."""
    seed: int
    """From which everything random is derived."""
    device: torch.device
    monitor: Monitor = field(default_factory=Monitor)
    """Told about progress, and asked at safe points whether to stop."""
