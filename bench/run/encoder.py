"""Pre-trained encoders in files: the weights, whose they are, and what each training stage took."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench import rng
from bench.errors import BenchError
from bench.method import METHODS
from bench.nn import Encoder, build_encoder
from bench.recipe import Recipe, Settings, parse_recipe
from bench.reporting import Reporter
from bench.train.checkpoint import Progress, intact_tensors
from bench.zoo import TensorFile, digest, load_tensors, save_tensors


class Origin(Settings):
    """Where an encoder comes from."""

    owner: str
    """Digest of all that decided it, the seed included."""
    seed: int
    recipe: dict[str, Any]
    """Of the run that trained it."""
    stages: tuple[Progress, ...] | None = None
    """What each stage took; None in files written before this was kept."""


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
        """The recipe that trained it; raises BenchError if its method is not installed."""
        values = self.origin.recipe
        return parse_recipe(values, METHODS.get(values["method"]).config_type, f"the recipe of {values['method']}")

    def encoder(self, recipe: Recipe) -> Encoder:
        """Return the encoder, on the CPU and in eval mode; raises BenchError if it is not of the form of ``recipe``."""
        encoder = plain_encoder(recipe)
        try:
            encoder.load_state_dict(self.tensors)
        except RuntimeError as error:
            raise BenchError(f"the weights do not fit the encoder that their recipe describes: {error}") from None
        return encoder.eval()

    def save(self, path: Path) -> None:
        """Write it to ``path``, atomically."""
        save_tensors(path, self.tensors, self.origin.model_dump(mode="json"))


def plain_encoder(recipe: Recipe) -> Encoder:
    """Return an encoder of the form that ``recipe`` describes, its weights drawn anew."""
    facts = recipe.dataset
    with rng.scoped(0, "plain encoder"):
        return build_encoder(recipe.encoder, image_shape=facts.image_shape, mean=facts.mean, std=facts.std)


def load_encoder(path: Path) -> EncoderFile:
    """Return the encoder in ``path``.

    Raises:
        BenchError: there is no such file, it is damaged, or it holds something else.
    """
    return _encoder_file(load_tensors(path), path)


def intact_encoder(path: Path, reporter: Reporter) -> EncoderFile | None:
    """Return the encoder in ``path``, None where it is missing, or damaged and now set aside, which is said."""
    file = intact_tensors(path, reporter)
    return None if file is None else _encoder_file(file, path)


def _encoder_file(file: TensorFile, path: Path) -> EncoderFile:
    if not {"owner", "seed", "recipe"} <= file.metadata.keys():
        raise BenchError(
            f"{path} holds no pre-trained encoder of ours. Type the path of an encoder.safetensors in a run's folder; "
            "`bench runs` lists the runs."
        )
    return EncoderFile(file.tensors, Origin.parse(file.metadata, str(path)))
