"""Encoders that were trained elsewhere: what is known about one, and what takes the place of its method."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, field_validator

from bench.method import METHODS, Method, MethodContext, MethodInfo, Stage
from bench.nn import Encoder
from bench.recipe import RELEASED, EncoderSettings, MethodConfig, Settings
from bench.recipe.fields import Digest, Text, Year, checked_dataset
from bench.record import IMPORTED
from bench.robustbench import Entry, find_released
from bench.zoo import ImportReport


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
    year: Year
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

    @field_validator("report")
    @classmethod
    def _its_data_have_a_name(cls, report: ImportReport | None) -> ImportReport | None:
        if report and report.trained_on:
            checked_dataset(report.trained_on)  # its records will hold it
        return report

    @property
    def trained_on(self) -> str:
        """The name of the data that it was trained on, as its file says; empty: not known."""
        return self.report.trained_on if self.report else ""

    @property
    def trained_on_sha256(self) -> str | None:
        """The digest of these data; None: not known."""
        return self.report.trained_on_sha256 if self.report else None

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
        return find_released(self.encoder.arch)
