"""How to make a record again: the exact command, read back from the record."""

import shlex
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from bench.data import DATASETS, typed_source
from bench.own_code import as_typed, is_own
from bench.recipe import (
    RELEASED,
    EncoderSettings,
    flatten,
    load_tier,
    outside,
    override_text,
    tier_names,
    typed_options,
    within,
)
from bench.record import IMPORTED, Record, RecordedRecipe

_CORRUPTIONS = "evaluate.corruptions"
_EVALUATION = "finetune"
"""The section of what only `bench evaluate` can set: a threat model other than that of pre-training."""


class Reproduction(NamedTuple):
    """What to type to make a record again."""

    commit: str | None
    """The code to check out; None: not recorded."""
    command: str
    notes: tuple[str, ...]
    """What the command alone does not state."""


def reproduction(record: Record) -> Reproduction:
    """Return the command that makes ``record`` again, on a machine that has its data."""
    recipe, (tier, tier_note) = record.read_recipe(), _tier(record)
    devices, devices_note = _devices(record)
    imported = record.method == IMPORTED
    words = ["bench", *_loading(record)]
    words += _evaluated(record) if imported else ["run", as_typed(record.method)]
    words += typed_options(
        dict(sorted(outside(record.overrides, _EVALUATION).items())),
        dataset=typed_source(recipe.dataset.name),
        finetune_dataset=_other_data(recipe),
        tier=None if imported else tier,
        fidelity=None if imported else record.fidelity,
        budget=recipe.budget,
        protocols=record.protocol,
        seed=record.seed if imported else record.pretraining_seed,
        threads=_threads(record),
        devices=devices,
    )
    notes = [_weights_note(record), *_own_notes(record), *_data_notes(record, recipe), tier_note, devices_note]
    notes += [_evaluation_note(record, recipe, devices), *_code_notes(record)]
    return Reproduction(record.environment.commit, shlex.join(words), tuple(filter(None, notes)))


def _threads(record: Record) -> int | None:
    """Return the threads of all phases, with which sums have the same order; None: not known, or not one number."""
    found = {one.threads if one else None for phase in record.environments.values() for one in phase}
    return found.pop() if len(found) == 1 else None


def _devices(record: Record) -> tuple[int | None, str]:
    """Return the number of devices of all phases, and a note where it is not one number; None: one device.

    Batch statistics of a device's share, and dropout, depend on it.
    """
    counts = {
        phase: [str(one.devices) if one else "not recorded" for one in ran]
        for phase, ran in record.environments.items()
        if ran
    }
    found = {count for phase in counts.values() for count in phase}
    if len(found) == 1:
        count = found.pop()
        return (int(count) if count.isdecimal() and count != "1" else None), ""
    if found <= {"1", "not recorded"}:
        return None, ""
    shown = ", ".join(f"{phase} {' then '.join(dict.fromkeys(each))}" for phase, each in counts.items())
    return None, f"The phases did not all run on the same number of devices (--devices): {shown}."


def _loading(record: Record) -> list[str]:
    """Return the options that load what only settings name; a file that the command itself names needs none."""
    itself = "encoder" if record.method == IMPORTED else "method"
    loaded = {name: kind for name, kind in record.own_code.items() if kind != itself}
    return [word for name, kind in loaded.items() for word in (f"--{kind}", as_typed(name))]


def _evaluated(record: Record) -> Iterator[str]:
    """Yield the words for an imported encoder: its file, or its network with the file of the weights."""
    form = EncoderSettings.parse(record.recipe["encoder"], "recipe.encoder")
    yield "evaluate"
    if record.protocol == RELEASED:
        yield form.arch
        return
    if ":" not in form.arch and not is_own(form.arch):
        yield "FILE"
        return
    yield from (as_typed(form.arch), "--weights", "FILE", "--normalisation")
    mean, std = form.constants or ((), ())
    yield f"{','.join(map(str, mean))}/{','.join(map(str, std))}" if form.constants else form.normalisation
    for key, value in form.options.items():
        yield from ("--set", override_text(f"encoder.options.{key}", value))


def _weights_note(record: Record) -> str:
    if record.method != IMPORTED or record.protocol == RELEASED:
        return ""
    return f"FILE stands for the encoder ({record.title}), whose weights have the digest {record.encoder_sha256}."


def _own_notes(record: Record) -> Iterator[str]:
    for name, kind in record.own_code.items():
        said = f"The {kind} {name} is in a user's own file, for which FILE.py stands; the digits are those of its code."
        check = f" `bench methods {as_typed(name)}` names the method so where it is the same code."
        yield said + check * (kind == "method")


def _other_data(recipe: RecordedRecipe) -> str | None:
    """Return what to type for the data of the evaluation; None: they are those of pre-training."""
    home, target = recipe.dataset, recipe.downstream.dataset
    if home.sha256 == target.sha256:
        return None
    source = typed_source(target.name)
    return source.replace("PATH", "OTHER_PATH") if source == typed_source(home.name) else source


def _data_notes(record: Record, recipe: RecordedRecipe) -> Iterator[str]:
    home, target = recipe.dataset, recipe.downstream.dataset
    for facts, source in ((home, typed_source(home.name)), (target, _other_data(recipe))):
        if source and facts.name not in DATASETS:
            yield (
                f"{facts.name} is a user's own data: {source}, or {source.replace('npz', 'folder')}, stands for your "
                f"copy of it. Its SHA-256, as the bench computes it, is {facts.sha256}."
            )

    settings = dict(flatten(record.recipe.get("config", {})))
    for key, value in record.overrides.items():
        if isinstance(value, str) and value.startswith("file:"):
            yield f"{key}={value} stands for your copy of that file, of SHA-256 {settings.get(f'{key}_sha256')}."
    if record.overrides.get(_CORRUPTIONS) == "files":
        yield (
            "--corruptions PATH stands for the folder of your corrupted test images, of SHA-256 "
            f"{recipe.corruption_files}."
        )


def _evaluation_note(record: Record, recipe: RecordedRecipe, devices: int | None) -> str:
    own = within(record.overrides, _EVALUATION)
    if record.encoder_seed is None and not own:
        return ""
    asked = {key.removeprefix(f"{_EVALUATION}."): value for key, value in sorted(own.items())}
    if record.overrides.get(_CORRUPTIONS) == "files":
        asked[_CORRUPTIONS] = "files"
    other = _other_data(recipe)
    options = typed_options(asked, protocols=record.protocol, seed=record.seed, finetune_dataset=other, devices=devices)
    return (
        "Protocol and evaluation have options of their own: pass the encoder that this makes to `bench evaluate` "
        f"with {shlex.join(options)}."
    )


def _code_notes(record: Record) -> Iterator[str]:
    if record.environment.commit is None:
        yield f"The code did not run from a checkout; it was version {record.environment.bench}."
    if record.environment.dirty:
        yield "The code had uncommitted changes, so the commit alone may not give the same numbers."


def _tier(record: Record) -> tuple[str, str]:
    shipped = _shipped_tiers().get(record.tier)
    if shipped is None:
        return f"{record.tier}.toml", f"The tier is a user's own file, of digest {record.tier_sha256}."
    changed = shipped != record.tier_sha256
    return record.tier, "This tier has changed since: check out the commit of the record." if changed else ""


@cache
def _shipped_tiers() -> dict[str, str]:
    """Return the digest of each tier that comes with the bench."""
    return {name: load_tier(name).digest() for name in tier_names()}
