"""Jobs that run code of the user's own, which may change while the grid runs."""

from pathlib import Path
from threading import Event
from typing import Any

from grid_jobs import leaving, statuses

from bench.code import source_digest
from bench.grid import Device, Grid, GridFolder, GridJob, grid_status, run_local


def test_a_job_whose_code_has_changed_fails_before_it_starts(tmp_path: Path) -> None:
    (own := tmp_path / "own.py").write_text("eps = 8\n")
    jobs = tuple(
        GridJob(
            name=name,
            command=("run", name),
            leaves=(str(tmp_path / "made" / name),),
            method="toy",
            dataset="none",
            code=code,
        )
        for name, code in (("first", {}), ("later", {str(own): source_digest("eps = 8")[:8]}))
    )
    folder, told = GridFolder.create(tmp_path, Grid(asked={}, jobs=jobs)), list[str]()
    leave = leaving(folder, told)

    def launch(*arguments: Any) -> int:
        own.write_text("eps = 9\n")
        return leave(*arguments)

    own.write_text("eps = 8  # of 255\n")
    assert not folder.jobs["later"].outdated
    run_local(folder, [Device("cpu", 1, 2**30)], Event(), launch=launch)
    assert told == ["first"]
    assert statuses(folder) == {"first": "done", "later": "failed"}
    reason = f"the code of {own} has changed since this grid was made. Type the bench matrix command again."
    assert grid_status(folder)[1].reason == reason
    for gone in ("eps = (", None):
        own.unlink() if gone is None else own.write_text(gone)
        assert folder.jobs["later"].outdated == reason
