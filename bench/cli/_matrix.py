"""What ``bench matrix`` and ``bench plan`` share, and the tables of ``bench matrix``."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import _options as option
from bench.cli._progress import rough_time
from bench.cli._tables import Column, DataTable, show
from bench.errors import BenchError
from bench.monitor import plural
from bench.own_code import is_in_file

if TYPE_CHECKING:
    from bench.grid import GridFolder, GridJob, JobStatus
    from bench.matrix import MatrixRequest

Methods = Annotated[str, typer.Option(help="Methods with commas, or all.")]
Datasets = Annotated[str, typer.Option(help="Datasets with commas, named as in bench run.")]
Seeds = Annotated[str, typer.Option(help="Seeds with commas.")]

_ORDER = ("waiting", "queued", "running", "stopped", "cancelled", "failed", "done")
_OF_RECIPE = ("accumulate", "attacks", "budget", "corruptions", "data_in", "encoder", "finetune_dataset")
_OF_PROCESS = ("devices", "track")
"""Options of ``bench run`` that jobs may be given: those that decide the recipe or the data, and those that do not."""
_FAULTS = 10
"""The most failures that are printed in full; --json has all."""


def matrix_request(
    methods: str,
    datasets: str,
    seeds: str,
    protocols: str | None,
    *,
    preset: str | None,
    precision: str | None,
    set_: list[str] | None,
    encoder: str | None = None,
    attacks: str | None = None,
    **more: Any,
) -> "MatrixRequest":
    """Return the request for a grid; ``more`` are further fields of it, as they are."""
    from bench.matrix import MatrixRequest

    of_all, of_one = option.split_settings(set_ or [])
    return MatrixRequest(
        methods=option.names(methods) or (),
        datasets=option.names(datasets) or (),
        seeds=option.parse_seeds(seeds),
        protocols=option.names(protocols),
        overrides=option.overrides(preset, of_all, precision, encoder, attacks),
        own={name: option.overrides(None, items, None) for name, items in of_one.items()},
        **more,
    )


def run_options(items: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words of ``items`` for ``bench run``, and what they say of the recipe for :func:`matrix_request`.

    Raises:
        BenchError: an option that ``bench run`` does not know, or that a grid gives its runs itself.
    """
    from typer.main import get_command

    from bench.cli import app

    words = []
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip().lstrip("-")
        words += [f"--{name}", *([_from_anywhere(name, value)] if equals else [])]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    try:
        context = commands["run"].make_context("run", ["method", *words])
    except Exception as error:
        raise BenchError(f"--run-option: bench run refuses {' '.join(words)}: {error}") from None
    typed = option.typed_params(context)
    for param in typed:
        if param.name not in (*_OF_RECIPE, *_OF_PROCESS):
            raise _owned(param, commands["matrix"].params)
    chosen = {param.name: context.params[param.name] for param in typed if param.name in _OF_RECIPE}
    named: dict[str, Any] = {key: chosen.pop(key, None) for key in ("encoder", "attacks")}
    return words, {"given": chosen, **named}


def _from_anywhere(name: str, value: str) -> str:
    """Return ``value`` of the option ``name`` with a path in it made absolute: a job may start in another folder."""
    from bench.matrix import from_anywhere

    if name == "corruptions" and value not in ("none", "generate"):
        return str(Path(value).expanduser().absolute())
    if name == "attacks":
        return ",".join(from_anywhere(each) if is_in_file(each) else each for each in option.names(value) or ())
    names_a_path = name == "finetune-dataset" or (name == "encoder" and is_in_file(value))
    if names_a_path or (name == "track" and value.startswith(("progress:", "tensorboard:"))):
        return from_anywhere(value)
    return value


def _owned(param: Any, own: Sequence[Any]) -> BenchError:
    """Return the error for an option of ``bench run`` that a grid, with options ``own``, gives its runs itself."""
    same = next((each for each in own if each.name in (param.name, f"{param.name}s")), None)
    use = f"type {same.opts[0]} of bench matrix instead" if same else "a grid decides that itself"
    allowed = ", ".join(sorted(name.replace("_", "-") for name in (*_OF_RECIPE, *_OF_PROCESS)))
    return BenchError(f"--run-option {param.opts[0][2:]}: {use}. Allowed here: {allowed}.")


def show_jobs(jobs: "Sequence[GridJob]", as_json: bool) -> None:
    """Print what would run, a line a job."""
    if as_json:
        print(json.dumps([job.model_dump(mode="json") for job in jobs], indent=1))
    else:
        table = DataTable(
            "job", Column("needs", drop=2), Column("memory", number=True, drop=1), caption=plural(len(jobs), "job")
        )
        for job in jobs:
            memory = f"{job.memory / 2**30:.2g} GiB" if job.memory else ""
            table.add(job.name, ", ".join(job.needs), memory)
        show(table)


def show_scripts(folder: "GridFolder", as_json: bool, *, write: bool) -> None:
    """Show the scripts of all jobs that are not finished, and the commands that submit them once they are written."""
    from bench.files import write_bytes
    from bench.grid import GridFolder, scripts

    made = scripts(folder)
    if write:
        GridFolder.create(folder.path, folder.grid)
        for each in made:
            write_bytes(Path(each.path), each.text.encode())
    if as_json:
        print(json.dumps([each._asdict() for each in made], indent=1))
        return
    for each in made:
        print(f"# {each.path}\n{each.text}")
    if not write:
        print("# Nothing was written. With --by-hand instead of --dry-run these lines submit the scripts:")
    for each in made:
        print(each.command)


def status_tables(grid: Path, found: "Sequence[JobStatus]", every: bool) -> Iterator[DataTable]:
    """Yield a table with a line a method and dataset, and one of the jobs that run or wait; ``every``: of all jobs."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for job in found:
        counts.setdefault((job.method, job.dataset), Counter())[job.status] += 1
    present = [status for status in _ORDER if any(count[status] for count in counts.values())]
    table = DataTable("method", "dataset", *(Column(status, number=True) for status in present), title=str(grid))
    for names, count in counts.items():
        table.add(*names, *(count[status] or "" for status in present))
    if len(counts) > 1:
        table.rule()
        table.add("all", "", *(sum(count[status] for count in counts.values()) for status in present))
    yield table
    lines = [job for job in found if every or job.status == "running"]
    if lines:
        detail = DataTable(
            "job",
            "status",
            Column("phase", drop=2),
            Column("done", number=True),
            Column("phase ends in", number=True, drop=1),
            Column("failures", number=True, drop=3),
            Column("Slurm", drop=4),
            Column("why", prose=True, drop=5),
        )
        for job in lines:
            seen = job.progress
            left = rough_time(seen.seconds_left) if seen and seen.seconds_left is not None else ""
            share = f"{seen.done / seen.total:.0%}" if seen and seen.total else ""
            why = job.reason.splitlines()[0] if job.reason else ""
            phase = seen.phase if seen else ""
            detail.add(job.name, job.status, phase, share, left, job.failures or "", job.number or "", why)
        yield detail


def fault_lines(found: "Sequence[JobStatus]") -> list[str]:
    """Return why jobs failed, each with the last lines of its log."""
    failed = [job for job in found if job.status == "failed"]
    lines = []
    for job in failed[:_FAULTS]:
        why, *log = job.reason.splitlines()
        lines.append(f"{job.name} failed: {why}" + (f" ({job.log})" if job.log else ""))
        lines += [f"  {line}" for line in log]
    if len(failed) > _FAULTS:
        lines.append(f"and {len(failed) - _FAULTS} more failed; --json shows why.")
    return lines
