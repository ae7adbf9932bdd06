"""Pre-trained encoders: their form under a recipe, and weight files with the cost of each stage, ours or imported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import AliasChoices, Field, field_validator, model_validator
from torch import Tensor

from bench import rng
from bench.data import unit_pixels
from bench.errors import BenchError
from bench.method import METHODS, Method, MethodContext, MethodInfo, OwnForm, Stage
from bench.monitor import Monitor
from bench.nn import Encoder, build_encoder
from bench.recipe import RELEASED, EncoderSettings, MethodConfig, Recipe, Settings, parse_recipe
from bench.recipe.fields import Digest, Seed, Text
from bench.record import IMPORTED
from bench.robustbench import KIND, Entry, find_entry
from bench.train import Progress, check_plan, intact_tensors
from bench.zoo import (
    ImportChoices,
    ImportReport,
    TensorFile,
    digest,
    import_checkpoint,
    is_foreign,
    load_tensors,
    save_tensors,
    shape_text,
)


class ImportedConfig(MethodConfig):
    """What decides an imported encoder."""

    later = {"weights": ""}

    weights: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 of its weights."""


class Imported:
    """Takes the place of a method for an encoder that no run of the bench has trained: it has no stages."""

    name: ClassVar[str] = IMPORTED
    info: ClassVar[MethodInfo] = MethodInfo("imported", 1900, paper="", bibtex="", summary="trained elsewhere")
    config_type: ClassVar[type[MethodConfig]] = ImportedConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Any) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield nothing."""
        yield from ()

    def result(self) -> Encoder:
        """Never called: the encoder is in its file."""
        raise NotImplementedError


def method_called(name: str) -> type[Method]:
    """Return the method called ``name``, or ``Imported`` for an imported encoder; raises BenchError."""
    return Imported if name == Imported.name else METHODS.get(name)


class WeightsReport(Settings):
    """What was taken from the file of the weights of a network that is known by its name."""

    file: Text
    sha256: Digest
    """Of the file."""
    network: Text
    """What the names of the network begin with there; empty: nothing."""
    features: int
    tensors: int
    input: Text
    """The size that images are resized to, inside the network."""
    normalisation: Text
    normalisation_from: Text
    dropped: dict[Text, Text]
    """By the beginning of the names: what it is."""


class Import(Settings):
    """What is known about an encoder that was trained elsewhere."""

    title: Text
    """Its title in tables: "DeACL, the authors' weights"."""
    year: int = Field(ge=1900, le=9999)
    encoder: EncoderSettings
    """Its form. Its normalisation must be fixed constants or none, not those of a dataset given here."""
    report: ImportReport | None = None
    """What its checkpoint was taken for; None: the file was made without :func:`bench.zoo.import_checkpoint`."""

    weights: WeightsReport | None = None
    """Of a network of timm, of torchvision or of a user's own file."""

    @field_validator("encoder")
    @classmethod
    def _has_its_own_constants(cls, encoder: EncoderSettings) -> EncoderSettings:
        if encoder.normalisation == "dataset":
            raise ValueError("normalisation must be cifar, imagenet, constants or none: its training data are unknown")
        return encoder

    @property
    def method(self) -> type[Method]:
        """A class that takes the place of its method, with its own title."""
        info = replace(Imported.info, title=self.title, year=self.year)
        if self.entry:
            info = replace(info, protocols=(RELEASED,))
        return type("Imported", (Imported,), {"info": info})

    @property
    def entry(self) -> Entry | None:
        """The entry of RobustBench that it is, a whole classifier; None: it is an encoder."""
        kind, _, name = self.encoder.arch.partition(":")
        return find_entry(name) if kind == KIND else None


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
        expected = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            tensors = encoder.state_dict()
            told = [
                f"{name}: {shape_text(self.tensors.get(name))}, not {shape_text(tensors.get(name))}"
                for name in wrong[:3]
            ]
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise BenchError(
                f"the weights do not fit the encoder that their recipe describes: {'; '.join(told)}{more}."
            )

    def encoder(self, recipe: Recipe) -> Encoder:
        """Return the encoder, on the CPU and in eval mode; raises BenchError if it does not fit ``recipe``."""
        self.check_form(recipe)
        encoder = plain_encoder(recipe)
        encoder.load_state_dict(self.tensors)
        return encoder.eval()

    def plain(self) -> Encoder:
        """Return the encoder, on the CPU and in eval mode, without the data that it will be evaluated on."""
        known = self.origin.imported
        if known is None:
            return self.encoder(self.recipe)
        channels = next((tensor.shape[1] for tensor in self.tensors.values() if tensor.ndim == 4), 3)
        with rng.scoped(0, "plain encoder"):  # its normalisation has constants of its own, and its form no size
            encoder = build_encoder(known.encoder, image_shape=(channels, 32, 32), mean=(), std=())
        self._check_fit(encoder)
        encoder.load_state_dict(self.tensors)
        return encoder.eval()

    def save(self, path: Path) -> None:
        """Write it to ``path``, atomically."""
        save_tensors(path, self.tensors, self.origin.model_dump(mode="json"))


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


def check_stages(ctx: MethodContext) -> None:
    """Raise BenchError for faults that would stop a run during or after its pre-training.

    All stages are built once, untrained, on the CPU. Each needs a unique name and a plan that works on the data and
    the run's device. The method's encoder must have the form of :func:`plain_encoder`, which its weights are loaded
    into, and must compute the same features with the same weights.
    """
    name = ctx.recipe.method
    method: Method = METHODS.get(name)(ctx.recipe.config)
    stages = []
    for stage in method.stages(replace(ctx, device=torch.device("cpu"))):
        if stage.name in stages:
            raise BenchError(f"method {name!r} has two stages called {stage.name!r}; rename one.")
        stages.append(stage.name)
        check_plan(stage, len(stage.positions(len(ctx.images))), ctx.device)
    _check_form(name, method.result(), plain_encoder(ctx.recipe), unit_pixels(ctx.images[:2]))


@torch.no_grad()
def _check_form(name: str, handed: Encoder, plain: Encoder, images: Tensor) -> None:
    ours, theirs = ({(key, *value.shape) for key, value in encoder.state_dict().items()} for encoder in (plain, handed))
    if differing := sorted(ours ^ theirs):
        fault = f"has {len(differing)} tensors with other names or shapes, the first {differing[0][0]!r}"
    else:
        plain.load_state_dict(handed.state_dict())
        found, expected = (encoder.eval()(images) for encoder in (handed, plain))
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
            return
        fault = "computes other features with the same weights"
    raise BenchError(
        f"the encoder that method {name!r} hands over does not have the form that its recipe describes, and could not "
        f"be loaded: it {fault}. Nothing is trained. Return an encoder made by ctx.new_encoder() from result(), or "
        "write a form() that makes the other form (bench.method.OwnForm)."
    )


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
        BenchError: as :func:`bench.zoo.import_checkpoint`.
    """
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
