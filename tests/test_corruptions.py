"""The 15 corruptions: closed forms, slow references, and what every one of them must keep."""

import colorsys
import io
import math
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from bench import rng
from bench.data.corruptions import corrupt
from bench.data.corruptions.digital import _affine, _sample
from bench.data.corruptions.filters import clipped_zoom, convolve, disk, length_scale, motion_blur, uniform
from bench.data.corruptions.weather import _plasma, _random_field
from bench.errors import BenchError
from bench.recipe import CORRUPTIONS, FAMILIES, SEVERITIES

DRAWN = {*FAMILIES["noise"], "glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform"}
NOT_MONOTONE = {"glass_blur", "frost", "elastic_transform"}
"""As published: more blur undoes what the glass moved, frost hides more of darker images, and the elastic field
grows while its affine part shrinks."""


def photos(count: int, *size: int, channels: int = 3) -> Tensor:
    """Return uint8 images with coarse and fine structure."""
    g = torch.Generator().manual_seed(count)
    coarse = F.interpolate(torch.rand(count, channels, 4, 4, generator=g), size=size, mode="bicubic")
    fine = 0.05 * torch.randn((count, channels, *size), generator=g)
    return (coarse + fine).clamp(0, 1).mul(255).byte()


def make(images: Tensor, name: str, severity: int = 3, seed: int = 0) -> Tensor:
    return corrupt(images, name, severity, generator=rng.generator(seed, name))


def blank(value: float, count: int = 16, side: int = 32) -> Tensor:
    return torch.full((count, 3, side, side), round(255 * value), dtype=torch.uint8)


# All of them


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (32, 32), (20, 33), (70, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_form_is_kept_and_the_images_left_alone(name: str, shape: tuple[int, int], channels: int) -> None:
    images = photos(3, *shape, channels=channels)
    before = images.clone()
    for severity in SEVERITIES:
        corrupted = make(images, name, severity)
        assert (corrupted.shape, corrupted.dtype) == (images.shape, torch.uint8)
        nothing_to_enlarge = name == "zoom_blur" and min(shape) == 8  # by less than a pixel
        assert not torch.equal(corrupted, images) or nothing_to_enlarge
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    images, state = photos(8, 32, 32), torch.get_rng_state()
    first, again, other = make(images, name), make(images, name), make(images, name, seed=1)
    assert torch.equal(first, again)
    assert torch.equal(first, other) != (name in DRAWN)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", sorted({*CORRUPTIONS} - NOT_MONOTONE))
def test_a_higher_severity_is_further_from_the_clean_image(name: str) -> None:
    images = photos(200, 32, 32)
    away = [(make(images, name, severity).float() - images).abs().mean().item() for severity in SEVERITIES]
    # Severities 3 and 4 of motion blur have the same sigma, and differ in their angles alone.
    assert all(less < more or less == pytest.approx(more, rel=0.02) for less, more in pairwise(away)), away
    assert 0 < 1.1 * away[0] < away[-1]


# Without draws: which draw an image gets depends on its place.
@pytest.mark.parametrize("name", sorted({*CORRUPTIONS} - DRAWN))
def test_images_do_not_mix(name: str) -> None:
    images = photos(4, 16, 16)
    assert torch.equal(make(images, name), torch.cat([make(image[None], name) for image in images]))


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(BenchError, match=r"unknown corruption 'fogg'\. Did you mean 'fog'"):
        make(photos(1, 8, 8), "fogg")
    for severity in (0, 6):
        with pytest.raises(BenchError, match=f"severity {severity} of fog does not exist; choose 1, 2, 3, 4 or 5"):
            make(photos(1, 8, 8), "fog", severity)


# Noise


@pytest.mark.parametrize(("severity", "scale"), list(zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True)))
def test_gaussian_noise_has_the_published_scale(severity: int, scale: float) -> None:
    noise = make(blank(0.5), "gaussian_noise", severity).float() / 255
    assert noise.std().item() == pytest.approx(scale, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(("severity", "photons"), list(zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True)))
def test_shot_noise_has_the_variance_of_counts(severity: int, photons: int) -> None:
    noise = make(blank(0.4), "shot_noise", severity).float() / 255
    assert noise.var().item() == pytest.approx(0.4 / photons, rel=0.05)


@pytest.mark.parametrize(("severity", "share"), list(zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True)))
def test_impulse_noise_is_salt_and_pepper_in_equal_parts(severity: int, share: float) -> None:
    noise = make(blank(0.5, 64), "impulse_noise", severity)
    assert set(noise.unique().tolist()) == {0, 128, 255}
    for extreme in (0, 255):
        assert (noise == extreme).float().mean().item() == pytest.approx(share / 2, rel=0.06)


# Blur


@pytest.mark.parametrize("name", [*FAMILIES["blur"], "pixelate", "elastic_transform", "contrast", "jpeg_compression"])
def test_a_blank_image_has_nothing_to_move(name: str) -> None:
    for severity in SEVERITIES:
        assert (make(blank(0.6), name, severity).int() - 153).abs().max() <= 1


def test_the_disk_is_round_and_its_edge_soft() -> None:
    kernel = disk(1.5, 0.1)
    inside = torch.tensor([[x * x + y * y <= 2.25 for x in range(-4, 5)] for y in range(-4, 5)])
    assert torch.allclose(kernel, inside / inside.sum(), atol=1e-6)
    soft = disk(0.3, 0.4)  # a point, hence the Gaussian itself
    tap = math.exp(-1 / (2 * 0.4**2))
    line = torch.tensor([0.0, tap, 1.0, tap, 0.0], dtype=torch.float64) / (1 + 2 * tap)
    middle = len(soft) // 2
    assert torch.allclose(soft[middle - 2 : middle + 3, middle - 2 : middle + 3].double(), line.outer(line), atol=1e-6)


def test_convolution_mirrors_at_the_edge_pixel() -> None:
    images, kernel = torch.rand(2, 3, 9, 11), disk(1.5, 0.5)
    reach = len(kernel) // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    expected = F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(images)
    assert torch.allclose(convolve(images, kernel), expected, atol=1e-6)


def test_motion_blur_is_imagemagicks_walk_along_a_line() -> None:
    images = torch.rand(5, 2, 12, 10, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, 30.0, -45.0, -90.0, -135.0])
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 2.5**2))
    weights /= weights.sum()
    expected = torch.zeros_like(images)
    for i, angle in enumerate(angles.tolist()):
        for y in range(12):
            for x in range(10):
                for tap, weight in enumerate(weights):
                    row = y + math.ceil(tap * math.sin(math.radians(angle)) - 0.5)
                    column = x + math.ceil(tap * math.cos(math.radians(angle)) - 0.5)
                    expected[i, :, y, x] += weight * images[i, :, min(max(row, 0), 11), min(max(column, 0), 9)]
    assert torch.allclose(motion_blur(images, angles, radius=6, sigma=2.5), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.04, 1.25, 1.75, 2.25])
def test_zoom_is_scipys(factor: float) -> None:
    image = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    inner = math.ceil(32 / factor)
    top = (32 - inner) // 2
    large = ndimage.zoom(image[top : top + inner, top : top + inner].numpy(), factor, order=1)
    trim = (len(large) - 32) // 2
    expected = large[trim : trim + 32, trim : trim + 32]
    assert np.allclose(clipped_zoom(image[None, None], factor)[0, 0].numpy(), expected, atol=1e-5)


def test_glass_shows_a_neighbour_above_or_to_the_left() -> None:
    images = photos(4, 32, 32)
    glass = make(images, "glass_blur", 1).int()  # its blur of 0.05 pixels is none
    seen = torch.stack([images.roll((dy, dx), (2, 3)).int() for dy in (0, 1) for dx in (0, 1)])
    matches = ((glass - seen).abs() <= 1).all(2)  # all channels move together
    assert matches.any(0)[:, 2:, 2:].all()
    assert matches[0][:, :2].all()
    assert all(0.2 < match[:, 2:, 2:].float().mean() < 0.3 for match in matches)


def test_lengths_grow_with_the_image_and_never_shrink() -> None:
    assert [length_scale(torch.zeros(1, 3, side, 200)) for side in (8, 32, 96)] == [1, 1, 3]


# Weather


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_on_black_looks_the_same_upside_down(severity: int) -> None:
    snow = make(blank(0), "snow", severity).int()
    assert (snow - snow.rot90(2, (2, 3))).abs().max() <= 1
    assert (snow.float().std((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("severity", "kept", "weight"),
    list(zip(SEVERITIES, (1, 1, 0.9, 0.85, 0.75), (0.2, 0.3, 0.4, 0.4, 0.45), strict=True)),
)
def test_frost_adds_ice_to_the_weighted_image(severity: int, kept: float, weight: float) -> None:
    ice = make(blank(0, 400), "frost", severity).float()
    mean = (np.mean([78, 201, 201, 138, 112]), np.mean([149, 205, 205, 153, 123]), np.mean([166, 214, 214, 166, 135]))
    assert ice.mean((0, 2, 3)).numpy() == pytest.approx(weight * np.array(mean), rel=0.05)
    assert (make(blank(0.4, 400), "frost", severity) - ice - kept * 102).abs().max() <= 1


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.3])
def test_random_fields_have_the_power_spectrum_asked_for(exponent: float) -> None:
    fields = _random_field((2000, 32, 32), torch.full((2000,), exponent), rng.generator(0, "field"))
    assert fields.mean((1, 2)).abs().max() < 1e-5
    window = torch.hann_window(32)[:, None] * torch.hann_window(32)
    power = torch.fft.fft2(fields * window).abs().square().mean(0)
    frequency = torch.fft.fftfreq(32) * 32
    radius = torch.hypot(frequency[:, None], frequency).round()
    rings = torch.arange(3, 15)
    slope = np.polyfit(rings.log(), [power[radius == ring].mean().log().item() for ring in rings], 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize(("severity", "strength"), list(zip(SEVERITIES, (0.2, 0.5, 0.75, 1, 1.5), strict=True)))
def test_fog_keeps_the_brightest_value(severity: int, strength: float) -> None:
    foggy = make(blank(0.8), "fog", severity).float() / 255
    value = 204 / 255
    thinnest, thickest = foggy.amin((1, 2, 3)).numpy(), foggy.amax((1, 2, 3)).numpy()
    assert thickest == pytest.approx(value, abs=1 / 255)
    assert thinnest == pytest.approx(value * value / (value + strength), abs=1 / 255)


def test_plasma_runs_from_0_to_1_and_neighbours_are_alike() -> None:
    heights = _plasma(50, 32, 3, rng.generator(0, "plasma"))
    assert (heights.amin((1, 2)) == 0).all()
    assert (heights.amax((1, 2)) == 1).all()
    assert heights.diff(dim=2).abs().mean() < 0.3 * heights.std()


@pytest.mark.parametrize(("severity", "more"), list(zip(SEVERITIES, (0.05, 0.1, 0.15, 0.2, 0.3), strict=True)))
def test_brightness_is_the_value_of_hsv(severity: int, more: float) -> None:
    pixels = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[..., 0, 0] = 0
    bright = make(pixels, "brightness", severity).flatten(2)[0].T
    for before, after in zip(pixels.flatten(2)[0].T.tolist(), bright.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in before))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + more))
        assert after == pytest.approx([255 * channel for channel in expected], abs=1)


# Digital


@pytest.mark.parametrize(("severity", "kept"), list(zip(SEVERITIES, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True)))
def test_contrast_shrinks_the_deviation_and_keeps_the_mean(severity: int, kept: float) -> None:
    images = photos(4, 32, 32)
    flat = make(images, "contrast", severity).float()
    assert flat.mean((2, 3)).numpy() == pytest.approx(images.float().mean((2, 3)).numpy(), abs=1)
    assert flat.std((2, 3)).numpy() == pytest.approx(kept * images.float().std((2, 3)).numpy(), rel=0.02)


@pytest.mark.parametrize(("repeat_edge", "mode"), [(True, "reflect"), (False, "mirror")])
def test_sampling_is_scipys(repeat_edge: bool, mode: str) -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, 9, 12, generator=g)
    x, y = torch.rand(1, 9, 12, generator=g) * 22 - 5, torch.rand(1, 9, 12, generator=g) * 17 - 4
    expected = ndimage.map_coordinates(images[0, 0].numpy(), [y[0].numpy(), x[0].numpy()], order=1, mode=mode)
    assert np.allclose(_sample(images, x, y, repeat_edge=repeat_edge)[0, 0].numpy(), expected, atol=1e-5)


def test_the_affine_part_moves_three_points() -> None:
    rows, columns = torch.meshgrid(torch.arange(32) / 31, torch.arange(32) / 31, indexing="ij")
    ramps = torch.stack([columns, rows]).expand(200, 2, 32, 32)  # where each pixel comes from
    assert torch.allclose(_affine(ramps, 0.0, rng.generator(0, "still")), ramps, atol=1e-5)
    moved = _affine(ramps, 2.0, rng.generator(0, "moved"))
    # Where the three points went, with the draws that the transform made, the ramps say where they come from.
    points = torch.tensor([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])
    x, y = (points + uniform((200, 3, 2), -2, 2, rng.generator(0, "moved"))).unbind(2)
    seen = 31 * _sample(moved, x[:, None], y[:, None], repeat_edge=False)[:, :, 0].mT
    assert torch.allclose(seen, points.expand_as(seen), atol=1e-3)


@pytest.mark.parametrize(
    ("severity", "quality", "side"), list(zip(SEVERITIES, (80, 65, 58, 50, 40), (30, 28, 27, 24, 20), strict=True))
)
def test_jpeg_and_pixelate_are_pillows(severity: int, quality: int, side: int) -> None:
    images = photos(3, 32, 32)
    made = (make(images, name, severity) for name in ("jpeg_compression", "pixelate"))
    for image, jpeg, coarse in zip(images, *made, strict=True):
        picture, file = Image.fromarray(image.permute(1, 2, 0).numpy()), io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        assert np.array_equal(np.asarray(Image.open(file)), jpeg.permute(1, 2, 0).numpy())
        small = picture.resize((side, side), Image.Resampling.BOX)
        assert np.array_equal(np.asarray(small.resize((32, 32), Image.Resampling.BOX)), coarse.permute(1, 2, 0).numpy())


# Constants of the published code, 32 x 32, where no closed form shows them


def defocus_blur(x: Tensor, draws: torch.Generator, radius: float, alias_blur: float) -> Tensor:
    return convolve(x, disk(radius, alias_blur))


def glass_blur(x: Tensor, draws: torch.Generator, sigma: float, rounds: int) -> Tensor:
    blurred = [0, 0, sigma, sigma]
    pixels = np.floor(ndimage.gaussian_filter(x.numpy(), blurred, mode="nearest") * 255) / 255
    for _ in range(rounds):
        shifts = torch.randint(-1, 1, (2, len(x), 32, 32), generator=draws).numpy()
        for i, h, w in product(range(len(x)), range(31, 1, -1), range(31, 1, -1)):
            pixels[i, :, h, w] = pixels[i, :, h + shifts[0, i, h, w], w + shifts[1, i, h, w]]
    return torch.from_numpy(ndimage.gaussian_filter(pixels, blurred, mode="nearest"))


def moved(x: Tensor, draws: torch.Generator, radius: float, sigma: float) -> Tensor:
    return motion_blur(x, uniform((len(x),), -45, 45, draws), radius=radius, sigma=sigma)


def zoom_blur(x: Tensor, draws: torch.Generator, largest: float) -> Tensor:
    return torch.stack([x, *(clipped_zoom(x, factor) for factor in np.arange(1, largest, 0.01))]).mean(0)


def snow(x: Tensor, draws: torch.Generator, *constants: float) -> Tensor:
    mean, std, zoom, threshold, radius, sigma, colour = constants
    flakes = clipped_zoom(mean + std * torch.randn((len(x), 1, 32, 32), generator=draws), zoom)
    flakes = (flakes * (flakes >= threshold)).clamp(0, 1)
    layer = motion_blur(flakes, uniform((len(x),), -135, -45, draws), radius=radius, sigma=sigma)
    pale = torch.einsum("bchw,c->bhw", x, torch.tensor([0.299, 0.587, 0.114]))[:, None] * 1.5 + 0.5
    return colour * x + (1 - colour) * torch.maximum(x, pale) + layer + layer.flip(2, 3)


def fog(x: Tensor, draws: torch.Generator, strength: float, decay: float) -> Tensor:
    brightest = x.flatten(1).max(1).values[:, None, None, None]
    return (x + strength * _plasma(len(x), 32, decay, draws)[:, None]) * brightest / (brightest + strength)


def elastic_transform(x: Tensor, draws: torch.Generator, alpha: float, sigma: float, jitter: float) -> Tensor:
    affine = _affine(x, jitter, draws).numpy()
    shifts = uniform((len(x), 2, 32, 32), -1, 1, draws).numpy()
    shifts = alpha * ndimage.gaussian_filter(shifts, [0, 0, sigma, sigma], mode="reflect", truncate=3)
    places = np.indices((32, 32)) + shifts[:, ::-1]
    pairs = ((channel, at) for image, at in zip(affine, places, strict=True) for channel in image)
    made = [ndimage.map_coordinates(channel, at, order=1, mode="reflect") for channel, at in pairs]
    return torch.from_numpy(np.array(made)).view_as(x)


PUBLISHED: dict[str, tuple[Callable[..., Tensor], list[tuple[float, ...]]]] = {
    "defocus_blur": (defocus_blur, [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]),
    "glass_blur": (glass_blur, [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)]),
    "motion_blur": (moved, [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    "zoom_blur": (zoom_blur, [(1.06,), (1.11,), (1.16,), (1.21,), (1.26,)]),
    "snow": (
        snow,
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    "fog": (fog, [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
    "elastic_transform": (
        elastic_transform,
        [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
    ),
}


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_slow_copy_with_the_published_constants_gives_the_same_pixels(name: str, severity: int) -> None:
    images = photos(3, 32, 32)
    slow, constants = PUBLISHED[name]
    expected = slow(images / 255, rng.generator(0, name), *constants[severity - 1]).clamp(0, 1) * 255
    assert (make(images, name, severity) + 0.5 - expected).abs().max() < 0.6  # truncated
