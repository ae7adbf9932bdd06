"""Make images of your own copy of ImageNet as a classifier of RobustBench takes them.

Run it as ``python examples/make_imagenet_npz.py FOLDER robustbench:imagenet/Linf/NAME imagenet.npz [PER_CLASS]``, where
FOLDER holds one folder for each of the 1,000 classes, such as the validation images. Each image is resized and cropped
by the entry's own preprocessing. The first PER_CLASS of each class are the test images; the training images, which
nothing is trained on, are the first of each class again.
"""

import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import ImageFolder

from bench.robustbench import find_entry
from bench.zoo import released_preprocessing


def main(folder: str, entry: str, out: str, per_class: str = "5") -> None:
    """Write the file, and print how many images it holds."""
    prepare, images = released_preprocessing(find_entry(entry.partition(":")[2])), ImageFolder(folder, allow_empty=True)
    of_class = np.array(images.targets)
    first = [np.flatnonzero(of_class == label)[: int(per_class)] for label in range(len(images.classes))]
    pixels = np.stack([prepare(images[place][0]) for places in first for place in places])
    labels = np.repeat(np.arange(len(first)), [len(places) for places in first])
    one = np.unique(labels, return_index=True)[1]
    names = np.array(images.classes, dtype=str)
    with Path(out).open("wb") as file:  # np.savez would add .npz to another name
        np.savez(file, x_train=pixels[one], y_train=labels[one], x_test=pixels, y_test=labels, classes=names)
    print(f"{len(pixels)} test images of {len(names)} classes, {pixels.shape[1]}x{pixels.shape[2]}: {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
