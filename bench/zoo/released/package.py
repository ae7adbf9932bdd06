"""The package ``robustbench``, imported with stand-ins for two modules that it needs and may find missing.

Version 1.1.1 imports ``pkg_resources``, which setuptools dropped in version 82, and ``autoattack``, although it
depends on ``pyautoattack``, whose names differ. The stand-ins exist during its import, and only then.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from bench.errors import BenchError


def robustbench_package() -> Any:
    """Return the package, with its modules ``eval`` and ``utils`` imported; raises BenchError if it is missing."""
    if not find_spec("robustbench"):
        raise BenchError("robustbench is not installed. Type: pip install 'ssl-robustness-bench[robustbench]'")
    with _stand_ins(), quiet():
        import_module("robustbench.eval")  # which imports all others
    return sys.modules["robustbench"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what the package prints and warns of: sizes of networks, deprecated functions of its dependencies."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    added = {name: module for name, module in _modules().items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _modules() -> dict[str, ModuleType]:
    """Return the stand-ins of those modules that are not installed."""
    found = {}
    if not find_spec("pkg_resources"):
        found["pkg_resources"] = _module("pkg_resources", resource_filename=_resource_filename)
    if not find_spec("autoattack"):
        found["autoattack"] = _module("autoattack", AutoAttack=_AutoAttack)
        found["autoattack.state"] = import_module("pyautoattack.state")
    return found


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def _resource_filename(module: str, relative: str) -> str:
    return str(Path(str(sys.modules[module].__file__)).parent / relative)


class _AutoAttack:
    """``pyautoattack`` with the arguments of ``autoattack``, which also returns the images alone."""

    def __init__(
        self,
        model: nn.Module,
        norm: str,
        eps: float,
        version: str = "standard",
        device: Any = None,
        log_path: Any = None,
    ) -> None:
        library = import_module("pyautoattack")
        self._adversary = library.AutoAttack(model, norm=norm, eps=eps, version=version, device=device)

    def run_standard_evaluation(self, images: Tensor, labels: Tensor, bs: int = 250, state_path: Any = None) -> Tensor:
        x_adv: Tensor = self._adversary.run_standard_evaluation(images, labels, batch_size=bs, state_path=state_path)[0]
        return x_adv
