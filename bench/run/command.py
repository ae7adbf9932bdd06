"""What to type to make a run, and to finish one that is not finished."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.data import typed_source
from bench.errors import BenchError
from bench.method import METHODS
from bench.own_code import own_objects, own_text, to_load, typed
from bench.recipe import PROTOCOLS, RELEASED, typed_options, within
from bench.record import IMPORTED
from bench.robustbench import find_released
from bench.run.encoder import load_encoder
from bench.run.folder import RunDescription, other_sources

_RECORDS = "*/record.json"
"""Within the folder of a run."""


def make_run(method: str, dataset: str, protocol: str) -> str:
    """Return a sentence with the command that makes a run."""
    return _type(["run", method, *typed_options({}, dataset=dataset, protocols=protocol)])


def unfinished(folder: Path, protocol: str | None = None) -> BenchError:
    """Return the error for the run in ``folder``, whose ``protocol`` is not finished; None: none is."""
    readable = " that can be read" if protocol is None and any(folder.glob(_RECORDS)) else ""
    what = f"{protocol or 'protocol'}{readable}"
    return BenchError(f"the run {folder.name} has no finished {what}. {to_finish(folder, protocol)}")


def to_finish(folder: Path, protocol: str | None = None) -> str:
    """Return a sentence with the command that finishes ``protocol`` of the run in ``folder``; None: its method's first.

    An encoder that is there is evaluated, which needs none of the settings that it was trained with.
    """
    run = RunDescription.load(folder)
    try:
        lost = {
            name: kind for name, kind in own_objects(run.recipe["method"], run.recipe).items() if not own_text(name)
        }
        if lost and any(folder.glob(_RECORDS)):
            load = shlex.join(["bench", *to_load(lost), "COMMAND"])
            return f"It was made with code from files that are not loaded. Type {load} ..."
        if find_released(run.recipe["encoder"]["arch"]):
            return f"It is a classifier that is judged as it was released. Type --protocol {RELEASED}"
        known = _trained_with(folder / "encoder.safetensors")
        brought = run.recipe["method"] == IMPORTED or bool(within(run.recipe["overrides"], "finetune"))
        words = _evaluation(folder, run, known) if brought or known is not None else _training(folder, run)
        wanted = protocol or _first_protocol(run.recipe["method"])
        return _type([*words, *typed_options({}, protocols=wanted, runs_dir=str(folder.parent))])
    except (KeyError, TypeError, AttributeError):
        raise BenchError(f"{folder / 'run.json'} is damaged. Move {folder} away and run it again.") from None


def _first_protocol(method: str) -> str:
    return METHODS.get(method).info.protocols[0] if method in METHODS else PROTOCOLS[0]


def _trained_with(encoder: Path) -> Mapping[str, Any] | None:
    """Return the overrides that an encoder was trained with; None: it is not there, or damaged."""
    try:
        recipe = load_encoder(encoder).origin.recipe
    except BenchError:
        return None
    return recipe["overrides"] if recipe else {}


def _evaluation(folder: Path, run: RunDescription, known: Mapping[str, Any] | None) -> list[str]:
    """Return the words that evaluate its encoder; FILE stands for one that was brought and is not there any more."""
    recipe, old = run.recipe, (known or {}).items()
    new = {key.removeprefix("finetune."): each for key, each in recipe["overrides"].items() if (key, each) not in old}
    if recipe["evaluate"].get("corruptions") == "files":
        new["evaluate.corruptions"] = "files"
    says_its_data = known is not None and recipe["method"] != IMPORTED
    return [
        *to_load(own_objects(recipe["method"], recipe)),
        *("evaluate", "FILE" if known is None else str(folder / "encoder.safetensors")),
        *typed_options(
            within(new, "precision", "threat", "evaluate", *PROTOCOLS),
            dataset=None if says_its_data else run.source or None,
            finetune_dataset=_other_data(folder, recipe),
        ),
    ]


def _training(folder: Path, run: RunDescription) -> list[str]:
    recipe = run.recipe
    own = {name: kind for name, kind in own_objects(recipe["method"], recipe).items() if kind != "method"}
    return [
        *to_load(own),
        *("run", typed(recipe["method"])),
        *typed_options(
            {**recipe["overrides"], **run.files},
            dataset=run.source or typed_source(recipe["dataset"]["name"]),
            finetune_dataset=_other_data(folder, recipe),
            tier=recipe["tier"],
            fidelity=recipe["fidelity"],
            budget=recipe.get("budget"),
            seed=run.seed,
        ),
    ]


def _other_data(folder: Path, recipe: Mapping[str, Any]) -> str | None:
    """Return the user's name for the data of protocols and evaluation; None: they are those of pre-training."""
    facts = (recipe.get("finetune") or recipe)["dataset"]
    if facts["sha256"] == recipe["dataset"]["sha256"]:
        return None
    return next(iter(other_sources(folder, facts["name"])), typed_source(facts["name"]))


def _type(words: list[str]) -> str:
    return f"Type {shlex.join(['bench', *words])}"
