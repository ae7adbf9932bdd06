"""Pseudo-labels: k-means that really is one, and label files that are right or refused with all their faults."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.data import ImagesOnDevice, ImageSource
from bench.errors import BenchError
from bench.nn import Encoder, build_encoder
from bench.recipe import EncoderSettings
from methods.pseudo_labels import FileLabels, KMeansLabels, pooled_features

CLUSTERS = (2, 10)


class MeanColour(nn.Module):
    """A backbone whose features are the three channels' means."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x.mean(dim=(2, 3))


def colour_encoder() -> Encoder:
    return Encoder(MeanColour(), nn.Identity())


def small_encoder() -> Encoder:
    with rng.scoped(0, "test"):
        return build_encoder(EncoderSettings(width=1), image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.3,) * 3)


def noise_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=rng.generator(0, "images"))


def plain_images(colours: list[tuple[int, int, int]]) -> Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 8, 8).contiguous()


def partition(labels: Tensor) -> Tensor:
    """Return which images share a cluster, bool [N, N]: what does not depend on the clusters' names."""
    return labels[:, None] == labels


def source(images: Tensor) -> ImageSource:
    return ImagesOnDevice(images, torch.device("cpu"))


# k-means


def test_kmeans_finds_the_colours_whatever_their_brightness() -> None:
    colours = [(200, 0, 0), (40, 0, 0), (0, 200, 0), (0, 40, 2), (0, 0, 90), (2, 0, 200)] * 2
    images = plain_images(colours)
    (labels,) = KMeansLabels(colour_encoder(), (3,), count=len(images), seed=0).compute(source(images))
    assert torch.equal(partition(labels), partition(torch.tensor([0, 0, 1, 1, 2, 2] * 2)))


def test_every_clustering_has_converged_and_uses_all_its_labels() -> None:
    images, encoder = noise_images(90), small_encoder()
    labels = KMeansLabels(encoder, (2, 7), count=len(images), seed=3).compute(source(images))
    features = pooled_features(encoder, source(images)).double()
    assert labels.dtype == torch.int64
    assert labels.shape == (2, 90)
    for row, k in zip(labels, (2, 7), strict=True):
        assert row.unique().tolist() == list(range(k))
        centres = torch.stack([features[row == cluster].mean(0) for cluster in range(k)])
        distances = torch.cdist(features, centres)
        own = distances.gather(1, row[:, None]).squeeze(1)
        assert (own <= distances.min(1).values + 1e-6).all()


def test_labels_follow_the_seed_and_nothing_global() -> None:
    images, encoder = source(noise_images(60)), small_encoder()
    first = KMeansLabels(encoder, (9,), count=len(images), seed=1).compute(images)
    np.random.default_rng()
    np.random.seed(5)
    torch.manual_seed(5)
    assert torch.equal(KMeansLabels(encoder, (9,), count=len(images), seed=1).compute(images), first)
    second = KMeansLabels(encoder, (9,), count=len(images), seed=2).compute(images)
    assert not torch.equal(partition(second[0]), partition(first[0]))


def test_there_are_never_more_clusters_than_half_the_images() -> None:
    kmeans = KMeansLabels(small_encoder(), (2, 15, 16, 500), count=31, seed=0)
    assert kmeans.classes == (2, 15, 15, 15)
    labels = kmeans.compute(source(noise_images(31)))
    assert labels.max(1).values.tolist() == [1, 14, 14, 14]
    assert not torch.equal(labels[1], labels[2]), "each clustering is a run of its own"


def test_features_are_those_of_eval_mode_and_length_1() -> None:
    encoder, images = small_encoder().train(), noise_images(20)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = pooled_features(encoder, source(images))
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with torch.no_grad():
        expected = encoder.eval()(images / 255)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


# Files


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def labels_of(length: int) -> dict[str, Any]:
    return {f"k{k}": (np.arange(length) * 7) % k for k in CLUSTERS}


def read(path: Path, count: int, index: Tensor | None = None) -> Tensor:
    return FileLabels(path, CLUSTERS, count=count, index=index).compute(source(noise_images(2)))


def test_a_file_in_official_order_is_read_at_each_images_position(tmp_path: Path) -> None:
    arrays = labels_of(50)
    index = torch.tensor([49, 3, 17])
    labels = read(write(tmp_path / "a.npz", **arrays), 3, index)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[arrays["k2"][i] for i in (49, 3, 17)], [arrays["k10"][i] for i in (49, 3, 17)]]


@pytest.mark.parametrize("index", [None, torch.tensor([49, 3, 17])])
def test_a_file_as_long_as_the_training_set_is_in_its_order(tmp_path: Path, index: Tensor | None) -> None:
    labels = read(write(tmp_path / "a.npz", k2=np.array([1, 0, 1], np.uint8), k10=np.array([9, 0, 4])), 3, index)
    assert labels.tolist() == [[1, 0, 1], [9, 0, 4]]


def test_all_faults_of_a_file_are_listed_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    write(path, k2=np.array([0, 1, 2]), k10=np.zeros((3, 1)), k50=np.zeros(4, np.int64), k100=np.array([-1, 0, 5]))
    with pytest.raises(BenchError) as caught:
        FileLabels(path, (2, 10, 50, 100, 500), count=3, index=None)
    message = str(caught.value)
    for fault in (
        "7 faults",
        "k500 missing; needed are k2, k10, k50, k100, k500",
        "k2 holds labels 0..2, those of 2 clusters are 0..1",
        "k10 has shape [3, 1]",
        "k10 is float64",
        "k50 holds 4 labels but the training set 3 images",
        "k100 holds labels -1..5",
        "the arrays differ in length: k2 3, k10 3, k50 4, k100 3",
    ):
        assert fault in message


def test_a_length_that_fits_neither_order_is_refused_with_both(tmp_path: Path) -> None:
    path = write(tmp_path / "short.npz", **labels_of(10))
    with pytest.raises(BenchError, match=r"holds 10 labels but the training set 3 images.* run to 49"):
        read(path, 3, torch.tensor([49, 3, 17]))
    with pytest.raises(BenchError, match=r"differ in length: k2 3, k10 60"):
        read(write(path, k2=np.zeros(3, int), k10=np.zeros(60, int)), 3, torch.tensor([49, 3, 17]))


def test_what_is_no_file_of_plain_arrays_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    text, single, objects, cut, archive = (tmp_path / name for name in ("a.npz", "b.npy", "c.npz", "d.npz", "e.npz"))
    text.write_text("k2 = 0, 1")
    np.save(single, np.zeros(3))
    write(objects, k2=np.array([print, 0], dtype=object), k10=np.zeros(2, int))
    cut.write_bytes(write(archive, **labels_of(40)).read_bytes()[:300])
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as file:
        file.writestr("k2.npy", b"no array")
    for path in (text, single, objects, cut, tmp_path / "f.npz", tmp_path / "missing.npz", tmp_path):
        with pytest.raises(BenchError, match=r"cannot be read as an \.npz file.*np\.savez\(path, k2=\.\.\., k10"):
            read(path, 2)
