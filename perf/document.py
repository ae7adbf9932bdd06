"""Writes the tables of pages from what scripts recorded, or checks them.

Run from the repository's root: ``python perf/document.py``. ``--check`` writes nothing, and exits with 3 unless the
pages agree with the files in ``perf/recorded``.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from comparison import Table

RECORDED = Path(__file__).parent / "recorded"
PAGES = [
    Path(__file__).parents[1] / "docs" / name
    for name in ("performance.md", "scaling.md", "doctor.md", "attack_suite.md", "data.md", "devices.md")
]
_BLOCK = re.compile(r"(<!-- recorded: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def filled(page: str, recorded: Path) -> str:
    """Return ``page`` with the tables of the named files between its marks."""
    return _BLOCK.sub(lambda found: f"{found[1]}{section(recorded / (found[2] + '.json'))}{found[3]}", page)


def section(path: Path) -> str:
    """Return the tables of one file, and how they were measured."""
    found = json.loads(path.read_text())
    tables = [Table(**table).markdown() for table in found["tables"]]
    return "\n" + "\n".join([*tables, f"{source(found, path.name)}\n"])


def source(found: dict[str, Any], name: str) -> str:
    """Return command, machine, packages and code of a recorded file, in one line."""
    packages = {name: found["packages"][name] for name in ("torch", "torchvision", "pyautoattack")} | found["peers"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    commit = f"commit {found['commit'][:9]}{' with changes' if found['dirty'] else ''}"
    left_out = "".join(f" Left out: {row} ({reason})." for row, reason in found["left_out"].items())
    return (
        f"`{found['command']}` on **{found['machine']}**, {threads}; {versions}; {commit}, {found['finished'][:10]}. "
        f"Other programs kept {found['other_load']:g} cores busy. All rounds: `perf/recorded/{name}`.{left_out}"
    )


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 3 where the page is wrong")
    asked = parser.parse_args()
    for path in PAGES:
        written = path.read_text()
        page = filled(written, RECORDED)
        if not asked.check:
            path.write_text(page)
        elif page != written:
            sys.exit(3)


if __name__ == "__main__":
    main()
