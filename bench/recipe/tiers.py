"""Tiers: how far the published recipes are scaled down, the same way for every method.

One factor for all epochs and one for all batches, without exceptions: only then do the numbers of images and
of updates keep the papers' ratios between methods. A minimum batch would avoid slow steps on few images, but methods
of small batches would lose most of their updates.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bench.errors import BenchError, unknown
from bench.recipe.fields import Name
from bench.recipe.overrides import read_toml
from bench.recipe.plan import TrainPlan
from bench.recipe.protocols import DEFAULT_PROTOCOLS, SECTIONS
from bench.recipe.settings import Settings


class Tier(Settings):
    """One file of ``bench/recipes/``, or a user's own TOML file of the same form."""

    name: Name
    summary: str
    """What the tier is for, in one sentence."""
    epochs: float = Field(default=1.0, gt=0)
    """Factor on the published epochs of every stage of every method."""
    batch_size: float = Field(default=1.0, gt=0)
    """Factor on the published batch sizes. A learning rate follows the method's own code: proportional to
    the batch where ``lr_batch`` is set, otherwise unchanged."""
    sgd_lr: Literal["scaled", "published"] = "scaled"
    """``published``: plain SGD keeps its published rate at the smaller batch. At a scaled rate, few
    epochs on few images are too few steps to train; LARS, which adapts its rates itself, is scaled nevertheless."""
    stages: dict[str, Any] = Field(default_factory=dict)
    """Settings given to every training stage, such as ``schedule_unit``."""
    encoder: dict[str, Any] = Field(default_factory=dict)
    slf: dict[str, Any] = Field(default_factory=dict)
    alf: dict[str, Any] = Field(default_factory=dict)
    aff: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)

    @property
    def precision(self) -> str | None:
        """The precision that it gives to all stages and protocols alike; None: not all have the same."""
        trained = (self.stages, *({"precision": "fp32", **self.protocol(name)} for name in DEFAULT_PROTOCOLS))
        found = {section.get("precision") for section in trained}
        return found.pop() if len(found) == 1 else None

    def protocol(self, name: str) -> dict[str, Any]:
        """Return what this tier gives the section of protocol ``name``: what it gives the protocol's family."""
        values: dict[str, Any] = getattr(self, SECTIONS[name].family, {})
        return values

    def scale(self, plan: TrainPlan) -> dict[str, Any]:
        """Return the values that this tier gives to a stage with the published ``plan``.

        Epochs and batches are rounded to whole ones, at least 1 epoch and 2 images.
        """
        if self.epochs == self.batch_size == 1:
            return dict(self.stages)
        return {
            **plan.scaled(self.epochs),
            "batch_size": max(2, round(plan.batch_size * self.batch_size)),
            **({"lr_batch": None} if self.sgd_lr == "published" and plan.optimizer == "sgd" else {}),
            **self.stages,
        }


def tier_names() -> list[str]:
    """Return the names of the tiers that come with the bench, cheapest first."""
    tiers = [load_tier(name) for name in _shipped()]
    return [tier.name for tier in sorted(tiers, key=lambda tier: (tier.encoder.get("width", 64), tier.epochs))]


def load_tier(name: str) -> Tier:
    """Return the tier called ``name``, or read from the TOML file at that path; raises BenchError."""
    if name.endswith(".toml"):
        text, label = _read(Path(name)), Path(name).stem
    elif name in _shipped():
        text, label = _shipped()[name].read_text("utf-8"), name
    else:
        raise unknown("tier", name, _shipped(), "`bench tiers` describes them; a path to a .toml file works too.")
    try:
        values = read_toml(text, f"tier {name}")
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"tier {name}: not valid TOML: {error}") from None
    return Tier.parse({"name": label, **values}, f"tier {name}")


def _shipped() -> dict[str, Any]:
    folder = resources.files("bench") / "recipes"
    return {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read the tier file {path}: {error}") from None
