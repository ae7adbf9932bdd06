"""Augmentation of a whole batch at once, on the device that holds it, from one explicit generator.

Each transform is two functions: one draws its parameters, the other applies them. A trailing underscore means, as in
torch, that a batch is changed in place: a view costs one buffer. ``WeakView`` and ``StrongView`` join the transforms
into the pipelines of the papers.
"""

from bench.data.views.batch import draw_events
from bench.data.views.blur import blur_radius, draw_sigmas, gaussian_blur_
from bench.data.views.colour import JitterDraws, adjust_hue, draw_jitter, grayscale_, jitter_, solarize_
from bench.data.views.geometry import CropBoxes, draw_crops, draw_shifts, resized_crop_, shift
from bench.data.views.pipelines import StrongDraws, StrongView, WeakDraws, WeakView

__all__ = [
    "CropBoxes",
    "JitterDraws",
    "StrongDraws",
    "StrongView",
    "WeakDraws",
    "WeakView",
    "adjust_hue",
    "blur_radius",
    "draw_crops",
    "draw_events",
    "draw_jitter",
    "draw_shifts",
    "draw_sigmas",
    "gaussian_blur_",
    "grayscale_",
    "jitter_",
    "resized_crop_",
    "shift",
    "solarize_",
]
