"""``--to torchvision`` and ``--to timm``: weights under the names of these libraries, whose code builds the network.

A network of theirs (``timm:NAME``) is built as it was here. The bench's ResNets have the names that both libraries
share, which come with fixed widths and ImageNet's stem: a 3x3 stem of any padding and its lack of pooling are put in by
the lines that load the weights. So is the normalisation, and the size that images are resized to.
"""

import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import rng
from bench.errors import BenchError
from bench.files import write_bytes
from bench.nn import Classifier, ResNet
from bench.zoo.exports.model import Loading, Model, need
from bench.zoo.tensors import misfits, packed

_ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
_WIDTH = 64


def write_torchvision(model: Model, folder: Path) -> Loading:
    """Write ``model.safetensors`` for torchvision; raises BenchError if the network is none that it builds."""
    imports = "import torch, torchvision, safetensors.torch"
    if name := _of_library(model, "torchvision"):
        classes = {} if model.classes is None else {"num_classes": model.classes}
        call = _Call("torchvision.models.get_model", name, {**classes, **_own_options(model)})
        return _write_network(model, folder, imports, call, "torchvision")
    arch = _architecture(model, "torchvision")
    head = "" if model.classes is None else f"num_classes={model.classes}"
    replaced = _stem(model)
    if model.classes is None:
        replaced["fc"] = "torch.nn.Identity()"
    lines = [imports, f"model = torchvision.models.{arch}({head})"]
    return _write(model, folder, lines, _resnet_tensors(model), replaced, "torchvision")


def write_timm(model: Model, folder: Path) -> Loading:
    """Write ``model.safetensors`` for timm; raises BenchError if it is missing, or builds no such network."""
    imports = "import timm, torch, torchvision, safetensors.torch"
    form = {"num_classes": model.classes or 0, "in_chans": model.image_shape[0]}
    name = _of_library(model, "timm")
    call = _Call("timm.create_model", name or _architecture(model, "timm"), {**form, **_own_options(model)})
    need("timm", "timm")
    if name:
        return _write_network(model, folder, imports, call, "timm")
    return _write(model, folder, [imports, f"model = {call}"], _resnet_tensors(model), _stem(model), "timm")


def _of_library(model: Model, library: str) -> str:
    """Return the name of the network in ``library`` if its own code builds it; empty: it is another network."""
    kind, _, name = model.settings.arch.partition(":")
    return name if kind == library else ""


def _own_options(model: Model) -> dict[str, Any]:
    return {key: each for key, each in model.settings.options.items() if key not in ("input_size", "stem")}


class _Call(NamedTuple):
    """A call of a library's function that builds a network."""

    function: str
    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """Return it as Python."""
        return f"{self.function}({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.arguments.items())])})"

    def __call__(self) -> nn.Module:
        """Return the network, with random weights."""
        module, _, function = self.function.rpartition(".")
        with warnings.catch_warnings(), rng.scoped(0, "export"):
            warnings.simplefilter("ignore")
            network: nn.Module = getattr(import_module(module), function)(self.name, **self.arguments)
        return network.eval()


def _write_network(model: Model, folder: Path, imports: str, call: _Call, library: str) -> Loading:
    """Write a network that ``library`` builds; its classifier is the part that the encoder lacks."""
    network, tensors = call(), dict(model.encoder.backbone.get_submodule("network").state_dict())
    head = sorted({name.rpartition(".")[0] for name in network.state_dict().keys() - tensors.keys()})
    replaced = {}
    if isinstance(model.network, Classifier) and len(head) == 1:
        tensors |= {f"{head[0]}.{name}": tensor for name, tensor in model.network.head.state_dict().items()}
    elif head:  # torchvision has no network without a classifier
        replaced = {head[0]: "torch.nn.Identity()"}
        network.set_submodule(head[0], nn.Identity())
    if faults := misfits(tensors, network.state_dict()):
        raise BenchError(
            f"--to {library}: {call} has another classifier than one linear layer on the features ({faults}). Type "
            "--to safetensors, or --to onnx, which take any network."
        )
    try:
        network.load_state_dict(tensors)  # as the written line does
    except ValueError as error:
        raise BenchError(
            f"--to {library}: {call} cannot load a file without the versions of its parts ({error}). Type "
            "--to safetensors, or --to onnx, which take any network."
        ) from error
    encoder, images = deepcopy(model.encoder), model.images()
    encoder.backbone.network = network
    with torch.no_grad():
        model.check_same(encoder(images), images, library)
    return _write(model, folder, [imports, f"model = {call}"], tensors, replaced, library)


def _architecture(model: Model, to: str) -> str:
    arch, width = model.settings.arch, model.settings.width
    reason = f"its encoder is a {arch}, and what can be expressed is {', '.join(_ARCHITECTURES)}"
    if arch in _ARCHITECTURES and isinstance(model.encoder.backbone, ResNet):
        if width == _WIDTH:
            return arch
        reason = f"its encoder has width {width}, and the ResNets of {to} have {_WIDTH}"
    raise BenchError(f"--to {to}: {reason}. Type --to safetensors, or --to onnx, which take any network.")


def _stem(model: Model) -> dict[str, str]:
    """Return what replaces a part of the library's network, by the part's name."""
    conv = model.encoder.backbone.conv1
    assert isinstance(conv, nn.Conv2d)
    (kernel, _), (stride, _), padding = conv.kernel_size, conv.stride, conv.padding[0]
    channels = model.image_shape[0]
    found = {}
    if (channels, kernel) != (3, 7):
        shape = f"{channels}, {_WIDTH}, {kernel}, stride={stride}, padding={padding}, bias=False"
        found["conv1"] = f"torch.nn.Conv2d({shape})"
    if kernel == 3:
        found["maxpool"] = "torch.nn.Identity()"
    return found


def _resnet_tensors(model: Model) -> dict[str, Tensor]:
    tensors = dict(model.encoder.backbone.state_dict())
    if isinstance(model.network, Classifier):
        tensors |= {f"fc.{name}": tensor for name, tensor in model.network.head.state_dict().items()}
    return tensors


def _write(
    model: Model,
    folder: Path,
    lines: list[str],
    tensors: Mapping[str, Tensor],
    replaced: Mapping[str, str],
    library: str,
) -> Loading:
    """Write ``tensors``, and return the ``lines``, the parts that are ``replaced``, and those around the network."""
    write_bytes(folder / "model.safetensors", packed(tensors, {"format": "pt"}))
    if replaced:
        lines.append(f"{', '.join(map(_place, replaced))} = {', '.join(replaced.values())}")
    lines.append('model.load_state_dict(safetensors.torch.load_file("model.safetensors"))')
    before = []
    if model.constants:
        mean, std = model.constants
        before.append(f"torchvision.transforms.Normalize({mean}, {std})")
    size = getattr(model.encoder.backbone, "size", None)
    if size not in (None, model.image_shape[1:]):
        before.append(f"torchvision.transforms.Resize({list(size)})")
    network = f"torch.nn.Sequential({', '.join([*before, 'model.eval()'])})" if before else "model.eval()"
    lines.append(f"model = {network}")
    needs = f"torch, {'timm, ' if library == 'timm' else ''}torchvision and safetensors"
    files = (("model.safetensors", f"the weights, under the names of {library}"),)
    return Loading("\n".join(lines) + "\n", "timm" if library == "timm" else "pytorch", needs, files)


def _place(part: str) -> str:
    """Return a part of the network as Python: parts of a sequence have a number, such as ``classifier.3``."""
    return re.sub(r"\.(\d+)\b", r"[\1]", f"model.{part}")
