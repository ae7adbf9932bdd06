"""The constants of input normalisation: those with a name, those that a user types, and those in a file's buffers."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError, unknown
from bench.nn import FIXED_CONSTANTS
from bench.recipe import EncoderSettings
from bench.zoo.tensors import shape_text, sound

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

CONSTANTS: Mapping[str, Constants] = {
    **FIXED_CONSTANTS,
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar-2021-12": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""By name; the last are those of CIFAR-10 in solo-learn since 2021-12."""

TYPED = "0.5,0.5,0.5/0.25,0.25,0.25"
"""How means and deviations are typed."""


def parse_constants(text: str) -> Constants | None:
    """Return the constants that ``text`` names or lists, or None for ``none``; raises BenchError for anything else."""
    if text == "none":
        return None
    if text in CONSTANTS:
        return CONSTANTS[text]
    try:
        mean, std = (tuple(float(each) for each in half.split(",")) for half in text.split("/"))
    except ValueError:
        raise unknown("normalisation", text, ["none", *CONSTANTS], f"Or type means and deviations: {TYPED}") from None
    if 1 < max(mean) <= 255:
        raise BenchError(
            f"--normalisation {text} is for pixels from 0 to 255, and ours are from 0 to 1. Divide means and "
            f"deviations by 255, as in {TYPED}"
        )
    return _checked(mean, std, f"--normalisation {text}")


def normalisation_settings(constants: Constants | None) -> dict[str, Any]:
    """Return the encoder settings for ``constants``; None: the input is pixels in [0, 1]."""
    if constants is None:
        return {"normalisation": "none"}
    for name, known in FIXED_CONSTANTS.items():
        if known == constants:
            return {"normalisation": name}
    return {"normalisation": "constants", "constants": constants}


def describe_constants(constants: Constants | None) -> str:
    """Return ``constants`` in words, after their name if they have one."""
    if constants is None:
        return "none"
    name = next((f"{name}: " for name, known in CONSTANTS.items() if known == constants), "")
    mean, std = (" ".join(f"{each:g}" for each in values) for values in constants)
    return f"{name}mean {mean}, std {std}"


def read_constants(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> tuple[Constants, str] | None:
    """Return the constants in buffers ``mean`` and ``std``, and the first of ``prefixes`` under which there are any.

    Raises:
        BenchError: they are not one number a channel, within the ranges of ``EncoderSettings.constants``.
    """
    for prefix in prefixes:
        names = f"{prefix}mean", f"{prefix}std"
        if {*names} <= tensors.keys():
            mean, std = (_per_channel(name, tensors[name]) for name in names)
            return _checked(mean, std, f"the buffers {names[0]} and {names[1]}"), prefix
    return None


def _per_channel(name: str, buffer: Tensor) -> tuple[float, ...]:
    value = sound(name, buffer, torch.float32, "the constants of normalisation")
    if value.numel() != max(value.shape, default=1):
        raise BenchError(f"the buffer {name} is {shape_text(value)}, not one number a channel.")
    # float32 holds 0.247 as 0.24699999392; what was meant has few digits.
    return tuple(float(f"{each:.6g}") for each in value.flatten().tolist())


def _checked(mean: tuple[float, ...], std: tuple[float, ...], what: str) -> Constants:
    EncoderSettings.parse({"normalisation": "constants", "constants": (mean, std)}, what)
    return mean, std
