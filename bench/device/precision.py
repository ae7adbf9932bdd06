"""Computing in low precision: the context for a device, and what a device cannot do."""

from collections.abc import Mapping

import torch

from bench.errors import BenchError
from bench.recipe import Precision

_LOW: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which convolutions and matrix products run in ``precision``; weights stay in float32."""
    return torch.autocast(device.type, dtype=_LOW.get(precision), enabled=precision in _LOW)


def refuse_precision(precision: Precision, device: torch.device, what: str, instead: str) -> None:
    """Raise BenchError if ``device`` is a CPU and ``precision`` is fp16, which most CPUs only emulate.

    Args:
        precision: the precision asked for.
        device: the device to compute on.
        what: what computes, with its verb, for the message: "stage 'ssl' trains".
        instead: what to type instead.
    """
    if precision == "fp16" and device.type == "cpu":
        raise BenchError(f"{what} in fp16, which needs a GPU: on a CPU it is slower than fp32. Type {instead}")
