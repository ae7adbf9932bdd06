"""Reads a checkpoint that somebody else wrote as plain data: nothing in the file is ever run.

A ``.pt`` file is a pickle, and a pickle may name any function and have it called. PyTorch's ``weights_only`` reader
builds tensors, numbers, texts and containers, and refuses everything else. Some files hold a few harmless objects
besides, such as the arguments of the training script: these are allowed by name, some of them replaced by empty shells.
"""

import argparse
import pathlib
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from bench.errors import BenchError, short
from bench.zoo.tensors import FORMAT, load_metadata

_AGAIN = "Download it again, and compare its size, or its checksum, with the source."


_PICKLES = (b"PK", b"\x80")
"""How a pickle begins: of torch.save since 2020, within a zip file, and before."""

_LATER_PICKLES = (b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a pickle begins that is of a later protocol than those of torch.save."""

_DUMPED = (
    "is a pickle that torch.save did not write, but pickle.dump or joblib, and reading it could run code. Where it was "
    "made, save the weights as tensors: torch.save(model.state_dict(), 'weights.pt')"
)

_HEAD = 4096


class _Shell:
    """Takes the place of a class that a checkpoint names; keeps nothing, and has no behaviour."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _Dict:
    """Takes the place of a kind of dictionary: what is made by it is a plain one."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


_SHELLS = (
    # Before Lightning 1.5 the states of callbacks stood under their classes.
    *("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",),
    *("pytorch_lightning.callbacks.early_stopping.EarlyStopping", "datetime.datetime", "datetime.timedelta"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
    *("pathlib.WindowsPath", "pathlib._local.WindowsPath", "pathlib._local.PosixPath"),
)

_DICTS = (
    *("collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
)

_NUMPY = {
    "scalar": np._core.multiarray.scalar,  # type: ignore[attr-defined]  # the name that numpy's pickles use
    "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}
_HARMLESS: list[Any] = [
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath),
    *(dict, list, int, float, str, set),
    *(np.ndarray, np.dtype),
    # Numpy 1 wrote numpy.core where numpy 2 writes numpy._core.
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, function in _NUMPY.items()),
    *(kind for name in np.dtypes.__all__ if isinstance(kind := getattr(np.dtypes, name), type)),
    *((_Shell, name) for name in _SHELLS),
    *((_Dict, name) for name in _DICTS),
]


def read_checkpoint(path: Path) -> Any:
    """Return the content of ``path``: tensors on the CPU, numbers, texts and containers of them.

    Raises:
        BenchError: it is missing, cut short, no checkpoint, or a pickle that would run code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        advice = " Addresses are not read: download the file first." if re.match(r"\w{2,}:/", str(path)) else ""
        raise BenchError(f"cannot read {path}: {error.strerror}.{advice}") from None
    if fault := _other_kind(head):
        raise BenchError(f"{path} {fault}")
    if _is_safetensors(head):
        if not is_foreign(path):
            raise _ours(path)
        return _read_safetensors(path)
    if not head.startswith(_PICKLES):
        raise BenchError(
            f"{path} is no checkpoint: it begins with {head[:8]!r}. Give a file that torch.save wrote, or safetensors."
        )
    return _read_pickle(path)


def _ours(path: Path) -> BenchError:
    what = f"{path} is a file of the bench already, and needs no import"
    if {"recipe", "imported"} & load_metadata(path).keys():
        return BenchError(f"{what}: type `bench evaluate {shlex.quote(str(path))}`.")
    return BenchError(
        f"{what}: it is no encoder, but the state of a stage or the classifier of a protocol. The encoder of a run is "
        "its encoder.safetensors."
    )


def is_foreign(path: Path) -> bool:
    """Return whether ``path`` begins like a file of another program, and not like one of ours, whole or damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if _is_safetensors(head):
                file.seek(0)
                header = file.read(8 + int.from_bytes(head[:8], "little"))
                return f'"format":"{FORMAT}"'.encode() not in header
    except OSError:
        return False
    return head.startswith(_PICKLES) or (bool(head) and _other_kind(head) is not None)


def _other_kind(head: bytes) -> str | None:
    """Return what is wrong with a file that begins with ``head``, and is recognised by that; None: nothing."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"is empty. {_AGAIN}"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        title = re.search(rb"<title[^>]*>([^<]*)", head, re.I)
        said = f" ({title[1].decode('utf-8', 'replace').strip()!r})" if title else ""
        return (
            f"is a web page{said}, not a checkpoint: the link led to a page about the file, or to a login. Open it in "
            "a browser, and download the file itself."
        )
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself. Type: git lfs pull"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "is compressed. Decompress it first, with gunzip, bunzip2, unxz or 7z."
    if head.startswith(_LATER_PICKLES):
        return _DUMPED
    return None


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise BenchError(f"{path} is a safetensors file that is damaged or cut short ({error}). {_AGAIN}") from None


def _read_pickle(path: Path) -> Any:
    if fault := _other_archive(path):
        raise BenchError(f"{path} {fault}")
    try:
        with safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the pickle protocol; what cannot be read is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:  # what a damaged pickle raises is open: EOFError, KeyError, IndexError, struct.error
        if "magic number" in str(error):
            raise BenchError(f"{path} {_DUMPED}") from None
        raise BenchError(f"{path} is damaged or cut short ({short(error)}). {_AGAIN}") from None


def _other_archive(path: Path) -> str | None:
    """Return what is wrong with a zip file that ``torch.save`` did not write; None: nothing, or it is no zip file."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except Exception as error:  # what a damaged table of contents raises is open, too
        return f"is cut short or damaged: its table of contents, at its end, cannot be read ({error}). {_AGAIN}"
    if damaged is not None:
        return f"is damaged: the checksum of {damaged} in it does not match. {_AGAIN}"
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "is a TorchScript archive: a program, not weights alone. Where it was made, save its weights: "
            "torch.save(model.state_dict(), 'weights.pt')"
        )
    if any(name.endswith(".npy") for name in names):
        return (
            "is an archive of NumPy arrays. Make tensors of them, and save those: "
            "torch.save({name: torch.from_numpy(array) for name, array in np.load(FILE).items()}, 'weights.pt')"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return (
            f"is a zip file without a checkpoint of PyTorch ({', '.join(names[:3])}). Extract the file that you need."
        )
    return None


_NAMED = re.compile(r"GLOBAL (\S+)")


def _refusal(path: Path, said: str) -> BenchError:
    """Return the error for a pickle that ``weights_only`` refuses, with the name that it stumbled over."""
    found = _NAMED.search(said)
    if not found:
        reason = said.partition("WeightsUnpickler error:")[2].strip() or said
        return BenchError(
            f"{path} is damaged, or holds more than tensors, numbers, texts and containers of them "
            f"({reason.splitlines()[0][:200]}), so it cannot be read without running it. {_AGAIN} If it is whole, ask "
            "for a state_dict of tensors alone."
        )
    name = found[1]
    convert = (
        "torch.load without weights_only runs whatever the file says, so do that only in a container without network "
        "or secrets, and save the tensors alone there: "
        "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
    )
    return BenchError(
        f"{path} is refused: to open it, Python would have to call {name}, and a pickle may call anything, so this "
        f"would run code of the file's author. Nothing was run. The safe way: ask for the file as safetensors, or as a "
        f"state_dict of tensors alone. If you must convert it yourself: {convert}"
    )


_DEPTH = 8
"""Mappings within mappings that are searched; a checkpoint has three or four."""


def tensors_in(content: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return all tensors in nested mappings, each under its path of keys, joined by dots.

    The paths are :func:`uncompiled`.

    Raises:
        BenchError: two tensors have the same path.
    """
    found: dict[str, Tensor] = {}
    _collect(content, prefix, found, _DEPTH)
    return found


def uncompiled(name: str) -> str:
    """Return ``name`` without ``_orig_mod.``, which torch.compile puts wherever a module was compiled."""
    return name.replace("_orig_mod.", "")


def _collect(content: Any, path: str, found: dict[str, Tensor], depth: int) -> None:
    if isinstance(content, Tensor):
        name = uncompiled(path)
        if name in found:
            raise BenchError(
                f"two tensors of the checkpoint are called {name}, apart from _orig_mod. in the names. Save the "
                "state_dict of one network."
            )
        found[name] = content
    elif isinstance(content, Mapping) and depth:
        for key, value in content.items():
            _collect(value, f"{path}.{key}" if path else str(key), found, depth - 1)
