"""The allowed set of an attack: an eps-ball around each image, within the pixel range [0, 1].

"Inside" holds to the last bit: a projected image satisfies ``|x_adv - x| <= eps`` in its own precision and in
float64, so a later check of the record needs no tolerance.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from bench import rng
from bench.errors import BenchError
from bench.recipe import Norm, Threat

# Libraries round in float32: a pixel by half an ulp of 1 (6e-8), an image of n pixels by sqrt(n) of that.
_TOLERANCE: dict[Norm, float] = {"linf": 1e-6, "l2": 1e-5}
_ORDER: dict[Norm, float] = {"linf": math.inf, "l2": 2.0}


class Ball(Protocol):
    """The allowed set around a batch of images, its bounds computed once per attack."""

    def random_start(self, generators: rng.Generators) -> Tensor:
        """Return a uniform draw from the eps-ball, not cut to the pixel range: [B, C, H, W]."""
        ...

    def step(self, gradient: Tensor) -> Tensor:
        """Return the unit step along which a linear function with this gradient grows fastest."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """Return ``x`` moved into the eps-ball, then into [0, 1]; an image inside stays the same, bit for bit."""
        ...


def ball_around(images: Tensor, threat: Threat) -> Ball:
    """Return what ``threat`` allows around ``images``, float32 or float64 [B, C, H, W] in [0, 1].

    Raises:
        BenchError: the images are no floats. Their range is not checked: a GPU would wait for it at every batch.
    """
    if not images.is_floating_point():
        raise BenchError(
            f"images are {images.dtype}; an attack takes floats from 0 to 1. For uint8 images, pass images / 255."
        )
    return LinfBall(images, threat.eps) if threat.norm == "linf" else L2Ball(images, threat.eps)


def distance(x_adv: Tensor, images: Tensor, norm: Norm) -> Tensor:
    """Return how far each image was moved, in ``norm``: [B, ...], [B, ...] -> float64 [B]."""
    delta = (x_adv.double() - images.double()).flatten(1)
    moved: Tensor = torch.linalg.vector_norm(delta, ord=_ORDER[norm], dim=1)
    return moved


def refuse_outside(x_adv: object, images: Tensor, threat: Threat, culprit: str) -> None:
    """Raise BenchError unless ``threat`` allows ``culprit`` to turn ``images`` into ``x_adv``."""
    if not isinstance(x_adv, Tensor):
        fault = f"a {type(x_adv).__name__}, not the attacked images"
    elif x_adv.shape != images.shape or x_adv.dtype != images.dtype:
        fault = (
            f"images of shape {list(x_adv.shape)}, {x_adv.dtype}, for images of shape {list(images.shape)}, "
            f"{images.dtype}"
        )
    else:
        moved = distance(x_adv, images, threat.norm)
        # Written so that NaN, which compares false with everything, is outside.
        if (moved <= threat.eps + _TOLERANCE[threat.norm]).all() and ((x_adv >= 0) & (x_adv <= 1)).all():
            return
        fault = (
            f"an image outside the threat model: one moved by {moved.max():.6g} in {threat.norm} (eps is "
            f"{threat.eps:.6g}), pixels in [{x_adv.min():.6g}, {x_adv.max():.6g}]"
        )
    raise BenchError(
        f"{culprit} returned {fault}. The number would be meaningless; correct the attack, or reinstall its package."
    )


class LinfBall:
    """Every pixel may move by eps."""

    def __init__(self, images: Tensor, eps: float) -> None:
        # The largest eps the images' precision can hold: a float32 difference is compared with a float32 eps.
        reach = _shifted(torch.zeros((), dtype=images.dtype), torch.tensor(eps, dtype=torch.float64)).double()
        self._images, self._eps = images, eps
        self._lower = _shifted(images, -reach).clamp(min=0)
        self._upper = _shifted(images, reach).clamp(max=1)

    def random_start(self, generators: rng.Generators) -> Tensor:
        """Return images + U(-eps, eps)."""
        images = self._images
        unit = rng.uniform(images.shape, generators, images)
        return images + self._eps * (2 * unit - 1)

    def step(self, gradient: Tensor) -> Tensor:
        """Return the gradient's sign."""
        return gradient.sign()

    def project(self, x: Tensor) -> Tensor:
        """Return ``x`` cut to the box."""
        return x.clamp(self._lower, self._upper)


class L2Ball:
    """Each image may move by eps in Euclidean distance."""

    # Target length when shrinking, so that float64 rounding of the length itself cannot end above eps.
    _SLACK = 1 - 1e-10

    def __init__(self, images: Tensor, eps: float) -> None:
        self._images, self._eps = images, eps

    def random_start(self, generators: rng.Generators) -> Tensor:
        """Return a uniform draw: the direction of a Gaussian, and a radius of eps * U^(1/n)."""
        images = self._images
        of_image = (len(images), *[1] * (images.dim() - 1))
        noise = rng.normal(images.shape, generators, images)
        unit = rng.uniform(of_image, generators, images)
        return images + self._eps * unit.pow(1 / images[0].numel()) * self.step(noise)

    def step(self, gradient: Tensor) -> Tensor:
        """Return the gradient divided by its length; zero stays zero."""
        # Scaled first: the squares of small or large numbers leave the range of float32.
        tiny = torch.finfo(gradient.dtype).tiny
        scaled = gradient / gradient.abs().amax(tuple(range(1, gradient.dim())), keepdim=True).clamp_min(tiny)
        return scaled / _length(scaled).clamp_min(tiny)

    def project(self, x: Tensor) -> Tensor:
        """Return ``x`` pulled straight towards its image, then cut to [0, 1], which only brings it nearer."""
        delta = x.double() - self._images
        length = _length(delta)
        pulled = _shifted(self._images, delta * (self._eps * self._SLACK / length))
        return torch.where(length > self._eps, pulled, x).clamp(0, 1)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
    return length


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Return images + shift (float64) in the images' dtype, rounded inwards: never farther than ``shift``."""
    exact = images.double()
    edge = (exact + shift).to(images.dtype)
    too_far = (edge.double() - exact).abs() > shift.abs()
    return torch.where(too_far, torch.nextafter(edge, images), edge)
