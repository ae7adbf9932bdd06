"""Views one image at a time, with torchvision's functions: the slow way, which the batched one must equal."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from bench.data.views import StrongDraws, StrongView
from bench.data.views.blur import blur_radius
from bench.data.views.geometry import Interpolation

TOLERANCE = 1e-5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded(seed))


def bytes_(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def closest(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


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
