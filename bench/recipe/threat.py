"""The threat model of a recipe: a norm, and a radius that fits it."""

from math import prod, sqrt
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from bench.recipe.settings import Settings

Norm = Literal["linf", "l2"]

_CIFAR_LINF, _CIFAR_L2, _CIFAR_SHAPE = 8 / 255, 0.5, (3, 32, 32)


def default_radius(norm: Norm, linf_eps: float, image_shape: tuple[int, int, int]) -> float:
    """Return the radius at which data with the default Linf radius ``linf_eps`` are attacked under ``norm``.

    CIFAR's usual pair is Linf 8/255 and L2 0.5 (RobustBench). Other data get an L2 radius that is the same share of
    eps sqrt(n), the L2 length of the largest Linf perturbation of n values: 0.5 again on digits, whose eps is twice
    that of CIFAR on a quarter of the values.
    """
    if norm == "linf":
        return linf_eps
    return _CIFAR_L2 * (linf_eps / _CIFAR_LINF) * sqrt(prod(image_shape) / prod(_CIFAR_SHAPE))


def radius_fault(norm: Norm, eps: float) -> str | None:
    """Return what is wrong with ``eps`` as a radius of ``norm``, or None."""
    if norm == "linf" and not 0 <= eps <= 1:
        return f"eps {eps:g} outside [0, 1]; pixels are in [0, 1], so write 8/255"
    if eps > 1000:
        return f"eps {eps:g} is above 1000, more than the distance of any two images"
    if eps < 0:
        return f"eps {eps:g} is negative; a radius is 0 or more, such as 0.5"
    return None


def _fraction(value: object) -> object:
    """Return the number of a text like "8/255": papers write eps so, and TOML has no fractions."""
    if not isinstance(value, str):
        return value
    try:
        above, _, below = value.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ArithmeticError):
        raise ValueError("not a number; write 8/255 or 0.031") from None


class Threat(Settings):
    """The threat model: which perturbations of an image in [0, 1] the adversary may make."""

    norm: Norm = "linf"
    eps: Annotated[float, BeforeValidator(_fraction)]
    """Radius in pixel units on the [0, 1] scale: 8/255 under Linf and 0.5 under L2 for CIFAR."""

    @model_validator(mode="after")
    def _eps_fits_the_norm(self) -> Self:
        if fault := radius_fault(self.norm, self.eps):
            raise ValueError(fault)
        return self
