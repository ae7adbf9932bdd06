"""The networks of timm and torchvision as backbones: ``timm:NAME`` and ``torchvision:NAME``, without a classifier."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from bench.errors import BenchError, unknown
from bench.nn.adapted import Input, LeftOut, Outsider

_LOADING = ("pretrained", "checkpoint_path", "cache_dir", "weights", "progress")
_FORM = ("num_classes", "in_chans", "features_only", "scriptable", "exportable")


def timm_backbone(name: str) -> Outsider:
    """Return what builds ``timm.create_model(name)`` without its classifier.

    Raises:
        BenchError: timm is not installed, or has no such network.
    """
    if not find_spec("timm"):
        raise BenchError(f"timm:{name} needs timm. Type: pip install 'ssl-robustness-bench[timm]'")
    with warnings.catch_warnings():  # of deprecated functions that it uses
        warnings.simplefilter("ignore")
        timm: Any = import_module("timm")
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        raise unknown("network of timm", name, timm.list_models(), "timm.list_models('vit*') lists them.")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{arch}.*")] if tag else []
    if tag and tag not in tags:
        raise unknown(f"weights of timm's {arch}", tag, tags)
    known = timm.get_pretrained_cfg(name)
    constants = None if known is None else (tuple(known.mean), tuple(known.std))

    def make(given: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        _refuse(options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = timm.create_model(name, num_classes=0, in_chans=given["image_shape"][0], **options)
        heads = getattr(network, "default_cfg", {}).get("classifier") or ()  # a name, or several
        for head, part in list(network.named_modules()):
            if head in ([heads] if isinstance(heads, str) else heads) and type(part) is nn.Identity:
                network.set_submodule(head, LeftOut())
        return network

    if known is None:
        return Outsider(f"timm:{name}", make)
    hub = f"https://huggingface.co/{known.hf_hub_id}/resolve/main/model.safetensors" if known.hf_hub_id else known.url
    return Outsider(
        f"timm:{name}", make, Input(known.input_size[1:], constants, "timm's data configuration", hub or "")
    )


def torchvision_backbone(name: str) -> Outsider:
    """Return what builds torchvision's classifier ``name`` without its last linear layer.

    Raises:
        BenchError: torchvision has no such classifier.
    """
    models: Any = import_module("torchvision.models")
    names = models.list_models(module=models)
    if name not in names:
        raise unknown("network of torchvision", name, names)
    weights = models.get_model_weights(name).DEFAULT
    known = weights.transforms()
    side = known.crop_size[0]

    def make(given: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        _refuse(options)
        with warnings.catch_warnings():  # that the initialisation will change
            warnings.simplefilter("ignore")
            network: nn.Module = models.get_model(name, weights=None, **options)
            if getattr(network, "aux_logits", False) and "aux_logits" not in options:  # more outputs in train mode
                network = models.get_model(name, weights=None, aux_logits=False, **options)
        return _without_classifier(network, name)

    constants = (tuple(known.mean), tuple(known.std))
    return Outsider(
        f"torchvision:{name}", make, Input((side, side), constants, "torchvision's own transforms", weights.url)
    )


def _refuse(options: Mapping[str, Any]) -> None:
    for key in options:
        if key.startswith(_LOADING):
            raise BenchError(f"encoder.options.{key}: weights come from --weights FILE alone. Leave it out.")
        if key in _FORM:
            raise BenchError(
                f"encoder.options.{key}: it follows from the images and the use as an encoder. Leave it out."
            )


def _without_classifier(network: nn.Module, name: str) -> nn.Module:
    """Return ``network`` with the identity in place of its last linear layer."""
    last = [key for key, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not last:
        raise BenchError(
            f"torchvision:{name} has no linear classifier to take off. Write a function that returns it without its "
            f"head, and type ./net.py:make_encoder instead of torchvision:{name}."
        )
    network.set_submodule(last[-1], LeftOut())
    return network
