"""Finished protocols of earlier runs: their records, and their classifiers as they were judged."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import create_model

from bench.data import Dataset, load_dataset
from bench.errors import BenchError
from bench.files import read_json
from bench.method import METHODS, MethodContext
from bench.nn import Classifier, Encoder
from bench.protocol import build_protocol
from bench.recipe import Recipe
from bench.record import Record, load_record
from bench.run.folder import RunFolder
from bench.zoo import digest, load_tensors


@dataclass(frozen=True)
class Finished:
    """One protocol of a run that has its record."""

    folder: RunFolder
    """The run's; its recipe has this protocol's settings."""
    protocol: str
    record: Record

    def dataset(self, data_dir: Path) -> Dataset:
        """Return the data of the run; raises BenchError if they are gone, or are others by now."""
        dataset = load_dataset(self.folder.spec, data_dir)
        if dataset.sha256 != self.folder.recipe.dataset.sha256:
            raise BenchError(
                f"{self.folder.spec} has changed since {self.folder.path.name} was run: its SHA-256 was "
                f"{self.folder.recipe.dataset.sha256[:12]} and is {dataset.sha256[:12]}. Restore it, or run again."
            )
        return dataset

    def classifier(self, dataset: Dataset, device: torch.device) -> Classifier:
        """Return the classifier that the record judges, in eval mode on ``device``.

        Raises:
            BenchError: its weights are missing or damaged, or are not those of the record.
        """
        recipe = self.folder.recipe
        encoder = untrained_encoder(recipe, self.folder.seed, dataset)
        stage = build_protocol(self.protocol, recipe, encoder, dataset.train.labels, self.folder.seed)
        place = self.folder.protocol(self.protocol)
        tensors = load_tensors(place.path / f"{stage.name}.safetensors").tensors
        stage.load_state_dict({name.removeprefix("stage."): value for name, value in tensors.items()})
        classifier = stage.classifier()
        if digest(classifier.state_dict()) != self.record.classifier_sha256:
            raise BenchError(f"{place.path} holds other weights than its record was made with. Run it again.")
        return classifier.to(device)


def untrained_encoder(recipe: Recipe, seed: int, dataset: Dataset) -> Encoder:
    """Return an encoder of the form that the run evaluates, with the weights that training starts from."""
    index = dataset.index_train if dataset.pretrain is None else None
    method = METHODS.get(recipe.method)(recipe.config)
    for _ in method.stages(MethodContext(recipe, seed, torch.device("cpu"), dataset.pretraining_images, index)):
        pass
    return method.result()


def finished_protocols(runs_dir: Path) -> Iterator[Finished]:
    """Yield every finished protocol under ``runs_dir``, run by run; what is no run is passed over.

    Raises:
        BenchError: a record there is damaged.
    """
    for run in sorted(path.parent for path in runs_dir.glob("*/run.json")):
        yield from finished_in(run)


def finished_in(run: Path) -> Iterator[Finished]:
    """Yield the finished protocols of the run in the folder ``run``; see :func:`finished_protocols`."""
    for path in sorted(run.glob("*/record.json")):
        yield _open(path)


def _open(path: Path) -> Finished:
    record = load_record(path)
    values = read_json(path.parents[1] / "run.json")
    spec = values.get("spec") if isinstance(values, dict) else None
    if not isinstance(spec, str):
        raise BenchError(f"{path.parents[1] / 'run.json'} does not say which data it is about. Run it again.")
    folder = RunFolder(path.parents[1], _recipe(record), record.seed, spec)
    return Finished(folder, record.protocol, record)


def _recipe(record: Record) -> Recipe:
    config_type = METHODS.get(record.method).config_type
    typed = create_model("Recipe", __base__=Recipe, config=(config_type, ...))
    return typed.parse(record.recipe, f"the recipe of {record.method}")
