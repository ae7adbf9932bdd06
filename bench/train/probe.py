"""One stage, to be measured: steps of any size, each from the state that training starts with."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from bench import rng
from bench.method import Stage
from bench.train.cost import count_flops
from bench.train.engine import take_step
from bench.train.memory import step_memory
from bench.train.optim import build_optimizer


class Passes(NamedTuple):
    """How often an image passes a network in one step; a patch counts as its share of an image."""

    both: float
    """Forward and backward."""
    forward: float
    """Forward only."""


class StageProbe:
    """A stage with its optimiser, on untrained weights, ready to take steps that leave no trace.

    After each step the stage is put back to where it was, so that steps of all sizes are alike and none meets
    weights that another has spoilt: pseudo-labels are not made for a probe, and AdvCL's loss without them is no
    number. A step in half precision is probed in fp32 on a CPU, which can tell how long, but not do it.

    Args:
        stage: changed in place; afterwards on ``device``, in train mode.
        images: uint8 [N, C, H, W], from which batches are taken.
        device: where to measure.
        seed: decides views and attacks; every step of a probe has the same.
    """

    def __init__(self, stage: Stage, images: Tensor, *, device: torch.device, seed: int = 0) -> None:
        self.plan = stage.plan
        if stage.plan.precision == "fp16" and device.type == "cpu":
            stage.plan = stage.plan.model_copy(update={"precision": "fp32"})
        self.stage, self.images, self.device, self._seed = stage.to(device).train(), images, device, seed
        self._optimizer = build_optimizer(stage.plan, stage)
        self._scaler = torch.amp.GradScaler(device.type, enabled=stage.plan.precision == "fp16")
        self._start = {name: tensor.clone() for name, tensor in stage.state_dict().items()}

    def step(self, batch: int) -> None:
        """Take a step on ``batch`` images."""
        self._step(*self._batch(batch))
        self._restore()

    def seconds(self, batch: int) -> float:
        """Return how long a step on ``batch`` images takes, update included: by the device's clock on a GPU."""
        images, index = self._batch(batch)
        if self.device.type != "cuda":
            start = time.perf_counter()
            self._step(images, index)
            seconds = time.perf_counter() - start
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self._step(images, index)
            end.record()
            end.synchronize()
            seconds = begin.elapsed_time(end) / 1000
        self._restore()
        return seconds

    def flops(self, batch: int) -> int:
        """Return the floating-point operations of a step on ``batch`` images, from steps on a few.

        Networks and losses take a quadratic in the images, as each costs the same and losses compare them in pairs;
        three points on it give it everywhere, exactly. They are even, as RoCL compares inside the halves of a batch,
        and so should ``batch`` be. Views, which blur some images and spare others, are counted at the size asked
        for; that costs next to nothing.
        """
        two, four, six = (self._learning_flops(few) for few in (2, 4, 6))
        b = batch
        eightfold = (b - 4) * (b - 6) * two - 2 * (b - 2) * (b - 6) * four + (b - 2) * (b - 4) * six
        return eightfold // 8 + self._view_flops(batch)

    def flops_per_image(self) -> float:
        """Return the operations of a step at the plan's batch size, divided by its images."""
        return self.flops(self.plan.batch_size) / self.plan.batch_size

    def passes(self, batch: int = 2) -> Passes:
        """Count the passes through networks in a step on ``batch`` images.

        A pass begins where an image of the data's channels enters a convolution.
        """
        channels, height, width = self.images.shape[1:]
        seen: dict[bool, float] = defaultdict(float)

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, nn.Conv2d) and module.in_channels == channels:
                entering = inputs[0]
                area = entering.shape[2] * entering.shape[3] / (height * width)
                seen[output.requires_grad] += entering.shape[0] * area / batch

        handle = register_module_forward_hook(count)
        try:
            self.step(batch)
        finally:
            handle.remove()
        return Passes(round(seen[True], 3), round(seen[False], 3))

    def memory(self, batch: int) -> int:
        """Return the bytes that training on batches of ``batch`` images needs at its peak, its gradients included."""
        images, index = self._batch(batch)
        self._optimizer.zero_grad(set_to_none=True)
        resident = [*self._resident(), images, index]
        peak = step_memory(lambda: self._step(images, index), resident, self.device)
        self._restore()
        return peak

    def _learning_flops(self, batch: int) -> int:
        return count_flops(lambda: self.step(batch))[1] - self._view_flops(batch)

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
        self.stage.load_state_dict(self._start)

    def _resident(self) -> Iterator[Tensor]:
        yield from self.stage.parameters()
        yield from self.stage.buffers()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
