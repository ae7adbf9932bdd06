"""The engine: trains any stage to the end, and continues it after any interruption as if there had been none.

What a batch holds depends on (seed, stage, epoch, step) alone, so the state to keep is the stage's tensors, the
optimiser's, and two counters. On the CPU a continued run ends with bit-identical weights.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench import rng
from bench.code import modules_of
from bench.device import count_flops, device_name, timed
from bench.errors import BenchError
from bench.files import remove
from bench.method import Stage, StepLoss
from bench.optim import set_lr
from bench.record import PhaseCost, continued, describe_environment, other_code
from bench.reporting import Reporter, Silent
from bench.stop import Stop
from bench.train.checkpoint import (
    Progress,
    finished_path,
    load_state,
    nonfinite,
    save_state,
    unfinished_path,
)

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def train(
    stage: Stage,
    images: Tensor,
    *,
    folder: Path,
    owner: str,
    seed: int,
    device: torch.device,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
    section: str = "",
) -> Progress:
    """Train ``stage`` on ``images`` to the end of its plan, or load it if that was done before.

    Args:
        stage: changed in place; afterwards on ``device``.
        images: uint8 [N, C, H, W], on the CPU or on ``device``.
        folder: where ``<stage>.training.safetensors`` (every epoch, and when stopped) and, at the end,
            ``<stage>.safetensors`` are written.
        owner: digest of the recipe and seed; the state of another owner is refused.
        seed: the run's seed.
        device: where to train.
        reporter: told about progress.
        stop: asked after each step.
        section: of the recipe that holds the plan, for messages ("stage1"); empty: the stage's name.

    Returns:
        the finished progress: history, cost, and the code and machine it ran with.

    Raises:
        BenchError: bad state on disk, a batch larger than the data, a loss or weights that are not finite.
        InterruptedRunError: a stop was requested; the state is saved.
    """
    section = section or stage.name
    return _Training(stage, images, folder, owner, seed, device, reporter or Silent(), stop or Stop(), section).run()


def training_modules(stage: Stage) -> tuple[str, ...]:
    """Return the modules that train ``stage``."""
    return (__name__, *modules_of(stage))


class _Training:
    """One call of :func:`train`."""

    def __init__(
        self,
        stage: Stage,
        images: Tensor,
        folder: Path,
        owner: str,
        seed: int,
        device: torch.device,
        reporter: Reporter,
        stop: Stop,
        section: str,
    ) -> None:
        self.section = section
        self.stage, self.plan, self.seed, self.device = stage.to(device), stage.plan, seed, device
        self.reporter, self.stop = reporter, stop
        self.unfinished = unfinished_path(folder, stage.name)
        self.finished = finished_path(folder, stage.name)
        self.positions = stage.positions(len(images)).to(device)
        self.count = len(self.positions)
        self.steps = self.plan.steps_per_epoch(self.count)
        check_plan(stage, self.count, device)
        self.images = images.to(device)
        name = device_name(device)
        self.environment = describe_environment(
            name, torch.get_num_threads(), modules=training_modules(stage), precision=self.plan.precision
        )
        self.progress = Progress(
            owner=owner, stage=stage.name, cost=PhaseCost.nothing(name), environments=(self.environment,)
        )

    def run(self) -> Progress:
        owner = self.progress.owner
        done = load_state(self.finished, owner, self.stage, None, self.reporter)
        if done is not None:
            self._tell_of_other_code(done, self.finished)
            remove(self.unfinished)  # left by a process that was killed as it finished
            return done
        optimizer = self.stage.optimizer()
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.plan.precision == "fp16")
        begun = load_state(self.unfinished, owner, self.stage, optimizer, self.reporter)
        if begun is None:
            self._prepare()
        else:
            self._tell_of_other_code(begun, self.unfinished)
            now = continued(begun.environments, self.environment)
            self.progress = begun.model_copy(update={"environments": now})
            _restore_scaler(scaler, begun)
        self.stage.train()
        self._announce()
        while self.progress.epoch < self.plan.epochs:
            self._epoch(optimizer, scaler)
        save_state(self.finished, self.stage, None, self.progress)
        remove(self.unfinished)
        self.reporter.end()
        return self.progress

    def _prepare(self) -> None:
        with timed(self.device) as clock:
            self.stage.before_training()
        self.progress = self.progress.model_copy(update={"cost": self.progress.cost.plus(clock)})

    def _tell_of_other_code(self, found: Progress, path: Path) -> None:
        if other_code(found.environments, self.environment):
            how = "was trained" if path == self.finished else "was begun"
            self.reporter.note(
                f"stage {self.stage.name} {how} with other code than the present one, or it is not known with which. "
                f"It is kept, its record names both, and the board marks it. To train it anew, remove {path}"
            )

    def _announce(self) -> None:
        per_epoch = min(self.count, self.steps * self.plan.batch_size)
        done = self.progress.epoch * per_epoch + self.progress.step * self.plan.batch_size
        total = self.plan.epochs * per_epoch
        self.reporter.begin(f"stage {self.stage.name}", total, done=done)

    def _epoch(self, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Train from the current step to the end of the epoch, and save."""
        epoch, first, cost = self.progress.epoch, self.progress.step, self.progress.cost
        order = torch.randperm(self.count, generator=rng.generator(self.seed, self.stage.name, "order", epoch))
        order = self.positions[order.to(self.device)]
        sums: dict[str, Tensor | float] = dict(self.progress.loss_sum)
        flops, images, lr = cost.flops_per_image, 0, 0.0
        with timed(self.device) as clock:
            for step in range(first, self.steps):
                lr = self.plan.rate(epoch, step, self.steps)
                set_lr(optimizer, lr)
                index = order[step * self.plan.batch_size : (step + 1) * self.plan.batch_size]
                take_step = partial(self._step, index, step, optimizer, scaler)
                if flops is None:
                    loss, total = count_flops(take_step)
                    flops = total / len(index)
                else:
                    loss = take_step()
                images += len(index)
                clock.look()
                for name, value in {"loss": loss.total, **loss.scalars}.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().double()
                self.reporter.advance(len(index), self._detail(epoch, step, sums))
                if self.stop.requested and step + 1 < self.steps:
                    break
        means = {name: float(value) for name, value in sums.items()}
        self._refuse_nonfinite(means, optimizer, epoch)
        done = step + 1 == self.steps
        with timed(self.device) as review:
            noted = self.stage.after_epoch(epoch, self.images) if done else {}
        entry = {**{name: value / self.steps for name, value in means.items()}, "lr": lr, **noted}
        self.progress = self.progress.model_copy(
            update={
                "epoch": epoch + done,
                "step": 0 if done else step + 1,
                "loss_sum": {} if done else means,
                "history": self.progress.history + ([entry] if done else []),
                "loss_scale": scaler.get_scale() if scaler.is_enabled() else None,
                "scale_growth": scaler._get_growth_tracker() if scaler.is_enabled() else 0,
                "cost": cost.plus(clock, images).plus(review).model_copy(update={"flops_per_image": flops}),
            }
        )
        save_state(self.unfinished, self.stage, optimizer, self.progress)
        self.stop.check()

    def _step(self, index: Tensor, step: int, optimizer: Optimizer, scaler: torch.amp.GradScaler) -> StepLoss:
        generator = rng.generator(self.seed, self.stage.name, "views", self.progress.epoch, step, device=self.device)
        return take_step(self.stage, self.images[index], index, generator, optimizer, scaler)

    def _detail(self, epoch: int, step: int, sums: Mapping[str, Tensor | float]) -> str:
        # Reading the loss waits for the device, so it is done a few times an epoch only.
        every = max(1, self.steps // 8)
        if step % every and step + 1 != self.steps:
            return ""
        return f"epoch {epoch + 1}/{self.plan.epochs}, loss {float(sums['loss']) / (step + 1):.3f}"

    def _refuse_nonfinite(self, means: Mapping[str, float], optimizer: Optimizer, epoch: int) -> None:
        """Raise BenchError where a loss of this epoch, or what it has made of the weights, is not finite."""
        names: list[str] = []
        if torch.tensor(means["loss"]).isfinite() and not (names := nonfinite(self.stage, optimizer)):
            return
        fault = (
            f"stage {self.stage.name!r} has weights that are not finite after epoch {epoch + 1} ({names[0]} and "
            f"{len(names) - 1} other tensors): its steps were too large"
            if names
            else f"the loss of stage {self.stage.name!r} is not finite in epoch {epoch + 1}"
        )
        raise BenchError(
            f"{fault}. Nothing of this epoch was saved. Lower the learning rate, for example "
            f"--set {self.section}.lr={self.plan.lr / 10:g}, or train in fp32, --set {self.section}.precision=fp32"
        )


def forward(stage: Stage, images: Tensor, generator: torch.Generator, index: Tensor) -> StepLoss:
    """Return the loss of ``stage`` on a batch of uint8 ``images``, in the precision of its plan; views are exact."""
    views = stage.views(images, generator, index)
    dtype = _AUTOCAST.get(stage.plan.precision)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        loss: StepLoss = stage(views)
        return loss


def take_step(
    stage: Stage,
    images: Tensor,
    index: Tensor,
    generator: torch.Generator,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
) -> StepLoss:
    """Take one training step of ``stage`` on a batch of uint8 ``images`` and return its loss."""
    loss = forward(stage, images, generator, index)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss.total).backward()
    scaler.step(optimizer)
    scaler.update()
    stage.after_step()
    return loss


def check_plan(stage: Stage, images: int, device: torch.device) -> None:
    """Raise BenchError where the plan of ``stage`` cannot work on ``images`` images and ``device``."""
    stage.plan.check_batches(stage.name, images)
    if stage.plan.precision == "fp16" and device.type == "cpu":
        raise BenchError(
            f"stage {stage.name!r} trains in fp16, which needs a GPU. Set its precision to fp32 or bf16 with --set, "
            "or choose a smaller tier."
        )


def _restore_scaler(scaler: torch.amp.GradScaler, progress: Progress) -> None:
    if progress.loss_scale is not None:
        state = scaler.state_dict()
        scaler.load_state_dict({**state, "scale": progress.loss_scale, "_growth_tracker": progress.scale_growth})
