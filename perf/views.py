"""Views a second of SimCLR's augmentation: this package against PIL, torchvision's v2 transforms and kornia.

All make 32 x 32 views from the same uint8 noise by the same recipe and end with float tensors in [0, 1]. PIL and
torchvision work as in a data loader, image by image; the collation of a batch is left out, in their favour. torchvision
can also transform many images at once, but then all of them get the same crop, colours and blur. Kornia draws for each
image, as this package does; only the order of the colour steps is one for the batch.

Run from the repository's root: ``python perf/views.py``. Kornia's row is left out where it is not installed:

    python -m pip install --target PEERS --no-deps kornia kornia-rs
    PYTHONPATH=PEERS python perf/views.py
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from comparison import OURS, Comparison, Seconds, Table, arguments, speeds, take_turns
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from bench.data.views import StrongView, blur_radius, gaussian_blur_, grayscale_, jitter_, resized_crop_

SIDE = 32
FEW = 64
"""Images that a pipeline makes one by one in a round, which takes about as long as one of our batches; and those that
torchvision makes with one draw."""


class PILBlur:
    """PIL's GaussianBlur with a radius U(0.1, 2), as SimCLR's pipelines call it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return ``image`` blurred."""
        radius = float(torch.empty(()).uniform_(0.1, 2.0))
        return image.filter(ImageFilter.GaussianBlur(radius))


def pil_pipeline(view: StrongView) -> Callable[[Image.Image], Tensor]:
    """Return torchvision's transforms on PIL images for the recipe of ``view``, without solarise."""
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, view.crop_scale, view.crop_ratio, transforms.InterpolationMode.BICUBIC),
            transforms.RandomApply([transforms.ColorJitter(*view.jitter)], view.jitter_prob),
            transforms.RandomGrayscale(view.grayscale_prob),
            transforms.RandomApply([PILBlur()], view.blur_prob),
            transforms.RandomHorizontalFlip(view.flip_prob),
            transforms.ToTensor(),
        ]
    )
    return pipeline  # type: ignore[no-any-return]


def v2_pipeline(view: StrongView, side: int = SIDE) -> Callable[[Tensor], Tensor]:
    """Return torchvision's v2 transforms on uint8 tensors, [..., C, H, W] -> float in [0, 1]."""
    crop = v2.RandomResizedCrop(side, view.crop_scale, view.crop_ratio, v2.InterpolationMode.BICUBIC, antialias=True)
    pipeline = v2.Compose(
        [
            crop,
            v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_prob),
            v2.RandomGrayscale(view.grayscale_prob),
            v2.RandomApply([v2.GaussianBlur(_kernel(view, side), view.blur_sigma)], view.blur_prob),
            v2.RandomHorizontalFlip(view.flip_prob),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return pipeline  # type: ignore[no-any-return]


def kornia_pipeline(kornia: Any, view: StrongView) -> Callable[[Tensor], Tensor]:
    """Return kornia's augmentations on float images, [B, C, H, W] in [0, 1]."""
    pipeline: Callable[[Tensor], Tensor] = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((SIDE, SIDE), view.crop_scale, view.crop_ratio, resample="bicubic"),
        kornia.ColorJitter(*view.jitter, p=view.jitter_prob),
        kornia.RandomGrayscale(p=view.grayscale_prob),
        kornia.RandomGaussianBlur((_kernel(view, SIDE),) * 2, view.blur_sigma, p=view.blur_prob),
        kornia.RandomHorizontalFlip(p=view.flip_prob),
    )
    return pipeline


def _kernel(view: StrongView, side: int) -> int:
    return 2 * blur_radius((side, side), view.blur_sigma[1]) + 1


def steps_of(view: StrongView, images: Tensor) -> dict[str, Callable[[], object]]:
    """Return the parts of our view, each on the whole batch."""
    generator = torch.Generator().manual_seed(2)
    draws = view.draw(len(images), (SIDE, SIDE), generator)
    radius = blur_radius((SIDE, SIDE), view.blur_sigma[1])
    pixels = images.float().div_(255)
    return {
        "draw all parameters": lambda: view.draw(len(images), (SIDE, SIDE), generator),
        "to float": lambda: images.float().div_(255),
        "crop, resize, flip": lambda: resized_crop_(pixels.clone(), draws.boxes, draws.flip, interpolation="bicubic"),
        "colour jitter": lambda: jitter_(pixels.clone(), draws.jitter),
        "grayscale": lambda: grayscale_(pixels.clone(), draws.grey),
        "blur": lambda: gaussian_blur_(pixels.clone(), draws.sigmas, radius=radius),
    }


def times_of_steps(seconds: Seconds, images: int) -> Table:
    """Return where the time of our view goes."""
    rows = [(name, 1e6 * statistics.median(values) / images) for name, values in seconds.items()]
    return Table("Where the time of ours goes", ("step", "µs a view"), rows)


def pipelines(compared: Comparison, view: StrongView, images: Tensor) -> Mapping[str, tuple[int, Callable[[], object]]]:
    """Return the views that a call of each pipeline makes, and the call."""
    generator = torch.Generator().manual_seed(0)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images[:FEW]]
    pil, v2_one = pil_pipeline(view), v2_pipeline(view)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        OURS: (len(images), lambda: view(images, generator)),
        "PIL": (len(arrays), lambda: [pil(Image.fromarray(array)) for array in arrays]),
        "torchvision v2, image by image": (len(arrays), lambda: [v2_one(image) for image in images[:FEW]]),
        f"torchvision v2, one draw for {FEW} images": (
            len(images),
            lambda: [v2_one(some) for some in images.split(FEW)],
        ),
    }
    kornia = compared.peer("kornia", "kornia", "kornia.augmentation")
    if kornia:
        pipeline = kornia_pipeline(kornia, view)
        calls["kornia"] = (len(images), lambda: pipeline(images.float().div_(255)))
    return calls


def main() -> None:
    """Measure, and print the rates, their ratios, and where the time of our view goes."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--batch", type=int, default=512, help="images in one batched call")
    options = parser.parse_args()
    compared = Comparison("views", options)

    view = StrongView()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.batch, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    calls = pipelines(compared, view, images)
    seconds = take_turns({name: call for name, (_, call) in calls.items()}, options.rounds)
    amounts = {name: float(views) for name, (views, _) in calls.items()}
    title = f"SimCLR views at {SIDE} x {SIDE}, batch {options.batch}"
    compared.add(speeds(title, seconds, amounts, unit="views", ours=OURS), seconds)

    parts = take_turns(steps_of(view, images), options.rounds)
    compared.add(times_of_steps(parts, len(images)), parts)
    compared.finish()


if __name__ == "__main__":
    main()
