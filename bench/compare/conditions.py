"""What has to be equal before two results may be compared, and what else differs between them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError
from bench.recipe import EncoderSettings, EvaluationSettings, FinetuneSettings, flatten, protocol_title
from bench.results import Measured, budget_text, eps_text, precision_text, radius_text, table_of

Measure = Literal["sa", "ra", "aa"]
MEASURES: tuple[Measure, ...] = ("sa", "ra", "aa")

_EARLIER = {"encoder": EncoderSettings.later, "evaluate": EvaluationSettings.later}
"""By section of the recipe: what settings were before they had a name; of stages, views and protocols it is one."""

_ABSENT = "absent"
_RADII = ("eps", "step_size")


class Difference(NamedTuple):
    """One setting that A and B do not share."""

    key: str
    a: str
    b: str


def refuse_incomparable(
    a: Measured,
    b: Measured,
    *,
    measures: Sequence[Measure],
    across_protocols: bool = False,
    across_precisions: bool = False,
) -> None:
    """Raise BenchError, with every reason, if a difference between ``a`` and ``b`` would mean nothing."""
    _refuse_other_test_set(a, b)
    reasons = []
    if not across_protocols and a.record.protocol != b.record.protocol:
        reasons.append(
            f"A was evaluated under {protocol_title(a.record.protocol)}, B under {protocol_title(b.record.protocol)}. "
            "If that is the comparison you want, add --across-protocols."
        )
    one, other = (precision_text(each.record.overrides) or "the tier's precision" for each in (a, b))
    if not across_precisions and one != other:
        reasons.append(
            f"A was trained under {one}, B under {other}. If that is the comparison you want, add --across-precisions."
        )
    knobs = {measure: list(_different_knobs(a, b, measure)) for measure in measures}
    rest = ",".join(one for one in measures if not knobs[one] and (one != "aa" or (a.record.aa and b.record.aa)))
    for measure in measures:
        if knobs[measure]:
            listing = "; ".join(f"{knob.key} {knob.a} and {knob.b}" for knob in knobs[measure])
            way_out = f" Compare the rest with --measures {rest}." if rest else ""
            reasons.append(f"{measure.upper()} was measured under different attacks: {listing}.{way_out}")
    if reasons:
        raise BenchError("these two cannot be compared:\n  - " + "\n  - ".join(reasons))


def other_differences(a: Measured, b: Measured) -> tuple[Difference, ...]:
    """Return the other settings that ``a`` and ``b`` do not share: any of them may cause the difference.

    Of the recipe, all but the methods' own settings where the methods differ, and of two protocols those that both
    have; beyond it, the seed, what the encoder was pre-trained on, and the packages that decide numbers.
    """
    one_protocol = a.record.protocol == b.record.protocol
    section = a.record.protocol if one_protocol else "protocol"
    left, right = (_settings(one, section, own=a.record.method == b.record.method) for one in (a, b))
    keys = [
        key
        for key in dict.fromkeys([*left, *right])
        if one_protocol or not key.startswith(f"{section}.") or (key in left and key in right)
    ]
    pairs = ((key, _value(a, left, key), _value(b, right, key)) for key in keys if left.get(key) != right.get(key))
    return tuple(_difference(key, one, other) for key, one, other in pairs if not _equal(one, other))


def conditions_of(one: Measured) -> str:
    """Return under what it was evaluated: protocol, tier, fidelity, radius, and how it departs from a plain run."""
    text, radius = table_of(one).conditions, radius_text(one.threat.norm, one.record.ra.eps)
    return text if radius in text else f"{text}, {radius}"  # a radius that is not the default is named already


def refuse_empty(compared: Mapping[Measure, object], missing: Mapping[Measure, str]) -> None:
    """Raise BenchError if no measure could be compared."""
    if not compared:
        reasons = "; ".join(f"{measure.upper()}: {reason}" for measure, reason in missing.items())
        rest = ",".join(measure for measure in MEASURES if measure not in missing)
        raise BenchError(f"there is nothing to compare: {reasons}. Type --measures {rest}")


def _refuse_other_test_set(a: Measured, b: Measured) -> None:
    if a.facts.sha256 != b.facts.sha256:
        one, other = (
            f"{facts.name} ({facts.test_images:,} images, SHA-256 {facts.sha256[:12]})" for facts in (a.facts, b.facts)
        )
        raise BenchError(
            f"these two cannot be compared: A was evaluated on {one}, B on {other}. A comparison needs the same test "
            "images: run one of the two on the data of the other."
        )


def _different_knobs(a: Measured, b: Measured, measure: Measure) -> Iterator[Difference]:
    left, right = _knobs(a, measure), _knobs(b, measure)
    for key in left if right else ():
        if not _equal(left[key], right[key]):
            yield _difference(key, left[key], right[key])


def _knobs(one: Measured, measure: Measure) -> dict[str, Any]:
    """Return the settings that decide the strength of a measure's attack; empty where there is none."""
    record = one.record
    if measure == "ra":
        return {"norm": one.threat.norm, **record.ra.model_dump(exclude={"outcome", "no_gradient", "start_drawn"})}
    if measure == "aa" and record.aa:
        return {"norm": one.threat.norm, **record.aa.model_dump(include={"eps", "version", "targets", "precision"})}
    return {}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def _settings(one: Measured, section: str, *, own: bool) -> dict[str, Any]:
    """Return all settings by name, those of the protocol below ``section``; ``own``: with those of the method."""
    record = one.record
    names = {**({"config": "config"} if own else {}), "encoder": "encoder", section: record.protocol}
    names |= {"evaluate": "evaluate"}
    return {
        **record.model_dump(
            include={"method", "tier", "fidelity", "protocol", "seed", "encoder_seed", "pretrained_on"}
        ),
        "budget": one.recipe.budget,
        "ra.start_drawn": record.ra.start_drawn,
        "threat.norm": one.threat.norm,
        "threat.eps": one.threat.eps,
        **dict(flatten({shown: record.recipe.get(name, {}) for shown, name in names.items()})),
        **{f"package {name}": version for name, version in record.environment.packages.items()},
    }


def _value(one: Measured, settings: Mapping[str, Any], key: str) -> Any:
    """Return the setting, also where the record's recipe is older than its name."""
    if key == "evaluate.eps":
        return one.threat.eps if settings.get(key) is None else settings[key]
    if key in settings:
        return settings[key]
    section, name = key.partition(".")[0], key.rpartition(".")[2]
    earlier = _EARLIER.get(section, FinetuneSettings.later)
    return (earlier if name in earlier or section != "config" else _earlier_of(one.record.method)).get(name)


@cache
def _earlier_of(method: str) -> dict[str, Any]:
    """Return what the settings of the method's stages were before they had a name; none if it is not installed."""
    from bench.method import METHODS  # imports torch, which other comparisons do without

    with suppress(BenchError):
        plans = METHODS.get(method).config_type().plans()
        return {name: value for plan in plans.values() for name, value in plan.later.items()}
    return {}


def _difference(key: str, one: Any, other: Any) -> Difference:
    """Return the two values as texts, in full where short ones are the same."""
    shown = _text(key, one), _text(key, other)
    return Difference(key, *shown) if shown[0] != shown[1] else Difference(key, str(one), str(other))


def _text(key: str, value: Any) -> str:
    if value is None:
        return "all" if key == "evaluate.autoattack_images" else _ABSENT
    if key == "budget":
        return budget_text(value) or _ABSENT
    return eps_text(value) if isinstance(value, float) and key.rpartition(".")[2] in _RADII else str(value)
