"""Views: upstream's torchvision pipeline in our terms, and a line that describes one."""

from collections.abc import Iterable
from typing import Any

from bench.data.views import StrongView


class Seen(Exception):  # noqa: N818  # a result, not an error
    """Raised in place of a dataset, to obtain the transform that upstream's script passes to it."""

    def __init__(self, *_: Any, transform: Any, **__: Any) -> None:
        super().__init__("the dataset is not needed")
        self.transform = transform

    @classmethod
    def dataset(cls, *arguments: Any, **keywords: Any) -> None:
        """Stand in for a dataset's class."""
        raise cls(*arguments, **keywords)


def strong_view(steps: Iterable[Any]) -> StrongView:
    """Return the view that torchvision's ``steps`` make: crop, jitter, greyscale, blur, solarise, flip, in any order.

    The position of the flip does not matter, as explained at :class:`bench.data.views.StrongView`.
    """
    found: dict[str, Any] = {"blur_prob": 0.0, "solarize_prob": 0.0}
    order = []
    for step in steps:
        inner = step.transforms[0] if hasattr(step, "transforms") else step
        match type(inner).__name__:
            case "RandomResizedCrop":
                order.append("crop_first")
                found |= {"crop_scale": inner.scale, "crop_ratio": inner.ratio}
                found["interpolation"] = inner.interpolation.value
            case "ColorJitter":
                order.append("jitter_first")
                ranges = inner.brightness, inner.contrast, inner.saturation
                strengths = [*(high - 1 for _, high in ranges), inner.hue[1]]
                found |= {"jitter": tuple(round(value, 12) for value in strengths), "jitter_prob": step.p}
            case "RandomGrayscale":
                found["grayscale_prob"] = step.p
            case "GaussianBlur":
                found |= {"blur_sigma": tuple(inner.sigma), "blur_prob": step.p}
            case "Solarization":
                found["solarize_prob"] = step.p
            case "RandomHorizontalFlip":
                found["flip_prob"] = step.p
    return StrongView(order=order[0], **found)


def described(view: StrongView) -> str:
    """Return a view as a table shows it."""
    (low, high), (narrow, wide) = view.crop_scale, view.crop_ratio
    crop = f"crop ({low:g}, {high:g}) ratio ({narrow:.3g}, {wide:.3g}) {view.interpolation}"
    jitter = f"jitter ({', '.join(f'{value:g}' for value in view.jitter)}) p {view.jitter_prob:g}"
    first = [crop, jitter] if view.order == "crop_first" else [jitter, crop]
    blur = f"blur p {view.blur_prob:g} sigma {view.blur_sigma}" if view.blur_prob else "no blur"
    rest = [f"grey p {view.grayscale_prob:g}", blur, f"solarise p {view.solarize_prob:g}", f"flip p {view.flip_prob:g}"]
    return ", ".join([*first, *rest])
