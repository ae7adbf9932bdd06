"""The recipe of a trained encoder, under other protocol settings or on other data."""

from collections.abc import Mapping
from typing import Any, get_args

from bench.errors import BenchError
from bench.recipe.overrides import insert
from bench.recipe.protocols import PROTOCOLS
from bench.recipe.recipe import (
    SHARED,
    DatasetFacts,
    Finetune,
    Recipe,
    parse_recipe,
    protocol_section,
    refuse_unknown,
)
from bench.recipe.threat import Norm, Threat
from bench.recipe.tiers import load_tier

_CHANGEABLE = ("threat", *PROTOCOLS, "evaluate")


def reevaluated(
    recipe: Recipe,
    *,
    overrides: Mapping[str, Any],
    finetune: DatasetFacts | None = None,
    resized_from: tuple[int, int] | None = None,
) -> Recipe:
    """Return ``recipe`` with the same pre-training, but with ``overrides`` and the data of ``finetune`` after it.

    The result is the recipe of a run with these settings from the start, except that a changed threat model applies to
    protocols and evaluation only.

    Args:
        recipe: of the run that trained the encoder.
        overrides: dotted keys of the protocols' sections, ``evaluate`` and ``threat``; they override those of the run.
        finetune: facts about the data of protocols and evaluation, if they differ.
        resized_from: height and width of their images before they were resized.

    Raises:
        BenchError: unknown keys, keys that the encoder was trained with, bad values, or a preset, a loss or data for
            which a protocol's settings cannot be found because the tier has changed.
    """
    _refuse_pretraining(overrides, recipe)
    refuse_unknown(overrides, recipe, _CHANGEABLE)
    asked = {key: value for key, value in overrides.items() if not key.startswith("threat.")}
    merged = {**recipe.overrides, **asked}
    values, data = recipe.model_dump(), finetune or recipe.dataset
    for name in PROTOCOLS:
        # The recorded section does not show what the tier left to a preset, a loss, or whether images may be mirrored.
        remirrored = data.mirror != recipe.downstream.dataset.mirror and f"{name}.flip_prob" not in merged
        if remirrored or {f"{name}.preset", f"{name}.loss"} & asked.keys():
            values[name] = _section(name, recipe, data)
    for key, value in merged.items():
        if key.split(".")[0] in (*PROTOCOLS, "evaluate"):
            insert(values, key, value)
    threat = _threat(recipe, overrides, finetune)
    departs = finetune is not None or threat != recipe.threat
    changed = {f"finetune.{key}": overrides[key] for key in overrides if key not in asked and departs}
    touched = {key.split(".")[0] for key in overrides}
    values |= {
        "config": recipe.config,
        "overrides": {**merged, **changed},
        "idle": [key for key in recipe.idle if not departs and key.split(".")[0] not in touched],
        "finetune": Finetune(dataset=data, threat=threat, resized_from=resized_from) if departs else None,
    }
    return parse_recipe(values, type(recipe.config), f"recipe {recipe.method}/{recipe.tier}")


def _refuse_pretraining(overrides: Mapping[str, Any], recipe: Recipe) -> None:
    own = {*SHARED, *type(recipe.config).model_fields} - {*_CHANGEABLE}
    trained = [key for key in overrides if key.split(".")[0] in own]
    if trained:
        raise BenchError(
            f"--set {', '.join(trained)}: this encoder is trained already. Allowed: keys of "
            f"{', '.join(_CHANGEABLE)}. To train another, type: bench run {recipe.method} --set {trained[0]}=VALUE"
        )


def _section(name: str, recipe: Recipe, dataset: DatasetFacts) -> dict[str, Any]:
    try:
        tier = load_tier(recipe.tier)
    except BenchError:
        tier = None
    if tier is None or tier.digest() != recipe.tier_sha256:
        raise BenchError(
            f"the tier {recipe.tier!r} that this encoder was trained with has changed since or is missing, so its "
            f"values for {name} cannot be told from those of preset, loss and data. Set the keys themselves, such as "
            f"--set {name}.lr=0.1 in place of a preset, or --set {name}.flip_prob=0.5 for data that may be mirrored."
        )
    return protocol_section(name, tier, dataset)


def _threat(recipe: Recipe, overrides: Mapping[str, Any], finetune: DatasetFacts | None) -> Threat:
    """Return the threat model after pre-training: that of the run, or the default of the data, with the overrides."""
    values: dict[str, Any] = {"threat": recipe.threat.model_dump()}
    norm = overrides.get("threat.norm", recipe.threat.norm)
    other_norm = norm != recipe.threat.norm and norm in get_args(Norm)
    if finetune is not None or other_norm:
        # Norm and all that a later version may add stay those of the run; the radius belongs to the data and the norm.
        usual = (finetune or recipe.dataset).radius(norm if other_norm else recipe.threat.norm)
        insert(values, "threat.eps", usual if other_norm else recipe.overrides.get("threat.eps", usual))
    for key, value in overrides.items():
        if key.startswith("threat."):
            insert(values, key, value)
    return Threat.parse(values["threat"], "threat")
