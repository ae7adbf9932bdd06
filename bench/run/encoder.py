"""Pre-trained encoders: their form under a recipe, and weight files with the cost of each stage, ours or imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor

from bench import rng
from bench.data import typed_source
from bench.errors import BenchError
from bench.files import create_bytes
from bench.method import Method, OwnForm
from bench.monitor import Monitor
from bench.nn import Encoder, build_encoder, load_tensors_into
from bench.recipe import Recipe, Settings, parse_recipe
from bench.recipe.fields import Seed
from bench.run.imported import Import, method_called
from bench.train import Progress, intact_tensors
from bench.zoo import (
    ImportChoices,
    TensorFile,
    digest,
    form_channels,
    import_checkpoint,
    is_foreign,
    load_tensors,
    misfits,
    save_tensors,
    sealed_bytes,
)


class Origin(Settings):
    """Where an encoder was trained: in a run of the bench, or elsewhere."""

    fingerprint: str = Field(default="", validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of everything that determined it, including the seed; empty if it was trained elsewhere."""
    seed: Seed = 0
    recipe: dict[str, Any] | None = None
    """Of the run that trained it; None: it was trained elsewhere."""
    stages: tuple[Progress, ...] | None = None
    """The progress and cost of each stage; None in older files, and if it was trained elsewhere."""
    imported: Import | None = None
    """None: a run of the bench trained it."""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        if (self.recipe is None) == (self.imported is None):
            raise ValueError("must have either the recipe of the run that trained it, or 'imported', not both")
        return self


@dataclass(frozen=True)
class EncoderFile:
    """The content of an ``encoder.safetensors``."""

    tensors: dict[str, Tensor]
    origin: Origin

    @property
    def sha256(self) -> str:
        """Digest of the weights."""
        return digest(self.tensors)

    @property
    def recipe(self) -> Recipe:
        """The recipe that trained it in the bench; raises BenchError if its method is not installed."""
        assert self.origin.recipe is not None, "an imported encoder has no recipe of its own"
        return recipe_from(self.origin.recipe)

    def check_form(self, recipe: Recipe) -> None:
        """Raise BenchError if names or shapes of the weights differ from those of an encoder under ``recipe``.

        The check allocates no memory, so a recipe may state any size.
        """
        with torch.device("meta"):
            self._check_fit(plain_encoder(recipe))

    def _check_fit(self, encoder: Encoder) -> None:
        if faults := misfits(self.tensors, encoder.state_dict()):
            faults = faults.replace("backbone.network.", "")  # the names of an outside network are its own
            raise BenchError(f"the weights do not fit the encoder that their recipe describes: {faults}.")

    def encoder(self, recipe: Recipe) -> Encoder:
        """Return the encoder, on the CPU and in eval mode; raises BenchError if it does not fit ``recipe``."""
        self.check_form(recipe)
        return self.built(recipe)

    def built(self, recipe: Recipe) -> Encoder:
        """Return the same for a recipe that is known to have a size that fits into memory."""
        return self._filled(plain_encoder(recipe))

    def plain(self) -> Encoder:
        """Return the encoder, on the CPU and in eval mode, without the data that it will be evaluated on."""
        known = self.origin.imported
        if known is None:
            return self.encoder(self.recipe)
        channels = self.channels
        with rng.scoped(0, "plain encoder"):  # its normalisation has constants of its own, and its form no size
            encoder = build_encoder(known.encoder, image_shape=(channels, 32, 32), mean=(), std=())
        return self._filled(encoder)

    def _filled(self, encoder: Encoder) -> Encoder:
        self._check_fit(encoder)
        load_tensors_into(encoder, self.tensors)
        return encoder.eval()

    @property
    def channels(self) -> int:
        """The channels of the images that it takes; only for an imported encoder."""
        assert self.origin.imported is not None, "a run has its own data"
        mean = self.tensors.get("normalise.mean")
        return form_channels(self.origin.imported.encoder, self.tensors) if mean is None else len(mean)

    @property
    def example_data(self) -> str:
        """What to type after --dataset: the data it was trained on, if they are known, or others of as many channels.

        Only for an imported encoder.
        """
        assert self.origin.imported is not None, "a run has its own data"
        known = self.origin.imported.trained_on or ("cifar10" if self.channels == 3 else "")
        return typed_source(known)

    def save(self, path: Path) -> None:
        """Write it to ``path``, atomically."""
        save_tensors(path, self.tensors, self.origin.model_dump(mode="json"))

    def create(self, path: Path) -> None:
        """Write it to the new file ``path``; raises BenchError if there is one, also one that was made meanwhile."""
        if path.exists() or not create_bytes(path, sealed_bytes(self.tensors, self.origin.model_dump(mode="json"))):
            raise BenchError(f"{path} exists already, and is not replaced. Delete it, or type another --output.")


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe in the plain ``values``; raises BenchError if its method is not installed."""
    method = str(values.get("method"))
    return parse_recipe(values, method_called(method).config_type, f"the recipe of {method}")


def plain_encoder(recipe: Recipe) -> Encoder:
    """Return an encoder of the form that ``recipe`` describes, with new random weights."""
    facts = recipe.dataset
    with rng.scoped(0, "plain encoder"):
        plain = build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
        method: Method = method_called(recipe.method)(recipe.config)
        return method.form(plain) if isinstance(method, OwnForm) else plain


def load_encoder(path: Path) -> EncoderFile:
    """Return the encoder in ``path``, which is a file of the bench, or a checkpoint that is imported.

    Raises:
        BenchError: the file does not exist, is damaged, or holds something else.
    """
    if is_foreign(path):
        return import_encoder(path)
    return _encoder_file(load_tensors(path), path)


def import_encoder(
    path: Path, choices: ImportChoices | None = None, *, title: str | None = None, year: int | None = None
) -> EncoderFile:
    """Return the encoder in the foreign checkpoint ``path``, as a file of ours that is not written yet.

    Args:
        path: the checkpoint.
        choices: what it does not say itself.
        title: for tables; None: the origin and the name of the file.
        year: of its paper; None: that of the origin, or the present year where the origin is not known.

    Raises:
        BenchError: as :func:`bench.zoo.import_checkpoint`; or an empty ``title``.
    """
    title = None if title is None else " ".join(title.split())
    if title == "":
        raise BenchError("--title is empty. Type the name that tables show, or leave it out.")
    foreign = import_checkpoint(path, choices)
    values = {
        "title": foreign.title if title is None else title,
        "year": year or foreign.year or datetime.now(UTC).year,
        "encoder": foreign.settings,
        "report": foreign.report,
    }
    return EncoderFile(foreign.tensors, Origin(imported=Import.parse(values, f"import of {path}")))


def intact_encoder(path: Path, monitor: Monitor) -> EncoderFile | None:
    """Return the encoder in ``path``; None if it is missing, or damaged (then it is renamed and reported)."""
    file = intact_tensors(path, monitor)
    return None if file is None else _encoder_file(file, path)


def _encoder_file(file: TensorFile, path: Path) -> EncoderFile:
    if not {"recipe", "imported"} & file.metadata.keys():
        raise BenchError(
            f"{path} is not an encoder file of the bench. Type the path of an encoder.safetensors in a run's folder; "
            "`bench runs` lists the runs."
        )
    return EncoderFile(file.tensors, Origin.parse(file.metadata, str(path)))
