"""What one GPU can do with the bench, in at most eight minutes: does all work, how fast, and how long are recipes.

Run from the repository's root: ``make gpu-check OUT=FOLDER``, or ``python perf/gpu_check/check.py FOLDER``. It writes
``gpu-check.json`` and ``gpu-check.md`` into FOLDER after each part. docs/gpu.md describes the sections. The exit code
is 3 if a part failed.
"""

import os

# Deterministic products need it, and it is read when the GPU is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from conditions import Conditions, fp32_switches
from gpu_attacks import Attacked
from gpu_steps import Steps
from hours import parts as hour_parts
from sections import Row, Section, rows
from short_run import Run
from smoke import parts as smoke_parts

from bench.device import device_name, energy_counters, pick_device
from bench.errors import BenchError
from bench.files import write_bytes, write_json
from bench.record import describe_environment
from bench.results import PublishedCosts

_START = time.perf_counter()
_RESERVE = 15.0
"""Seconds for the start of Python, the last write, and a part that ends late."""


def main(arguments: list[str] | None = None) -> int:
    """Check, write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the results go")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: the best there is")
    parser.add_argument("--minutes", type=float, default=8, help="limit for everything")
    parser.add_argument("--dataset", help="of the short run: cifar10, npz:PATH; default: digits at 32 x 32")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where cifar10 is")
    parser.add_argument("--dry-run", action="store_true", help="every line at the smallest sizes: on a CPU, seconds")
    asked = parser.parse_args(arguments)
    try:
        device = pick_device(asked.device)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    if device.type == "cpu" and not asked.dry_run:
        print("This check needs a GPU, and here is none. On a CPU, type --dry-run.", file=sys.stderr)
        return 1
    facts = environment(device, asked.dry_run)
    finished: list[Row] = []
    with TemporaryDirectory() as folder:
        given = Conditions.dry(device, Path(folder)) if asked.dry_run else Conditions(device, Path(folder))
        given = replace(given, dataset=asked.dataset, data_dir=asked.data_dir)
        for row in rows(sections(given), 60 * asked.minutes - _RESERVE):
            print(f"{row.section} | {row.part} | {row.outcome} | {row.text}", flush=True)
            finished.append(row)
            write(asked.folder, facts, finished)
    return 3 if any(row.outcome == "failed" for row in finished) else 0


def sections(given: Conditions) -> list[Section]:
    """Return all sections with their shares of the time."""
    steps = Steps(given)
    papers = PublishedCosts.under(Path("results"))
    return [
        Section("every method", 0.17, smoke_parts(given)),
        Section("steps", 0.42, steps.parts()),
        Section("attacks", 0.18, Attacked(given).parts()),
        Section("whole recipes", 0.01, hour_parts(steps, given.modes, papers)),
        Section("a run", 0.22, Run(given).parts()),
    ]


def environment(device: torch.device, dry: bool) -> dict[str, Any]:
    """Return what the numbers depend on beside the code."""
    facts: dict[str, Any] = describe_environment(device_name(device), torch.get_num_threads()).model_dump(mode="json")
    facts |= {
        "dry_run": dry,
        "cublas_workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "convolutions_use_tf32": fp32_switches()[0].allow_tf32,
        "products_use_tf32": fp32_switches()[1].allow_tf32,
        "reports_energy": bool(energy_counters(device)),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
        }
    return facts


def write(folder: Path, facts: dict[str, Any], finished: list[Row]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds = time.perf_counter() - _START
    values = {"environment": facts, "seconds": seconds, "rows": [row.values for row in finished]}
    write_json(folder / "gpu-check.json", values)
    write_bytes(folder / "gpu-check.md", table(facts, finished, seconds).encode())


def table(facts: dict[str, Any], finished: list[Row], seconds: float) -> str:
    """Return one Markdown table, under a line on the machine."""
    counts = {outcome: sum(row.outcome == outcome for row in finished) for outcome in ("done", "failed", "left out")}
    dry = " **A dry run: the numbers mean nothing.**" if facts["dry_run"] else ""
    lines = [
        f"{facts['device']}, torch {facts['packages']['torch']}, commit {facts['commit']}, {seconds:.0f} s: "
        + ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
        + f".{dry}",
        "",
        "| section | part | outcome | result |",
        "| --- | --- | --- | --- |",
    ]
    for row in finished:
        cells = (row.section, row.part, row.outcome, " ".join(row.text.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
