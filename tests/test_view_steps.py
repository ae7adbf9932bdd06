"""The steps of a view against torchvision, image by image: crops, colours and blur, and how they are drawn."""

import math
from collections import Counter
from itertools import permutations

import pytest
import torch
from slow_views import closest, floats, seeded, slow_crop, slow_jitter
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from bench.data.views import (
    CropBoxes,
    adjust_hue,
    draw_crops,
    draw_events,
    draw_jitter,
    draw_sigmas,
    gaussian_blur_,
    grayscale_,
    jitter_,
    resized_crop_,
    solarize_,
)
from bench.data.views.blur import blur_radius
from bench.data.views.geometry import Interpolation

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


def test_the_aspect_ratio_is_log_uniform() -> None:
    """Wide and high boxes are equally likely. Kolmogorov-Smirnov at 0.1 %; a uniform ratio is ten times as far off."""
    boxes = draw_crops(20_000, (4000, 4000), scale=(0.1, 0.1), ratio=(1 / 3, 3), generator=seeded())
    logs = ((boxes.width / boxes.height).double().log() / math.log(3) / 2 + 0.5).sort().values
    distance = (logs - (torch.arange(len(logs)) + 0.5) / len(logs)).abs().max()
    assert distance < 1.95 / len(logs) ** 0.5


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
