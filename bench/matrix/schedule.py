"""Jobs that need each other, spread over several devices: how long all of them take, and which ones decide that."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Timed(NamedTuple):
    """A job with its projected seconds, and the names of the jobs that it needs."""

    name: str
    seconds: float
    needs: Sequence[str] = ()


def critical_path(jobs: Sequence[Timed]) -> list[Timed]:
    """Return the jobs that follow each other and together take longest; no number of devices is faster.

    A job must stand after those that it needs.
    """
    ends: dict[str, float] = {}
    before: dict[str, str] = {}
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        last = max(job.needs, key=ends.__getitem__, default=None)
        if last is not None:
            before[job.name] = last
        ends[job.name] = job.seconds + (ends[last] if last else 0.0)
    name: str | None = max(ends, key=ends.__getitem__, default=None)
    path = []
    while name is not None:
        path.append(by_name[name])
        name = before.get(name)
    return path[::-1]


def time_on(jobs: Sequence[Timed], devices: int) -> float:
    """Return the seconds until ``jobs`` are done on so many ``devices``; a free one takes the longest ready chain."""
    rest = _rests(jobs)
    after: dict[str, list[Timed]] = defaultdict(list)
    open_needs = {job.name: len(job.needs) for job in jobs}
    for job in jobs:
        for need in job.needs:
            after[need].append(job)
    ready = [(-rest[job.name], job.name, job) for job in jobs if not job.needs]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < devices:
            *_, job = heapq.heappop(ready)
            heapq.heappush(running, (now + job.seconds, job.name))
        now, name = heapq.heappop(running)
        for job in after[name]:
            open_needs[job.name] -= 1
            if not open_needs[job.name]:
                heapq.heappush(ready, (-rest[job.name], job.name, job))
    return now


def _rests(jobs: Sequence[Timed]) -> Mapping[str, float]:
    """Return the seconds of each job and of the longest chain of jobs that needs it."""
    own = {job.name: job.seconds for job in jobs}
    rest = dict(own)
    for job in reversed(jobs):
        for need in job.needs:
            rest[need] = max(rest[need], own[need] + rest[job.name])
    return rest
