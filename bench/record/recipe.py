"""The recipe in a record, typed; a method's own settings stay plain."""

from collections.abc import Mapping
from typing import Any, Self

from bench.recipe import DatasetFacts, Finetune, Settings, Threat
from bench.recipe.fields import Amount, Digest, Text


class RecordedRecipe(Settings):
    """The sections of a recorded recipe that do not depend on the method, which need not be installed."""

    dataset: DatasetFacts
    """Of pre-training."""
    threat: Threat
    finetune: Finetune | None = None
    budget: Amount | Text | None = None
    """The budget of pre-training; in old records a text."""
    corruption_files: Digest | None = None
    """Digest of the user's corrupted test images."""

    @classmethod
    def read(cls, recipe: Mapping[str, Any]) -> Self:
        """Return the typed ``recipe`` of a record; raises BenchError that lists every fault."""
        values = {name: recipe[name] for name in ("dataset", "threat", "finetune", "budget") if name in recipe}
        evaluate = recipe.get("evaluate")
        files = evaluate.get("corruption_files") if isinstance(evaluate, Mapping) else None
        return cls.parse({**values, "corruption_files": files}, "recipe")

    @property
    def downstream(self) -> "RecordedRecipe | Finetune":
        """The data and the threat model of protocol and evaluation, which may differ from those of pre-training."""
        return self.finetune or self
