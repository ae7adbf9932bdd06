"""Finds the networks in a checkpoint, below everything that encloses them."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from bench.errors import BenchError
from bench.zoo.checkpoint import tensors_in, uncompiled

_SIGNS = ("layer1.0.conv1.weight", "block1.layer.0.conv1.weight")
"""The tensor that every ResNet, or every Wide ResNet, has under this name."""

_ENCLOSING = (
    *("state_dict_dual", "state_dict", "model_state_dict", "model_state", "P_state"),
    *("model", "net", "network", "module"),
)
"""Names of what encloses a state dict or all of its names; files with several are read in this order."""

ANOTHER_NETWORK = (
    "Name another network: bench evaluate timm:NAME, or FILE.py:NAME of your own, --weights FILE --dataset D"
)
"""What to do with a file that holds none of the bench's own networks."""

OPTIMISER = ("optimizer", "optimizer_state", "optimizer_state_dict", "optimizer_states", "optim", "param_groups")
"""Names under which files keep the state of an optimiser."""


class StateDict(NamedTuple):
    """The tensors of a checkpoint below everything that encloses them."""

    tensors: Mapping[str, Tensor]
    networks: tuple[str, ...]
    """The prefixes of the ResNets among them."""
    enclosed_by: str
    """What was taken off the names, such as ``state_dict.module.``; empty: nothing."""
    others: tuple[str, ...]
    """The whole prefixes of the ResNets elsewhere in the file, such as ``state_dict_ema.``."""
    beside: tuple[str, ...]
    """The keys of the file that hold no ResNet."""


def find_networks(content: Any, where: str, wanted: str | None = None) -> StateDict:
    """Return the tensors of a checkpoint with the ``content`` that :func:`read_checkpoint` returns.

    Args:
        content: of the file.
        where: its name, for the message.
        wanted: the whole prefix of the network to look around; None, or that of none: the one under the most usual
            name.

    Raises:
        BenchError: there is no ResNet in it.
    """
    tensors = tensors_in(content)
    prefixes = [name.removesuffix(sign) for name in tensors for sign in _SIGNS if f".{name}".endswith(f".{sign}")]
    if not prefixes:
        raise BenchError(f"{where} {_what_else(content, tensors)}")
    outer = min({_enclosing(prefix) for prefix in prefixes}, key=_preference)
    if wanted is not None and wanted in prefixes and not wanted.startswith(outer):
        first, dot, rest = wanted.partition(".")
        outer = first + dot + _enclosing(rest)
    others = tuple(prefix for prefix in prefixes if not prefix.startswith(outer))
    keys = [uncompiled(str(key)) for key in content] if isinstance(content, Mapping) else []
    inside = [name for name in tensors if name.startswith((outer, *others))]
    return StateDict(
        {name.removeprefix(outer): tensor for name, tensor in tensors.items() if name.startswith(outer)},
        tuple(prefix.removeprefix(outer) for prefix in prefixes if prefix.startswith(outer)),
        outer,
        others,
        tuple(key for key in keys if not any(f"{name}.".startswith(f"{key}.") for name in inside)),
    )


def _enclosing(prefix: str) -> str:
    parts = prefix.split(".")
    inner = next(place for place, part in enumerate(parts) if part not in _ENCLOSING)
    return "".join(f"{part}." for part in parts[:inner])


def _preference(outer: str) -> tuple[int, str]:
    first = outer.split(".")[0]
    return (_ENCLOSING.index(first) if first in _ENCLOSING else len(_ENCLOSING), outer)


def _what_else(content: Any, tensors: Collection[str]) -> str:
    """Return what a checkpoint without a ResNet holds, and what to do."""
    if not isinstance(content, Mapping):
        return f"holds a {type(content).__name__}, not a state dict. Save model.state_dict() instead."
    keys = ", ".join(sorted(map(str, content))[:8]) or "none"
    weights = [name for name in tensors if not {*name.split(".")[:2]} & {*OPTIMISER, "state", "rng_state"}]
    if not weights and (set(map(str, content)) & {*OPTIMISER, "state"}):
        return f"holds the state of an optimiser and no weights (keys: {keys}). Give the file of the network."
    if not weights:
        return (
            f"holds no tensors (keys: {keys}). Give the state_dict of the network; torch.from_numpy makes tensors of "
            "arrays."
        )
    if any(name.endswith(("patch_embed.proj.weight", "cls_token", "conv_proj.weight")) for name in weights):
        return (
            "holds a vision transformer, and its names do not show how many heads or which patches it has. "
            f"{ANOTHER_NETWORK}"
        )
    if any(name.endswith(("layer4_rotation.0.conv1.weight", "layer4_jigsaw.0.conv1.weight")) for name in weights):
        return (
            "holds AP-DPE's joint model, whose trunk has no batch-norm after the stem, so it is not the ResNet that "
            "AP-DPE fine-tunes. Give a single task's file (rotation or jigsaw), or a fine-tuned one."
        )
    shown = ", ".join(sorted(weights)[:3])
    return (
        f"holds {len(weights)} tensors and no ResNet: no name ends in {_SIGNS[0]} (the first are {shown}). What can "
        "be imported: ResNet-18, -34 and -50, AP-DPE's pre-activation ResNets, and Wide ResNet-28-10 and -34-10. "
        f"{ANOTHER_NETWORK}"
    )
