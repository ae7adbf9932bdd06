"""Finished protocols of earlier runs: their records, and their classifiers as they were judged."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.data import Dataset
from bench.errors import BenchError
from bench.files import read_json
from bench.method import METHODS
from bench.nn import Classifier
from bench.protocol import build_protocol
from bench.recipe import Recipe, Settings, parse_recipe
from bench.recipe.fields import Seed
from bench.record import Record, load_record
from bench.run.encoder import plain_encoder
from bench.run.folder import RunFolder
from bench.run.target import load_target
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
