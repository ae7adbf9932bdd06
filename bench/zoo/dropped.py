"""What an import leaves out, in words."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from torch import Tensor

from bench.zoo.networks import OPTIMISER

_WORDS = {
    "projector": "a projector",
    "predictor": "a predictor",
    "prototypes": "prototypes",
    "queue": "a queue of past keys",
    "momentum_encoder": "a momentum network",
    "momentum_backbone": "a momentum network",
    **dict.fromkeys(OPTIMISER, "the state of the optimiser"),
    "rng_state": "the state of a random generator",
    "normalize": "unused constants of normalisation",
}
_HEADS = ("classifier", "classifier_adv", "fc", "linear", "head")
_LISTED = 24


def describe_dropped(
    tensors: Mapping[str, Tensor],
    kept: Collection[str],
    beside: Collection[str],
    parts: Mapping[str, str],
    network: str,
    heads: Collection[str] = (),
) -> dict[str, str]:
    """Return what of a file is not in the encoder: by the beginning of the names, what it is, and how much.

    Args:
        tensors: of the state dict.
        kept: the names of those that are in the encoder.
        beside: the other keys of the file.
        parts: what a layout says of the parts of its files.
        network: the prefix of the network that was taken.
        heads: the parts of the network that are known to be classifiers, by their whole names.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        if name not in kept:
            inside = name.removeprefix(network) if name.startswith(network) else name
            part = inside.rpartition(".")[0]
            group = part if part in heads else _group(inside)
            groups[_printable(name[: len(name) - len(inside)] + group)].append(name)
    known = {*_HEADS, *heads}
    found = {group: _words(group, names, tensors, parts, network, known) for group, names in groups.items()}
    found |= {_printable(key): _WORDS.get(key, "beside the weights") for key in beside}
    listed = dict(list(found.items())[:_LISTED])
    if len(found) > _LISTED:
        listed["..."] = f"{len(found) - _LISTED} more"
    return listed


def _group(name: str) -> str:
    """Return the part of the network that a tensor is in: its first word, or the branch of batch-norm."""
    if ".bn_list." in name:
        return f"bn_list.{name.split('.bn_list.')[1].split('.')[0]}" if not name.startswith("fc.") else "fc"
    return name.split(".")[0]


def _words(
    group: str,
    names: Collection[str],
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, str],
    network: str,
    heads: Collection[str],
) -> str:
    part, head = group.removeprefix(network), tensors.get(f"{group}.weight")
    if part in heads and head is not None and head.ndim == 2:
        return f"a classifier of {head.shape[0]} classes ({_count(names)})"
    first = parts.get(part) or parts.get(group) or _WORDS.get(part)
    if first is None and part.startswith("bn_list."):
        first = f"batch-norm {part.removeprefix('bn_list.')} of each layer"
    return f"{first} ({_count(names)})" if first else _count(names)


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)}"


def _printable(text: str) -> str:
    return text if text.isprintable() and len(text) < 100 else repr(text)[:100]
