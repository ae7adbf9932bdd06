"""A backbone that is no ResNet: it gets the shape of the images and options, and says what the bench needs of it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.errors import BenchError
from bench.nn import ENCODERS, Encoder, branches, build_encoder
from bench.recipe import EncoderSettings


class Patches(nn.Module):
    """Patches, a linear map and layer-norm, as in a small vision transformer without attention."""

    def __init__(
        self, width: int, image_shape: Sequence[int], stem_padding: int, stem_init: str, patch: int = 2
    ) -> None:
        super().__init__()
        channels, height, self.side = image_shape
        assert height % patch == 0
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)
        self.feature_dim = width
        self.ready = False

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.norm(self.embed(x).flatten(2).mean(2))
        return features

    def prepare_for_attack(self) -> None:
        self.ready = True

    def norms(self) -> list[nn.Module]:
        return [self.norm]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Encoder]:
    list(ENCODERS)  # finds the plug-ins
    monkeypatch.setitem(ENCODERS._entries, "patches", Patches)

    def make(**options: Any) -> Encoder:
        settings = EncoderSettings(arch="patches", width=4, options=options)
        with rng.scoped(0, "patches"):
            return build_encoder(settings, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)

    return make


def test_it_gets_the_shape_of_the_images_and_its_options(build: Callable[..., Encoder]) -> None:
    backbone: Any = build(patch=4).backbone
    assert (backbone.side, backbone.embed.kernel_size) == (8, (4, 4))
    assert build()(torch.rand(2, 3, 8, 8, generator=rng.generator(0))).shape == (2, 4)


def test_a_copy_that_it_returns_instead_of_changing_itself_is_refused(
    build: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patches, "prepare_for_attack", deepcopy)
    with pytest.raises(BenchError, match=r"prepare_for_attack\(\) of Patches returns a Patches, which is not used"):
        build().prepared()


def test_options_that_it_does_not_have_are_refused(build: Callable[..., Encoder]) -> None:
    with pytest.raises(BenchError, match=r"encoder\.options do not fit the encoder 'patches': .*'depth'"):
        build(depth=3)
    with pytest.raises(BenchError, match=r"encoder\.options do not fit the encoder 'resnet18': .*'patch'"):
        build_encoder(EncoderSettings(options={"patch": 2}), image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


def test_it_is_prepared_for_attack_by_its_own_method(build: Callable[..., Encoder]) -> None:
    encoder = build()
    prepared: Any = encoder.prepared().backbone
    assert prepared.ready
    assert not encoder.backbone.ready


def test_branches_have_the_norms_that_it_names(build: Callable[..., Encoder]) -> None:
    first, second = (encoder.backbone for encoder in branches(build(), 2))
    shared = {name for name, p in first.named_parameters() if p is second.get_parameter(name)}
    assert shared == {"embed.weight", "embed.bias"}
