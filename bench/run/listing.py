"""Which runs a folder holds, without loading a weight."""

import warnings
from pathlib import Path

from bench.errors import BenchError
from bench.files import read_json
from bench.recipe import Settings
from bench.record import load_record


class RunSummary(Settings):
    """One line of ``bench runs``."""

    name: str
    method: str
    dataset: str
    tier: str
    seed: int
    encoder: bool
    """Whether pre-training is finished."""
    records: str
    """The protocols that are finished."""
    targets: str
    """What the user called the other data that the encoder is judged on (transfer)."""
    commits: dict[str, list[str | None]]
    """By phase of the finished records: the commits that it ran with, in order; null: not known."""


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs under ``runs_dir`` by name; what is no run is passed over.

    A run whose description is damaged is left out with a warning.
    """
    found = []
    for description in sorted(runs_dir.glob("*/run.json")):
        try:
            found.append(_summary(description))
        except (KeyError, TypeError):
            continue  # another program's
        except BenchError as error:
            warnings.warn(
                f"left out {description.parent}: {error}. The command that began the run mends it.", stacklevel=2
            )
    return found


def _summary(description: Path) -> RunSummary:
    folder = description.parent
    values = read_json(description)
    recipe = values["recipe"]
    summary = {
        "name": folder.name,
        "method": recipe["method"],
        "dataset": recipe["dataset"]["name"],
        "tier": recipe["tier"],
        "seed": values["seed"],
        "encoder": (folder / "encoder.safetensors").exists(),
        "records": ", ".join(sorted(path.parent.name for path in folder.glob("*/record.json"))),
        "targets": ", ".join(sorted({str(read_json(path)["spec"]) for path in folder.glob("*/target.json")})),
        "commits": _commits(folder),
    }
    return RunSummary.parse(summary, str(description))


def _commits(folder: Path) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for path in sorted(folder.glob("*/record.json")):
        try:
            record = load_record(path)
        except BenchError:
            continue  # the command that made it makes it again, and says so
        found |= {phase: [one.commit if one else None for one in ran] for phase, ran in record.environments.items()}
    return found
