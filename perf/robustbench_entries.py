"""Writes ``bench/robustbench/entries.json``: RobustBench's entries with the numbers that it publishes.

The names are those that the installed package can load; the numbers are in the ``model_info`` of its repository, which
the package does not ship. Usage: python perf/robustbench_entries.py CLONE
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.zoo import robustbench_package

OUTPUT = Path(__file__).parents[1] / "bench" / "robustbench" / "entries.json"
NUMBERS = {
    "clean": "clean_acc",
    "autoattack": "autoattack_acc",
    "external": "external",
    "corruptions": "corruptions_acc",
}
TEXTS = {"paper": "name", "link": "link", "venue": "venue", "architecture": "architecture"}


def facts(path: Path) -> dict[str, Any]:
    """Return what the file of one entry says, percent as numbers; what it does not give is left out."""
    info = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, Any] = {ours: info[theirs] for ours, theirs in TEXTS.items() if info.get(theirs)}
    found |= {ours: float(info[theirs]) for ours, theirs in NUMBERS.items() if info.get(theirs)}
    if path.parent.name != "corruptions" and info.get("eps"):
        above, _, below = str(info["eps"]).partition("/")
        found["eps"] = float(above) / float(below or 1)
    return found


def main(clone: Path) -> None:
    """Write the file; one line an entry."""
    commit = subprocess.run(["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    package = robustbench_package()
    lines = []
    for dataset, threats in package.model_zoo.model_dicts.items():
        for threat, models in threats.items():
            for name in models:
                path = clone / "model_info" / dataset.value / threat.value / f"{name}.json"
                entry = {"dataset": dataset.value, "threat": threat.value, "name": name, **facts(path)}
                lines.append(json.dumps(entry, ensure_ascii=False))
    source = {"repository": "RobustBench/robustbench", "commit": commit.stdout.strip()}
    OUTPUT.write_text(f'{{"source": {json.dumps(source)},\n"entries": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
