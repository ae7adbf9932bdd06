"""Which runs a folder holds, without loading a weight."""

from pathlib import Path

from bench.errors import BenchError
from bench.files import read_json
from bench.recipe import Settings


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


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs under ``runs_dir`` by name; folders that are not runs are passed over."""
    found = []
    for description in sorted(runs_dir.glob("*/run.json")):
        folder = description.parent
        try:
            values = read_json(description)
            recipe = values["recipe"]
            found.append(
                RunSummary(
                    name=folder.name,
                    method=recipe["method"],
                    dataset=recipe["dataset"]["name"],
                    tier=recipe["tier"],
                    seed=values["seed"],
                    encoder=(folder / "encoder.safetensors").exists(),
                    records=", ".join(sorted(path.parent.name for path in folder.glob("*/record.json"))),
                    targets=", ".join(sorted({read_json(path)["spec"] for path in folder.glob("*/target.json")})),
                )
            )
        except (BenchError, KeyError, TypeError):
            continue
    return found
