"""The recipe: every number of a run, resolved from method, dataset, tier, fidelity and ``--set``."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SerializeAsAny, create_model

from bench.errors import BenchError, unknown
from bench.recipe.overrides import flatten, insert
from bench.recipe.plan import TrainPlan
from bench.recipe.protocols import PROTOCOLS, AFFSettings, ALFSettings, SLFSettings
from bench.recipe.sections import EncoderSettings, EvaluationSettings, Fidelity, ThreatSettings
from bench.recipe.settings import Settings, canonical_digest
from bench.recipe.tiers import Tier

_SHARED = ("encoder", "threat", *PROTOCOLS, "evaluate")


class MethodConfig(Settings):
    """A method's own settings with its paper's defaults; each stage is a field that extends TrainPlan."""

    def plans(self) -> dict[str, TrainPlan]:
        """Return the stages' settings by field name, in order."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, TrainPlan)}


class DatasetFacts(Settings):
    """What a recipe and a record say about the data."""

    name: str
    published_as: str | None = None
    """The name under which papers' numbers for exactly these images are listed."""
    sha256: str
    image_shape: tuple[int, int, int]
    num_classes: int = Field(ge=2)
    train_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    mirror: bool = True
    """Whether a mirrored image still shows its class; where not, no view is flipped."""
    eps: float
    """The dataset's default Linf radius."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Recipe(Settings):
    """Every number of a run except its seed."""

    method: str
    config: SerializeAsAny[MethodConfig]
    dataset: DatasetFacts
    tier: str
    tier_sha256: str
    fidelity: Fidelity
    overrides: dict[str, Any]
    """What the user changed with ``--set``, as written."""
    budget: float | None = None
    """Floating-point operations that pre-training was asked to spend, which decided the epochs; None: no budget."""
    encoder: EncoderSettings
    threat: ThreatSettings
    slf: SLFSettings
    alf: ALFSettings
    aff: AFFSettings
    evaluate: EvaluationSettings

    def pretraining_digest(self) -> str:
        """Return the SHA-256 of all that decides the encoder; runs that share it share their weights."""
        return canonical_digest(
            self.model_dump(mode="json", include={"method", "config", "dataset", "encoder", "threat"})
        )

    def protocol_digest(self, protocol: str) -> str:
        """Return the SHA-256 of all that decides a protocol's result, given the encoder."""
        own = self.model_dump(mode="json", include={protocol, "evaluate", "threat"})
        if self.budget is not None:  # its record is one of another table, though it may share the encoder
            own["budget"] = self.budget
        return canonical_digest({"pretraining": self.pretraining_digest(), **own})

    @property
    def eval_eps(self) -> float:
        """The radius at which robust accuracy is measured."""
        return self.threat.eps if self.evaluate.eps is None else self.evaluate.eps


def build_recipe(
    *,
    method: str,
    config_type: type[MethodConfig],
    native_encoder: Mapping[str, Any],
    dataset: DatasetFacts,
    tier: Tier,
    fidelity: Fidelity = "uniform",
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the recipe of ``method`` on ``dataset``.

    Published values come first, then the tier's scaling, then what the data demand, then (under native
    fidelity) the encoder settings of the method's own paper, then the user's overrides.

    Args:
        method: the method's registered name.
        config_type: its configuration, whose defaults are the paper's.
        native_encoder: the encoder settings in which its paper differs from the uniform ones.
        dataset: facts about the loaded data.
        tier: how far to scale.
        fidelity: ``uniform`` or ``native``.
        overrides: dotted keys to values, from :func:`bench.recipe.parse_overrides`.

    Raises:
        BenchError: listing every unknown key or, after that, every bad value together.
    """
    overrides = dict(overrides or {})
    values = {
        "method": method,
        "dataset": dataset,
        "tier": tier.name,
        "tier_sha256": tier.digest(),
        "fidelity": fidelity,
        "overrides": overrides,
        "config": _fitted(_scaled(config_type, tier, overrides), dataset),
        "encoder": {**tier.encoder, **(native_encoder if fidelity == "native" else {})},
        "threat": {"eps": dataset.eps},
        **{name: _fitted({"flip_prob": 0.5, **getattr(tier, name)}, dataset) for name in PROTOCOLS},
        "evaluate": dict(tier.evaluate),
    }
    what = f"recipe {method}/{tier.name}"
    typed = create_model("Recipe", __base__=Recipe, config=(config_type, ...))
    _refuse_unknown(overrides, typed.parse(values, what))
    for key, value in overrides.items():
        insert(values, _full_key(key), value)
    return typed.parse(values, what)


def _scaled(config_type: type[MethodConfig], tier: Tier, overrides: Mapping[str, Any]) -> dict[str, Any]:
    choices = {key: value for key, value in overrides.items() if key in config_type.model_fields}
    try:
        published = config_type.parse(choices, "--set")
    except BenchError:
        published, choices = config_type(), {}  # the whole recipe's validation will list this fault with all others
    # In Python, not JSON, form: a stage's nested settings keep their types when they are validated again.
    scaled = {name: {**plan.model_dump(), **tier.scale(plan)} for name, plan in published.plans().items()}
    return {**choices, **scaled}


def _fitted(values: dict[str, Any], dataset: DatasetFacts) -> dict[str, Any]:
    """Return nested ``values`` with every ``flip_prob`` at 0 where the data must not be mirrored."""
    if dataset.mirror:
        return values
    return {
        key: _fitted(value, dataset) if isinstance(value, dict) else 0.0 if key == "flip_prob" else value
        for key, value in values.items()
    }


def _full_key(key: str) -> str:
    return key if key.split(".")[0] in _SHARED else f"config.{key}"


def _refuse_unknown(overrides: Mapping[str, Any], recipe: Recipe) -> None:
    dump = recipe.model_dump(mode="json")
    allowed = [key for key, _ in flatten({**{name: dump[name] for name in _SHARED}, **dump["config"]})]
    faults = []
    for key in overrides:
        if any(known.startswith(f"{key}.") for known in allowed):
            faults.append(f"--set {key}: that is a section; set one of its keys, as {key}.KEY=VALUE.")
        elif key not in allowed:
            faults.append(str(unknown("setting", key, allowed)))
    if faults:
        raise BenchError("\n".join(faults))
