"""Probes one stage: steps of any batch size, each from the state before training."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bench import rng
from bench.cost.memory import live_bytes
from bench.device import count_flops
from bench.method import Stage
from bench.nn import Encoder, load_tensors_into
from bench.optim import keep_proportions
from bench.train import take_step

_FEW = (2, 4, 6)
"""Images in the counted steps; even, because RoCL compares within the halves of a batch."""


class Passes(NamedTuple):
    """How often an image passes through a network in one step; a patch counts as its share of an image."""

    both: float
    """Forward and backward."""
    forward: float
    """Forward only."""


class _Counts(NamedTuple):
    """The counts of a step on a few images."""

    learning_flops: int
    """Operations of everything except the views."""
    passes: Passes
    live_bytes: list[int]


class StageProbe:
    """A stage with its optimiser, on untrained weights; its state is restored after each step.

    So all steps start from the same weights. This matters because a probe makes no pseudo-labels, and without them
    AdvCL's loss is NaN and its update spoils the weights. A CPU probes a stage in fp16 in fp32 instead. A step of a
    probe takes its images at once, whatever ``accumulate`` says: a batch in parts is that many such steps.

    Args:
        stage: changed in place; afterwards on ``device``, in train mode.
        images: uint8 [N, C, H, W], from which batches are taken.
        device: where to measure.
        seed: for views and attacks; the same in every step of a probe.
    """

    def __init__(self, stage: Stage, images: Tensor, *, device: torch.device, seed: int = 0) -> None:
        self.plan = plan = stage.plan
        precision = "fp32" if plan.precision == "fp16" and device.type == "cpu" else plan.precision
        stage.plan = plan.model_copy(update={"precision": precision, "accumulate": 1})
        self.stage, self.images, self.device, self._seed = stage.to(device).train(), images, device, seed
        self._optimizer = keep_proportions(stage.optimizer(), stage.plan.effective_lr)
        self._scaler = torch.amp.GradScaler(device.type, enabled=stage.plan.precision == "fp16")
        self._start = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
        self._counted: dict[int, _Counts] = {}
        self.rough_flops: float | None = None
        """Operations of a step divided by its images, by :meth:`warm_up`; None: not counted yet."""

    def warm_up(self, batch: int) -> None:
        """Take a step on ``batch`` images and count its operations, which takes longer than the steps after it."""
        images, index = self._batch(batch)
        _, flops = count_flops(lambda: self._step(images, index))
        self._restore()
        self.rough_flops = flops / batch

    def seconds(self, batch: int, steps: int = 1) -> float:
        """Return the seconds of a step on ``batch`` images with its update, by the device's clock on a GPU.

        With several ``steps`` it is the mean of that many in a row, as in training: a GPU then waits less for the CPU.
        """
        images, index = self._batch(batch)
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(steps):
                self._step(images, index)
            seconds = time.perf_counter() - start
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(steps):
                self._step(images, index)
            end.record()
            end.synchronize()
            seconds = begin.elapsed_time(end) / 1000
        self._restore()
        return seconds / steps

    def flops(self, batch: int) -> int:
        """Return the floating-point operations of a step on ``batch`` images, extrapolated from steps on a few.

        Views, which blur only some images, are counted at ``batch`` itself, because that is cheap.
        """
        return _quadratic(batch, *(self._counts(few).learning_flops for few in _FEW)) + self._view_flops(batch)

    def flops_per_image(self) -> float:
        """Return the operations of a step at the plan's batch size, divided by its images."""
        return self.flops(self.plan.batch_size) / self.plan.batch_size

    def passes(self) -> Passes:
        """Return how often an image passes through a network: an encoder, or a convolution outside of one."""
        return self._counts(_FEW[0]).passes

    def memory(self, batch: int, parts: int = 1) -> int:
        """Return the bytes of all tensors at the peak of a step on ``batch`` images, extrapolated from steps on a few.

        If it computes them in several ``parts``, all but the first part have the gradients of those before beside them.

        A step runs the same operators for every batch size. With a larger batch the peak moves from the update, whose
        memory is fixed, to the end of the forward pass; so each operator is extrapolated separately.
        """
        two, four, six = (self._counts(few).live_bytes for few in _FEW)
        if not len(two) == len(four) == len(six):  # operators that depend on the batch size: use the peaks only
            two, four, six = [max(two)], [max(four)], [max(six)]
        part = math.ceil(batch / parts)
        learned = (parameter for parameter in self.stage.parameters() if parameter.requires_grad and parts > 1)
        gradients = sum(parameter.nbytes for parameter in learned)
        return gradients + max(_quadratic(part, *live) for live in zip(two, four, six, strict=True))

    def count(self, before_each: Callable[[], None] = lambda: None) -> None:
        """Take the steps that :meth:`flops`, :meth:`passes` and :meth:`memory` need, unless they are taken already.

        ``before_each`` is called before the steps of each size; it may raise to stop the count.
        """
        for few in _FEW:
            before_each()
            self._counts(few)

    def _counts(self, batch: int) -> _Counts:
        if batch not in self._counted:
            self._counted[batch] = self._count(batch)
        return self._counted[batch]

    def _count(self, batch: int) -> _Counts:
        images, index = self._batch(batch)
        if not self._optimizer.state:
            self._step(images, index)  # creates the momenta, which exist from the second step on
            self._restore()
        self._optimizer.zero_grad(set_to_none=True)
        flops = 0

        def step() -> None:
            nonlocal flops
            _, flops = count_flops(lambda: self._step(images, index))

        with _counting_passes(self.images.shape[1:], batch) as passes:
            live = live_bytes(step, [*self._resident(), images, index], since=self.stage)
        self._restore()
        return _Counts(flops - self._view_flops(batch), passes(), live)

    def _view_flops(self, batch: int) -> int:
        images, index = self._batch(batch)
        return count_flops(lambda: self.stage.views(images, self._generator(), index))[1]

    def _batch(self, batch: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(batch) % len(self.images)
        return self.images[index].to(self.device), index.to(self.device)

    def _step(self, images: Tensor, index: Tensor) -> None:
        take_step(self.stage, images, index, self._generator(), self._optimizer, self._scaler)

    def _generator(self) -> torch.Generator:
        return rng.generator(self._seed, "probe", device=self.device)

    def _restore(self) -> None:
        load_tensors_into(self.stage, self._start)

    def _resident(self) -> Iterator[Tensor]:
        yield from self.stage.parameters()
        yield from self.stage.buffers()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _quadratic(batch: int, two: int, four: int, six: int) -> int:
    """Return the value at ``batch`` of the quadratic through the values at 2, 4 and 6 images.

    The cost of networks is linear in the images, and losses compare them in pairs; so for an even batch the result is
    exact.
    """
    b = batch
    return ((b - 4) * (b - 6) * two - 2 * (b - 2) * (b - 6) * four + (b - 2) * (b - 4) * six) // 8


@contextmanager
def _counting_passes(image_shape: Sequence[int], batch: int) -> Iterator[Callable[[], Passes]]:
    """Count inputs of encoders in this block; yield a function for the result.

    Outside of encoders, a convolution with the channels of an image is the beginning of a network, too.
    """
    channels, height, width = image_shape
    seen: dict[bool, float] = defaultdict(float)
    inside = 0

    def enter(module: nn.Module, inputs: Any) -> None:
        nonlocal inside
        inside += isinstance(module, Encoder)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal inside
        inside -= isinstance(module, Encoder)
        stem = isinstance(module, nn.Conv2d) and module.in_channels == channels
        if not inside and (stem or isinstance(module, Encoder)):
            images, _, high, wide = inputs[0].shape
            seen[output.requires_grad] += images * high * wide / (height * width) / batch

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield lambda: Passes(round(seen[True], 3), round(seen[False], 3))
    finally:
        for handle in handles:
            handle.remove()
