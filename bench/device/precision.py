"""Computing in low precision: the context for a device, and what a device cannot do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from bench.errors import BenchError
from bench.recipe import Precision

_LOW: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which convolutions and matrix products run in ``precision``; weights stay in float32."""
    return torch.autocast(device.type, dtype=_LOW.get(precision), enabled=precision in _LOW)


@contextmanager
def same_default_type(culprit: str) -> Iterator[None]:
    """Raise BenchError if ``culprit``, which runs within, changes the type of new tensors; it is put back.

    Weights, and what protocols compute, would be of that type, and records would still say fp32.
    """
    before = torch.get_default_dtype()
    try:
        yield
        now = torch.get_default_dtype()
    finally:
        torch.set_default_dtype(before)
    if now != before:
        raise BenchError(
            f"{culprit} makes {now} the default type of torch, and the bench trains in {before}. Leave "
            "torch.set_default_dtype out of its code, and pass dtype= where a tensor needs it."
        )


def refuse_default_type() -> None:
    """Raise BenchError if new tensors are not of float32: a file may have changed that when it was loaded."""
    if torch.get_default_dtype() != torch.float32:
        raise BenchError(
            f"the default type of torch is {torch.get_default_dtype()}, and the bench trains in torch.float32. Leave "
            "torch.set_default_dtype out of your code, or type torch.set_default_dtype(torch.float32) after it."
        )


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
