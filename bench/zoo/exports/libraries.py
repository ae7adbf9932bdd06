"""``--to torchvision`` and ``--to timm``: weights under the names that both libraries share.

Their ResNets have fixed widths and come with ImageNet's stem. A 3x3 stem of any padding, its lack of pooling and the
normalisation are put in by the lines that load the weights.
"""

from pathlib import Path

from torch import nn

from bench.errors import BenchError
from bench.files import write_bytes
from bench.nn import Classifier, ResNet
from bench.zoo.exports.model import Loading, Model, need, weights

_ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
_WIDTH = 64


def write_torchvision(model: Model, folder: Path) -> Loading:
    """Write ``model.safetensors`` for torchvision; raises BenchError if the network is none of its ResNets."""
    arch = _architecture(model, "torchvision")
    head = "" if model.classes is None else f"num_classes={model.classes}"
    replaced = _stem(model)
    if model.classes is None:
        replaced["fc"] = "torch.nn.Identity()"
    lines = ["import torch, torchvision, safetensors.torch", f"model = torchvision.models.{arch}({head})"]
    return _write(model, folder, lines, replaced, "torchvision")


def write_timm(model: Model, folder: Path) -> Loading:
    """Write ``model.safetensors`` for timm; raises BenchError if it is missing, or the network is none of these."""
    arch = _architecture(model, "timm")
    need("timm", "timm")
    lines = [
        "import timm, torch, torchvision, safetensors.torch",
        f'model = timm.create_model("{arch}", num_classes={model.classes or 0}, in_chans={model.image_shape[0]})',
    ]
    return _write(model, folder, lines, _stem(model), "timm")


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


def _write(model: Model, folder: Path, lines: list[str], replaced: dict[str, str], library: str) -> Loading:
    tensors = model.encoder.backbone.state_dict()
    if isinstance(model.network, Classifier):
        tensors |= {f"fc.{name}": tensor for name, tensor in model.network.head.state_dict().items()}
    write_bytes(folder / "model.safetensors", weights(tensors))
    if replaced:
        lines.append(f"{', '.join(f'model.{part}' for part in replaced)} = {', '.join(replaced.values())}")
    lines.append('model.load_state_dict(safetensors.torch.load_file("model.safetensors"))')
    if model.constants:
        mean, std = model.constants
        lines.append(f"model = torch.nn.Sequential(torchvision.transforms.Normalize({mean}, {std}), model.eval())")
    else:
        lines.append("model = model.eval()")
    needs = f"torch, {'timm, ' if library == 'timm' else ''}torchvision and safetensors"
    files = (("model.safetensors", f"the weights, under the names of {library}"),)
    return Loading("\n".join(lines) + "\n", "timm" if library == "timm" else "pytorch", needs, files)
