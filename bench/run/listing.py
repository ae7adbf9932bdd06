"""The runs in a folder, as ``bench runs`` lists them."""

from collections import defaultdict
from pathlib import Path

from bench.errors import BenchError, DamagedFileError, warn
from bench.monitor import plural
from bench.recipe import Settings
from bench.record import load_record
from bench.run.finished import protocol_records, run_folders
from bench.run.folder import RunDescription, other_sources
from bench.run.locks import is_held
from bench.train import Progress
from bench.zoo import load_metadata


class RunSummary(Settings):
    """One line of ``bench runs``."""

    name: str
    method: str
    dataset: str
    tier: str
    seed: int
    encoder: bool
    """Whether pre-training is finished."""
    now: str
    """Whether a process is running it, and the unfinished phase with the epochs and steps that are saved."""
    records: str
    """The finished protocols."""
    targets: str
    """The user's names for other data that the encoder is evaluated on (transfer)."""
    commits: dict[str, list[str | None]]
    """By phase of the finished records: the commits that it ran with, in order, each once; null: not known."""


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs under ``runs_dir`` by name, without loading weights; folders that are not runs are ignored.

    A run with a damaged description is left out with a warning.
    """
    found = []
    for run in run_folders(runs_dir):
        try:
            described = RunDescription.load(run)
        except DamagedFileError as error:
            warn(f"left out {run}: {error}. The command that started the run repairs it.")
            continue
        except BenchError:
            continue  # the file of another program
        try:
            found.append(_summary(run, described))
        except (KeyError, TypeError):
            continue
        except BenchError as error:
            warn(f"left out {run}: {error}")
    return found


def _summary(run: Path, described: RunDescription) -> RunSummary:
    encoder = (run / "encoder.safetensors").exists()
    summary = {
        "name": run.name,
        "method": described.recipe["method"],
        "dataset": described.recipe["dataset"]["name"],
        "tier": described.recipe["tier"],
        "seed": described.seed,
        "encoder": encoder,
        "now": _now(run, finished=encoder),
        "records": ", ".join(path.parent.name for path in protocol_records(run)),
        "targets": ", ".join(other_sources(run)),
        "commits": _commits(run),
    }
    return RunSummary.parse(summary, str(run))


def _now(run: Path, *, finished: bool) -> str:
    """Return such as "running", "stopped, advcl: 8 epochs and 3 steps", or "" where nothing is known to be left."""
    phases = [_saved(path) for path in sorted(run.rglob("*.training.safetensors"))]
    state = "running" if is_held(run / ".lock") else "" if finished and not phases else "stopped"
    return ", ".join(filter(None, [state, *phases]))


def _saved(path: Path) -> str:
    try:
        progress = Progress.parse(load_metadata(path), str(path))
    except BenchError:
        return ""  # the command that started the run reports it
    steps = f" and {plural(progress.step, 'step')}" if progress.step else ""
    return f"{progress.stage}: {plural(progress.epoch, 'epoch')}{steps}"


def _commits(run: Path) -> dict[str, list[str | None]]:
    found = defaultdict[str, list[str | None]](list)
    for path in protocol_records(run):
        try:
            record = load_record(path)
        except BenchError:
            continue  # the command that made it makes it again and reports it
        for phase, ran in record.environments.items():
            commits = [one.commit if one else None for one in ran]
            found[phase] += [commit for commit in dict.fromkeys(commits) if commit not in found[phase]]
    return dict(found)
