"""Earlier runs in a folder: their finished protocols, and the classifiers that were evaluated."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from bench.data import DATASETS, Dataset, same_source
from bench.errors import BenchError, Faults, unknown, warn
from bench.nn import Classifier, load_tensors_into
from bench.protocol import build_protocol, released_classifier
from bench.recipe import ALL_PROTOCOLS, RELEASED, Recipe, within
from bench.record import Record, load_record
from bench.run.command import make_run, to_finish, unfinished
from bench.run.data import load_target
from bench.run.encoder import plain_encoder, recipe_from
from bench.run.folder import RunDescription, RunFolder, other_source
from bench.zoo import digest, load_tensors


@dataclass(frozen=True)
class Finished:
    """One protocol of a run, with its record."""

    folder: RunFolder
    """The folder of the run; its recipe has this protocol's settings."""
    protocol: str
    path: Path
    """The protocol's folder, as found: a later version may name it differently under the same recipe."""
    record: Record
    source: str
    """The user's name for the data that it was evaluated on."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where it and its data are: another process of this run opens it again."""
        return _reopened, (self.path / "record.json", self.source)

    @property
    def weights(self) -> Path:
        """The file of its classifier."""
        return self.folder.encoder if self.protocol == RELEASED else self.path / f"{self.protocol}.safetensors"

    @property
    def recipe(self) -> Recipe:
        """The recipe for protocol and evaluation, with the data and the threat model of the evaluation."""
        return self.folder.recipe.downstream

    def dataset(self, data_dir: Path) -> Dataset:
        """Return the data that it was evaluated on; raises BenchError if they are missing or have changed."""
        try:
            dataset = load_target(self.source, data_dir, self.folder.recipe.dataset).dataset
        except BenchError as error:
            raise self._without_data(error) from error
        expected = self.recipe.dataset.sha256
        if dataset.sha256 != expected:
            raise BenchError(
                f"{self.source} has changed since {self.folder.path.name} was run: its SHA-256 was "
                f"{expected[:12]} and is now {dataset.sha256[:12]}. Restore it, or run again."
            )
        return dataset

    def _without_data(self, error: BenchError) -> BenchError:
        """Return ``error`` with the command that tells the run where its data are now, if they are a user's own."""
        kind, own, _ = self.source.partition(":")
        words = ["bench", "evaluate", str(self.folder.path), "--protocols", self.protocol, "--dataset", f"{kind}:PATH"]
        where = f" If the data of {self.folder.path.name} are elsewhere now, tell it where: {shlex.join(words)}"
        return BenchError(f"{error}{where if own else ''}")

    def is_on(self, dataset: str) -> bool:
        """Return whether its protocol ran on ``dataset``, a name or what a user types for it."""
        return dataset == self.record.dataset or same_source(dataset, self.source)

    def has_its_data_at(self, source: str) -> bool:
        """Return whether a user's own data at ``source`` are those that it was evaluated on."""
        try:
            found = load_target(source, Path(), self.folder.recipe.dataset).dataset
        except BenchError:
            return False
        return found.sha256 == self.recipe.dataset.sha256

    def classifier(self, device: torch.device) -> Classifier:
        """Return the classifier that the record describes, in eval mode on ``device``; its data are not needed.

        Raises:
            BenchError: its weights are missing or damaged, or do not match the record.
        """
        try:
            classifier = self._kept_classifier()
            same = digest(classifier.state_dict()) == self.record.classifier_sha256
        except (RuntimeError, KeyError):  # they are of a network with other names or shapes
            same = False
        if not same:
            raise BenchError(
                f"the weights in {self.path} are not those that its record was made with. Move {self.path} "
                "away; `bench run` makes it again."
            )
        return classifier.to(device)

    def _kept_classifier(self) -> Classifier:
        if self.protocol == RELEASED:
            encoder = plain_encoder(self.folder.recipe)
            load_tensors_into(encoder, self._tensors(self.weights))
            return released_classifier(encoder)
        tensors = self._tensors(self.weights)
        return protocol_classifier(self.folder.recipe, self.protocol, self.record.seed, tensors)

    def _tensors(self, path: Path) -> dict[str, torch.Tensor]:
        try:
            return load_tensors(path).tensors
        except BenchError as error:
            raise BenchError(f"{error} Move {self.path} away; `bench run` makes it again.") from error


def protocol_classifier(recipe: Recipe, protocol: str, seed: int, tensors: Mapping[str, torch.Tensor]) -> Classifier:
    """Return the classifier in ``tensors``, which the folder of ``protocol`` of a run under ``recipe`` keeps.

    Raises:
        RuntimeError: names or shapes that are not those of the protocol.
    """
    unread = torch.zeros(recipe.downstream.dataset.train_images, dtype=torch.int64)  # labels are for training alone
    stage = build_protocol(protocol, recipe.downstream, plain_encoder(recipe), unread, seed)
    load_tensors_into(stage, {name.removeprefix("stage."): value for name, value in tensors.items()})
    return stage.classifier()


def finished_protocols(runs_dir: Path) -> Iterator[Finished]:
    """Yield every finished protocol under ``runs_dir``, run by run; folders that are not runs are ignored.

    A record that is damaged, or does not belong to the run in whose folder it is, is left out with a warning.
    """
    for run in run_folders(runs_dir):
        yield from finished_in(run)


def finished_in(run: Path) -> Iterator[Finished]:
    """Yield the finished protocols of the run in the folder ``run``; see :func:`finished_protocols`."""
    for path in protocol_records(run):
        try:
            yield _open(path)
        except BenchError as error:
            warn(f"left out {path}: {str(error).removeprefix(f'{path}: ')}")


def kept_of(record: Record, runs_dir: Path) -> Finished | None:
    """Return the finished protocol under ``runs_dir`` that keeps the classifier of ``record``; None: it is not here."""
    found = (each for each in finished_protocols(runs_dir) if each.protocol == record.protocol)
    return next((each for each in found if each.record.classifier_sha256 == record.classifier_sha256), None)


def run_folders(runs_dir: Path) -> list[Path]:
    """Return the folders under ``runs_dir`` that hold a run, by name."""
    return sorted(path.parent for path in runs_dir.glob("*/run.json"))


def protocol_records(run: Path) -> list[Path]:
    """Return the records in the folder ``run``, one a finished protocol."""
    return sorted(run.glob("*/record.json"))


def _open(path: Path) -> Finished:
    record, run = load_record(path), path.parents[1]
    recipe, described = recipe_from(record.recipe), RunDescription.load(run)
    seed = record.pretraining_seed
    if (seed, recipe.pretraining_digest()) != (described.seed, recipe_from(described.recipe).pretraining_digest()):
        raise BenchError(f"its pre-training is not that of the run {run.name}. Move it to the run it belongs to.")
    folder = RunFolder(run, recipe, seed, described.source)
    source = other_source(path.parent) if recipe.pretrained_on else folder.source
    return Finished(folder, record.protocol, path.parent, record, source)


def _reopened(path: Path, source: str) -> Finished:
    return replace(_open(path), source=source)


def select_finished(
    runs_dir: Path, runs: str | Sequence[str] = (), *, dataset: str | None = None, protocol: str = "slf"
) -> list[Finished]:
    """Return every finished evaluation of each run under ``protocol``, all of them on the same data.

    Args:
        runs: one or several, see :func:`run_folder`; empty: every run on ``dataset``.
        dataset: the dataset of the runs; None: any, if it is the same for all.

    Raises:
        BenchError: an unknown run, a run without the protocol, no runs at all, or runs on several datasets.
    """
    if protocol not in ALL_PROTOCOLS:
        raise unknown("protocol", protocol, ALL_PROTOCOLS)
    runs = [runs] if isinstance(runs, str) else runs
    if runs:
        found, faults = [], Faults()
        for run in dict.fromkeys(runs):
            with faults:
                found += _named(runs_dir, run, protocol)
        faults.refuse()
    else:
        found = list(finished_protocols(runs_dir))
    if dataset is not None:
        found = _on(found, dataset, named=bool(runs))
    others, found = found, [each for each in found if each.protocol == protocol]
    if not found:
        named = dataset if dataset and dataset in DATASETS else "digits"
        example = to_finish(others[0].folder.path, protocol) if others else make_run("deacl", named, protocol)
        where = f"on {dataset} in {runs_dir}" if dataset else f"in {runs_dir}"
        raise BenchError(f"no run {where} has a finished {protocol}. {example}")
    datasets = {each.recipe.dataset.sha256: each.record.dataset for each in found}  # the same data may have two names
    if len(datasets) > 1:
        names = ", ".join(f"{name} (SHA-256 {sha256[:8]})" for sha256, name in sorted(datasets.items()))
        how = f"Choose one, such as --dataset {min(datasets.values())}, or name runs on one of them."
        raise BenchError(f"these runs are on several datasets: {names}; their numbers are not comparable. {how}")
    return found


def _on(found: Sequence[Finished], dataset: str, *, named: bool) -> list[Finished]:
    chosen = [each for each in found if each.is_on(dataset)]
    if not chosen and ":" in dataset:  # the same data may be in another place by now
        one_of_each = {each.recipe.dataset.sha256: each for each in found}
        there = [sha256 for sha256, each in one_of_each.items() if each.has_its_data_at(dataset)]
        chosen = [replace(each, source=dataset) for each in found if each.recipe.dataset.sha256 in there]
    left = {each.folder.path for each in chosen}
    for each in found if named else ():
        if each.folder.path not in left:
            raise BenchError(f"{each.folder.path.name} is on {each.record.dataset}, not on {dataset}. Leave it out.")
    if not chosen and found and dataset not in DATASETS:
        raise unknown("dataset of a finished run", dataset, {each.record.dataset for each in found})
    return chosen


def one_a_classifier(found: Iterable[Finished]) -> list[Finished]:
    """Return the preferred one of those that share a classifier: they differ only in their evaluation."""
    by_classifier = {(each.folder.path, each.record.classifier_sha256): each for each in by_preference(found)}
    return sorted(by_classifier.values(), key=lambda each: (each.folder.path.name, each.record.protocol_sha256))


def by_preference(found: Iterable[Finished]) -> list[Finished]:
    """Return evaluations so that the one to show, where only one can be, is the last.

    That is one on the data of pre-training, under their default adversary, with the fewest settings of its own, and of
    such the newest.
    """
    return sorted(found, key=_preference)


def _preference(finished: Finished) -> tuple[bool, bool, int, datetime]:
    record, threat = finished.record, finished.recipe.threat
    usual = threat.norm == "linf" and math.isclose(record.ra.eps, finished.recipe.dataset.radius("linf"))
    own = within(record.overrides, "evaluate", "threat")
    return record.pretrained_on is None, usual, -len(own), record.finished


def described_recipe(folder: Path) -> Recipe:
    """Return the recipe of the run in ``folder``; raises BenchError if it is damaged, or its method not installed."""
    return recipe_from(RunDescription.load(folder).recipe)


def find_run(runs_dir: Path, run: str) -> Path | None:
    """Return the folder of ``run``: a name under ``runs_dir``, a prefix that only one name has, or a path.

    Returns None if there is no such run; raises BenchError if several begin so.
    """
    begun = [path.name for path in run_folders(runs_dir) if run and path.name.startswith(run)]
    for folder in (runs_dir / run, Path(run), *(runs_dir / name for name in begun if len(begun) == 1)):
        if (folder / "run.json").is_file():
            return folder
    if len(begun) > 1:
        raise BenchError(
            f"{len(begun)} runs begin with {run!r}, among them {begun[0]} and {begun[1]}. Type the full name."
        )
    return None


def run_folder(runs_dir: Path, run: str) -> Path:
    """Return the folder of ``run``, named as in :func:`find_run`; raises BenchError if no run or several match."""
    folder = find_run(runs_dir, run)
    if folder is not None:
        return folder
    names = [path.name for path in run_folders(runs_dir)]
    if not names:
        raise BenchError(f"there are no runs in {runs_dir}. `bench run deacl --dataset digits` makes one.")
    raise unknown("run", run, names, f"`bench runs --runs-dir {shlex.quote(str(runs_dir))}` lists them.")


def _named(runs_dir: Path, run: str, protocol: str) -> list[Finished]:
    folder = run_folder(runs_dir, run)
    found = list(finished_in(folder))
    if protocol not in {each.protocol for each in found}:
        raise unfinished(folder, protocol)
    return found
