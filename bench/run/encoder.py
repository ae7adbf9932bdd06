"""Pre-trained encoders: the form that a recipe gives them, and files of weights with what each stage took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from bench.recipe import EncoderSettings, MethodConfig, Recipe, Settings, parse_recipe
from bench.recipe.fields import Seed, Text
from bench.train import Progress, check_plan, intact_tensors
from bench.zoo import TensorFile, digest, load_tensors, save_tensors


class Imported:
    """Stands where a method stands, for an encoder that no run here has trained: it has no stages."""

    name: ClassVar[str] = "imported"
    info: ClassVar[MethodInfo] = MethodInfo("imported", 1900, paper="", bibtex="", summary="trained elsewhere")
    config_type: ClassVar[type[MethodConfig]] = MethodConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Any) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield nothing."""
        yield from ()

    def result(self) -> Encoder:
        """Never asked for: the encoder is in its file."""
        raise NotImplementedError


def method_called(name: str) -> type[Method]:
    """Return the method called ``name``, or what stands for it where an encoder was imported; raises BenchError."""
    return Imported if name == Imported.name else METHODS.get(name)


class Import(Settings):
    """What is known of an encoder that was trained elsewhere."""

    title: Text
    """What tables call it: "DeACL, the authors' weights"."""
    year: int = Field(ge=1900, le=9999)
    encoder: EncoderSettings
    """Its form. Its normalisation names constants, or none: those of training data here are not its own."""

    @field_validator("encoder")
    @classmethod
    def _has_its_own_constants(cls, encoder: EncoderSettings) -> EncoderSettings:
        if encoder.normalisation == "dataset":
            raise ValueError("normalisation must be cifar, imagenet or none: the data it was trained on are not known")
        return encoder

    @property
    def method(self) -> type[Method]:
        """What stands for its method, under its own title."""
        info = replace(Imported.info, title=self.title, year=self.year)
        return type("Imported", (Imported,), {"info": info})


class Origin(Settings):
    """Where an encoder comes from: a run of ours, or elsewhere."""

    fingerprint: str = Field(default="", validation_alias=AliasChoices("fingerprint", "owner"))
    """Digest of all that decided it, the seed included; empty where it was trained elsewhere."""
    seed: Seed = 0
    recipe: dict[str, Any] | None = None
    """Of the run that trained it; None: it was trained elsewhere."""
    stages: tuple[Progress, ...] | None = None
    """What each stage took; None in files written before this was kept, and elsewhere."""
    imported: Import | None = None
    """None: a run of ours trained it."""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        if (self.recipe is None) == (self.imported is None):
            raise ValueError("must have either a recipe, of the run that trained it, or what is known of an import")
        return self


@dataclass(frozen=True)
class EncoderFile:
    """What an ``encoder.safetensors`` holds."""

    tensors: dict[str, Tensor]
    origin: Origin

    @property
    def sha256(self) -> str:
        """Digest of the weights."""
        return digest(self.tensors)

    @property
    def recipe(self) -> Recipe:
        """The recipe that trained it, here; raises BenchError if its method is not installed."""
        assert self.origin.recipe is not None, "an imported encoder has no recipe of its own"
        return recipe_from(self.origin.recipe)

    def check_form(self, recipe: Recipe) -> None:
        """Raise BenchError if the weights have other names or shapes than an encoder of the form of ``recipe``.

        No memory is spent on it, so a recipe may claim any size.
        """
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in plain_encoder(recipe).state_dict().items()}
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            told = [f"{name}: {_shape(found.get(name))}, not {_shape(expected.get(name))}" for name in wrong[:3]]
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise BenchError(
                f"the weights do not fit the encoder that their recipe describes: {'; '.join(told)}{more}."
            )

    def encoder(self, recipe: Recipe) -> Encoder:
        """Return the encoder, on the CPU and in eval mode; raises BenchError if it is not of the form of ``recipe``."""
        self.check_form(recipe)
        encoder = plain_encoder(recipe)
        encoder.load_state_dict(self.tensors)
        return encoder.eval()

    def save(self, path: Path) -> None:
        """Write it to ``path``, atomically."""
        save_tensors(path, self.tensors, self.origin.model_dump(mode="json"))


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "one number"


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain ``values`` hold; raises BenchError if its method is not installed."""
    method = str(values.get("method"))
    return parse_recipe(values, method_called(method).config_type, f"the recipe of {method}")


def plain_encoder(recipe: Recipe) -> Encoder:
    """Return an encoder of the form that ``recipe`` describes, its weights drawn anew."""
    facts = recipe.dataset
    with rng.scoped(0, "plain encoder"):
        plain = build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)
        method: Method = method_called(recipe.method)(recipe.config)
        return method.form(plain) if isinstance(method, OwnForm) else plain


def check_stages(ctx: MethodContext) -> None:
    """Raise BenchError for what would stop a run during or after its pre-training.

    All stages are built once, untrained, on the CPU: each needs a name of its own and a plan that works on the data
    and on the run's device, and the encoder handed over has to be of the form of :func:`plain_encoder`, which is
    what its weights are loaded into. The same weights must mean the same features there.
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
        fault = f"has {len(differing)} tensors of other names or shapes, the first {differing[0][0]!r}"
    else:
        plain.load_state_dict(handed.state_dict())
        found, expected = (encoder.eval()(images) for encoder in (handed, plain))
        if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
            return
        fault = "computes other features with the same weights"
    raise BenchError(
        f"the encoder that method {name!r} hands over is not of the form that its recipe describes, and could not be "
        f"loaded: it {fault}. Nothing is trained. Let result() return what ctx.new_encoder() made, or write a form() "
        "that makes the other form (bench.method.OwnForm)."
    )


def load_encoder(path: Path) -> EncoderFile:
    """Return the encoder in ``path``.

    Raises:
        BenchError: there is no such file, it is damaged, or it holds something else.
    """
    return _encoder_file(load_tensors(path), path)


def intact_encoder(path: Path, monitor: Monitor) -> EncoderFile | None:
    """Return the encoder in ``path``, None where it is missing, or damaged and now set aside, which is said."""
    file = intact_tensors(path, monitor)
    return None if file is None else _encoder_file(file, path)


def _encoder_file(file: TensorFile, path: Path) -> EncoderFile:
    if not {"recipe", "imported"} & file.metadata.keys():
        raise BenchError(
            f"{path} holds no pre-trained encoder of ours. Type the path of an encoder.safetensors in a run's folder; "
            "`bench runs` lists the runs."
        )
    return EncoderFile(file.tensors, Origin.parse(file.metadata, str(path)))
