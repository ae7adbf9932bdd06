"""Writes the sections of docs/doctor.md, one a check, from what is said beside each check; or checks them.

A picture of a check is ``docs/doctor/NAME.svg``, with dashes for blanks, where there is one.

Run from the repository's root: ``python perf/doctor_page.py``. ``--check`` writes nothing, and exits with 3 unless the
page agrees with the checks.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.doctor import CHECKS, Check

PAGE = Path(__file__).parents[1] / "docs" / "doctor.md"
BEGIN, END = "<!-- checks: written by perf/doctor_page.py -->\n", "<!-- end -->"


def filled(page: str, pictures: Path) -> str:
    """Return ``page`` with a section for each check between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", *_lines(pictures), f"{END}{after}"])


def _lines(pictures: Path) -> Iterator[str]:
    for family, checks in CHECKS.items():
        yield from (f"## The {family}", "")
        for check in checks:
            yield from _section(check, pictures / f"{check.name.replace(' ', '-')}.svg")


def _section(check: Check, picture: Path) -> Iterator[str]:
    yield from (f"### {check.name[0].upper()}{check.name[1:]}", "")
    yield from (f"{check.question}{' Made with `--deep` alone.' if check.deep else ''}", "")
    if picture.is_file():
        yield from (f"![{check.name}: a sound case and a broken one]({picture.parent.name}/{picture.name})", "")
    yield from (f"**If not:** {check.meaning}", "", f"**What to do:** {check.remedy}", "")


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 3 where the page is wrong")
    asked = parser.parse_args()
    written = PAGE.read_text()
    page = filled(written, PAGE.parent / "doctor")
    if not asked.check:
        PAGE.write_text(page)
    elif page != written:
        sys.exit(3)


if __name__ == "__main__":
    main()
