"""Colour: brightness, contrast, saturation and hue in an order drawn for each image; grayscale; solarise.

Brightness, contrast and saturation blend an image with black, with its mean grey and with its own grey: each
is a 3 x 3 matrix on the colours of a pixel, plus an offset. So images whose hue turns at the same step form
one group, whatever the order of their other three steps, and there are 4 groups instead of 24 orders.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.data.views.batch import chunks, draw_events, uniform

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)

_LUMA = (0.2989, 0.587, 0.114)
"""The grey value of red, green, blue: ITU-R 601-2, to the digits torchvision writes."""


class JitterDraws(NamedTuple):
    """How each image's colours change.

    factors: float [B, 4], of brightness, contrast, saturation (1: no change), and the hue's turn, in turns of
    the colour wheel (0: no change). order: int64 [B, 4], a permutation of these four, the first step first.
    touched: bool [B], False where nothing changes.
    """

    factors: Tensor
    order: Tensor
    touched: Tensor


def draw_jitter(
    batch: int, strength: tuple[float, float, float, float], *, prob: float, generator: torch.Generator
) -> JitterDraws:
    """Draw factors U(max(0, 1 - v), 1 + v), a hue U(-h, h) and an order; with 1 - ``prob``, no change.

    Args:
        batch: number of images.
        strength: v of brightness, contrast and saturation (at least 0), and h in [0, 0.5].
        prob: probability that an image is jittered at all.
        generator: source of all draws, which are on its device.
    """
    *blends, turn = strength
    ranges = [*((max(0.0, 1 - v), 1 + v) for v in blends), (-turn, turn)]
    return JitterDraws(
        factors=torch.stack([uniform((batch,), *bounds, generator=generator) for bounds in ranges], dim=1),
        order=uniform((batch, 4), 0.0, 1.0, generator=generator).argsort(dim=1),
        touched=draw_events(batch, prob, generator=generator),
    )


def jitter_(images: Tensor, draws: JitterDraws) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order.

    As in torchvision, each of the four steps ends with a clamp to [0, 1].

    Args:
        images: float [B, 3, H, W] in [0, 1], changed in place and returned.

    Source: torchvision's ColorJitter, whose order is drawn for each call, hence for each PIL image.
    """
    hue, blends = draws.factors[:, _HUE], _blends(draws)
    hue_step = (draws.order == _HUE).int().argmax(dim=1)
    for step in range(4):
        group = (draws.touched & (hue_step == step)).nonzero().squeeze(1)
        for part in chunks(images, len(group)):
            rows = group[part]
            alike = _Blends(*(values[:, rows] for values in blends))
            images[rows] = _jitter_group(images[rows], alike, hue[rows], step)
    return images


class _Blends(NamedTuple):
    """The steps on an image's colours, without the hue.

    matrix: float [4, B, 3, 3]. to_mean: float [4, B, 1], how much of its mean grey the image gains.
    """

    matrix: Tensor
    to_mean: Tensor


def _blends(draws: JitterDraws) -> _Blends:
    order = draws.order.T
    factor = draws.factors.T.gather(0, order)
    rest = 1 - factor
    grey, own = factor.new_tensor(_LUMA).expand(3, 3), torch.eye(3, device=factor.device)
    matrix = own * factor[..., None, None] + grey * (rest * (order == _SATURATION))[..., None, None]
    return _Blends(matrix, (rest * (order == _CONTRAST)).unsqueeze(2))


def _jitter_group(images: Tensor, blends: _Blends, hue: Tensor, hue_step: int) -> Tensor:
    """Return ``images`` jittered; the hue of all of them turns at step ``hue_step``."""
    luma = images.new_tensor(_LUMA)
    for step, (matrix, to_mean) in enumerate(zip(*blends, strict=True)):
        if step == hue_step:
            images = adjust_hue(images, hue)
        else:
            colours = images.flatten(2)
            offset = (colours.mean(dim=2) @ luma).unsqueeze(1) * to_mean
            blended = torch.baddbmm(offset.unsqueeze(2), matrix, colours)
            images = blended.clamp_(0, 1).view_as(images)
    return images


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each image's hue, keeping the largest and the smallest channel of every pixel (HSV's V and S).

    Written with H = chroma * hue, hue in [-3, 3] sixths of a turn from red, there is no division, so grey
    needs no special case: with d the distance from H to the opposite of a channel's hue, modulo a full turn,
    the channel is V near its own hue and V - chroma far from it.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        turns: float [B] in [-0.5, 0.5].

    Returns:
        float [B, 3, H, W] in [0, 1].

    Source: equals torchvision's ``adjust_hue``; the channels as functions of hue are those of HSV.
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(green, blue).clamp_(min=red)
    low = torch.minimum(green, blue).clamp_(max=red)
    chroma = high - low
    # |H| is mid - low, chroma + high - red or 3 * chroma - (mid - low) as red is the largest, the middle
    # or the smallest channel, and this sum is all three.
    hue = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    hue = torch.copysign(hue, green - blue)
    # Red, green and blue lie 3, 1 and -1 sixths from the hue where they vanish; wrapped into [-3, 3].
    opposite = torch.tensor([3.0, 1.0, -1.0], device=images.device) + 6 * turns[:, None]
    opposite = opposite - 6 * (opposite / 6).round()
    distance = torch.addcmul(hue[:, None], chroma[:, None], opposite[:, :, None, None]).abs_()
    distance.sub_((3 * chroma)[:, None]).abs_()
    return torch.clamp((high + chroma)[:, None] - distance, low[:, None], high[:, None])


def grayscale(images: Tensor) -> Tensor:
    """Return the luma of each pixel, float [B, 1, H, W], of images float [B, 3, H, W]."""
    return (images.new_tensor(_LUMA) @ images.flatten(2)).view_as(images[:, :1])


def grayscale_(images: Tensor, chosen: Tensor) -> Tensor:
    """Make the ``chosen`` (bool [B]) of images float [B, 3, H, W] grey, in place, and return all."""
    rows = chosen.nonzero().squeeze(1)
    for part in chunks(images, len(rows)):
        images[rows[part]] = grayscale(images[rows[part]])
    return images


def solarize_(images: Tensor, chosen: Tensor, *, threshold: float) -> Tensor:
    """Turn each value x >= ``threshold`` of the ``chosen`` images into 1 - x, in place, and return all.

    Args:
        images: float [B, C, H, W] in [0, 1].
        chosen: bool [B].
        threshold: in [0, 1].
    """
    rows = chosen.nonzero().squeeze(1)
    for part in chunks(images, len(rows)):
        values = images[rows[part]]
        images[rows[part]] = torch.where(values >= threshold, 1 - values, values)
    return images
