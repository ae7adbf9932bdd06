"""Images a second that reach a training: from memory, and decoded from disk by 0, 1 and 2 worker processes.

The images are JPEGs of smooth noise, in a folder and in shards of webdataset. The first table is of loading alone, one
epoch in batches; the second of an epoch of SimCLR, which loads the same batches. Seconds are those of the wall clock,
since other processes decode; so other programs count, alike for all rows.

Run from the repository's root: ``python perf/streams.py``.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import torch
from comparison import Comparison, arguments, speeds, take_turns
from PIL import Image
from torch import Tensor

from bench.data import Dataset, ImagesOnDevice, ImageSource, StreamedImages, load_dataset
from bench.job import Job
from bench.method import Stage
from bench.run import RunRequest, prepare
from bench.train import train

CPU = torch.device("cpu")
MEMORY = "in memory"
_COARSE = 8
"""Side of the noise that is enlarged to an image: a JPEG of it is about as large as one of a photograph."""


def encoded(seed: int, side: int) -> bytes:
    """Return a JPEG of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (_COARSE, _COARSE, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_images(root: Path, images: int, side: int) -> None:
    """Write ``images`` training images and 16 test images of two classes to ``root/folder`` and ``root/shards``."""
    from webdataset import TarWriter

    (root / "shards").mkdir()
    for split, number in (("train", images), ("test", 16)):
        with TarWriter(str(root / "shards" / f"{split}.tar")) as shard:
            for seed in range(number):
                content, label = encoded(seed, side), seed % 2
                shard.write({"__key__": f"{seed:06d}", "jpg": content, "cls": label})
                path = root / "folder" / split / str(label) / f"{seed:06d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def sources(root: Path, workers: list[int]) -> dict[str, ImageSource]:
    """Return the training images by where they are and who decodes them."""

    def data(form: str, data_in: str) -> Dataset:
        return load_dataset(f"{form}:{root / form.replace('webdataset', 'shards')}", root / "data", data_in)  # type: ignore[arg-type]

    found: dict[str, ImageSource] = {MEMORY: ImagesOnDevice(data("folder", "memory").train.images, CPU)}
    for form in ("folder", "webdataset"):
        images = data(form, "disk").train.images
        for processes in workers:
            found[f"{form}, {_decoders(processes)}"] = StreamedImages(images, CPU, processes)
    return found


def _decoders(processes: int) -> str:
    return f"{processes} worker{'s' * (processes != 1)}" if processes else "no worker"


def loaded(source: ImageSource, positions: tuple[Tensor, ...]) -> None:
    """Load one epoch."""
    for batch in source.batches(positions):
        assert batch.dtype == torch.uint8


def stage_maker(root: Path, width: int, batch: int) -> Callable[[], Stage]:
    """Return a function that makes SimCLR's stage anew."""
    request = RunRequest(
        "simclr",
        f"folder:{root / 'folder'}",
        tier="mini",
        protocols=("slf",),
        overrides={
            **{"encoder.width": width, "stage1.epochs": 1, "stage1.batch_size": batch, "slf.batch_size": batch},
            "evaluate.autoattack": False,
        },
        runs_dir=root / "runs",
        data_dir=root / "data",
        device="cpu",
    )
    run = prepare(request)
    return lambda: next(iter(run.method(run.recipe.config).stages(run.context)))


def epoch(make_stage: Callable[[], Stage], source: ImageSource, folders: "count[int]", root: Path) -> None:
    """Train one epoch in a new folder."""
    train(make_stage(), source, Job(root / "jobs" / str(next(folders)), "streams", 0, CPU))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=4, help="of the ResNet-18 that is trained (default %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    compared = Comparison("streams", options)
    compared.peer("webdataset", "webdataset")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, options.images, options.side)
        found, folders = sources(root, options.workers), count()
        order = torch.randperm(options.images, generator=torch.Generator().manual_seed(0)).split(options.batch)
        make_stage = stage_maker(root, options.width, options.batch)
        size = f"{options.images} JPEGs of {options.side}x{options.side}, batch {options.batch}"
        for title, calls in {
            f"Loading alone, {size}": {name: partial(loaded, each, order) for name, each in found.items()},
            f"An epoch of SimCLR, width {options.width}, {size}": {
                name: partial(epoch, make_stage, each, folders, root)
                for name, each in found.items()
                if not name.startswith("webdataset")
            },
        }.items():
            seconds = take_turns(calls, options.rounds, wall_clock=True)
            amounts = dict.fromkeys(calls, float(options.images))
            compared.add(speeds(title, seconds, amounts, unit="images", ours=MEMORY), seconds)
    compared.finish()


if __name__ == "__main__":
    main()
