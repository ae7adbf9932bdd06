"""A method or a variant of it over its seeds: from what the user types to the records of one recipe."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError, unknown
from bench.own_code import typed
from bench.recipe import flatten, override_text, parse_overrides, typed_options
from bench.record import LOCAL, may_be_of, record_files
from bench.results import (
    Failed,
    Found,
    Group,
    Measured,
    budget_text,
    counted,
    departures_text,
    load_measured,
    named,
    no_records,
    read_groups,
    settings_text,
    tier_called,
    tier_forms,
    tier_text,
)

_LOCAL = f"{LOCAL}/"
"""The beginning of a name that means only the user's own records."""
_BEFORE_SETTING = re.compile(r",?\s+(?=\w[\w.-]*=)")
"""What separates settings: spaces, after a comma if there is one, as in the rows of the board."""


class Variant(NamedTuple):
    """A method and settings of its recipe, among the published records or only among the user's own."""

    method: str
    settings: Mapping[str, Any]
    own: bool

    @classmethod
    def named(cls, name: str) -> "Variant":
        """Return what ``name`` means, such as ``"deacl stage2.lam=3"`` or ``"local/deacl"``.

        Raises:
            BenchError: settings that cannot be read.
        """
        method, *settings = split_name(name)
        if re.search(r"\s", method):
            raise BenchError(f"{name!r} is not a method with settings. Type, for example, 'deacl stage2.lam=3'")
        return cls(method.removeprefix(_LOCAL), parse_overrides(settings), method.startswith(_LOCAL))

    def __str__(self) -> str:
        texts = [override_text(key, value) for key, value in self.settings.items()]
        return " ".join([_LOCAL * self.own + self.method, *texts])

    def holds(self, one: Measured) -> bool:
        """Return whether ``one`` was run with all the settings, be they the tier's own."""
        return all(_setting(one, key) == value for key, value in self.settings.items())

    def as_it_stands(self, group: Group, precision: str | None) -> bool:
        """Return whether nothing departs from the tier's recipe but the settings and a ``precision`` that is named."""
        first = group.seeds[0]
        record = first.record
        lent = record.pretrained_on is not None or record.encoder_seed is not None
        departures = record.overrides.keys() - self.settings.keys() - ({"precision"} if precision else set())
        return not departures and not lent and first.recipe.budget is None


class _Where(NamedTuple):
    """The table that records are looked for in."""

    dataset: str
    protocol: str
    tier: str | None
    fidelity: str
    precision: str | None

    def __str__(self) -> str:
        return ", ".join(filter(None, self))

    def has(self, one: Measured) -> bool:
        record = one.record
        same = (record.protocol, record.fidelity) == (self.protocol, self.fidelity)
        precise = self.precision in (None, _precision(one))
        return same and precise and self.tier in (None, *tier_called(record))


def split_name(name: str) -> list[str]:
    """Return the method in the ``name`` of a variant, and its settings: ``["deacl", "stage2.lam=3"]``."""
    return _BEFORE_SETTING.split(name.strip())


def find_seeds(
    method: str,
    results_dir: Path,
    *,
    dataset: str,
    protocol: str = "slf",
    tier: str | None = None,
    fidelity: str = "uniform",
    precision: str | None = None,
) -> Group:
    """Return the records of the method or variant ``method`` on ``dataset`` under ``protocol``, one a seed.

    Published records are preferred to local ones, unless ``method`` starts with ``local/``; and the tier's own recipe,
    but for the settings in ``method`` and a ``precision`` that is named, to one with others, transfer or a budget.

    Args:
        method: its name, and after it settings of its recipe, as after ``--set``: ``"deacl stage2.lam=3 ssl=byol"``.

    Raises:
        BenchError: there are none, none that counts, or several recipes and nothing to choose by.
    """
    variant, where = Variant.named(method), _Where(dataset, protocol, tier, fidelity, precision)
    read = read_groups(results_dir, dataset, variant.method)
    there = [group for group in read.groups if _is_of(variant, where, group.seeds[0])]
    every = [group for group in there if variant.holds(group.seeds[0])]
    local = [group for group in every if group.seeds[0].local]
    found = local if variant.own else [group for group in every if group not in local] or local
    if not found:
        raise _absent(variant, where, results_dir, read, [group.seeds[0] for group in there])
    chosen = [group for group in found if variant.as_it_stands(group, precision)] or found
    forms = tier_forms(group.seeds[0].record for group in chosen)
    chosen = [group for group in chosen if not forms.get(group.seeds[0].record.tier_sha256)] or chosen
    if len(chosen) > 1:
        raise _several(variant, [group.seeds for group in chosen])
    return chosen[0]


def _setting(one: Measured, key: str) -> Any:
    """Return the value of a setting, as it was set or else in the recipe; Ellipsis where there is no such setting."""
    overrides = one.record.overrides
    return overrides[key] if key in overrides else _recipe(one).get(key, ...)


def _precision(one: Measured) -> str | None:
    """Return the precision that was chosen for the whole run, or else the one that all of it has; None: there is none.

    A tier may give all stages the same without a choice.
    """
    found = {value for key, value in _recipe(one).items() if key.endswith(".precision")}
    chosen: str | None = one.record.overrides.get("precision")
    return chosen or (found.pop() if len(found) == 1 else None)


def _recipe(one: Measured) -> dict[str, Any]:
    """Return the settings of the recipe that the record depends on, by the keys of ``--set``."""
    recipe = one.record.recipe
    sections = {name: recipe.get(name, {}) for name in ("encoder", "threat", "evaluate", one.record.protocol)}
    return dict(flatten({**sections, **recipe.get("config", {})}))


def _is_of(variant: Variant, where: _Where, one: Measured) -> bool:
    """Return whether ``one`` is of the method and in that table, whatever its settings."""
    return one.record.method == variant.method and variant.own <= one.local and where.has(one)


def _absent(variant: Variant, where: _Where, results_dir: Path, read: Found, there: Sequence[Measured]) -> BenchError:
    """Return the error for a ``variant`` without records, where ``there`` are those of its method in that table."""

    def is_meant(path: Path) -> bool:
        one = load_measured(path, local=LOCAL in path.relative_to(results_dir).parts[:1])
        return _is_of(variant, where, one) and variant.holds(one)

    for failed in (one for one in read.left_out if isinstance(one, Failed) and is_meant(results_dir / one.file)):
        return BenchError(
            f"{variant} has no record to compare: the evaluation in {failed.file} {failed.reason}. "
            "`bench doctor` says what to do."
        )
    corrected = [results_dir / one.record for one in read.corrections if one.dataset == where.dataset]
    known = [path for path in corrected if path.is_file() and may_be_of(path, variant.method)]
    gone = [load_measured(path) for path in known if is_meant(path)]
    counted(gone, results_dir).refuse_none(f"{variant} on {where}")
    if there:
        return _no_such_settings(variant, where, there)
    return _no_such_method(variant, where, results_dir)


def _no_such_method(variant: Variant, where: _Where, results_dir: Path) -> BenchError:
    groups = read_groups(results_dir, where.dataset).groups
    if not groups:
        folders = (results_dir, results_dir / LOCAL)
        held = {path.parent.name for folder in folders for path in record_files(folder)} - {where.dataset}
        return no_records("dataset", where.dataset, held)
    firsts = [group.seeds[0] for group in groups]
    forms = tier_forms(one.record for one in firsts)
    tiers = {
        name
        for record in (one.record for one in firsts)
        for name in (record.tier, tier_text(record.tier, forms.get(record.tier_sha256, "")))
    }
    if where.tier not in (None, *tiers):
        return no_records("tier", str(where.tier), tiers, on=where.dataset)
    names = {_LOCAL * one.local + one.record.method for one in firsts if where.has(one)}
    hint = _to_run(variant, where)
    of_method = [one for group in groups for one in group.seeds if one.record.method == variant.method]
    others = {one.record.protocol for one in of_method if variant.own <= one.local} - {where.protocol}
    if others:
        first = min(others)
        hint += f"; there are some under {' and '.join(sorted(others))}: type --protocol {first}"
    return no_records("method", _LOCAL * variant.own + variant.method, names, on=str(where), hint=f"{hint}.")


def _no_such_settings(variant: Variant, where: _Where, there: Sequence[Measured]) -> BenchError:
    """Return the error for settings that no record ``there`` has, or none has together."""
    others = ""
    for key, value in variant.settings.items():
        held = [each for one in there if (each := _setting(one, key)) is not ...]
        if not held:
            keys = {known for one in there for known in (*one.record.overrides, *_recipe(one))}
            return unknown("setting", key, keys, f"`bench methods {typed(variant.method)}` lists those of the method.")
        of_records = ", ".join(sorted({override_text(key, each) for each in held}))
        if _is_number(value) != all(map(_is_number, held)) and None not in (value, *held):
            raise BenchError(f"{override_text(key, value)} is of another type than in the records: {of_records}.")
        if value not in held and not others:
            others = f"; there are of: {of_records}"
    return BenchError(f"there are no records of {variant} on {where}{others}. {_to_run(variant, where)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _to_run(variant: Variant, where: _Where) -> str:
    """Return what makes a record of ``variant``."""
    from bench.data import typed_source  # imports torch, which reading records does without

    words = ["bench", "run", typed(variant.method), "--dataset", typed_source(where.dataset)]
    words += ["--protocols", where.protocol]
    fidelity = None if where.fidelity == "uniform" else where.fidelity
    words += typed_options(variant.settings, tier=where.tier, fidelity=fidelity, precision=where.precision)
    return f"`{shlex.join(words)}` makes one"


def _several(variant: Variant, recipes: Sequence[Sequence[Measured]]) -> BenchError:
    """Return the error for a ``variant`` whose records are of several ``recipes``, with what tells them apart."""
    listing, told = [], {"--tier": set[str | None](), "--precision": set[str | None]()}
    settings = []
    for seeds in recipes:
        record, budget = seeds[0].record, budget_text(seeds[0].recipe.budget)
        own = departures_text(*settings_text(record.overrides), pretrained_on=record.pretrained_on, budget=budget)
        listing.append(named(", ".join(str(one.path) for one in seeds), own))
        told["--tier"].add(record.tier)
        told["--precision"].add(_precision(seeds[0]))
        settings.append({key: value for key, value in sorted(record.overrides.items()) if key != "precision"})
    ways = [option for option, values in told.items() if len(values) > 1]
    if any(each != settings[0] for each in settings):
        ways.append(f"settings, as in {shlex.quote(str(variant._replace(settings=max(settings, key=bool))))}")
    choice = f"Choose with {' or '.join(ways)}, or compare" if ways else "Compare"
    lines = "".join(f"\n  - {line}" for line in listing)
    return BenchError(f"{variant} has records of {len(recipes)} recipes there:{lines}\n{choice} two of these files.")
