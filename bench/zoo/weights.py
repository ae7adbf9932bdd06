"""Weights from a file for a network that is known by its name: complete and of the right shapes, or an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import rng
from bench.errors import BenchError, unknown
from bench.files import file_digest
from bench.nn import LeftOut, Outsider, backbone_factory
from bench.recipe import EncoderSettings
from bench.zoo.checkpoint import read_checkpoint, tensors_in
from bench.zoo.dropped import describe_dropped
from bench.zoo.tensors import taken

_SHOWN = 3


class Weights(NamedTuple):
    """The tensors of a file."""

    path: Path
    sha256: str
    """Of the file."""
    tensors: Mapping[str, Tensor]
    """By name, below everything that encloses them."""


class Fitted(NamedTuple):
    """The weights of a network."""

    tensors: dict[str, Tensor]
    """By the names of the network's own state dict."""
    prefix: str
    """What its names begin with in the file."""
    dropped: dict[str, str]
    """What of the file is not in the network."""


def read_weights(path: Path) -> Weights:
    """Return the tensors in ``path``, which is read as plain data; raises BenchError as ``read_checkpoint``."""
    tensors = tensors_in(read_checkpoint(path))
    return Weights(path, file_digest(path), tensors)


def fit_weights(weights: Weights, network: nn.Module, name: str, prefix: str | None = None) -> Fitted:
    """Return the tensors of ``network`` from a file.

    Whatever lies in a part of the network must have its place there. Other parts of the file are left out, and so is
    the classifier, even within a part.

    Args:
        weights: of the file.
        network: any; its own weights are not used.
        name: its name, for messages.
        prefix: what its names begin with in the file; None: found by its names.

    Raises:
        BenchError: a tensor is missing, has no place or another shape, or is not finite; or the file has several such
            networks.
    """
    expected = network.state_dict()
    prefix = _prefix(weights, expected, name, prefix)
    inside = {key.removeprefix(prefix): each for key, each in weights.tensors.items() if key.startswith(prefix)}
    parts = {key.split(".")[0] for key in expected}
    computed = {key for key, _ in network.named_buffers()} - expected.keys()  # such as positions of tokens
    heads = [name for name, part in network.named_modules() if isinstance(part, LeftOut)]
    wanted = {
        key: each
        for key, each in inside.items()
        if key.split(".")[0] in parts and key not in computed and key.rpartition(".")[0] not in heads
    }
    tensors = taken(
        wanted,
        expected,
        str(weights.path),
        fault=f"the weights in {weights.path} do not fit {name}",
        advice="Nothing is filled with random numbers. Give the file of this network, or set encoder.options to those "
        "that it was made with, and to input_size if its images are not of 32 pixels.",
    )
    kept = {prefix + key for key in wanted}
    return Fitted(tensors, prefix, describe_dropped(weights.tensors, kept, (), {}, prefix, heads))


def image_channels(network: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the channels of the images that ``network`` takes with the weights ``tensors``, of any prefix.

    Its own order of tensors tells which is the first convolution: a file may be sorted by name, where a depthwise
    convolution, of one channel, comes before it. None: the file has no such tensor.
    """
    first = next((key for key, each in network.state_dict().items() if each.ndim == 4 and key.endswith("weight")), "")
    found = [key for key, each in tensors.items() if f".{key}".endswith(f".{first}") and each.ndim == 4]
    return tensors[min(found, key=len)].shape[1] if first and found else None


def form_channels(form: EncoderSettings, tensors: Mapping[str, Tensor]) -> int:
    """Return the same for a network that is not built yet; 3 if the file does not tell, or it cannot be built."""
    factory = backbone_factory(form.arch)
    given: dict[str, Any] = {"width": form.width, "image_shape": (3, 32, 32)}
    given |= {"stem_padding": form.stem_padding, "stem_init": form.stem_init}
    options = {key: value for key, value in form.options.items() if key != "input_size"}
    try:
        with rng.scoped(0, "plain encoder"):
            if isinstance(factory, Outsider):  # without its forward pass, which refuses images of other channels
                network: Any = factory.make(given, options)
            else:
                with torch.device("meta"):
                    network = factory(**given, **options)
            return image_channels(network, tensors) or 3
    except (Exception, SystemExit):  # the message comes where it is built for use
        return 3


def _prefix(weights: Weights, expected: Mapping[str, Tensor], name: str, given: str | None) -> str:
    """Return what the names of the network begin with in the file."""
    names = weights.tensors.keys()
    asked = [key for key in expected if not key.endswith("num_batches_tracked")]
    begun = [key.removesuffix(asked[0]) for key in names if asked and f".{key}".endswith(f".{asked[0]}")]
    held = {each: sum(each + key in names for key in asked) for each in begun}
    # A block within a network may have a first tensor of the same name.
    found = [each for each, count in held.items() if count == max(held.values())]
    if given is not None:
        for prefix in (given, f"{given}."):
            if prefix in begun:
                return prefix
        raise unknown("network", given, [each.removesuffix(".") or "''" for each in found])
    if not found:
        shown = ", ".join(sorted(names)[:_SHOWN]) or "none"
        raise BenchError(
            f"{weights.path} does not hold the weights of {name}: none of its {len(names)} tensors is called "
            f"{asked[0] if asked else 'anything'} (the first are {shown}). Give the file of this network."
        )
    if len(found) > 1:
        options = ", ".join(f"--network {each.removesuffix('.') or repr('')}" for each in found)
        raise BenchError(
            f"{weights.path} holds {len(found)} networks like {name}, and its names do not show which is the encoder. "
            f"Type one of: {options}"
        )
    return found[0]
