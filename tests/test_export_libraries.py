"""Exports as a network of timm or torchvision: the same outputs and robustness, or a reason why not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import check_same_robustness, images, loaded
from torch import nn

from bench.errors import BenchError
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings
from bench.zoo import FORMATS, Model


def model(settings: EncoderSettings, *, channels: int = 3, classes: int | None = 4) -> Model:
    """A network with random weights and statistics."""
    torch.manual_seed(0)
    mean, std = [0.4] * channels, [0.3] * channels
    encoder = build_encoder(settings, image_shape=(channels, 8, 8), mean=mean, std=std)
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features) / 10
            norm.running_var = torch.rand(norm.num_features) + 0.5
    network = encoder if classes is None else Classifier(encoder, nn.Linear(encoder.feature_dim, classes))
    if isinstance(network, Classifier):
        with torch.no_grad():  # so that it does not answer always the same
            network.head.bias.sub_(network.eval()(images(12)).mean(0))
    return Model(network.eval(), settings, (channels, 8, 8), "Toy", 2020)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("changes", "channels", "classes"),
    [
        ({"stem_padding": 2}, 3, 4),
        ({"normalisation": "none"}, 1, None),
        ({"options": {"stem": "imagenet"}}, 3, None),
    ],
)
def test_libraries_build_the_same_network(
    library: str, changes: dict[str, Any], channels: int, classes: int | None, tmp_path: Path
) -> None:
    ours = model(EncoderSettings(**changes), channels=channels, classes=classes)
    found = loaded(FORMATS[library](ours, tmp_path).code, tmp_path)["model"]
    if classes:
        check_same_robustness(found, ours.network)
    pictures = ours.images()
    torch.testing.assert_close(found(pictures), ours.network(pictures), rtol=1e-5, atol=1e-5)


VIT = {"img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}


@pytest.mark.parametrize("classes", [4, None])
@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("timm:vit_tiny_patch16_224", VIT),
        ("torchvision:shufflenet_v2_x0_5", {"input_size": 32}),
        ("torchvision:mobilenet_v3_small", {"input_size": 32}),  # its classifier is the last of a sequence
    ],
)
def test_a_network_of_a_library_is_written_for_that_library(
    arch: str, options: dict[str, Any], classes: int | None, tmp_path: Path
) -> None:
    ours = model(EncoderSettings(arch=arch, options=options, normalisation="imagenet"), classes=classes)
    library = arch.partition(":")[0]
    found = loaded(FORMATS[library](ours, tmp_path).code, tmp_path)["model"]
    if classes:
        check_same_robustness(found, ours.network)
    torch.testing.assert_close(found(images()), ours.network(images()), rtol=1e-5, atol=1e-5)
    with pytest.raises(BenchError, match=f"its encoder is a {arch}.*Type --to safetensors"):
        FORMATS["torchvision" if library == "timm" else "timm"](ours, tmp_path)


def test_a_network_that_cannot_be_loaded_by_the_written_line_is_refused(tmp_path: Path) -> None:
    settings = EncoderSettings(arch="torchvision:mnasnet0_5", options={"input_size": 32}, normalisation="imagenet")
    with pytest.raises(BenchError, match=r"versions of its parts.*Type --to safetensors"):
        FORMATS["torchvision"](model(settings), tmp_path)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"width": 2}, "width 2, and the ResNets of .* have 64"), ({"arch": "preact-resnet18", "width": 1}, "preact")],
)
def test_what_a_library_cannot_express_is_refused(
    library: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=rf"--to {library}: .*{said}.*Type --to safetensors"):
        FORMATS[library](model(EncoderSettings(**changes)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.zoo.exports.model.find_spec", lambda name: None)
    for to in ("onnx", "timm"):
        with pytest.raises(BenchError, match=rf"not installed. Type: pip install 'ssl-robustness-bench\[{to}\]'"):
            FORMATS[to](model(EncoderSettings()), tmp_path)
    assert not list(tmp_path.iterdir())
