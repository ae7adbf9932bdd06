"""Pre-activation and wide ResNets: the published sizes, and each block against its formula written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import rng
from bench.nn import Encoder, build_encoder
from bench.nn.preact import PreactBlock, PreactBottleneck, preact_resnet18, preact_resnet34, preact_resnet50
from bench.nn.resnet import ResNet, resnet18
from bench.nn.wide_resnet import SEMI_SUPERVISED, WideBlock, wide_resnet28_10, wrn28_10, wrn34_10
from bench.recipe import EncoderSettings

NEW = ["preact-resnet18", "preact-resnet34", "preact-resnet50", "wide-resnet28-10", "wrn34-10"]


def make_encoder(arch: str, **settings: object) -> Encoder:
    values = EncoderSettings(**{"arch": arch, "width": 1, **settings})
    with rng.scoped(0, "test"):
        return build_encoder(values, image_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def make_images(count: int = 4, size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=rng.generator(0, "images"))


@torch.no_grad()
def unsettled(module: nn.Module) -> nn.Module:
    """Return ``module`` in eval mode with batch-norm as after long training."""
    generator = rng.generator(1, "unsettled")
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.uniform_(-0.5, 0.5, generator=generator)
    return module.eval()


def normed(x: Tensor, weights: dict[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    mean, var, scale, shift = (
        weights[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * scale + shift


# Sizes


@pytest.mark.parametrize(
    ("factory", "width", "parameters", "entries", "features"),
    [
        (preact_resnet18, 64, 11_167_936, 120, 512),
        (preact_resnet34, 64, 21_276_096, 216, 512),
        (preact_resnet50, 64, 23_496_384, 318, 2048),
        (wide_resnet28_10, 16, 36_481_920, 171, 640),
        (wrn28_10, 16, 36_472_784, 153, 640),
        (wrn34_10, 16, 46_154_064, 189, 640),
    ],
)
def test_published_sizes(
    factory: Callable[..., ResNet], width: int, parameters: int, entries: int, features: int
) -> None:
    with torch.device("meta"):
        backbone = factory(width, (3, 32, 32), 1, "kaiming")
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert len(backbone.state_dict()) == entries
    assert backbone.feature_dim == features


@pytest.mark.parametrize("arch", NEW)
@pytest.mark.parametrize(("padding", "size"), [(1, 16), (2, 18)])
def test_maps_halve_from_stage_to_stage(arch: str, padding: int, size: int) -> None:
    encoder = make_encoder(arch, stem_padding=padding)
    seen = {}
    for name in ("conv1", "layer1", "layer2", "layer3"):
        hook = lambda module, inputs, output, name=name: seen.update({name: output.shape[-1]})  # noqa: E731
        encoder.backbone.get_submodule(name).register_forward_hook(hook)
    features = encoder(make_images())
    assert list(seen.values()) == [size, size, -(-size // 2), -(-size // 4)]
    assert features.shape == (4, encoder.feature_dim)


# Pre-activation blocks


def test_a_preactivation_block_is_its_formula() -> None:
    for stride, channels in ((1, 4), (1, 6), (2, 6)):
        block = unsettled(PreactBlock(4, channels, stride))
        x, w = make_images(channels=4), block.state_dict()
        active = normed(x, w, "bn0").clamp(min=0)
        out = F.conv2d(active, w["conv1.weight"], stride=stride, padding=1)
        out = F.conv2d(normed(out, w, "bn1").clamp(min=0), w["conv2.weight"], padding=1)
        around = x
        if channels != 4:
            around = normed(F.conv2d(active, w["downsample.0.weight"], stride=stride), w, "downsample.1")
        torch.testing.assert_close(block(x), out + around, rtol=1e-5, atol=1e-5)


def test_a_preactivation_bottleneck_is_its_formula() -> None:
    for stride, channels in ((1, 1), (1, 2), (2, 2)):
        block = unsettled(PreactBottleneck(4, channels, stride))
        x, w = make_images(channels=4), block.state_dict()
        active = normed(x, w, "bn0").clamp(min=0)
        out = normed(F.conv2d(active, w["conv1.weight"]), w, "bn1").clamp(min=0)
        out = normed(F.conv2d(out, w["conv2.weight"], stride=stride, padding=1), w, "bn2").clamp(min=0)
        out = F.conv2d(out, w["conv3.weight"])
        around = x
        if channels != 1:
            around = normed(F.conv2d(active, w["downsample.0.weight"], stride=stride), w, "downsample.1")
        torch.testing.assert_close(block(x), out + around, rtol=1e-5, atol=1e-5)


def test_preactivation_features_can_be_negative() -> None:
    assert make_encoder("preact-resnet18", width=2)(make_images()).min() < 0
    assert make_encoder("resnet18", width=2)(make_images()).min() >= 0


def test_default_initialisation_is_the_frameworks_in_every_convolution() -> None:
    def widest(stem_init: str) -> list[float]:
        with rng.scoped(0, "init"):
            backbone = preact_resnet18(4, (3, 8, 8), 1, stem_init)
        convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
        return [float(conv.weight.detach().abs().max() * conv.weight[0].numel() ** 0.5) for conv in convs]

    assert max(widest("default")) <= 1  # U(-1 / sqrt(fan in), 1 / sqrt(fan in))
    assert min(widest("kaiming")) > 1


@pytest.mark.parametrize(("arch", "folded"), [("preact-resnet18", 12), ("preact-resnet50", 37)])
def test_a_prepared_preactivation_network_is_the_same_function(arch: str, folded: int) -> None:
    """Folded are the stem, all convolutions of a block but the last, and the projections."""
    encoder = make_encoder(arch, width=2)
    unsettled(encoder)
    prepared = encoder.prepared()
    assert sum(isinstance(module, nn.Conv2d) and module.bias is not None for module in prepared.modules()) == folded
    with torch.no_grad():
        expected = encoder(make_images())
        torch.testing.assert_close(prepared(make_images()), expected, rtol=1e-4, atol=1e-4)


def test_what_is_folded_in_the_usual_network_has_not_changed() -> None:
    assert len(list(resnet18(1, (3, 8, 8), 1, "kaiming").conv_bn_pairs())) == 20


# The wide network


@pytest.mark.parametrize(("activated", "channels"), [(True, 4), (True, 6), (False, 6)])
def test_a_wide_block_is_its_formula(activated: bool, channels: int) -> None:
    stride = 1 if channels == 4 else 2
    block = unsettled(WideBlock(4, channels, stride, activated=activated, style=SEMI_SUPERVISED))
    x, w = make_images(channels=4), block.state_dict()
    active = F.leaky_relu(normed(x, w, "bn1", eps=1e-3), 0.1) if activated else x
    out = F.conv2d(active, w["conv1.weight"], w["conv1.bias"], stride=stride, padding=1)
    out = F.leaky_relu(normed(out, w, "bn2", eps=1e-3), 0.1)
    out = F.conv2d(out, w["conv2.weight"], w["conv2.bias"], padding=1)
    around = x
    if channels != 4:
        around = F.conv2d(active, w["downsample.weight"], w["downsample.bias"], stride=stride)
    torch.testing.assert_close(block(x), out + around, rtol=1e-5, atol=1e-5)


def test_the_wide_network_has_the_published_details() -> None:
    backbone = make_encoder("wide-resnet28-10").backbone
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.001)}
    assert all(conv.bias is not None for conv in convs)
    assert [len(backbone.get_submodule(f"layer{n}")) for n in (1, 2, 3)] == [4, 4, 4]  # type: ignore[arg-type]
    blocks = [m for m in backbone.modules() if isinstance(m, WideBlock)]
    assert [n for n, block in enumerate(blocks) if block.bn1 is None] == [4, 8]  # they read the raw input


@torch.no_grad()
def test_wide_features_are_activated_before_they_are_pooled() -> None:
    encoder = make_encoder("wide-resnet28-10")
    unsettled(encoder)
    seen: list[Tensor] = []
    encoder.backbone.get_submodule("bn1").register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = encoder(make_images())
    positive = seen[0].clamp(min=0) + 0.1 * seen[0].clamp(max=0)
    torch.testing.assert_close(features, positive.mean((2, 3)), rtol=1e-5, atol=1e-6)
