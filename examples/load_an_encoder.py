"""Load a trained encoder, and look at its features.

Run it as ``python examples/load_an_encoder.py ENCODER``, where ENCODER is an encoder file, a run's folder or a
checkpoint that was trained elsewhere.
"""

import sys
from pathlib import Path

import torch

import bench
from bench.data import load_dataset, unit_pixels


def main(source: str, dataset: str = "digits") -> None:
    """Print how similar the features of two images of a class are, and of two images of different classes."""
    encoder = bench.load_encoder(source)
    test = load_dataset(dataset, Path("data")).test
    with torch.no_grad():
        features = torch.nn.functional.normalize(encoder(unit_pixels(test.images)), dim=1)
    similarity, same = features @ features.T, test.labels[:, None] == test.labels
    others = ~torch.eye(len(same), dtype=torch.bool)
    print(f"{encoder.feature_dim} features of {len(features)} images")
    print(
        f"cosine within a class {similarity[same & others].mean():.3f}, between classes {similarity[~same].mean():.3f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
