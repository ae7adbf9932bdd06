"""Networks that were written elsewhere, as backbones: of timm, of torchvision, or from a user's own file.

Images are resized inside the network, after normalisation, so that attacks work on the pixels of the dataset. The
number of features is found by a forward pass in eval mode, and another in train mode must give as many.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import BenchError, short
from bench.nn.copying import frozen_copy, prepare_in_place
from bench.own_code import told

_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
_SHAPES = re.compile(r"\b(shapes?|sizes?|dimensions?|channels?|height|width)\b", re.IGNORECASE)
"""What PyTorch and the libraries say where a tensor has another shape than a network needs."""


class UnfitImagesError(BenchError):
    """A network cannot take images of the size that it was given."""


class Adapted(nn.Module):
    """Normalised images [B, C, H, W] -> features [B, feature_dim] of ``network``.

    Args:
        network: [B, C, *size] -> [B, feature_dim].
        name: its name, for messages.
        image_shape: (C, H, W) of the images.
        size: height and width that images are resized to by bilinear interpolation, antialiased where they shrink;
            None: they stay as they are.

    Raises:
        UnfitImagesError: it cannot take such images.
        BenchError: it does not return one vector of features for each, in eval mode and
            in train mode.
    """

    memory_format = torch.contiguous_format
    """Plain networks may reshape by views, which fail where channels come last."""

    def __init__(self, network: nn.Module, name: str, image_shape: Sequence[int], size: tuple[int, int] | None) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.feature_dim = _features(self, name, image_shape)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised ``images`` [B, C, H, W]."""
        if self.size is not None and images.shape[2:] != self.size:
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        features: Tensor = self.network(images)
        return features

    def prepare_for_attack(self) -> None:
        """Prepare the network, if it can be (:class:`bench.nn.encoder.Preparable`)."""
        if hasattr(self.network, "prepare_for_attack"):
            prepare_in_place(self.network)


class LeftOut(nn.Identity):
    """Is in the place of a network's classifier, wherever that is; a file of its weights has tensors for it."""


class Input(NamedTuple):
    """The input that the weights of a network were trained for."""

    size: tuple[int, int] | None = None
    """Height and width; None: any."""
    constants: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation of each channel; None: pixels in [0, 1]."""
    known_from: str = "the network takes pixels in [0, 1]"
    download: str = ""
    """Where its published weights can be had."""


class Outsider(NamedTuple):
    """Builds a network that was written elsewhere; called like any :class:`bench.nn.encoder.BackboneFactory`."""

    name: str
    make: Callable[[Mapping[str, Any], Mapping[str, Any]], object]
    """Makes the network from what the bench gives every factory, by name, and from the network's own options."""
    input: Input = Input()

    def __call__(
        self, width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, **options: Any
    ) -> Adapted:
        """Return the network for images [C, H, W].

        Args:
            width, stem_padding, stem_init: used only by a user's own function that names them.
            image_shape: (C, H, W).
            options: of the network; ``input_size`` is the side, or height and width, that images are resized to.

        Raises:
            BenchError: it cannot be built with these options, or see :class:`Adapted`.
        """
        size = self.input_size(options)
        given = {"width": width, "image_shape": image_shape, "stem_padding": stem_padding, "stem_init": stem_init}
        own = {key: value for key, value in options.items() if key != "input_size"}
        # Constructors compute with their weights, and cannot where these have no memory (the device "meta").
        with torch.device("cpu"):
            try:
                network = self.make(given, own)
            except BenchError:
                raise
            except (Exception, SystemExit) as error:
                raise BenchError(f"{self.name} cannot be built with encoder.options {own}: {_fault(error)}") from error
            if not isinstance(network, nn.Module):
                raise BenchError(
                    f"{self.name} makes no network (its type: {type(network).__name__}). Name a function or class that "
                    "makes a torch.nn.Module: images [B, C, H, W] -> features [B, D]."
                )
            return Adapted(network, self.name, image_shape, size)

    def input_size(self, options: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return height and width that images are resized to under these options; raises BenchError."""
        given = options.get("input_size", options.get("img_size"))
        if given is None:
            return self.input.size
        sides = given if isinstance(given, list | tuple) else (given, given)
        if len(sides) != 2 or not all(type(side) is int and 0 < side <= 4096 for side in sides):
            raise BenchError(f"encoder.options.input_size={given}: it must be a side from 1 to 4096, or two: [32, 32].")
        return sides[0], sides[1]


def own_backbone(name: str, make: Callable[..., object]) -> Outsider:
    """Return what builds the network of a user's own function or class ``make``; its input is pixels in [0, 1].

    Of the arguments that the bench gives every factory, it gets those that it names.
    """

    def build(given: Mapping[str, Any], options: Mapping[str, Any]) -> object:
        named = signature(make).parameters
        return make(**{**{key: value for key, value in given.items() if key in named}, **options})

    return Outsider(name, build)


@torch.no_grad()
def _features(backbone: Adapted, name: str, image_shape: Sequence[int]) -> int:
    """Return the number of features, by a forward pass in eval mode; one in train mode, of a copy, gives as many."""
    evaluated = _probed(backbone.eval(), name, image_shape)
    with torch.random.fork_rng(devices=[]):  # no weight that is drawn later depends on what dropout draws here
        trained = _probed(backbone, name, image_shape, train=True)
    backbone.train()
    if trained != evaluated:
        raise BenchError(
            f"{name} returns {evaluated} features in eval mode and {trained} in train mode. Return as many in both."
        )
    return evaluated


def _probed(backbone: Adapted, name: str, image_shape: Sequence[int], *, train: bool = False) -> int:
    mode = " in train mode" if train else ""
    try:
        found = (frozen_copy(backbone).train() if train else backbone)(torch.zeros(2, *image_shape))
    except (Exception, SystemExit) as error:
        seen = "x".join(map(str, (image_shape[0], *(backbone.size or image_shape[1:]))))
        said = f"{name} cannot take images of {seen}{mode}: {_fault(error)}{_advice(error, seen)}"
        raise UnfitImagesError(said) from error
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == 2 and found.is_floating_point():
        return found.shape[1]
    shape = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise BenchError(
        f"{name} returns {shape} for 2 images{mode}, and no features: [2, D]. Pool its output, as in "
        "x.mean((2, 3)) or x[:, 0], and return one vector for each image."
    )


def _advice(error: Exception | SystemExit, seen: str) -> str:
    """Return what to do about images of the shape ``seen``; nothing where the error is not about shapes."""
    if not isinstance(error, RuntimeError | ValueError | AssertionError) or not _SHAPES.search(str(error)):
        return ""
    if (channels := _CHANNELS.search(str(error))) and channels[2] == seen.partition("x")[0]:
        needed, given = channels.groups()
        return f"\nIt needs {needed} channels. The data have {given} channels, or the weights are for {given}."
    return "\nResize them with --set encoder.options.input_size=224, or whatever side it takes."


def _fault(error: Exception | SystemExit) -> str:
    """Return what was wrong, with the line if it is in the user's own code."""
    found = told(error)
    return str(found) if isinstance(found, BenchError) else f"{short(error)}."
