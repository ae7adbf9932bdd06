"""Named tensors in one safetensors file, with a checksum and plain metadata, written atomically."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.errors import BenchError, DamagedFileError
from bench.files import parse_json, write_bytes

FORMAT = "bench-1"
"""In the header of every file that :func:`save_tensors` writes."""

_SHOWN = 3
"""Faults that a message lists."""

EXPORTED = "bench.export"
"""In the header of the weights of ``bench export``: the form of the encoder, as JSON."""


class TensorFile(NamedTuple):
    """The result of :func:`load_tensors`."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``tensors`` and JSON-able ``metadata`` to ``path``; raises BenchError when the disk refuses."""
    write_bytes(path, sealed_bytes(tensors, metadata))


def sealed_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Return the content of the file that :func:`save_tensors` writes."""
    text = json.dumps(metadata, sort_keys=True)
    return packed(tensors, {"format": FORMAT, "metadata": text, "sha256": digest(tensors, text)})


def packed(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file of ``tensors`` with texts in its header."""
    # clone() gives every entry its own memory, which the format requires for views and tied weights.
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return save(own, metadata=dict(header))


def load_tensors(path: Path) -> TensorFile:
    """Return the tensors (on the CPU) and metadata of ``path``.

    Raises:
        DamagedFileError: the file is truncated, one of its bits has changed, or it is not ours.
        BenchError: it is missing, or the disk cannot read it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise DamagedFileError(f"cannot read {path}: it is damaged, or not a safetensors file ({error}).") from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error}.") from error
    if header.get("format") != FORMAT:
        raise DamagedFileError(f"{path} was not written by this program (no {FORMAT!r} header), or is damaged.")
    text = header.get("metadata", "")
    if digest(tensors, text) != header.get("sha256"):
        raise DamagedFileError(f"{path} is damaged: its checksum does not match.")
    return TensorFile(tensors, _parsed(text, path))


def load_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of ``path`` alone: its tensors are not read, nor is its checksum checked.

    Raises:
        BenchError: the file is missing, damaged, or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _parsed((file.metadata() or {}).get("metadata", ""), path)
    except (SafetensorError, OSError) as error:
        raise BenchError(f"cannot read {path}: {error}.") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        metadata = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"cannot read {path}: its metadata is damaged ({error}).") from None
    if not isinstance(metadata, dict):
        raise DamagedFileError(f"cannot read {path}: its metadata is not a mapping.")
    return metadata


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of names, types, shapes and bytes in name order, and of ``text``."""
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def shape_text(tensor: Tensor | None) -> str:
    """Return the shape of ``tensor`` in words, as 64x3x3x3; None is absent."""
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "one number"


def misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return which of the tensors ``found`` differ from those ``expected`` in name or shape; empty: none does."""
    faults = [
        f"{name}: {shape_text(found.get(name))}, not {shape_text(expected.get(name))}"
        for name in sorted(expected.keys() | found.keys())
        if shape_text(found.get(name)) != shape_text(expected.get(name))
    ]
    return "; ".join(faults[:_SHOWN]) + (f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")


def taken(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, *, fault: str, advice: str
) -> dict[str, Tensor]:
    """Return the tensors ``found``, which must be those ``expected``, in their order and types.

    Counters of batch-norm, on which no feature depends and which older files lack, are 0 where they are absent.

    Args:
        expected: of the network; their values are not used.
        where: the file, for messages.
        fault: how the message about other names or shapes begins.
        advice: how it ends.

    Raises:
        BenchError: a tensor is absent, has no place or another shape, or is not sound, as :func:`sound` says.
    """
    zero = torch.zeros((), dtype=torch.long)
    whole = {name: zero for name in expected if name.endswith("num_batches_tracked")} | dict(found)
    if faults := misfits(whole, expected):
        raise BenchError(f"{fault}: {faults}. {advice}".strip())
    return {name: sound(name, whole[name], like.dtype, where) for name, like in expected.items()}


def sound(name: str, tensor: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """Return ``tensor`` as ``dtype``.

    Raises:
        BenchError: it is not plain real numbers, not finite in ``dtype``, or a variance below 0.
    """
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    real = not tensor.is_complex() and dtype.is_floating_point <= tensor.is_floating_point()
    if not (plain and real) or tensor.is_quantized:
        kind = f"{str(tensor.dtype).removeprefix('torch.')} ({str(tensor.layout).removeprefix('torch.')})"
        raise BenchError(f"{where}: {name} is of the type {kind}. Save it as float32.")
    value = tensor.detach().to(dtype)
    if not value.isfinite().all():
        raise BenchError(f"{where}: {name} is not finite: the training diverged, or the file is damaged.")
    if name.endswith("running_var") and value.lt(0).any():
        raise BenchError(f"{where}: {name} is a variance below 0: the file is damaged.")
    return value
