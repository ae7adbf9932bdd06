"""How to make a record again: the exact command, read back from the record."""

import shlex
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from bench.data import DATASETS
from bench.own_code import as_typed, is_own
from bench.recipe import RELEASED, EncoderSettings, load_tier, override_text, tier_names
from bench.record import IMPORTED, Record, RecordedRecipe

_CORRUPTIONS = "evaluate.corruptions"


class Reproduction(NamedTuple):
    """What to type to make a record again."""

    commit: str | None
    """The code to check out; None: not recorded."""
    command: str
    notes: tuple[str, ...]
    """What the command alone does not state."""


def reproduction(record: Record) -> Reproduction:
    """Return the command that makes ``record`` again, on a machine that has its data."""
    recipe, overrides = record.read_recipe(), dict(sorted(record.overrides.items()))
    tier, tier_note = _tier(record)
    encoder_seed = record.seed if record.encoder_seed is None else record.encoder_seed
    imported = record.method == IMPORTED
    words = ["bench", *_loading(record)]
    words += _evaluated(record) if imported else ["run", as_typed(record.method)]
    words += ["--dataset", _data(record.pretrained_on or record.dataset)]
    words += ["--finetune-dataset", _data(record.dataset)] if record.pretrained_on else []
    words += [] if imported else ["--tier", tier, "--fidelity", record.fidelity]
    words += [] if recipe.budget is None else ["--budget", repr(recipe.budget)]
    words += ["--protocols", record.protocol, "--seed", str(encoder_seed)]
    if overrides.get(_CORRUPTIONS) == "files":  # the recipe holds only their digest
        words += ["--corruptions", "PATH"]
        del overrides[_CORRUPTIONS]
    words += [word for key, value in overrides.items() for word in ("--set", override_text(key, value))]
    notes = [_weights_note(record), *_own_notes(record), *_data_notes(record, recipe), tier_note, _seed_note(record)]
    notes += _code_notes(record)
    return Reproduction(record.environment.commit, shlex.join(words), tuple(filter(None, notes)))


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


def _data(name: str) -> str:
    return name if name in DATASETS else "npz:PATH"


def _data_notes(record: Record, recipe: RecordedRecipe) -> Iterator[str]:
    for facts in [recipe.dataset, *([recipe.finetune.dataset] if recipe.finetune else [])]:
        if facts.name not in DATASETS:
            yield (
                f"{facts.name} is a user's own data: npz:PATH, or folder:PATH, stands for your copy of it. "
                f"Its SHA-256, as the bench computes it, is {facts.sha256}."
            )

    if record.overrides.get(_CORRUPTIONS) == "files":
        yield (
            "--corruptions PATH stands for the folder of your corrupted test images, of SHA-256 "
            f"{recipe.corruption_files}."
        )


def _seed_note(record: Record) -> str:
    if record.encoder_seed is None:
        return ""
    return (
        f"Protocol and evaluation used seed {record.seed}: pass the encoder that this makes to `bench evaluate` "
        f"with --protocols {record.protocol} --seed {record.seed}."
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
