"""AutoAttack cut short, where a test is about everything but the strength of its attacks."""

from typing import Any

import pyautoattack
import pytest


def shorten(patch: pytest.MonkeyPatch, *, steps: int = 5, queries: int = 30) -> None:
    """Cut the iterations of the library's attacks, and the queries of Square, for as long as ``patch`` holds."""
    construct = pyautoattack.AutoAttack.__init__

    def shortened(library: Any, *args: Any, **kwargs: Any) -> None:
        construct(library, *args, **kwargs)
        library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = steps
        library.square.n_queries = queries

    patch.setattr(pyautoattack.AutoAttack, "__init__", shortened)
