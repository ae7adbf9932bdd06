from collections import Counter
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from bench.data.views import (
    CropBoxes,
    JitterDraws,
    StrongDraws,
    StrongView,
    WeakView,
    adjust_hue,
    batch,
    draw_crops,
    draw_events,
    draw_jitter,
    draw_shifts,
    draw_sigmas,
    gaussian_blur_,
    grayscale_,
    jitter_,
    resized_crop_,
    solarize_,
)
from bench.data.views.blur import blur_radius
from bench.data.views.geometry import Interpolation
from bench.errors import BenchError

TOLERANCE = 1e-5
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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def bytes_(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def closest(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


# One image at a time, with torchvision's functions: the slow way, which the batched one must equal.


def slow_crop(image: Tensor, box: list[int], flip: bool, interpolation: Interpolation) -> Tensor:
    mode = InterpolationMode(interpolation)
    out: Tensor = reference.resized_crop(image, *box, list(image.shape[1:]), interpolation=mode, antialias=True)
    out = out.clamp(0, 1)
    return out.flip(2) if flip else out


def slow_jitter(image: Tensor, factors: list[float], order: list[int]) -> Tensor:
    adjust = [
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    ]
    for due in order:
        image = adjust[due](image, factors[due])
    return image


def slow_filter(view: StrongView, image: Tensor, draws: StrongDraws, index: int) -> Tensor:
    if draws.jitter.touched[index]:
        image = slow_jitter(image, draws.jitter.factors[index].tolist(), draws.jitter.order[index].tolist())
    if draws.grey[index]:
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    sigma = float(draws.sigmas[index])
    if sigma:
        kernel = 2 * blur_radius((image.shape[1], image.shape[2]), view.blur_sigma[1]) + 1
        image = reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    return reference.solarize(image, view.solarize_threshold) if draws.solarized[index] else image


def slow_view(view: StrongView, image: Tensor, draws: StrongDraws, index: int) -> Tensor:
    box = [int(values[index]) for values in draws.boxes]
    flip = bool(draws.flip[index])
    if view.order == "crop_first":
        return slow_filter(view, slow_crop(image, box, flip, view.interpolation), draws, index)
    return slow_crop(slow_filter(view, image, draws, index), box, flip, view.interpolation)


# Geometry


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (20, 33)])
def test_crop_equals_torchvision(size: tuple[int, int], interpolation: Interpolation) -> None:
    images = floats(40, 3, *size)
    boxes = draw_crops(40, size, scale=(0.02, 1), ratio=(0.2, 5), generator=seeded(1))
    flip = draw_events(40, 0.5, generator=seeded(2))
    expected = [
        slow_crop(image, [int(v[i]) for v in boxes], bool(flip[i]), interpolation) for i, image in enumerate(images)
    ]
    closest(resized_crop_(images, boxes, flip, interpolation=interpolation), torch.stack(expected))


def test_the_whole_image_as_box_is_the_identity_and_a_flip_is_a_flip() -> None:
    images = floats(2, 3, 9, 7)
    zero, flip = torch.zeros(2, dtype=torch.int64), torch.tensor([False, True])
    boxes = CropBoxes(zero, zero, zero + 9, zero + 7)
    out = resized_crop_(images.clone(), boxes, flip, interpolation="bicubic")
    assert torch.equal(out[0], images[0])
    assert torch.equal(out[1], images[1].flip(2))


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_boxes_lie_inside_the_image_and_in_the_ranges(size: tuple[int, int]) -> None:
    top, left, height, width = draw_crops(4000, size, scale=(0.3, 0.6), ratio=(3 / 4, 4 / 3), generator=seeded())
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + height).max()) == size[0]
    assert int((left + width).max()) == size[1]
    area, half = (height * width).double(), 0.5 * (height + width) + 0.25
    assert ((area + half) / (size[0] * size[1]) >= 0.3).all()  # but for the rounding of both sides
    assert ((area - half) / (size[0] * size[1]) <= 0.6).all()
    assert ((width + 0.5) / (height - 0.5) >= 3 / 4).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()


def test_boxes_are_distributed_as_torchvisions() -> None:
    scale, ratio, image = [0.08, 1.0], [3 / 4, 4 / 3], torch.empty(3, 32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)]).double()
    ours = torch.stack(
        draw_crops(40_000, (32, 32), scale=(0.08, 1), ratio=(3 / 4, 4 / 3), generator=seeded()), 1
    ).double()
    for moment in (1, 2):  # means and mean squares, within 4 standard errors
        error = (theirs**moment).std(0) / len(theirs) ** 0.5
        assert (((theirs**moment).mean(0) - (ours**moment).mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("ratio", "box"), [((4.0, 4.0), (12, 0, 8, 32)), ((0.25, 0.25), (0, 12, 32, 8)), ((0.5, 2.0), None)]
)
def test_where_no_box_fits_the_centre_is_taken(
    ratio: tuple[float, float], box: tuple[int, int, int, int] | None
) -> None:
    boxes = draw_crops(64, (32, 32), scale=(1, 1), ratio=ratio, generator=seeded())
    rows = [tuple(row) for row in torch.stack(boxes, 1).tolist()]
    assert set(rows) == {box or (0, 0, 32, 32)}


# Colour


@pytest.mark.parametrize("size", [(32, 32), (5, 8)])
def test_hue_equals_torchvision(size: tuple[int, int]) -> None:
    images = floats(30, 3, *size)
    images[:6] = (images[:6] * 3).floor() / 2  # black, white, greys, ties between channels
    turns = torch.cat([torch.tensor([-0.5, 0.0, 0.5]), floats(27, seed=1) - 0.5])
    expected = [reference.adjust_hue(image, float(turn)) for image, turn in zip(images, turns, strict=True)]
    closest(adjust_hue(images, turns), torch.stack(expected))


def test_a_third_of_a_turn_permutes_the_channels_and_no_turn_is_the_identity() -> None:
    images = floats(4, 3, 6, 6)
    closest(adjust_hue(images, torch.full((4,), 1 / 3)), images.roll(1, dims=1))
    closest(adjust_hue(images, torch.zeros(4)), images)


def test_jitter_equals_torchvision_in_every_order() -> None:
    orders = torch.tensor(list(permutations(range(4)))).repeat(2, 1)
    draws = draw_jitter(48, (0.8, 0.8, 0.8, 0.2), prob=1, generator=seeded())._replace(order=orders)
    images = floats(48, 3, 12, 12)
    expected = [slow_jitter(image, draws.factors[i].tolist(), orders[i].tolist()) for i, image in enumerate(images)]
    closest(jitter_(images, draws), torch.stack(expected))


def test_jitter_leaves_alone_what_it_must() -> None:
    images = floats(16, 3, 8, 8)
    draws = draw_jitter(16, (0.8, 0.8, 0.8, 0.2), prob=0.5, generator=seeded())
    out = jitter_(images.clone(), draws)
    assert 0 < draws.touched.sum() < 16
    assert torch.equal((out != images).flatten(1).any(1), draws.touched)
    weak = draw_jitter(16, (0, 0, 0, 0), prob=1, generator=seeded())
    closest(jitter_(images.clone(), weak), images)


def test_jitter_draws_span_their_ranges_and_every_order() -> None:
    draws = draw_jitter(20_000, (0.4, 1.5, 0.0, 0.1), prob=0.8, generator=seeded())
    low = torch.tensor([0.6, 0.0, 1.0, -0.1])
    high = torch.tensor([1.4, 2.5, 1.0, 0.1])
    assert (draws.factors >= low).all()
    assert (draws.factors <= high).all()
    # A mean of n uniforms has standard error (high - low) / sqrt(12 n).
    error = (high - low) / (12 * 20_000) ** 0.5
    assert ((draws.factors.mean(0) - (low + high) / 2).abs() <= 4 * error + 1e-6).all()
    assert abs(float(draws.touched.float().mean()) - 0.8) < 4 * (0.16 / 20_000) ** 0.5
    counts = Counter(tuple(order) for order in draws.order.tolist())
    assert len(counts) == 24
    assert all(abs(n / 20_000 - 1 / 24) < 4 * (23 / 24**2 / 20_000) ** 0.5 for n in counts.values())


def test_grayscale_and_solarize_equal_torchvision_on_the_chosen() -> None:
    images = floats(6, 3, 8, 8)
    images[1, 0, 0, 0] = 128 / 255  # the threshold itself is inverted
    chosen = torch.tensor([True, True, False, True, False, False])
    grey = torch.where(chosen[:, None, None, None], reference.rgb_to_grayscale(images, 3), images)
    closest(grayscale_(images.clone(), chosen), grey)
    inverted = torch.where(chosen[:, None, None, None], reference.solarize(images, 128 / 255), images)
    assert torch.equal(solarize_(images.clone(), chosen, threshold=128 / 255), inverted)


# Blur


@pytest.mark.parametrize(("size", "radius"), [((32, 32), 8), ((16, 16), 8), ((9, 20), 8), ((6, 6), 2)])
def test_blur_equals_torchvision(size: tuple[int, int], radius: int) -> None:
    images = floats(12, 3, *size)
    sigmas = draw_sigmas(12, (0.1, 2.0), prob=0.7, generator=seeded(3))
    assert 0 < int((sigmas == 0).sum()) < 12
    kernel = [2 * radius + 1] * 2
    expected = [
        reference.gaussian_blur(image, kernel, [float(sigma)] * 2) if sigma else image
        for image, sigma in zip(images, sigmas, strict=True)
    ]
    closest(gaussian_blur_(images, sigmas, radius=radius), torch.stack(expected))


def test_the_radius_covers_four_sigma_or_what_a_reflection_allows() -> None:
    assert blur_radius((32, 32), 2.0) == 8
    assert blur_radius((32, 32), 0.3) == 2
    assert blur_radius((32, 6), 2.0) == 5


def test_sigmas_are_uniform_where_drawn() -> None:
    sigmas = draw_sigmas(20_000, (0.1, 2.0), prob=0.5, generator=seeded())
    drawn = sigmas[sigmas > 0]
    assert abs(len(drawn) / 20_000 - 0.5) < 4 * (0.25 / 20_000) ** 0.5
    assert float(drawn.min()) >= 0.1
    assert float(drawn.max()) <= 2.0
    assert abs(float(drawn.mean()) - 1.05) < 4 * 1.9 / (12 * len(drawn)) ** 0.5


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
