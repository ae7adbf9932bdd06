"""Files of the cache that hold what was found in images: with a digest, so that a damaged one is made again."""

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError, warn
from bench.files import read_json, write_json
from bench.recipe import Settings, canonical_digest

S = TypeVar("S", bound=Settings)


def kept(path: Path, kind: type[S]) -> S | None:
    """Return the ``kind`` in ``path``; None if the file is absent, damaged or of another form."""
    with suppress(BenchError):
        values = read_json(path)
        if isinstance(values, dict) and values.get("sha256") == canonical_digest(values.get("content")):
            return kind.parse(values["content"], str(path), from_file=True)
    return None


def keep(path: Path, found: Settings) -> None:
    """Write ``found`` to ``path``; warn if the folder or the disk refuses."""
    content = found.model_dump(mode="json")
    try:
        write_json(path, {"content": content, "sha256": canonical_digest(content)})
    except BenchError as error:
        warn(f"what was found in the images cannot be cached: {error}")
