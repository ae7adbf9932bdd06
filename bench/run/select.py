"""Choosing finished protocols: those of named runs, or all on one dataset."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, unknown
from bench.files import read_json
from bench.recipe import PROTOCOLS, override_text
from bench.run.finished import Finished, finished_in, finished_protocols


def select_finished(
    runs_dir: Path, runs: Sequence[str] = (), *, dataset: str | None = None, protocol: str = "slf"
) -> list[Finished]:
    """Return the finished ``protocol`` of each run, all of them on the same data.

    Args:
        runs_dir: where runs are kept.
        runs: folder names under ``runs_dir``, as `bench runs` prints them, or paths; empty: every run on ``dataset``.
        dataset: what the runs are on; None: the runs tell.
        protocol: one of ``PROTOCOLS``.

    Raises:
        BenchError: no such run, one without the protocol, none at all, or runs on several datasets.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if runs:
        found = [each for run in dict.fromkeys(runs) for each in _named(runs_dir, run, protocol)]
    else:
        found = list(finished_protocols(runs_dir))
    if dataset is not None:
        found = _on(found, dataset, named=bool(runs))
    others, found = found, [each for each in found if each.protocol == protocol]
    if not found:
        example = _command(others[0].folder.path, protocol) if others else _make("deacl", "digits", protocol)
        where = f"on {dataset} in {runs_dir}" if dataset else f"in {runs_dir}"
        raise BenchError(f"no run {where} has a finished {protocol}. {example}")
    datasets = sorted({(each.record.dataset, each.recipe.dataset.sha256) for each in found})
    if len(datasets) > 1:
        names = ", ".join(f"{name} (SHA-256 {sha256[:8]})" for name, sha256 in datasets)
        how = "Name runs on one of them." if runs else f"Choose one, such as --dataset {datasets[0][0]}, or name runs."
        raise BenchError(f"these runs are on several datasets: {names}; their numbers do not compare. {how}")
    return _newest(found)


def _on(found: Sequence[Finished], dataset: str, *, named: bool) -> list[Finished]:
    chosen = [each for each in found if dataset in (each.record.dataset, each.spec)]
    left = {each.folder.path for each in chosen}
    for each in found if named else ():
        if each.folder.path not in left:
            raise BenchError(f"{each.folder.path.name} is on {each.record.dataset}, not on {dataset}. Leave it out.")
    if not chosen:
        raise unknown("dataset of a finished run", dataset, {each.record.dataset for each in found})
    return chosen


def _newest(found: Iterable[Finished]) -> list[Finished]:
    """Return one of those that share a classifier: they differ in how it was evaluated, which is no matter here."""
    by_classifier = {}
    for each in sorted(found, key=lambda each: each.record.finished):
        by_classifier[each.folder.path, each.record.classifier_sha256] = each
    return sorted(by_classifier.values(), key=lambda each: (each.folder.path.name, each.record.protocol_sha256))


def _named(runs_dir: Path, run: str, protocol: str) -> list[Finished]:
    folder = runs_dir / run if (runs_dir / run).is_dir() else Path(run)
    if not (folder / "run.json").is_file():
        raise unknown("run", run, (path.parent.name for path in runs_dir.glob("*/run.json")), _listing(runs_dir))
    found = list(finished_in(folder))
    if protocol not in {each.protocol for each in found}:
        raise BenchError(f"the run {folder.name} has no finished {protocol}. {_command(folder, protocol)}")
    return found


def _listing(runs_dir: Path) -> str:
    return f"`bench runs --runs-dir {shlex.quote(str(runs_dir))}` lists them."


def _command(folder: Path, protocol: str) -> str:
    """Return the sentence that says how to finish ``protocol`` of the run in ``folder``."""
    values: Any = read_json(folder / "run.json")
    try:
        recipe = values["recipe"]
        options = ["--tier", recipe["tier"], "--fidelity", recipe["fidelity"], "--seed", str(values["seed"])]
        for key, value in recipe["overrides"].items():
            options += ["--set", override_text(key, value)]
        options += ["--runs-dir", str(folder.parent)]
        return _make(recipe["method"], values.get("spec") or recipe["dataset"]["name"], protocol, *options)
    except (KeyError, TypeError, AttributeError):
        raise BenchError(f"{folder / 'run.json'} is damaged. Move {folder} away and run it again.") from None


def _make(method: str, dataset: str, protocol: str, *options: str) -> str:
    words = ["bench", "run", method, "--dataset", dataset, "--protocols", protocol, *options]
    return f"Type {shlex.join(words)}"
