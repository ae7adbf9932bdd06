"""Grids of jobs that leave a file each, and launches that need no torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.grid import Grid, GridFolder, GridJob, grid_status
from bench.grid.grid import JobFolder
from bench.grid.worker import Launch


def grid_in(path: Path, needs: Mapping[str, Sequence[str]], *, retries: int = 1, **memory: int) -> GridFolder:
    """Return a grid whose jobs leave a file of their name, each after those that it needs."""
    jobs = tuple(
        GridJob(
            name=name,
            command=("run", name),
            leaves=(str(path / "made" / name),),
            needs=tuple(needed),
            method="toy",
            dataset="none",
            memory=memory.get(name),
        )
        for name, needed in needs.items()
    )
    return GridFolder.create(path, Grid(asked={"jobs": sorted(needs)}, jobs=jobs, retries=retries))


def leaving(folder: GridFolder, told: list[str], codes: Mapping[str, list[int]] | None = None) -> Launch:
    """Return a launch that tells each start, and leaves the job's file unless a code from ``codes`` is its end."""

    def launch(
        command: Sequence[str], own: JobFolder, environment: Mapping[str, str], stopping: Callable[[], bool]
    ) -> int:
        name = command[1]
        told.append(name)
        planned = (codes or {}).get(name)
        code = planned.pop(0) if planned else 0
        if code == 0:
            made = Path(folder.jobs[name].leaves[0])
            made.parent.mkdir(exist_ok=True)
            made.touch()
        else:
            own.log.write_text(f"one\ntwo\nbench: no luck with {code}\n")
        return code

    return launch


def statuses(folder: GridFolder) -> dict[str, str]:
    """Return the status of each job by its name."""
    return {each.name: each.status for each in grid_status(folder)}
