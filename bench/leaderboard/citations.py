"""The papers of the methods on the board: citation keys and BibTeX."""

import re
from collections.abc import Iterable

from bench.errors import BenchError


def bibtex_entries(methods: Iterable[str]) -> dict[str, str]:
    """Return the BibTeX of each of ``methods`` that is installed, by its registered name.

    A record may be of a method that is not installed here; it has no entry.
    """
    from bench.method import METHODS  # brings torch along, which no other table needs

    installed = set(METHODS)
    return {name: METHODS.get(name).info.bibtex.strip() for name in sorted(set(methods) & installed)}


def citation_key(entry: str) -> str:
    """Return the key of a BibTeX ``entry``; raises BenchError if it has none."""
    found = re.match(r"@\w+\s*\{\s*([^,\s]+)\s*,", entry)
    if found is None:
        raise BenchError(f"not a BibTeX entry: {entry[:60]!r}. It starts with @inproceedings{{key, or the like.")
    return found[1]


def bibliography(entries: dict[str, str]) -> str:
    """Return the text of a .bib file with each of ``entries`` once, by key."""
    by_key = {citation_key(entry): entry for entry in entries.values()}
    return "\n\n".join(by_key[key] for key in sorted(by_key)) + "\n"
