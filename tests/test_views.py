"""Whole views, weak and strong: each step by step as torchvision has it, in range, and which settings are refused."""

from typing import Any

import pytest
import torch
from slow_views import bytes_, closest, floats, seeded, slow_view
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from bench.data.views import JitterDraws, StrongView, WeakView, batch, draw_shifts
from bench.errors import BenchError

RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {},
    "byol-2": {"jitter": (0.4, 0.4, 0.2, 0.1), "blur_prob": 0, "solarize_prob": 0.2},
    "vicreg": {"crop_scale": (0.2, 1), "jitter": (0.4, 0.4, 0.2, 0.1), "solarize_prob": 0.1},
    "acl": {"crop_scale": (0.1, 1), "jitter": (0.4, 0.4, 0.4, 0.1), "blur_prob": 0},
    "rocl": {
        "order": "jitter_first",
        "interpolation": "bilinear",
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "blur_prob": 0,
    },
}
# For images of 10 x 14: torchvision's draw of a box rounds, so only their own ratio always gives the whole.
NOTHING: dict[str, Any] = {
    "crop_scale": (1, 1),
    "crop_ratio": (1.4, 1.4),
    "jitter_prob": 0,
    "grayscale_prob": 0,
    "blur_prob": 0,
    "flip_prob": 0,
}


# Pipelines


@pytest.mark.parametrize(("side", "padding"), [(32, 4), (16, 2)])
def test_weak_view_is_a_window_on_the_padded_image(side: int, padding: int) -> None:
    view, images = WeakView(), bytes_(32, 3, side, side)
    draws = view.draw(32, (side, side), seeded(5))
    views = view(images, seeded(5))
    assert int(draws.shifts.abs().max()) == padding
    for image, (down, right), flip, out in zip(images, draws.shifts, draws.flip, views, strict=True):
        padded = reference.pad(image, [padding])
        top, left = padding + int(down), padding + int(right)
        window = padded[:, top : top + side, left : left + side].float() / 255
        closest(out, window.flip(2) if flip else window)


def test_shifts_are_uniform() -> None:
    shifts = draw_shifts(20_000, 2, generator=seeded())
    for axis in shifts.unbind(1):
        shares = torch.stack([(axis == value).float().mean() for value in range(-2, 3)])
        assert ((shares - 0.2).abs() < 4 * (0.16 / 20_000) ** 0.5).all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_strong_view_equals_torchvision_step_by_step(recipe: str, size: tuple[int, int]) -> None:
    view, images = StrongView.parse(RECIPES[recipe], recipe), bytes_(16, 3, *size)
    draws = view.draw(16, size, seeded(7))
    expected = [slow_view(view, image / 255, draws, i) for i, image in enumerate(images)]
    closest(view(images, seeded(7)), torch.stack(expected))


@pytest.mark.parametrize("view", [WeakView(), *(StrongView.parse(r, "recipe") for r in RECIPES.values())])
@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (1, 3, 32, 32), (3, 3, 16, 16), (2, 3, 8, 24)])
def test_views_are_float32_in_range_and_depend_on_the_generator_alone(
    view: WeakView | StrongView, shape: tuple[int, int, int, int]
) -> None:
    images = bytes_(*shape)
    before, untouched = torch.get_rng_state(), images.clone()
    views = view(images, seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, untouched)
    assert views.shape == shape
    assert views.dtype == torch.float32
    assert ((views >= 0) & (views <= 1)).all()
    torch.manual_seed(99)
    assert torch.equal(view(images, seeded(1)), views)
    assert not len(images) or not torch.equal(view(images, seeded(2)), views)


@pytest.mark.parametrize(
    "view",
    [WeakView(padding=0, flip_prob=0), StrongView(**NOTHING), StrongView(order="jitter_first", **NOTHING)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_without_effects_a_view_is_the_image(view: WeakView | StrongView, channels: int) -> None:
    images = bytes_(5, channels, 10, 14)
    closest(view(images, seeded()), images / 255)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, view = bytes_(12, 3, 16, 16), StrongView(solarize_prob=0.3)
    whole = view(images, seeded())
    monkeypatch.setattr(batch, "_CACHED_VALUES", 3 * 16 * 16 * 3)
    closest(view(images, seeded()), whole)


def test_switching_a_step_off_leaves_the_other_draws_alone() -> None:
    full = StrongView().draw(8, (32, 32), seeded())
    bare = StrongView(jitter_prob=0, blur_prob=0).draw(8, (32, 32), seeded())
    assert not bare.jitter.touched.any()
    assert not bare.sigmas.any()
    assert torch.equal(full.grey, bare.grey)
    assert torch.equal(full.flip, bare.flip)
    assert torch.equal(full.boxes.top, bare.boxes.top)


def test_draws_carry_one_entry_an_image() -> None:
    draws = StrongView().draw(5, (32, 32), seeded())
    tensors = [*draws.boxes, *draws.jitter, draws.grey, draws.sigmas, draws.solarized, draws.flip]
    assert {len(tensor) for tensor in tensors} == {5}
    assert isinstance(draws.jitter, JitterDraws)


# Mistakes


@pytest.mark.parametrize("setting", ["jitter_prob", "grayscale_prob"])
def test_colours_need_three_channels(setting: str) -> None:
    view = StrongView(**{**NOTHING, setting: 0.5})
    with pytest.raises(BenchError, match="3 channels, but these have 1"):
        view(bytes_(2, 1, 8, 8), seeded())


@pytest.mark.parametrize("images", [floats(2, 3, 8, 8), bytes_(3, 8, 8)])
@pytest.mark.parametrize("view", [WeakView(), StrongView()])
def test_images_must_be_a_batch_of_bytes(view: WeakView | StrongView, images: Tensor) -> None:
    with pytest.raises(BenchError, match="uint8 batch"):
        view(images, seeded())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("order", "flip_first"),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 1.5)),
        ("crop_scale", (0.8, 0.2)),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("interpolation", "nearest"),
        ("jitter", (0.4, 0.4, 0.4)),
        ("jitter", (-0.1, 0.4, 0.4, 0.1)),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("jitter_prob", 1.1),
        ("grayscale_prob", -0.1),
        ("blur_prob", 2),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_sigma", (2.0, 0.1)),
        ("solarize_prob", -1),
        ("solarize_threshold", 128),
        ("flip_prob", 1.5),
        ("colour", 1),
    ],
)
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(BenchError, match=f"view: {key}"):
        StrongView.parse({key: value}, "view")


@pytest.mark.parametrize(("key", "value"), [("padding", -1), ("flip_prob", 1.5)])
def test_weak_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(BenchError, match=f"view: {key}"):
        WeakView.parse({key: value}, "view")
