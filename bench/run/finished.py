"""Runs of earlier: which a folder holds, their finished protocols, and their classifiers as they were judged."""

import shlex
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.data import Dataset
from bench.errors import BenchError, unknown
from bench.files import read_json
from bench.method import METHODS
from bench.nn import Classifier
from bench.protocol import build_protocol
from bench.recipe import PROTOCOLS, Recipe, Settings, override_text, parse_recipe
from bench.recipe.fields import Seed
from bench.record import Record, load_record
from bench.run.data import load_target
from bench.run.encoder import plain_encoder
from bench.run.folder import RunFolder
from bench.zoo import digest, load_tensors


@dataclass(frozen=True)
class Finished:
    """One protocol of a run that has its record."""

    folder: RunFolder
    """The run's; its recipe has this protocol's settings."""
    protocol: str
    place: Path
    """The protocol's own folder in it, as found: a later version may give the same recipe another name."""
    record: Record
    spec: str
    """What the user called the data that it was judged on."""

    @property
    def recipe(self) -> Recipe:
        """The recipe as protocol and evaluation read it: data and threat model are those of the judgement."""
        return self.folder.recipe.downstream

    def dataset(self, data_dir: Path) -> Dataset:
        """Return the data that it was judged on; raises BenchError if they are gone, or are others by now."""
        dataset = load_target(self.spec, data_dir, self.folder.recipe.dataset).dataset
        expected = self.recipe.dataset.sha256
        if dataset.sha256 != expected:
            raise BenchError(
                f"{self.spec} has changed since {self.folder.path.name} was run: its SHA-256 was "
                f"{expected[:12]} and is {dataset.sha256[:12]}. Restore it, or run again."
            )
        return dataset

    def classifier(self, dataset: Dataset, device: torch.device) -> Classifier:
        """Return the classifier that the record judges, in eval mode on ``device``.

        Raises:
            BenchError: its weights are missing or damaged, or are not those of the record.
        """
        encoder = plain_encoder(self.folder.recipe)
        stage = build_protocol(self.protocol, self.recipe, encoder, dataset.train.labels, self.record.seed)
        try:
            tensors = load_tensors(self.place / f"{stage.name}.safetensors").tensors
        except BenchError as error:
            raise BenchError(f"{error} Move {self.place} away; `bench run` makes it again.") from error
        stage.load_state_dict({name.removeprefix("stage."): value for name, value in tensors.items()})
        classifier = stage.classifier()
        if digest(classifier.state_dict()) != self.record.classifier_sha256:
            raise BenchError(f"{self.place} holds other weights than its record was made with. Run it again.")
        return classifier.to(device)


def finished_protocols(runs_dir: Path) -> Iterator[Finished]:
    """Yield every finished protocol under ``runs_dir``, run by run; what is no run is passed over.

    A record that is damaged, or of another run than the folder that it lies in, is left out with a warning.
    """
    for run in sorted(path.parent for path in runs_dir.glob("*/run.json")):
        yield from finished_in(run)


def finished_in(run: Path) -> Iterator[Finished]:
    """Yield the finished protocols of the run in the folder ``run``; see :func:`finished_protocols`."""
    for path in sorted(run.glob("*/record.json")):
        try:
            yield _open(path)
        except BenchError as error:
            warnings.warn(f"left out {path}: {str(error).removeprefix(f'{path}: ')}", stacklevel=2)


def _open(path: Path) -> Finished:
    record = load_record(path)
    recipe = _recipe(record.recipe, record.method)
    seed = record.seed if record.encoder_seed is None else record.encoder_seed
    run = _described(path.parents[1] / "run.json")
    if (seed, recipe.pretraining_digest()) != (run.seed, _recipe(run.recipe, record.method).pretraining_digest()):
        raise BenchError(f"its pre-training is not that of the run {path.parents[1].name}. Move it to its own run.")
    folder = RunFolder(path.parents[1], recipe, seed, run.spec)
    target = path.with_name("target.json")
    spec = _Target.parse(read_json(target), str(target)).spec if recipe.pretrained_on else folder.spec
    return Finished(folder, record.protocol, path.parent, record, spec)


class _Target(Settings):
    """What ``target.json`` says."""

    spec: str


class _Description(_Target):
    """What ``run.json`` says."""

    owner: str
    seed: Seed
    recipe: dict[str, Any]


def _described(path: Path) -> _Description:
    return _Description.parse(read_json(path), str(path))


def _recipe(values: dict[str, Any], method: str) -> Recipe:
    return parse_recipe(values, METHODS.get(method).config_type, f"the recipe of {method}")


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


class RunSummary(Settings):
    """One line of ``bench runs``."""

    name: str
    method: str
    dataset: str
    tier: str
    seed: int
    encoder: bool
    """Whether pre-training is finished."""
    records: str
    """The protocols that are finished."""
    targets: str
    """What the user called the other data that the encoder is judged on (transfer)."""
    commits: dict[str, list[str | None]]
    """By phase of the finished records: the commits that it ran with, in order; null: not known."""


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """Return the runs under ``runs_dir`` by name; what is no run is passed over.

    A run whose description is damaged is left out with a warning.
    """
    found = []
    for description in sorted(runs_dir.glob("*/run.json")):
        try:
            found.append(_summary(description))
        except (KeyError, TypeError):
            continue  # another program's
        except BenchError as error:
            warnings.warn(
                f"left out {description.parent}: {error}. The command that began the run mends it.", stacklevel=2
            )
    return found


def _summary(description: Path) -> RunSummary:
    folder = description.parent
    values = read_json(description)
    recipe = values["recipe"]
    summary = {
        "name": folder.name,
        "method": recipe["method"],
        "dataset": recipe["dataset"]["name"],
        "tier": recipe["tier"],
        "seed": values["seed"],
        "encoder": (folder / "encoder.safetensors").exists(),
        "records": ", ".join(sorted(path.parent.name for path in folder.glob("*/record.json"))),
        "targets": ", ".join(sorted({str(read_json(path)["spec"]) for path in folder.glob("*/target.json")})),
        "commits": _commits(folder),
    }
    return RunSummary.parse(summary, str(description))


def _commits(folder: Path) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for path in sorted(folder.glob("*/record.json")):
        try:
            record = load_record(path)
        except BenchError:
            continue  # the command that made it makes it again, and says so
        found |= {phase: [one.commit if one else None for one in ran] for phase, ran in record.environments.items()}
    return found
