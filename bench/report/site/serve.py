"""A server of a site, for this machine alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_LOOPBACK = "127.0.0.1"


@contextmanager
def serving(folder: Path, port: int) -> Iterator[ThreadingHTTPServer]:
    """Yield a server of ``folder`` that listens on this machine's loopback address only.

    Args:
        port: where to listen; 0: any free port.

    Raises:
        BenchError: the port is taken, or may not be used.
    """
    try:
        server = ThreadingHTTPServer((_LOOPBACK, port), partial(_Quiet, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise BenchError(f"cannot listen on {_LOOPBACK}:{port}: {error}. Choose another --port; 0 is any.") from error
    with server:
        yield server


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each, and only what lies in the folder itself."""

    def translate_path(self, path: str) -> str:
        """Return the file that ``path`` means; a missing one where a symbolic link leads outside."""
        found, folder = super().translate_path(path), Path(self.directory)
        # For a folder, the server itself looks for an index.
        shown = (Path(found, name) for name in ("", "index.html", "index.htm"))
        if all(each.resolve().is_relative_to(folder.resolve()) for each in shown):
            return found
        return str(folder / "404" / "outside")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
