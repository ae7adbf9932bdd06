"""Views a second of SimCLR's augmentation: this package's batched view against the usual PIL pipeline.

Both make 32 x 32 views from the same noise by the same recipe, on one CPU thread, in one process, and are timed
alternately, so that other load on the machine affects both alike. The PIL side does the work of a data-loader worker
for an image: from array to PIL, torchvision's transforms, to a float tensor; the collation of a batch is left out, in
its favour. The batched side goes from the uint8 batch to the float batch.

Run from the repository's root: ``python perf/views.py [--batch 512] [--rounds 15] [--threads 1]``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision import transforms

from bench.data.views import (
    StrongView,
    blur_radius,
    gaussian_blur_,
    grayscale_,
    jitter_,
    resized_crop_,
)

SIDE = 32
PIL_IMAGES = 64
"""Images the PIL pipeline makes in a round, which takes about as long as one of our batches."""


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


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds that ``work`` takes once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def by_step(view: StrongView, images: Tensor, rounds: int) -> dict[str, float]:
    """Return the median microseconds a view that each step of the batched pipeline takes."""
    size = (SIDE, SIDE)
    generator = torch.Generator().manual_seed(2)
    draws = view.draw(len(images), size, generator)
    radius = blur_radius(size, view.blur_sigma[1])
    pixels = images.float().div_(255)
    steps: dict[str, Callable[[Tensor], object]] = {
        "draw all parameters": lambda _: view.draw(len(images), size, generator),
        "to float": lambda _: images.float().div_(255),
        "crop, resize, flip": lambda x: resized_crop_(x, draws.boxes, draws.flip, interpolation="bicubic"),
        "colour jitter": lambda x: jitter_(x, draws.jitter),
        "grayscale": lambda x: grayscale_(x, draws.grey),
        "blur": lambda x: gaussian_blur_(x, draws.sigmas, radius=radius),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            batch = pixels.clone()
            times[name].append(seconds(partial(step, batch)))
    return {name: statistics.median(values) / len(images) * 1e6 for name, values in times.items()}


def main() -> None:
    """Measure, and print the rates, their ratio, and where the batched pipeline's time goes."""
    parser = argparse.ArgumentParser(description="Views a second, batched against PIL.")
    parser.add_argument("--batch", type=int, default=512, help="images in one batched call")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; PIL always uses one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    view = StrongView()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.batch, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images[:PIL_IMAGES]]
    pil = pil_pipeline(view)

    sides: dict[str, tuple[int, Callable[[], object]]] = {
        "PIL": (len(arrays), lambda: [pil(Image.fromarray(array)) for array in arrays]),
        "batched": (len(images), lambda: view(images, generator)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for work in (work for _, work in sides.values()):
        work()  # the first call includes imports and allocation
    for _ in range(options.rounds):
        for name, (views, work) in sides.items():
            rates[name].append(views / seconds(work))

    table = Table(title=f"SimCLR views at {SIDE} x {SIDE}, {options.threads} thread(s), batch {options.batch}")
    for heading in ("pipeline", "views/s (median)", "slowest to fastest round", "times PIL"):
        table.add_column(heading, justify="left" if heading == "pipeline" else "right")
    slow = statistics.median(rates["PIL"])
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        table.add_row(name, f"{middle:,.0f}", spread, f"{middle / slow:.1f}")
    Console().print(table)

    steps = Table(title="Where the batched time goes")
    steps.add_column("step")
    steps.add_column("us a view", justify="right")
    for name, value in by_step(view, images, options.rounds).items():
        steps.add_row(name, f"{value:.1f}")
    Console().print(steps)


if __name__ == "__main__":
    main()
