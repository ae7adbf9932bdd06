"""Make `cifar10-exact`, the subset of CIFAR-10 that committed records were measured on, from your own download.

    python examples/make_cifar_exact.py --data-dir data --out cifar10-exact.npz
    bench run deacl --dataset npz:cifar10-exact.npz --tier mini

Downloads CIFAR-10 into --data-dir if it is not there. The result is checked against the records' SHA-256.
"""

import argparse
from pathlib import Path

import numpy as np

from bench.data import Dataset, load_dataset

FIRST = (1102, 1017, 1017, 1285, 1017)
"""Images taken from the start of each of the five training batches, 5,438 in all."""

TEST = 1017
"""Images taken from the start of the test batch."""

BATCH = 10_000

SHA256 = "5a411e059d67955b2523bb7abde2743a93ec0e1689808d1d9420c44041d6465d"
"""The `recipe.dataset.sha256` of every record in results/cifar10-exact/."""


def subset(cifar10: Dataset) -> dict[str, np.ndarray]:
    """Return the arrays of the subset: images uint8 [N, 32, 32, 3], labels, positions in the official split, names."""
    train = np.concatenate([BATCH * batch + np.arange(count) for batch, count in enumerate(FIRST)])
    arrays = {"classes": np.array(cifar10.classes)}
    for name, split, index in (("train", cifar10.train, train), ("test", cifar10.test, np.arange(TEST))):
        arrays[f"x_{name}"] = split.images.numpy()[index].transpose(0, 2, 3, 1)
        arrays[f"y_{name}"] = split.labels.numpy()[index]
        arrays[f"index_{name}"] = index
    return arrays


def make(cifar10: Dataset, out: Path, expected: str = SHA256) -> None:
    """Write the subset to ``out`` and check its hash against the records; raises SystemExit if it differs."""
    with out.open("wb") as file:  # np.savez would add .npz to another name
        np.savez(file, **subset(cifar10))  # type: ignore[arg-type]  # no array is called allow_pickle
    found = load_dataset(f"npz:{out}", out.parent).sha256
    if found != expected:
        out.unlink()
        raise SystemExit(f"the subset has the SHA-256 {found}, the records' is {expected}: these are different images.")
    print(f"{out}: {sum(FIRST)} training and {TEST} test images, SHA-256 {found}, as in the records")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where CIFAR-10 is, or is downloaded to")
    parser.add_argument("--out", type=Path, default=Path("cifar10-exact.npz"))
    options = parser.parse_args()
    make(load_dataset("cifar10", options.data_dir), options.out)


if __name__ == "__main__":
    main()
