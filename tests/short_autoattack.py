"""AutoAttack cut short, where a test is about everything but the strength of its attacks."""

from typing import Any

import pytest

from bench.attack.official import OfficialAutoAttack


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Cut the attacks' iterations for as long as ``patch`` holds."""
    construct = OfficialAutoAttack.__init__

    def shortened(self: OfficialAutoAttack, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        library = self._adversary
        library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = 5
        library.square.n_queries = 30

    patch.setattr(OfficialAutoAttack, "__init__", shortened)
