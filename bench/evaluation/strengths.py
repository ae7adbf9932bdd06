"""Accuracy under PGD on a grid: of eps, with one attack per value; or of steps, with one trajectory for all values."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.attack import PGD, GradientWatch, correct, image_generators, log_margin
from bench.code import modules_of
from bench.data import Split, unit_pixels
from bench.device import Clock, PeakMemory, device_name
from bench.evaluation.state import Environments, SavedState, load_state
from bench.job import Job
from bench.nn import Classifier
from bench.parallel import devices, in_turn, on_first
from bench.recipe import Threat
from bench.record import (
    Drawn,
    NoGradient,
    Outcome,
    PhaseCost,
    SweepSettings,
    continued,
    describe_environment,
    larger_peak,
)

START_DRAWN: Drawn = "per image"


class Swept(NamedTuple):
    """The measurements of one classifier, one outcome per value of the grid."""

    outcomes: tuple[Outcome, ...]
    worst: tuple[Outcome, ...] | None
    no_gradient: tuple[NoGradient, ...] | None
    """None: an older version attacked the first batches and did not count."""
    cost: PhaseCost
    environments: Environments


class _State(SavedState):
    """One row per value of the grid."""

    last: tuple[tuple[bool, ...], ...]
    worst: tuple[tuple[bool, ...], ...]
    start_drawn: Drawn = "per batch"
    no_gradient: tuple[NoGradient, ...] | None = None
    seconds: float = 0.0
    peak_memory: int | None = None
    environments: Environments = (None,)


def sweep(
    classifier: Classifier,
    test: Split,
    settings: SweepSettings,
    job: Job,
    *,
    name: str = "sweep",
) -> Swept:
    """Measure ``classifier`` on the test split on the grid of ``settings``.

    Each image has the same noise as in RA (:func:`bench.evaluation.evaluation`), so with RA's eps, steps, step size and
    start a sweep gives the same outcome for each image.

    Args:
        classifier: evaluated in eval mode; attacked through its prepared copy.
        job: its folder receives the state after each batch, in one file per grid; every image has its own generator;
            requests to stop are checked before each step of the attack.

    Raises:
        BenchError: a state of another run.
        InterruptedRunError: a stop was requested; the finished batches are saved.
    """
    path = job.folder / f"sweep-{settings.kind}-{job.fingerprint[:8]}.json"
    attack = _Attack(classifier.to(job.device).eval(), test, settings, job)
    empty = ((),) * len(settings.grid)
    modules = (__name__, *modules_of(classifier))
    now = describe_environment(device_name(job.device), torch.get_num_threads(), modules=modules, devices=devices())
    nothing = {"last": empty, "worst": empty, "no_gradient": (NoGradient(),) * len(empty), "environments": ()}
    fresh = _State.parse(
        {"fingerprint": job.fingerprint, "peak_memory": 0, "start_drawn": START_DRAWN, **nothing}, "sweep"
    )
    state = on_first(lambda: load_state(path, fresh, job.monitor))
    if state.start_drawn != START_DRAWN:  # of an older version: noise of two kinds must not mix
        state = fresh
    memory = PeakMemory(job.device)
    count = len(test.labels)
    steps = len(settings.steps)
    done = sum(len(state.last[row]) for row in range(0, len(empty), steps))
    job.monitor.begin(name, count * len(settings.eps), done=done)
    clock = Clock()
    for number, eps in enumerate(settings.eps):
        rows = range(number * steps, (number + 1) * steps)
        firsts = range(len(state.last[rows.start]), count, settings.batch_size)
        for verdicts in in_turn(firsts, partial(attack, eps)):
            state = _State(
                fingerprint=job.fingerprint,
                start_drawn=START_DRAWN,
                last=_extended(state.last, rows, [verdict.last for verdict in verdicts]),
                worst=_extended(state.worst, rows, [verdict.worst for verdict in verdicts]),
                no_gradient=_counted(state.no_gradient, rows, [verdict.no_gradient for verdict in verdicts]),
                seconds=state.seconds + clock.seconds,
                peak_memory=larger_peak(state.peak_memory, memory.bytes),
                environments=continued(state.environments, now),
            )
            on_first(partial(state.save, path))
            clock = Clock()
            job.monitor.advance(len(verdicts[0].last))
    job.monitor.end()
    cost = PhaseCost(
        seconds=state.seconds,
        images=count * len(settings.eps),
        peak_memory_bytes=state.peak_memory,
        device=device_name(job.device),
    )
    worst = _packed(state.worst) if settings.kind == "steps" else None
    return Swept(_packed(state.last), worst, state.no_gradient, cost, state.environments)


class _Verdict(NamedTuple):
    """The outcomes of one batch after some number of steps."""

    last: Tensor
    """bool [B], on the CPU: whether the iterate after these steps is classified correctly."""
    worst: Tensor
    """bool [B], on the CPU: whether every iterate up to there is classified correctly."""
    no_gradient: NoGradient


class _Attack:
    """PGD on one classifier, evaluated at each number of steps in the grid."""

    def __init__(self, classifier: Classifier, test: Split, settings: SweepSettings, job: Job) -> None:
        self._classifier, self._test, self._settings, self._job = classifier, test, settings, job
        self._attacked = classifier.prepared()

    def __call__(self, eps: float, first: int) -> list[_Verdict]:
        """Return the outcomes of the batch of test images from ``first`` on, for each number of steps."""
        settings, device = self._settings, self._job.device
        batch = slice(first, first + settings.batch_size)
        images, labels = unit_pixels(self._test.images[batch].to(device)), self._test.labels[batch].to(device)
        if eps == 0:  # every iterate is the image
            right = _judge(self._classifier, images, labels).cpu()
            return [_Verdict(right, right, NoGradient())] * len(settings.steps)
        seen: list[Tensor] = []
        watch = GradientWatch()

        def objective(x: Tensor) -> Tensor:
            logits = self._attacked(x)
            seen.append(correct(logits.detach(), labels))
            return log_margin(logits, labels)

        run = PGD(settings.steps[-1], settings.step_size, settings.start).iterates(
            objective,
            images,
            threat=Threat(norm=settings.norm, eps=eps),
            generator=image_generators(self._job.seed, range(first, first + len(images))),
            on_gradient=watch,
        )
        return list(self._verdicts(run, labels, seen, watch))

    def _verdicts(
        self, run: Iterator[Tensor], labels: Tensor, seen: list[Tensor], watch: GradientWatch
    ) -> Iterator[_Verdict]:
        worst = torch.ones_like(labels, dtype=torch.bool)
        for step, x_adv in enumerate(run):
            self._job.monitor.check()
            # The gradient of this step has just classified the previous iterate, at no extra cost. The first
            # gradient classified the raw start, which may lie outside [0, 1].
            if step > 1:
                worst = worst & seen[-1]
            if step in self._settings.steps:
                last = _judge(self._classifier, x_adv, labels)
                worst = worst & last
                counted = NoGradient(first=int(watch.first.sum()), last=int(watch.last.sum()))
                yield _Verdict(last.cpu(), worst.cpu(), counted)


@torch.no_grad()
def _judge(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return correct(model(images), labels)


def _extended(table: tuple[tuple[bool, ...], ...], rows: range, columns: list[Tensor]) -> tuple[tuple[bool, ...], ...]:
    added = dict(zip(rows, columns, strict=True))
    return tuple(row + tuple(added[i].tolist()) if i in added else row for i, row in enumerate(table))


def _counted(
    table: tuple[NoGradient, ...] | None, rows: range, columns: list[NoGradient]
) -> tuple[NoGradient, ...] | None:
    added = dict(zip(rows, columns, strict=True))
    return table and tuple(count + added.get(i, NoGradient()) for i, count in enumerate(table))


def _packed(table: tuple[tuple[bool, ...], ...]) -> tuple[Outcome, ...]:
    return tuple(Outcome.pack(row, test_images=len(row)) for row in table)
