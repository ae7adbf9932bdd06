"""The engine: trains any stage to the end, and continues exactly after any interruption.

The content of a batch depends only on (seed, stage, epoch, step), so the saved state consists of the stage's tensors,
the optimiser's, and two counters. On the CPU a resumed run ends with bit-identical weights.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench import rng
from bench.code import modules_of
from bench.data import ImageSource, on_device
from bench.device import Clock, FlopCounter, device_name, refuse_precision, timed
from bench.errors import BenchError
from bench.files import remove
from bench.job import Job
from bench.method import Stage, StepLoss
from bench.optim import keep_proportions, optimizer_tensors, restore_optimizer, set_lr
from bench.parallel import (
    any_device,
    copy_from_first,
    devices,
    is_first,
    on_first,
    over_all,
    refuse_difference,
    sharing,
)
from bench.record import PhaseCost, continued, describe_environment, other_code
from bench.train.checkpoint import (
    Progress,
    finished_path,
    load_state,
    nonfinite,
    own_buffers,
    save_state,
    training_tensors,
    unfinished_path,
)
from bench.train.step import numbers_of, positions_of, recordable, take_step
from bench.train.unsaved import Unsaved
from bench.train.updates import Updates


def train(stage: Stage, images: Tensor | ImageSource, job: Job, *, section: str | None = None) -> Progress:
    """Train ``stage`` on ``images`` to the end of its plan, or load it if it is trained already.

    Args:
        stage: changed in place; afterwards on the job's device.
        images: uint8 [N, C, H, W], on the CPU or on that device; or a source of such images.
        job: its folder receives ``<stage>.training.safetensors`` (after every epoch, and when stopped) and, at the
            end, ``<stage>.safetensors``. Requests to stop are checked after each step.
        section: the section of the recipe that holds the plan, for messages ("stage1"); None: the stage's name.

    Returns:
        the finished progress: history, cost, and the code and machine that it ran with.

    Raises:
        BenchError: bad state on disk, a batch larger than the data, or a loss or weights that are not finite.
        InterruptedRunError: a stop was requested; the state is saved.
    """
    training = _Training(stage, images, job, section or stage.name)
    if training.finished_before():
        return training.progress
    training.begin()
    while training.progress.epoch < stage.plan.epochs:
        epoch = _Epoch(training)
        with timed(job.device) as clock:
            for images, index, generator in epoch.batches():
                with epoch.counted_once(len(index)), epoch.seeded():
                    loss = take_step(stage, images, index, generator, training.optimizer, training.scaler)
                training.updates.look()
                clock.look()
                epoch.add(loss, len(index))
        epoch.close(clock)
    return training.end()


def training_modules(stage: Stage) -> tuple[str, ...]:
    """Return the names of the modules whose code trains ``stage``."""
    return (__name__, *modules_of(stage))


class _Training:
    """One call of :func:`train`."""

    def __init__(self, stage: Stage, images: Tensor | ImageSource, job: Job, section: str) -> None:
        device = job.device
        self.job, self.section = job, section
        self.stage, self.plan = stage.to(device), stage.plan
        self._unfinished, self._finished = (
            unfinished_path(job.folder, stage.name),
            finished_path(job.folder, stage.name),
        )
        self.positions = positions_of(stage, len(images)).to(device)
        self.count = len(self.positions)
        self.steps = self.plan.steps_per_epoch(self.count)
        check_plan(stage, self.count, device, section)
        self.images = on_device(images, device)
        name = device_name(device)
        self._environment = describe_environment(
            name,
            torch.get_num_threads(),
            modules=training_modules(stage),
            precision=self.plan.precision,
            devices=devices(),
        )
        self.progress = Progress(
            fingerprint=job.fingerprint,
            start_sha256=job.start_sha256,
            stage=stage.name,
            cost=PhaseCost.nothing(name),
            environments=(self._environment,),
        )

    def finished_before(self) -> bool:
        """Load the trained stage, if there is one, and return whether there was."""
        done = self._restored(self._finished, None)
        if done is None:
            return False
        self._tell_of_other_code(done, self._finished)
        on_first(lambda: remove(self._unfinished))  # left by a process that was killed while it finished
        self.progress = done
        return True

    def begin(self) -> None:
        """Restore the state of an interrupted training, or prepare the stage for its first step."""
        self.optimizer = keep_proportions(self.stage.optimizer(), self.plan.effective_lr)
        if self.plan.epochs:  # kNN trains nothing
            self.updates = Updates(self.stage, self.optimizer, self.job.monitor)
        self.scaler = torch.amp.GradScaler(self.job.device.type, enabled=self.plan.precision == "fp16")
        begun = self._restored(self._unfinished, self.optimizer)
        self.unsaved = Unsaved(self.stage, self.optimizer)
        if begun is None:
            with timed(self.job.device) as clock:
                on_first(lambda: self.stage.before_training(self.images))
                copy_from_first(self.stage.state_dict().values())
            self.progress = self.progress.model_copy(update={"cost": self.progress.cost.plus(clock)})
        else:
            self._refuse_other_devices(begun)
            self._tell_of_other_code(begun, self._unfinished)
            now = continued(begun.environments, self._environment)
            self.progress = begun.model_copy(update={"environments": now})
            _restore_scaler(self.scaler, begun)
        self.stage.train()
        per_epoch = min(self.count, self.steps * self.plan.batch_size)
        done = self.progress.epoch * per_epoch + self.progress.step * self.plan.batch_size
        if self.plan.epochs:  # kNN trains nothing
            self.job.monitor.begin(f"stage {self.stage.name}", self.plan.epochs * per_epoch, done=done)

    def save(self) -> None:
        """Save the state, which is the same on all devices, and tell once of what it lacks."""
        self.unsaved.tell(self.job.monitor)
        refuse_difference(training_tensors(self.stage, self.optimizer), f"the state of stage {self.stage.name!r}")
        on_first(lambda: save_state(self._unfinished, self.stage, self.optimizer, self.progress))

    def end(self) -> Progress:
        """Save the trained stage, without the state that only training needs."""
        on_first(lambda: save_state(self._finished, self.stage, None, self.progress))
        on_first(lambda: remove(self._unfinished))
        self.job.monitor.end()
        return self.progress

    def _restored(self, path: Path, optimizer: Optimizer | None) -> Progress | None:
        """Restore the state in ``path`` on all devices and return its progress; None: there is no intact file."""
        progress = on_first(lambda: load_state(path, self.job, self.stage, optimizer))
        if progress is not None and devices() > 1:
            copy_from_first(self.stage.state_dict().values())
            if optimizer is not None:
                tensors = on_first(lambda: optimizer_tensors(optimizer, self.stage))
                if not is_first():
                    restore_optimizer(optimizer, self.stage, tensors)
        return progress

    def _refuse_other_devices(self, begun: Progress) -> None:
        """Raise BenchError if batch-norm would see shares of another size than when the training began."""
        before = begun.environments[-1]
        if self.plan.batch_norm == "device" and before is not None and before.devices != devices():
            raise BenchError(
                f"{self.section}.batch_norm=device: each device normalises its own share of a batch, so the numbers "
                f"depend on the number of devices. Stage {self.stage.name} began on {before.devices}, this run has "
                f"{devices()}. Type --devices {before.devices}, or remove {self._unfinished} to begin it again."
            )

    def _tell_of_other_code(self, found: Progress, path: Path) -> None:
        if other_code(found.environments, self._environment):
            how = "was trained" if path == self._finished else "was started"
            self.job.monitor.note(
                f"stage {self.stage.name} {how} with code that differs from the present code, or is not known. It is "
                f"reused, its record names both, and the board marks it. To train it again, remove {path}"
            )


class _Epoch:
    """The current epoch of a training, from its current step to its end or to a stop."""

    def __init__(self, training: _Training) -> None:
        self._training, self._progress = training, training.progress
        self._sums: dict[str, Tensor | float] = {
            name: math.nan if value is None else value for name, value in training.progress.loss_sum.items()
        }
        self._flops, self._images, self._lr = training.progress.cost.flops_per_image, 0, 0.0
        self._step = training.progress.step
        """0-based number of the next step."""
        self._first: Tensor | None = None
        """The loss of the first step of the stage, if this is its first epoch, and it was not stopped since."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
        """Set the learning rate of each step and yield its images, their positions, int64 [B], and its generator."""
        training, job, epoch, name = self._training, self._training.job, self._progress.epoch, self._training.stage.name
        size, steps = training.plan.batch_size, training.steps
        order = torch.randperm(training.count, generator=rng.generator(job.seed, name, "order", epoch))
        order = training.positions[order.to(job.device)]
        training.unsaved.begin_epoch(epoch)
        coming = [order[step * size : (step + 1) * size] for step in range(self._step, steps)]
        images = training.images.batches(coming)
        for step, positions in enumerate(coming, self._step):
            if self._stop() and step > self._progress.step:
                break
            self._lr = training.plan.rate(epoch, step, steps)
            set_lr(training.optimizer, self._lr)
            generator = rng.generator(job.seed, name, "views", epoch, step, device=job.device)
            yield next(images), positions, generator

    def _stop(self) -> bool:
        """Return whether a stop was requested on any device."""
        return any_device(self._training.job.monitor.stop_requested)

    def seeded(self) -> AbstractContextManager[None]:
        """Return a context in which layers of other libraries, such as dropout, draw from a stream of this step."""
        job, progress = self._training.job, self._progress
        return rng.scoped(job.seed, self._training.stage.name, "layers", progress.epoch, self._step, device=job.device)

    @contextmanager
    def counted_once(self, images: int) -> Iterator[None]:
        """Count the operations of the step in this block, unless those of an earlier step are known."""
        with nullcontext() if self._flops is not None else FlopCounter() as counter:
            yield
        if counter is not None:
            self._flops = over_all(counter.total) / images

    def add(self, loss: StepLoss, images: int) -> None:
        """Add a finished step to the sums and the progress."""
        if self._progress.epoch == self._step == 0:
            self._first = loss.total.detach()
            optimizer_tensors(self._training.optimizer, self._training.stage)  # what cannot be saved is refused here
        logged = {"loss": loss.total, **loss.scalars}
        if self._sums and (odd := sorted(logged.keys() ^ self._sums.keys())):
            raise BenchError(
                f"stage {self._training.stage.name!r} logs {odd[0]!r} in some steps alone, so it has no mean over "
                "an epoch. Log it in every step."
            )
        for name, value in logged.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()
        self._images += images
        self._step += 1
        self._training.job.monitor.advance(images, self._detail())

    def close(self, clock: Clock) -> None:
        """Check that all values are finite, review the epoch if it is at its end, and save.

        Raises:
            BenchError: a loss, a weight or a momentum is not finite; nothing of this epoch is saved.
            InterruptedRunError: a stop was requested.
        """
        training, job, epoch = self._training, self._training.job, self._progress.epoch
        sums = {name: float(value) for name, value in self._sums.items()}
        self._refuse_nonfinite(sums["loss"])
        done = self._step == training.steps
        with timed(job.device) as review, sharing(training.plan.batch_norm):
            noted = numbers_of(training.stage, training.stage.after_epoch(epoch, training.images)) if done else {}
        means = {name: value / training.steps for name, value in sums.items()} | {"lr": self._lr}
        entry = self._measured(means, noted) if done else {}
        unfinished = {} if done else {name: value if math.isfinite(value) else None for name, value in sums.items()}
        cost = self._progress.cost.plus(clock, self._images).plus(review)
        scaler = training.scaler
        training.progress = self._progress.model_copy(
            update={
                "epoch": epoch + done,
                "step": 0 if done else self._step,
                "loss_sum": unfinished,
                "history": self._progress.history + ([entry] if done else []),
                "loss_scale": scaler.get_scale() if scaler.is_enabled() else None,
                "scale_growth": scaler._get_growth_tracker() if scaler.is_enabled() else 0,
                "cost": cost.model_copy(update={"flops_per_image": self._flops}),
            }
        )
        if done and not self._progress.step:  # of a part of an epoch, nothing can be said
            training.updates.tell(epoch + 1)
        training.save()
        if done:
            job.monitor.scalars(entry, epoch + 1)
        if self._stop():
            job.monitor.stop_requested = True
            job.monitor.check()

    def _detail(self) -> str:
        # Reading the loss waits for the device, so it is done only a few times per epoch.
        training = self._training
        every = max(1, training.steps // 8)
        if (self._step - 1) % every and self._step != training.steps:
            return ""
        epochs, loss = training.plan.epochs, float(self._sums["loss"]) / self._step
        return f"epoch {self._progress.epoch + 1}/{epochs}, loss {loss:.3f}"

    def _measured(self, means: Mapping[str, float], noted: Mapping[str, float]) -> dict[str, float]:
        """Return what the epoch measured; a mean over nothing, such as an empty selection, is no measurement."""
        name, number = self._training.stage.name, self._progress.epoch + 1
        if taken := sorted(means.keys() & noted.keys()):
            raise BenchError(f"stage {name!r} returned {taken[0]!r} from after_epoch, which its steps log already.")
        logged = {**means, **noted}
        for key in (key for key, value in logged.items() if not math.isfinite(value)):
            self._training.job.monitor.note(
                f"stage {name}: {key!r} is not finite in epoch {number}, whose history leaves it out"
            )
        return recordable(self._training.stage, {key: value for key, value in logged.items() if math.isfinite(value)})

    def _refuse_nonfinite(self, loss: float) -> None:
        training, stage, epoch = self._training, self._training.stage, self._progress.epoch + 1
        names: list[str] = []
        if math.isfinite(loss) and not (names := nonfinite(stage, training.optimizer)):
            return
        section, plan = training.section, training.plan
        exact = f", or train in fp32, --set {section}.precision=fp32" if plan.precision != "fp32" else ""
        if self._first is not None and not self._first.isfinite():
            raise BenchError(
                f"the loss of stage {stage.name!r} is not finite in its first step, before any weight was changed, so "
                "a lower learning rate does not help. Look in the code of the network and of the loss for a division "
                f"by zero, a logarithm, or numbers that grow too large{exact}"
            )
        if names and {*names} <= own_buffers(stage):
            raise BenchError(
                f"stage {stage.name!r} has a buffer that is not finite after epoch {epoch}, {names[0][6:]}. Nothing of "
                "this epoch was saved. Look where the stage's code sets it, or what the network's outputs grow to."
            )
        fault = (
            f"stage {stage.name!r} has weights or statistics that are not finite after epoch {epoch} ({names[0]} and "
            f"{len(names) - 1} other tensors): its steps were too large"
            if names
            else f"the loss of stage {stage.name!r} is not finite in epoch {epoch}"
        )
        raise BenchError(
            f"{fault}. Nothing of this epoch was saved. Lower the learning rate, for example "
            f"--set {section}.lr={min(plan.lr / 10, 1):g}{exact}"
        )


def check_plan(stage: Stage, images: int, device: torch.device, section: str | None = None) -> None:
    """Raise BenchError if the plan of ``stage`` cannot work on ``images`` images and ``device``.

    ``section`` is that of the recipe which holds the plan, for messages ("stage1"); None: the stage's name.
    """
    section = section or stage.name
    stage.plan.check_batches(section, images)
    refuse_accumulation(stage, section)
    refuse_devices(stage)
    refuse_precision(
        stage.plan.precision,
        device,
        f"{section} (stage {stage.name!r}) trains",
        "--precision bf16 or --precision fp32, or choose a smaller tier.",
    )


def refuse_accumulation(stage: Stage, section: str) -> None:
    """Raise BenchError if the loss of ``stage`` is no mean over parts of a batch, but its plan asks for parts."""
    if stage.plan.accumulate > 1 and not stage.per_image:
        raise BenchError(
            f"{section}.accumulate={stage.plan.accumulate}: the batches of stage {stage.name!r} cannot be computed in "
            "parts. Its loss is not known to be a mean over images, and where a loss compares the images of a batch, "
            f"that of the batch is not the mean of those of its parts. Type --set {section}.accumulate=1, or use "
            "--devices, which is exact. A stage whose loss is a mean over images says so with per_image = True."
        )


def refuse_devices(stage: Stage) -> None:
    """Raise BenchError if ``stage`` cannot be trained on the devices of this run."""
    if devices() > 1 and not stage.distributed:
        raise BenchError(
            f"stage {stage.name!r} ({type(stage).__name__}) does not say that it can be trained on several devices. "
            "Train it on one (leave out --devices), or, if its result follows from its state, its views and the "
            "features of its encoders alone, set distributed = True in its class: docs/devices.md."
        )


def _restore_scaler(scaler: torch.amp.GradScaler, progress: Progress) -> None:
    if progress.loss_scale is not None:
        state = scaler.state_dict()
        scaler.load_state_dict({**state, "scale": progress.loss_scale, "_growth_tracker": progress.scale_growth})
