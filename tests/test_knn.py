"""kNN: the vote against a slow reference, a gradient where all neighbours agree, and a bank that is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy_runs import SMALL, carry_out, changed, toy_data, toy_request

from bench import rng
from bench.attack import PGD, GradientWatch, margin_objective
from bench.errors import BenchError
from bench.job import Job
from bench.nn import Classifier, Encoder
from bench.protocol import KNNStage
from bench.protocol.knn import SoftVote
from bench.recipe import KNNSettings, Threat
from bench.run import finished_in, prepare
from bench.train import train

CLASSES = 5


class Flat(nn.Module):
    """The pixels themselves as features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.feature_dim = features
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)


def flat() -> Encoder:
    return Encoder(Flat(12), nn.Identity())


def vote(count: int, k: int, temperature: float = 0.07) -> SoftVote:
    made = SoftVote(count, 12, CLASSES, KNNSettings(k=k, temperature=temperature))
    made.bank.copy_(F.normalize(torch.randn(count, 12, generator=rng.generator(0, "bank")), dim=1))
    made.labels.copy_(torch.randint(CLASSES, (count,), generator=rng.generator(0, "labels")))
    return made


def test_a_class_without_an_image_has_the_same_logit_in_every_precision() -> None:
    made = vote(40, 7)
    made.labels[made.labels == 3] = 2
    features = torch.randn(30, 12, generator=rng.generator(0, "queries"))
    single = made(features)
    assert torch.isfinite(single[:, 3]).all()
    assert (single - made.double()(features.double())).abs().max() < 1e-4


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (40, 0.5)])
def test_the_vote_is_that_of_a_slow_reference(k: int, temperature: float) -> None:
    """Wu et al. 2018, section 3.4, query by query and neighbour by neighbour, in float64."""
    made = vote(40, k, temperature)
    features = torch.randn(30, 12, generator=rng.generator(0, "queries"))
    found = made(features)
    for query, logits in zip(features.double(), found, strict=True):
        similar = [float(query @ each / query.norm() / each.norm()) for each in made.bank.double()]
        nearest = sorted(range(40), key=lambda i: -similar[i])[:k]
        votes = [0.0] * CLASSES
        for i in nearest:
            votes[int(made.labels[i])] += float(torch.tensor(similar[i] / temperature, dtype=torch.float64).exp())
        voted = [c for c in range(CLASSES) if votes[c] > 0]
        assert int(logits.argmax()) == max(range(CLASSES), key=votes.__getitem__)
        shares = torch.tensor([votes[c] for c in voted]).double()
        torch.testing.assert_close(
            logits[voted].double().softmax(0), shares / shares.sum(), rtol=1e-3, atol=1e-4, msg=str(votes)
        )


def test_the_order_of_the_bank_and_equal_neighbours_do_not_matter() -> None:
    made, other = vote(20, 3), vote(20, 3)
    made.bank[5] = made.bank[11]
    order = torch.randperm(20, generator=rng.generator(0, "order"))
    other.bank.copy_(made.bank[order])
    other.labels.copy_(made.labels[order])
    features = torch.cat([made.bank, torch.randn(9, 12, generator=rng.generator(0, "queries"))])
    torch.testing.assert_close(made(features), other(features))


def test_where_all_neighbours_agree_an_attack_still_has_a_direction() -> None:
    """Without votes of the others every wrong logit would be -inf there, and the gradient NaN."""
    made = vote(40, 2)
    made.bank[:20], made.labels[:20] = made.bank[0] + 0.01 * made.bank[:20], 0
    made.labels[20:] = 1 + made.labels[20:] % (CLASSES - 2)  # and the last class has no image at all
    classifier = Classifier(flat(), made).eval()  # type: ignore[arg-type]  # no linear head
    images = made.bank[:1].clamp(0, 1).reshape(1, 3, 2, 2)
    labels = classifier(images).argmax(1)
    near = (classifier(images).exp() > 1e-5 * classifier(images).exp().max()).sum()
    assert (int(labels), int(near)) == (0, 1)
    watch = GradientWatch()
    threat = Threat(eps=0.9)
    attacked = PGD(20, 0.25, "clean")(
        margin_objective(classifier, labels), images, threat=threat, on_gradient=watch, generator=rng.generator(0, "a")
    )
    assert not watch.first.any()
    assert int(classifier(attacked).argmax(1)) != 0


def test_the_bank_is_that_of_clean_images_and_the_encoder_stays(tmp_path: Path) -> None:
    encoder = flat()
    images = torch.randint(256, (9, 3, 2, 2), generator=rng.generator(0, "images")).to(torch.uint8)
    labels = torch.arange(9) % 3
    stage = KNNStage(KNNSettings(k=1), encoder, labels, 3, 0, Threat(eps=0.1))
    progress = train(stage, images, Job(tmp_path, "test", 0, torch.device("cpu")))
    expected = F.normalize((images / 255).flatten(1), dim=1)
    torch.testing.assert_close(stage.classifier().head.get_buffer("bank"), expected)
    assert stage.classifier()(images / 255).argmax(1).tolist() == labels.tolist()  # each is its own neighbour
    assert (float(encoder.backbone.get_parameter("scale")), progress.epoch) == (1.0, 0)
    again = KNNStage(KNNSettings(k=1), flat(), torch.zeros_like(labels), 3, 0, Threat(eps=0.1))
    train(again, 255 - images, Job(tmp_path, "test", 0, torch.device("cpu")))  # it is loaded, not computed
    assert again.state_dict().keys() == stage.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in stage.state_dict().items())


def test_more_neighbours_than_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, protocols=("knn", "knn-200"))
    with pytest.raises(BenchError, match=r"knn-200\.k is 200, but there are 24 training images.*--set knn-200\.k=24"):
        prepare(request)
    with pytest.raises(BenchError, match=r"knn\.temperature: must be at least 0\.03"):
        prepare(changed(request, knn__temperature=0.0))


def test_knn_and_few_labels_run_from_images_to_records(tmp_path: Path) -> None:
    short = {f"slf-{share}pct.{key}": SMALL[f"slf.{key}"] for share in (1, 10) for key in ("epochs", "batch_size")}
    protocols = ("knn", "knn-200", "slf-1pct", "slf-10pct")
    request = toy_request(
        toy_data(tmp_path / "toy.npz", classes=4),
        tmp_path,
        protocols=protocols,
        overrides={**SMALL, **short, "knn-200.k": 24, "knn.k": 3},
    )
    found = carry_out(request, tmp_path / "results")
    records = {record.protocol: record for record, _ in found}
    assert tuple(records) == protocols
    assert records["knn"].overrides["knn.k"] == 3
    assert "knn.k" not in records["slf-1pct"].overrides
    subsets = [records[name].labelled for name in protocols]
    assert [subset and subset.images for subset in subsets] == [None, None, 4, 4]
    assert len({record.classifier_sha256 for record in records.values()}) == 4
    assert [(record.sha256, path) for record, path in carry_out(request, tmp_path / "results")] == [
        (record.sha256, path) for record, path in found
    ]
    run = prepare(request)
    assert {each.protocol for each in finished_in(run.folder.path) if each.classifier(run.device)} == set(protocols)


def test_an_encoder_without_parameters_is_judged(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef raw():\n    return nn.Flatten()\n")
    request = toy_request(toy_data(tmp_path / "toy.npz"), tmp_path, protocols=("knn",))
    own = {key: value for key, value in SMALL.items() if not key.startswith("encoder")}
    request = changed(replace(request, overrides=own), encoder__arch=f"{tmp_path}/net.py:raw")
    ((record, _),) = carry_out(request, tmp_path / "results")
    assert record.protocol == "knn"
