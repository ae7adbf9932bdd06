"""The form of a network, read from the names and shapes of its tensors, and the strict check against it."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.nn import ENCODERS
from bench.zoo.networks import ANOTHER_NETWORK
from bench.zoo.tensors import shape_text, taken

_RENAMED = (
    *(("shortcut.", "downsample."), ("downsample.conv.", "downsample.0."), ("downsample.bn.", "downsample.1.")),
    *(("convShortcut.", "downsample."), *((f"block{group}.layer.", f"layer{group}.") for group in (1, 2, 3))),
)

_ARCHITECTURES: Mapping[tuple[bool, bool, tuple[int, ...]], str] = {
    (False, False, (2, 2, 2, 2)): "resnet18",
    (False, False, (3, 4, 6, 3)): "resnet34",
    (False, True, (3, 4, 6, 3)): "resnet50",
    (True, False, (2, 2, 2, 2)): "preact-resnet18",
    (True, False, (3, 4, 6, 3)): "preact-resnet34",
    (True, True, (3, 4, 6, 3)): "preact-resnet50",
}
"""By pre-activation, bottleneck, and the blocks of the four stages."""

_WIDE: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (True, (4, 4, 4, 0)): "wide-resnet28-10",
    (False, (4, 4, 4, 0)): "wrn28-10",
    (False, (5, 5, 5, 0)): "wrn34-10",
}
"""Wide ResNets, by whether convolutions have biases, and the blocks of their three groups."""

_UNUSED = re.compile(r"layer[23]\.0\.bn1\.")
"""Batch-norms that the Wide ResNet with biases has, and whose output it does not use."""

_INSIDE = re.compile(r"(conv1|bn1|layer\d+)\.")
"""Names of the network itself; what else there is, such as a classifier, is no part of it."""


class Form(NamedTuple):
    """What names and shapes say about a network."""

    arch: str
    width: int
    channels: int
    """Of the images."""
    stem: str
    """``cifar`` or ``imagenet``, as in ``encoder.options``."""

    @property
    def wide(self) -> bool:
        """Whether it is a Wide ResNet."""
        return self.arch in _WIDE.values()

    def backbone(self) -> nn.Module:
        """Return a network of this form, without its memory."""
        options = {} if self.stem == "cifar" else {"stem": self.stem}
        with torch.device("meta"):
            return ENCODERS.get(self.arch)(self.width, (self.channels, 32, 32), 1, "kaiming", **options)


def canonical(names: Iterable[str], branch: str = "") -> dict[str, str]:
    """Return the names that our encoders have for the tensors of one branch of a network, each with its own name there.

    Args:
        names: without the network's prefix.
        branch: the part of the names that is the branch's own, such as ``bn_list.1.``; empty: one batch-norm.

    Raises:
        BenchError: two tensors have the same place in the network.
    """
    others = re.compile(re.sub(r"\d", r"\\d+", re.escape(branch))) if branch else None
    found: dict[str, str] = {}
    for name in names:
        renamed = name.replace(branch, "")
        if others and others.search(renamed):
            continue
        for theirs, ours in _RENAMED:
            renamed = renamed.replace(theirs, ours)
        if renamed in found and _INSIDE.match(renamed):
            raise BenchError(
                f"{found[renamed]} and {name} are two names of one tensor of the network. Save the state_dict of one "
                "network."
            )
        found[renamed] = name
    return found


def read_form(tensors: Mapping[str, Tensor], where: str) -> Form:
    """Return the form of the network with ``tensors`` under our names; raises BenchError if it is not one of ours."""
    counts = tuple(_blocks(tensors, stage) for stage in range(1, 5))
    preact, bottleneck = "layer1.0.bn0.weight" in tensors, "layer1.0.conv3.weight" in tensors
    arch = _ARCHITECTURES.get((preact, bottleneck, counts)) or _WIDE.get(("conv1.bias" in tensors, counts))
    if arch is None:
        kind = f"{'pre-activation ' if preact else ''}{'bottleneck' if bottleneck else 'basic'} blocks"
        raise BenchError(
            f"{where} holds a ResNet of {', '.join(map(str, counts))} {kind}, which is none of "
            f"{', '.join([*_ARCHITECTURES.values(), *_WIDE.values()])}. {ANOTHER_NETWORK}"
        )
    stem = tensors.get("conv1.weight")
    if stem is None or stem.ndim != 4:
        raise BenchError(
            f"{where} is incomplete, or its stem is not one convolution: conv1.weight is {shape_text(stem)}. "
            f"{ANOTHER_NETWORK}"
        )
    width, channels, *kernel = stem.shape
    stems: Mapping[tuple[int, ...], str] = {(3, 3): "cifar", (7, 7): "imagenet"}
    if tuple(kernel) not in stems or (kernel != [3, 3] and (preact or arch in _WIDE.values())):
        raise BenchError(
            f"{where} has a stem of {kernel[0]}x{kernel[1]}, not of 3x3 (CIFAR) or 7x7 (ImageNet; of ResNets "
            f"without pre-activation alone). {ANOTHER_NETWORK}"
        )
    return Form(arch, width, channels, stems[tuple(kernel)])


def _blocks(tensors: Mapping[str, Tensor], stage: int) -> int:
    return len({name.split(".")[1] for name in tensors if re.match(rf"layer{stage}\.\d+\.", name)})


def fitted(tensors: Mapping[str, Tensor], form: Form, where: str) -> dict[str, Tensor]:
    """Return the tensors that the backbone of ``form`` has, checked, as float32.

    Raises:
        BenchError: a tensor is absent, has another shape, or is not finite; or there is one in the network that such an
            encoder lacks, so that it would compute something else.
    """
    expected = form.backbone().state_dict()
    wanted = {name: tensor for name, tensor in tensors.items() if _INSIDE.match(name)}
    if form.arch == "wide-resnet28-10":
        wanted = {name: tensor for name, tensor in wanted.items() if not _UNUSED.match(name)}
    missing = [name for name in expected if name not in wanted and not name.endswith("num_batches_tracked")]
    if missing and all(name.endswith(("running_mean", "running_var")) for name in missing):
        raise BenchError(
            f"{where} lacks the running statistics of batch-norm ({missing[0]} and {len(missing) - 1} more), so its "
            "features are not known. Save the whole state_dict(), not only the parameters()."
        )
    return taken(
        wanted,
        expected,
        where,
        fault=f"{where} does not fit a {form.arch} of width {form.width}",
        advice="Nothing is taken from a file that fits in part.",
    )
