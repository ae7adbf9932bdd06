"""Weights from a file for a network that is known by its name: complete and of the right shapes, or an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from bench.errors import BenchError, unknown
from bench.files import file_digest
from bench.nn import LeftOut
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

    @property
    def channels(self) -> int:
        """The channels of the images that its network takes."""
        return next((tensor.shape[1] for tensor in self.tensors.values() if tensor.ndim == 4), 3)


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


def _prefix(weights: Weights, expected: Mapping[str, Tensor], name: str, given: str | None) -> str:
    """Return what the names of the network begin with in the file."""
    names = weights.tensors.keys()
    asked = [key for key in expected if not key.endswith("num_batches_tracked")]
    begun = [key.removesuffix(asked[0]) for key in names if asked and f".{key}".endswith(f".{asked[0]}")]
    held = {each: sum(each + key in names for key in asked) for each in begun}
    # A block within a network may have a first tensor of the same name.
    found = [each for each, count in held.items() if count == max(held.values())]
    if given is not None:
        if given not in begun:
            raise unknown("network", given, [each or "''" for each in found])
        return given
    if not found:
        shown = ", ".join(sorted(names)[:_SHOWN]) or "none"
        raise BenchError(
            f"{weights.path} does not hold the weights of {name}: none of its {len(names)} tensors is called "
            f"{asked[0] if asked else 'anything'} (the first are {shown}). Give the file of this network."
        )
    if len(found) > 1:
        options = ", ".join(f"--network {each or repr('')}" for each in found)
        raise BenchError(
            f"{weights.path} holds {len(found)} networks like {name}, and its names do not show which is the encoder. "
            f"Type one of: {options}"
        )
    return found[0]
