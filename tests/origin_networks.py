"""Checkpoints of other people, written from scratch: random weights under their names, and their forward pass.

Nothing here uses the bench: networks are dictionaries of tensors, and functions that read them by their origin's names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Read = Callable[[str], Tensor]
Norm = Callable[[str, Tensor], Tensor]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


class Dialect(NamedTuple):
    """How an origin writes and computes a ResNet."""

    shortcut: tuple[str, str] = ("downsample.0", "downsample.1")
    """Names of a projecting shortcut's convolution and batch-norm."""
    norms: int = 0
    """Batch-norms in each place, ``bn_list.0`` and on; 0: one, without a list."""
    bottleneck: bool = False
    preact: bool = False
    blocks: Sequence[int] = (2, 2, 2, 2)
    kernel: int = 3
    padding: int = 1
    window: int | None = None
    """Side of the average pooling at the end; None: the whole map."""


BASIC = Dialect()
LISTED = Dialect(("downsample.conv", "downsample.bn"), norms=2)
SHORTCUT = Dialect(("shortcut.0", "shortcut.1"), window=4)


class _Place(NamedTuple):
    """A block: its name, channels in and out, and stride."""

    name: str
    before: int
    channels: int
    stride: int


def _places(dialect: Dialect, width: int) -> Iterator[_Place]:
    before = width
    for stage, count in enumerate(dialect.blocks, 1):
        channels = width * 2 ** (stage - 1)
        for number in range(count):
            yield _Place(f"layer{stage}.{number}", before, channels, 2 if stage > 1 and number == 0 else 1)
            before = channels * (4 if dialect.bottleneck else 1)


def _projects(place: _Place, out: int) -> bool:
    return place.stride != 1 or place.before != out


def random_weights(dialect: Dialect, width: int = 2, seed: int = 0, prefix: str = "") -> Weights:
    """Return the state dict of a network, with batch-norm statistics as after training, float32."""
    generator = torch.Generator().manual_seed(seed)
    found: Weights = {}

    def conv(name: str, out: int, channels: int, side: int) -> None:
        scale = (2 / (channels * side * side)) ** 0.5
        found[f"{prefix}{name}.weight"] = scale * torch.randn(out, channels, side, side, generator=generator)

    def norm(name: str, channels: int) -> None:
        for each in [f"{name}.bn_list.{n}" for n in range(dialect.norms)] or [name]:
            for key, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3)):
                found[f"{prefix}{each}.{key}"] = low + (high - low) * torch.rand(channels, generator=generator)
            found[f"{prefix}{each}.running_mean"] = torch.randn(channels, generator=generator) / 4
            found[f"{prefix}{each}.running_var"] = 0.5 + torch.rand(channels, generator=generator)
            found[f"{prefix}{each}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", width, 3, dialect.kernel)
    norm("bn1", width)
    for place in _places(dialect, width):
        out = place.channels * (4 if dialect.bottleneck else 1)
        sides = (1, 3, 1) if dialect.bottleneck else (3, 3)
        sizes = [place.before, *[place.channels] * (len(sides) - 1), out]
        if dialect.preact:
            norm(f"{place.name}.bn0", place.before)
        for number, side in enumerate(sides, 1):
            conv(f"{place.name}.conv{number}", sizes[number], sizes[number - 1], side)
            if not (dialect.preact and number == len(sides)):
                norm(f"{place.name}.bn{number}", sizes[number])
        if _projects(place, out):
            conv(f"{place.name}.{dialect.shortcut[0]}", out, place.before, 1)
            norm(f"{place.name}.{dialect.shortcut[1]}", out)
    return found


def features(
    weights: Mapping[str, Tensor],
    images: Tensor,
    dialect: Dialect,
    *,
    width: int = 2,
    branch: int = 0,
    prefix: str = "",
) -> Tensor:
    """Return what the origin's network computes from its normalised ``images`` in eval mode, in float64."""

    def read(name: str) -> Tensor:
        return weights[prefix + name].double()

    def norm(name: str, x: Tensor) -> Tensor:
        listed = f"{name}.bn_list.{branch}" if dialect.norms else name
        mean, var, scale, shift = (
            read(f"{listed}.{key}")[:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    block = _preact_block if dialect.preact else _block
    seven = dialect.kernel == 7
    x = F.conv2d(
        images.double(), read("conv1.weight"), stride=2 if seven else 1, padding=3 if seven else dialect.padding
    )
    x = norm("bn1", x).clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1) if seven else x
    for place in _places(dialect, width):
        x = block(read, norm, x, place, dialect)
    pooled: Tensor = x.mean((2, 3)) if dialect.window is None else F.avg_pool2d(x, dialect.window)
    return pooled.flatten(1)


def _convolved(read: Read, x: Tensor, place: _Place, number: int, dialect: Dialect) -> Tensor:
    weight = read(f"{place.name}.conv{number}.weight")
    strided = number == (2 if dialect.bottleneck else 1)
    return F.conv2d(x, weight, stride=place.stride if strided else 1, padding=weight.shape[2] // 2)


def _projected(read: Read, norm: Norm, x: Tensor, place: _Place, dialect: Dialect) -> Tensor:
    conv, bn = dialect.shortcut
    return norm(f"{place.name}.{bn}", F.conv2d(x, read(f"{place.name}.{conv}.weight"), stride=place.stride))


def _block(read: Read, norm: Norm, x: Tensor, place: _Place, dialect: Dialect) -> Tensor:
    out, last = x, 3 if dialect.bottleneck else 2
    for number in range(1, last + 1):
        out = norm(f"{place.name}.bn{number}", _convolved(read, out, place, number, dialect))
        out = out if number == last else out.clamp(min=0)
    around = _projected(read, norm, x, place, dialect) if _projects(place, out.shape[1]) else x
    return (out + around).clamp(min=0)


def _preact_block(read: Read, norm: Norm, x: Tensor, place: _Place, dialect: Dialect) -> Tensor:
    active = norm(f"{place.name}.bn0", x).clamp(min=0)
    out, last = active, 3 if dialect.bottleneck else 2
    for number in range(1, last + 1):
        out = _convolved(read, out, place, number, dialect)
        out = out if number == last else norm(f"{place.name}.bn{number}", out).clamp(min=0)
    return out + (_projected(read, norm, active, place, dialect) if _projects(place, out.shape[1]) else x)


class WideDialect(NamedTuple):
    """How an origin writes and computes a Wide ResNet of widening 10."""

    blocks: int
    bias: bool = False
    slope: float = 0.0
    eps: float = 1e-5
    raw: bool = False
    """Whether the first blocks of the second and third group read their input without batch-norm and activation."""


TRADES28, PROFEAT34 = WideDialect(4), WideDialect(5)
DEACL28 = WideDialect(4, bias=True, slope=0.1, eps=1e-3, raw=True)


def wide_weights(dialect: WideDialect, seed: int = 0) -> Weights:
    """Return the state dict of a Wide ResNet whose stem has one channel; every block has both of its batch-norms."""
    generator = torch.Generator().manual_seed(seed)
    found: Weights = {}

    def conv(name: str, out: int, channels: int, side: int) -> None:
        scale = (2 / (channels * side * side)) ** 0.5
        found[f"{name}.weight"] = scale * torch.randn(out, channels, side, side, generator=generator)
        if dialect.bias:
            found[f"{name}.bias"] = torch.randn(out, generator=generator) / 4

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "running_var"):
            found[f"{name}.{key}"] = 0.5 + torch.rand(channels, generator=generator)
        for key in ("bias", "running_mean"):
            found[f"{name}.{key}"] = torch.randn(channels, generator=generator) / 4

    conv("conv1", 1, 3, 3)
    before = 1
    for group in (1, 2, 3):
        channels = 10 * 2 ** (group - 1)
        for number in range(dialect.blocks):
            name = f"block{group}.layer.{number}"
            norm(f"{name}.bn1", before)
            conv(f"{name}.conv1", channels, before, 3)
            norm(f"{name}.bn2", channels)
            conv(f"{name}.conv2", channels, channels, 3)
            if before != channels:
                conv(f"{name}.convShortcut", channels, before, 1)
            before = channels
    norm("bn1", before)
    return found


def wide_features(weights: Mapping[str, Tensor], images: Tensor, dialect: WideDialect) -> Tensor:
    """Return what the origin's Wide ResNet computes from its normalised ``images`` in eval mode, in float64."""

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        bias = weights[f"{name}.bias"].double() if dialect.bias else None
        return F.conv2d(x, weights[f"{name}.weight"].double(), bias, stride, padding)

    def active(name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{key}"].double()[:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        y = (x - mean) / (var + dialect.eps).sqrt() * scale + shift
        return torch.where(y > 0, y, dialect.slope * y)

    x = conv("conv1", images.double(), 1, 1)
    for group in (1, 2, 3):
        for number in range(dialect.blocks):
            name, projects = f"block{group}.layer.{number}", number == 0
            stride = 2 if projects and group > 1 else 1
            read = x if projects and group > 1 and dialect.raw else active(f"{name}.bn1", x)
            out = conv(f"{name}.conv2", active(f"{name}.bn2", conv(f"{name}.conv1", read, stride, 1)), 1, 1)
            x = out + (conv(f"{name}.convShortcut", read, stride, 0) if projects else x)
    return active("bn1", x).mean((2, 3))


def linear(prefix: str, out: int, width: int = 16, *, bias: bool = True) -> Weights:
    """Return a linear layer, such as a classifier."""
    return {f"{prefix}.weight": torch.full((out, width), 0.1), **({f"{prefix}.bias": torch.zeros(out)} if bias else {})}


def normaliser(prefix: str, constants: tuple[tuple[float, ...], tuple[float, ...]]) -> Weights:
    """Return the buffers of a normalising layer."""
    return {f"{prefix}{name}": torch.tensor(values) for name, values in zip(("mean", "std"), constants, strict=True)}


def normalised(images: Tensor, constants: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Return ``images`` less the means, over the deviations, in float64; the constants as float32 holds them."""
    mean, std = (torch.tensor(values).double()[:, None, None] for values in constants)
    standardised: Tensor = (images.double() - mean) / std
    return standardised
