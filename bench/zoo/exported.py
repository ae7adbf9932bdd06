"""Reads back what ``bench export --to safetensors`` wrote: the form of the encoder is in the header of its weights."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench import rng
from bench.errors import BenchError
from bench.files import parse_json
from bench.nn import build_encoder
from bench.recipe import EncoderSettings, Settings
from bench.recipe.fields import Digest, Side, Text, Year
from bench.zoo.tensors import EXPORTED, taken


class ExportedForm(Settings):
    """What the header of the weights says."""

    encoder: EncoderSettings
    image_shape: tuple[Side, Side, Side]
    title: Text
    year: Year
    trained_on: Text = ""
    """The name of the data; empty: not known, as in exports of older versions."""
    trained_on_sha256: Digest | None = None
    """The digest of the data; None: as before."""


class ExportedEncoder(NamedTuple):
    """An encoder that was exported."""

    tensors: dict[str, Tensor]
    """By the names of :class:`bench.nn.Encoder`."""
    form: ExportedForm
    features: int
    dropped: dict[str, str]


def exported_file(path: Path) -> Path:
    """Return the weights in ``path``, a file or the folder of an export.

    Raises:
        BenchError: it is an export that cannot be taken back, or a folder of something else.
    """
    if path.suffix == ".onnx" or (path / "model.onnx").is_file():
        raise BenchError(
            f"{path} is a graph of ONNX, whose weights no longer have names or belong to layers, so no encoder can be "
            "made of it. Import the run's safetensors: bench export RUN --to safetensors"
        )
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise BenchError(f"{path} is a folder without model.safetensors. Give the file of the weights.")
        return path / "model.safetensors"
    return path


def read_exported(path: Path) -> ExportedEncoder | None:
    """Return the encoder in the file ``path``; None: ``bench export --to safetensors`` did not write it.

    Raises:
        BenchError: it is damaged, or its tensors do not fit the form that its header gives.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(EXPORTED)
            if said is None:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        values: Any = parse_json(said)
    except (SafetensorError, OSError):
        return None  # the reader of all checkpoints says what is wrong with it
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is damaged: its header cannot be read ({error}).") from None
    form = ExportedForm.parse(values, f"the header of {path}")
    found = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    with torch.device("meta"), rng.scoped(0, "exported"):
        encoder = build_encoder(form.encoder, image_shape=form.image_shape, mean=(), std=())
    head = tensors.get("head.weight")
    return ExportedEncoder(
        taken(
            found, encoder.state_dict(), str(path), fault=f"{path} does not fit the encoder in its header", advice=""
        ),
        form,
        encoder.feature_dim,
        {} if head is None else {"head": f"classifier of {len(head)} classes"},
    )
