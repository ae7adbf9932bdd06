"""Attack a classifier of your own: any network from images in [0, 1] to logits.

Run it as ``python examples/attack_a_classifier.py``. The classifier is a linear one, trained on handwritten digits.
"""

from pathlib import Path

import torch
from torch import nn

import bench
from bench import rng
from bench.data import load_dataset, unit_pixels


def main() -> None:
    """Print the accuracy on test images, and on the same images under attack, for growing radii."""
    data = load_dataset("digits", Path("data"))
    with rng.scoped(0, "classifier"):
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
        model(unit_pixels(data.train.images[:1]))  # fixes the number of inputs
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(unit_pixels(data.train.images)), data.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    images, labels = unit_pixels(data.test.images), data.test.labels
    for eps in (0, 4 / 255, 16 / 255):
        attacked = bench.attack.pgd(model, images, labels, eps=eps, steps=10)
        accuracy = (model(attacked).argmax(1) == labels).float().mean()
        print(f"eps {255 * eps:.0f}/255: {accuracy:.1%}")


if __name__ == "__main__":
    main()
