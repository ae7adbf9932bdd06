"""All comparisons at once: writes docs/fidelity.md anew, or checks it.

Run from the repository's root: ``python perf/fidelity/page.py FOLDER``, where ``FOLDER`` holds a clone of each
upstream repository under its own name. ``--check`` writes nothing, and exits with 3 unless the page agrees with
the comparisons: the same quantities, the same values to six digits, and differences within each script's limits.
"""

import argparse
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from clone import Clone, Upstream

from bench.errors import BenchError

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "fidelity.md"
SCRIPTS = ("deacl", "rocl", "acl", "dynacl", "air", "advcl", "ap_dpe", "backbones", "solo_learn", "layouts")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def sections(text: str) -> dict[str, str]:
    """Return the parts of a page by heading; the text before the first is under ""."""
    parts = re.split(r"^(?=## )", text, flags=re.M)
    return {part.split("\n", 1)[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}


def merged(page: str, fresh: Mapping[str, str]) -> str:
    """Return ``page`` with the sections of ``fresh`` in place of its own, new ones at the end."""
    kept = {**sections(page), **fresh}
    return "\n\n".join(part.strip() for part in kept.values()) + "\n"


def complaints(page: str, fresh: Mapping[str, str]) -> Iterator[str]:
    """Yield where ``page`` differs from the sections of ``fresh``."""
    held = sections(page)
    for title, section in fresh.items():
        written, found = rows(held.get(title, "")), rows(section)
        if written.keys() != found.keys():
            yield f"{title}: other quantities: {', '.join(sorted(written.keys() ^ found.keys()))}"
        for quantity in written.keys() & found.keys():
            if not _alike(written[quantity], found[quantity]):
                yield f"{title}: {quantity}: {written[quantity]} in the page, {found[quantity]} here"


def rows(section: str) -> dict[str, str]:
    """Return our value and upstream's by quantity, without the difference, which each script judges itself."""
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {quantity: f"{ours} | {theirs}" for quantity, ours, theirs, *_ in cells[2:]}


def _alike(written: str, found: str) -> bool:
    """Whether two texts are the same except for the last digits of their numbers."""
    numbers = [[float(number.replace(",", "")) for number in _NUMBER.findall(text)] for text in (written, found)]
    words = [_NUMBER.sub("", text) for text in (written, found)]
    close = all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) for a, b in zip(*numbers, strict=False))
    return words[0] == words[1] and len(numbers[0]) == len(numbers[1]) and close


def clones(script: str, folder: Path) -> list[Path]:
    """Return the clones that ``script`` needs; raises BenchError where one is missing."""
    upstreams: tuple[Upstream, ...] = import_module(script).UPSTREAMS
    return [Clone.at(folder / upstream.folder, upstream).folder for upstream in upstreams]


def main() -> None:
    """Compare, then write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the clones are")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 3 where the page is wrong")
    parser.add_argument("--only", choices=SCRIPTS, action="append", help="one script, or several; default: all")
    asked = parser.parse_args()
    try:
        found = {script: clones(script, asked.folder) for script in asked.only or SCRIPTS}
    except BenchError as error:
        sys.exit(str(error))
    fresh: dict[str, str] = {}
    faults: list[str] = []
    for script, paths in found.items():
        command = [sys.executable, str(HERE / f"{script}.py"), *map(str, paths)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # one upstream a process
        fresh |= sections(done.stdout)
        faults += [f"{script}.py ended with {done.returncode}"] if done.returncode else []
    fresh.pop("", None)
    if asked.check:
        faults += complaints(PAGE.read_text(), fresh)
    elif not faults:
        PAGE.write_text(merged(PAGE.read_text(), fresh))
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
