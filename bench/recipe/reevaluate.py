"""The recipe of a trained encoder, under other protocol settings or on other data.

Each section starts with the values of the encoder's run; then come the new overrides.

| section | exception |
| --- | --- |
| a protocol | another preset or loss: the values of the tier, then the overrides of the run |
| | data of which only one set may be mirrored: the ``flip_prob`` of the new data, unless the run set another |
| | data of other conventions (CIFAR's, ImageNet's): the ``crop`` of the new data |
| ``evaluate`` | another norm: no ``eps``, so the radius of ``threat``, unless a new override gives one |
| ``threat`` | another norm: the default radius of the data in this norm |
| | other data: their default radius, unless the run set one |
| all others | new overrides are refused: the encoder is trained |

A threat model of other data or another one than that of pre-training is in the section ``finetune``.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from bench.errors import BenchError
from bench.own_code import typed
from bench.recipe.overrides import idle_among, insert, outside, section, within
from bench.recipe.protocols import PROTOCOLS
from bench.recipe.recipe import (
    SHARED,
    DatasetFacts,
    Finetune,
    Recipe,
    parse_recipe,
    protocol_section,
    refuse_unknown,
    with_one_radius,
)
from bench.recipe.threat import Threat
from bench.recipe.tiers import Tier, load_tier

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
            ``precision`` is that of every protocol.
        finetune: facts about the data of protocols and evaluation, if they differ.
        resized_from: height and width of their images before they were resized.

    Raises:
        BenchError: unknown keys, keys that the encoder was trained with, bad values, or a preset or a loss for which a
            protocol's settings cannot be found because the tier has changed.
    """
    overrides = _of_protocols(overrides, recipe)
    _refuse_pretraining(overrides, recipe)
    refuse_unknown(overrides, recipe, _CHANGEABLE)
    asked, data = outside(overrides, "threat"), finetune or recipe.dataset
    values = recipe.model_dump() | {name: _protocol(name, recipe, data, asked) for name in PROTOCOLS}
    merged = {**recipe.overrides, **asked}
    if overrides.get("threat.norm", recipe.threat.norm) != recipe.threat.norm and "evaluate.eps" not in asked:
        values["evaluate"]["eps"] = None  # a number of the other norm
        merged.pop("evaluate.eps", None)
    for key, value in within(merged, *PROTOCOLS, "evaluate").items():
        insert(values, key, value)
    if values["evaluate"]["corruptions"] != "files":
        values["evaluate"]["corruption_files"] = None
    asked_threat = within(overrides, "threat")
    threat = _threat(recipe, data, asked_threat)
    needless = idle_among(asked_threat, asked_threat, partial(_threat, recipe, data))
    new_threat = {f"finetune.{key}": value for key, value in asked_threat.items() if key not in needless}
    departs = finetune is not None or threat != recipe.threat
    touched = {section(key) for key in overrides} | ({*_CHANGEABLE} if departs else set())
    values |= {
        "config": recipe.config,
        "overrides": {**merged, **(new_threat if departs else {})},
        "idle": list(outside(dict.fromkeys(recipe.idle), *touched)),
        "finetune": Finetune(dataset=data, threat=threat, resized_from=resized_from) if departs else None,
    }
    return with_one_radius(parse_recipe(values, type(recipe.config), f"recipe of tier {recipe.tier}"))


def _of_protocols(overrides: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return ``overrides`` with ``precision`` as the protocols' own, where it is not theirs already."""
    asked = overrides.get("precision")
    changed = [name for name in PROTOCOLS if asked not in (None, getattr(recipe.protocol(name), "precision", asked))]
    return {**{f"{name}.precision": asked for name in changed}, **outside(overrides, "precision")}


def _refuse_pretraining(overrides: Mapping[str, Any], recipe: Recipe) -> None:
    own = {*SHARED, *type(recipe.config).model_fields} - {*_CHANGEABLE}
    trained = [key for key in overrides if section(key) in own]
    if trained:
        raise BenchError(
            f"--set {', '.join(trained)}: this encoder is trained already. Allowed: keys of "
            f"{', '.join(_CHANGEABLE)}. To train another, type: bench run {typed(recipe.method)} "
            f"--set {trained[0]}=VALUE"
        )


def _protocol(name: str, recipe: Recipe, data: DatasetFacts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of protocol ``name`` before the overrides."""
    if f"{name}.preset" in asked or f"{name}.loss" in asked:  # the recorded values do not show which ones it sets
        return protocol_section(name, _tier(name, recipe), data, recipe.precision)
    if name not in recipe.model_fields_set:  # a protocol that is newer than the encoder: as a new run would have it
        with suppress(BenchError):
            return protocol_section(name, _tier(name, recipe), data, recipe.precision)
    values: dict[str, Any] = recipe.protocol(name).model_dump()
    if "flip_prob" in values and data.mirror != recipe.downstream.dataset.mirror:
        values["flip_prob"] = 0.5 if data.mirror else 0.0
    if "crop" in values and data.conventions != recipe.downstream.dataset.conventions:
        values["crop"] = "padded" if data.conventions == "cifar" else "resized"
    return values


def _tier(protocol: str, recipe: Recipe) -> Tier:
    with suppress(BenchError):
        tier = load_tier(recipe.tier)
        if tier.digest() == recipe.tier_sha256:
            return tier
    raise BenchError(
        f"the tier {recipe.tier!r} that this encoder was trained with has changed since or is missing, so its values "
        f"for {protocol} cannot be told from those of preset and loss. Set the keys themselves, such as "
        f"--set {protocol}.lr=0.1."
    )


def _threat(recipe: Recipe, data: DatasetFacts, asked: Mapping[str, Any]) -> Threat:
    """Return the threat model after pre-training. The radius belongs to the data and the norm, all else to the run."""
    kept = recipe.threat
    norm, eps = asked.get("threat.norm", kept.norm), kept.eps
    if norm != kept.norm:
        eps = data.radius(norm)
    elif data is not recipe.dataset:
        eps = recipe.overrides.get("threat.eps", data.radius(norm))
    values = {"threat": {**kept.model_dump(), "eps": eps}}
    for key, value in asked.items():
        insert(values, key, value)
    return Threat.parse(values["threat"], "threat")
