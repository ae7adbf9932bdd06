"""The conditions of a check: the device, the sizes of everything that is measured, and the ways to compute."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.device import timed
from bench.method import METHODS
from bench.nn import Encoder
from bench.recipe import DEFAULT_PROTOCOLS, Precision


@dataclass(frozen=True)
class Mode:
    """A way to compute a step."""

    name: str
    precision: Precision
    tf32: bool
    """Whether convolutions and matrix products in fp32 may use TF32."""
    compiled: bool = False

    @property
    def unit(self) -> str:
        """What the GPU multiplies in: "fp32", "TF32" or "bf16"."""
        return "TF32" if self.precision == "fp32" and self.tf32 else self.precision

    @contextmanager
    def used(self, compiler: str) -> Iterator[None]:
        """Compute in this way within this block, but for the precision, which is set in the plan of a stage."""
        with ExitStack() as stack:
            stack.enter_context(tf32(self.tf32))
            if self.compiled:
                # The function of the class, so that the copies that are attacked, made anew in each step, share
                # the compiled code. Each size of batch is compiled by itself.
                forward = torch.compile(Encoder.forward, backend=compiler, dynamic=False)
                stack.enter_context(mock.patch.object(Encoder, "forward", forward))
                stack.callback(torch.compiler.reset)
            yield


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call of ``work``, to the end of what it started on ``device``."""
    with timed(device) as clock:
        work()
    return clock.seconds


FP32 = Mode("fp32, no TF32", "fp32", tf32=False)
TF32 = Mode("fp32 with TF32", "fp32", tf32=True)
BF16 = Mode("bf16", "bf16", tf32=True)
COMPILED = Mode("bf16 + torch.compile", "bf16", tf32=True, compiled=True)
MODES = (TF32, BF16, COMPILED, FP32)


@dataclass(frozen=True)
class Conditions:
    """What all sections share. The defaults are those of a data-centre GPU."""

    device: torch.device
    folder: Path
    """For states, runs and records; empty at first."""
    dataset: str | None = None
    """Of the ``short`` run; None: digits enlarged to CIFAR's shape."""
    data_dir: Path = Path("data")
    side: int = 32
    """Of the images, in pixels."""
    width: int = 64
    modes: tuple[Mode, ...] = MODES
    batches: tuple[int, int] = (256, 512)
    rounds: int = 3
    """How often everything is timed."""
    seconds_a_round: float = 0.5
    """Steps are timed in rounds of about this length, of one step at least."""
    matrix: int = 8192
    """Side of the square matrices whose product gives the peak."""
    attacked: int = 512
    """Images in a batch under PGD-20, and at most under AutoAttack."""
    checked: tuple[str, ...] = (*METHODS, *DEFAULT_PROTOCOLS)
    """The methods and protocols that take two steps."""
    smoke_width: int = 16
    smoke_batch: int = 32
    run_images: int | None = None
    """Limit on the images of the ``short`` run, and then it is as small as it can be; None: all, and the tier's own
    settings."""
    compiler: str = "inductor"
    robust: bool = True
    """Whether AutoAttack meets images that all survive, which is its longest work, or none that do."""

    @classmethod
    def dry(cls, device: torch.device, folder: Path) -> "Conditions":
        """Return the smallest sizes with which every line of the check still runs, for a CPU."""
        return cls(
            device,
            folder,
            side=8,
            width=4,
            batches=(4, 4),
            rounds=1,
            seconds_a_round=0.0,
            matrix=64,
            attacked=4,
            checked=("deacl", *DEFAULT_PROTOCOLS),
            smoke_width=2,
            smoke_batch=4,
            run_images=30,
            compiler="eager",
            robust=False,
        )


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions and matrix products in fp32 use TF32 within this block, or not."""
    switches = fp32_switches()
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = allowed
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def fp32_switches() -> tuple[Any, Any]:
    """Return what decides whether convolutions and matrix products in fp32 use TF32, by ``allow_tf32``.

    The newer ``fp32_precision`` cannot be mixed with it, and in torch 2.9 code to be compiled still reads this one.
    """
    return torch.backends.cudnn, torch.backends.cuda.matmul
