"""A grid on this machine: as many jobs at once as its devices and their memory take."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from threading import Event, Thread

from bench.errors import BenchError
from bench.grid.grid import GridFolder, GridJob, JobState, now
from bench.grid.worker import Launch, Outcome, work

_POLL_SECONDS = 0.2
_LOOK_AGAIN_SECONDS = 2.0


@dataclass
class Device:
    """A device, and the jobs that run on it."""

    name: str
    """For the notes: "cpu", "cuda:1"."""
    at_once: int
    """The most jobs at once."""
    memory: int
    """Bytes that its jobs may use together."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What lets a command use this device alone."""
    running: list[GridJob] = field(default_factory=list)

    def takes(self, job: GridJob) -> bool:
        """Whether ``job`` can start now: a place is free, and its memory fits beside the others; alone it may try."""
        used = sum(each.memory or 0 for each in self.running)
        fits = used + (job.memory or 0) <= self.memory
        return len(self.running) < self.at_once and (fits or not self.running)


def run_local(
    folder: GridFolder,
    devices: Sequence[Device],
    stop: Event,
    said: Callable[[str], None] = lambda message: None,
    launch: Launch | None = None,
) -> None:
    """Run all jobs of the grid that are not finished and have not failed; those that need others after them.

    Several such calls may share a folder; each job is run by one of them.

    Args:
        stop: when it is set, running commands are asked to stop, and no further one starts.
        said: called with a line when a job starts and when it ends, from several threads; once for a job that waits
            because another process works on it.
        launch: see :func:`bench.grid.work`.
    """
    _Local(folder, devices, stop, said, launch).run()


class _Local:
    """One call of :func:`run_local`; only its own thread changes it."""

    def __init__(
        self,
        folder: GridFolder,
        devices: Sequence[Device],
        stop: Event,
        said: Callable[[str], None],
        launch: Launch | None,
    ) -> None:
        self._folder, self._devices, self._stop, self._said, self._launch = folder, devices, stop, said, launch
        self._failed = set(folder.failures())
        self._pending = [job for job in folder.grid.jobs if job.name not in self._failed and not self._done(job)]
        self._not_before: dict[str, float] = {}
        """When to look again at jobs that another process works on, or that were stopped."""
        self._elsewhere = set[str]()
        """Jobs that another process was seen to work on."""
        self._stopped = Counter[str]()
        """How often a command was stopped, though not from here."""
        self._ended: SimpleQueue[tuple[Device, GridJob, Outcome | BenchError]] = SimpleQueue()

    def run(self) -> None:
        """Start jobs and wait for them until nothing is left to start."""
        while True:
            if not self._stopping:
                self._start_ready()
            if not any(device.running for device in self._devices) and (self._stopping or not self._pending):
                return
            try:
                self._settle(*self._ended.get(timeout=_POLL_SECONDS))
            except Empty:
                continue

    @property
    def _stopping(self) -> bool:
        return self._stop.is_set() or self._folder.cancelled

    def _start_ready(self) -> None:
        done = cache(lambda need: self._done(self._folder.jobs[need]))  # a stage that many need is asked once a round
        for job in list(self._pending):
            if all(len(device.running) >= device.at_once for device in self._devices):
                return
            if lost := next((need for need in job.needs if need in self._failed), None):
                self._pending.remove(job)
                self._fail(job, f"{lost}, which it needs, failed")
                continue
            ready = all(map(done, job.needs))
            device = next((each for each in self._devices if each.takes(job)), None)
            if ready and device and self._not_before.get(job.name, 0.0) <= time.monotonic():
                self._pending.remove(job)
                if self._folder.job(job.name).failed:  # meanwhile, in another command
                    self._failed.add(job.name)
                    continue
                device.running.append(job)
                Thread(target=self._work, args=(device, job), daemon=True).start()

    def _work(self, device: Device, job: GridJob) -> None:
        """Run ``job``; in a thread of its own."""
        outcome: Outcome | BenchError
        try:
            outcome = work(
                self._folder,
                job.name,
                self._stop,
                environment=device.environment,
                launch=self._launch,
                starts=lambda: self._said(f"{job.name}: starts on {device.name}"),
            )
        except BenchError as error:
            outcome = error
        except Exception as error:  # a thread that ends in silence would leave the grid waiting for it
            outcome = BenchError(f"{type(error).__name__}: {error}")
        self._ended.put((device, job, outcome))

    def _settle(self, device: Device, job: GridJob, outcome: Outcome | BenchError) -> None:
        device.running.remove(job)
        if outcome == "busy" and job.name not in self._elsewhere:
            self._elsewhere.add(job.name)
            self._said(f"{job.name}: another process works on it; waiting")
        unasked = outcome == "stopped" and not self._stopping
        self._stopped[job.name] += unasked
        if unasked and self._stopped[job.name] > self._folder.grid.retries:
            outcome = BenchError(f"it was stopped from outside, attempt {self._stopped[job.name]}")
        elif unasked or outcome == "busy":
            self._not_before[job.name] = time.monotonic() + _LOOK_AGAIN_SECONDS
            self._pending.append(job)
            return
        self._said(f"{job.name}: {outcome}")
        if isinstance(outcome, BenchError):
            self._fail(job, str(outcome))
        elif outcome == "failed":
            self._failed.add(job.name)

    def _fail(self, job: GridJob, reason: str) -> None:
        self._failed.add(job.name)
        with suppress(BenchError):  # a full disk, which is often the reason itself
            self._folder.job(job.name).write(JobState(status="failed", began=now(), ended=now(), reason=reason))

    def _done(self, job: GridJob) -> bool:
        state = self._folder.job(job.name).state
        return job.finished and (state is None or state.status == "done")
