"""How robust is a self-supervised encoder, and what did it cost? One benchmark under identical conditions.

The verbs of a notebook are here; the modules that they need, torch among them, are imported on their first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import attack
    from bench.notebook import evaluate, load_encoder
    from bench.results import load_records

__version__ = "0.1.0"
__all__ = ["attack", "evaluate", "load_encoder", "load_records"]
__homes__ = {"evaluate": "bench.notebook", "load_encoder": "bench.notebook", "load_records": "bench.results"}


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name == "attack":
            return import_module("bench.attack")
        if name in __homes__:
            return getattr(import_module(__homes__[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
