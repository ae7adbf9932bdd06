"""Digests of recipes: each notices exactly its own numbers, and none ever changes for the same ones."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cifar_recipes import METHOD_NAMES, recipe_of

from bench.errors import BenchError
from bench.method import METHODS
from bench.recipe import PROTOCOLS, Settings, canonical_digest, parse_recipe
from bench.record import load_record


def leaves(settings: Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def moved(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "!"
    if isinstance(value, dict):
        return {**value, "more": 1}
    return 1 if value is None else (*value, 1)


def with_leaf(settings: Any, path: tuple[str, ...]) -> Any:
    """A copy of ``settings`` in which the one leaf at ``path`` has another value (unchecked)."""
    name, *rest = path
    value = getattr(settings, name)
    return settings.model_copy(update={name: with_leaf(value, tuple(rest)) if rest else moved(value)})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # "eval!" is none of the allowed values
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_each_digest_depends_on_exactly_its_own_numbers(method: str) -> None:
    """On all numbers for the first method, and for the others on those that only they have."""
    recipe = recipe_of(method=method, tier="mini")
    pretraining, protocols = recipe.pretraining_digest(), {name: recipe.protocol_digest(name) for name in PROTOCOLS}
    before_encoder = {"method", "config", "dataset", "encoder", "threat"}
    first, counted = method == METHOD_NAMES[0], 0
    for path, value in leaves(recipe):
        if path[0] != "config" and not first:
            continue
        assert not isinstance(value, set | frozenset), "a set has another order in another process"
        other = with_leaf(recipe, path)
        assert (other.pretraining_digest() != pretraining) == (path[0] in before_encoder), path
        for name, before in protocols.items():
            own = before_encoder | {name, "evaluate", "finetune", "budget", "precision"}
            assert (other.protocol_digest(name) != before) == (path[0] in own), (name, path)
        counted += 1
    assert counted > 200 or not first
    assert len(set(protocols.values())) == len(PROTOCOLS)


RECORDS = [
    path for path in sorted((Path(__file__).parents[1] / "results").glob("*/*.json")) if ".sweep" not in path.name
]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_committed_record_is_read_and_has_the_digests_of_today(path: Path) -> None:
    """A field that is new belongs to ``later`` and one that is gone to the retired ones, or old runs are lost."""
    record = load_record(path)
    recipe = parse_recipe(record.recipe, METHODS.get(record.method).config_type, path.name)
    assert recipe.pretraining_digest() == record.pretraining_sha256
    assert recipe.protocol_digest(record.protocol) == record.protocol_sha256


def test_a_retired_key_is_kept_but_can_no_longer_be_set() -> None:
    plan = recipe_of().config.plans()["stage2"]
    assert plan.model_dump()["short_lr"] is None
    assert "short_lr" not in type(plan).model_fields
    assert recipe_of("stage2.short_lr=null").config == recipe_of().config
    with pytest.raises(BenchError, match=r"stage2\.short_lr: there is no such key"):
        recipe_of("stage2.short_lr=0.1")


class Grown(Settings):
    """Settings that got a field after the first records."""

    later = {"new": 1}
    lr: float = 0.5
    new: int = 1


class Holder(Settings):
    """A section within another."""

    inner: Grown = Grown()


def test_a_later_field_counts_only_where_it_is_used() -> None:
    assert Holder().digest() == canonical_digest({"inner": {"lr": 0.5}})
    assert Holder(inner=Grown(new=2)).digest() == canonical_digest({"inner": {"lr": 0.5, "new": 2}})
    assert Holder().model_dump() == {"inner": {"lr": 0.5, "new": 1}}


def test_digests_of_what_was_set_are_those_of_the_resulting_numbers() -> None:
    assert recipe_of("stage2.lam=2.0").pretraining_digest() == recipe_of().pretraining_digest()
    assert recipe_of("stage2.lam=2").pretraining_digest() == recipe_of().pretraining_digest()
    assert recipe_of("stage2.lam=2.5").pretraining_digest() != recipe_of().pretraining_digest()
    advcl, by_hand = recipe_of("slf.preset=advcl"), recipe_of("slf.lr=0.01")
    assert advcl.pretraining_digest() == by_hand.pretraining_digest() == recipe_of().pretraining_digest()
    assert len({r.protocol_digest("slf") for r in (advcl, by_hand, recipe_of())}) == 3


def test_the_canonical_form_is_fixed_for_ever() -> None:
    """Records of all times must be comparable: the SHA-256 of JSON with sorted keys and without spaces."""
    values = {"b": [0.1, 1e-5, True, None], "a": {"y": 8 / 255, "x": "é"}}
    text = '{"a":{"x":"\\u00e9","y":0.03137254901960784},"b":[0.1,1e-05,true,null]}'
    assert canonical_digest(values) == hashlib.sha256(text.encode()).hexdigest()
    assert canonical_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_digest({"x": float("nan")})


def test_a_recipe_survives_json_with_its_digest() -> None:
    recipe = recipe_of("stage2.lr=1/3", "student_init=scratch", tier="short", fidelity="native")
    again = type(recipe).parse(recipe.model_dump(mode="json"), "again")
    assert again == recipe
    assert (again.pretraining_digest(), again.digest()) == (recipe.pretraining_digest(), recipe.digest())


class Fixed(Settings):
    """Fields of every kind, which will never change."""

    lr: float = 1 / 3
    steps: int = 5
    scale: tuple[float, float] = (0.08, 1.0)
    start: str | None = None
    inner: dict[str, Any] = {"z": True, "a": 1e-5}


def test_the_digest_of_settings_is_fixed_for_ever() -> None:
    """Golden: a run folder of today must be found by the program of tomorrow, in any process."""
    text = '{"inner":{"a":1e-05,"z":true},"lr":0.3333333333333333,"scale":[0.08,1.0],"start":null,"steps":5}'
    assert Fixed().digest() == hashlib.sha256(text.encode()).hexdigest()
    assert Fixed().digest() == "f39829533db1ce721da4da102657e2dcb0816a63e2f936154a6be47ea6c2bc46"
    assert Fixed(inner={"a": 1e-5, "z": True}).digest() == Fixed().digest()
