"""SLF: what stays frozen, what does not, and a classifier that a slow reference finds too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import rng
from bench.job import Job
from bench.nn import Encoder, build_encoder
from bench.protocol import SLFStage
from bench.recipe import EncoderSettings, SLFSettings, Threat
from bench.train import Progress, train
from bench.zoo import digest

CPU = torch.device("cpu")
THREAT = Threat(eps=16 / 255)
CLASSES = 3
LABELS = torch.arange(18) % CLASSES
BATCH = 8
"""Eighteen images: two full batches and one of two in each epoch."""


def make_images() -> Tensor:
    """Noise around a brightness that tells the class."""
    noise = torch.randint(60, (len(LABELS), 3, 8, 8), generator=rng.generator(0, "images"))
    return (noise + 70 * LABELS[:, None, None, None]).to(torch.uint8)


@torch.no_grad()
def make_encoder() -> Encoder:
    """An encoder whose batch-norm statistics are those of no batch."""
    settings = EncoderSettings(width=2)
    with rng.scoped(0, "encoder"):
        encoder = build_encoder(settings, image_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    generator = rng.generator(0, "statistics")
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder


class Run:
    """SLF trained to its end, with the batches it was trained on."""

    def __init__(self, folder: Path, encoder: Encoder, **settings: Any) -> None:
        self.plan = SLFSettings(**{"batch_size": BATCH, **settings})
        self.stage = SLFStage(self.plan, encoder, LABELS, CLASSES, seed=0, threat=THREAT)
        self.start = {name: value.clone() for name, value in self.stage.head.state_dict().items()}
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.stage.register_forward_pre_hook(self._keep)
        self.progress: Progress = train(self.stage, make_images(), Job(folder, "test", 0, CPU))

    def _keep(self, module: nn.Module, inputs: Any) -> None:
        self.batches.append((inputs[0].images.clone(), inputs[0].labels.clone()))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """SLF as the recipe has it: the encoder in eval mode, 25 epochs."""
    return Run(tmp_path_factory.mktemp("frozen"), make_encoder())


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# What happens to the encoder


def test_in_eval_mode_the_encoder_stays_to_the_bit(frozen: Run) -> None:
    encoder = frozen.stage.encoder
    assert digest(encoder.state_dict()) == digest(make_encoder().state_dict())
    assert len(frozen.batches) == 25 * 3
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    moved = frozen.stage.head.state_dict()
    assert all(not torch.equal(moved[name], frozen.start[name]) for name in frozen.start)


def test_in_train_mode_statistics_become_those_of_clean_images(tmp_path: Path) -> None:
    """Each step keeps 0.9 of the old running mean: after 75 steps 4e-4 of the pre-trained statistics are left."""
    encoder = make_encoder()
    before = tensors_of(encoder)
    run = Run(tmp_path, encoder, encoder_bn="train")
    after = tensors_of(encoder)
    learnt = {name for name, _ in encoder.named_parameters()}
    assert all(torch.equal(after[name], before[name]) for name in learnt)
    assert all(p.grad is None for p in encoder.parameters())
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 40
    assert all(not torch.equal(after[name], before[name]) for name in statistics)
    assert all(int(value) == 75 for name, value in after.items() if name.endswith("num_batches_tracked"))

    mean, means = before["backbone.bn1.running_mean"].double(), []
    with torch.no_grad():
        for images, _ in run.batches:
            maps = encoder.get_submodule("backbone.conv1")(encoder.normalise(images)).double()
            means.append(maps.mean(dim=(0, 2, 3)))
            mean = 0.9 * mean + 0.1 * means[-1]
    assert torch.allclose(after["backbone.bn1.running_mean"].double(), mean, atol=1e-6)
    of_all = torch.stack(means).mean(0)
    distances = [float((at["backbone.bn1.running_mean"] - of_all).norm()) for at in (before, after)]
    assert distances[1] < 0.2 * distances[0]


def test_the_two_modes_see_different_features(tmp_path: Path) -> None:
    heads = [
        Run(tmp_path / mode, make_encoder(), encoder_bn=mode, epochs=1).stage.head.weight.detach()
        for mode in ("eval", "train")
    ]
    assert float((heads[0] - heads[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_classifier_to_evaluate_is_in_eval_mode(tmp_path: Path, mode: str) -> None:
    run = Run(tmp_path, make_encoder(), encoder_bn=mode, epochs=1)
    classifier = run.stage.classifier()
    assert not any(module.training for module in classifier.modules())
    images = make_images().float() / 255
    before = digest(classifier.state_dict())
    logits = classifier(images)
    assert torch.equal(logits, run.stage.head(run.stage.encoder(images)))
    assert digest(classifier.state_dict()) == before
    assert logits.shape == (18, CLASSES)


# What happens to the head


def slow_head(
    start: dict[str, Tensor], batches: list[tuple[np.ndarray, np.ndarray]], rates: list[float], decay: float
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax regression by SGD with momentum 0.9, its gradient written out: (softmax - one-hot) features / B."""
    weight, bias = start["weight"].double().numpy().copy(), start["bias"].double().numpy().copy()
    speeds = [np.zeros_like(weight), np.zeros_like(bias)]
    for (features, labels), lr in zip(batches, rates, strict=True):
        error = np.zeros((len(labels), CLASSES))
        for i, label in enumerate(labels):
            scores = np.exp(weight @ features[i] + bias)
            error[i] = scores / scores.sum() / len(labels)
            error[i, label] -= 1 / len(labels)
        for index, (parameter, gradient) in enumerate([(weight, error.T @ features), (bias, error.sum(0))]):
            speeds[index] = 0.9 * speeds[index] + gradient + decay * parameter
            parameter -= lr * speeds[index]
    return weight, bias


@pytest.mark.parametrize("decay", [2e-4, 0.1])
def test_the_head_is_what_a_slow_reference_finds(frozen: Run, tmp_path: Path, decay: float) -> None:
    run = frozen if decay == frozen.plan.weight_decay else Run(tmp_path, make_encoder(), weight_decay=decay)
    double = make_encoder().double().eval()
    with torch.no_grad():
        batches = [(double(images.double()).numpy(), labels.numpy()) for images, labels in run.batches]
    rates = [0.1] * 45 + [0.01] * 15 + [0.001] * 15  # epochs 0 to 14, 15 to 19, 20 to 24, of three steps
    weight, bias = slow_head(run.start, batches, rates, decay)
    head = run.stage.head
    scale = float(np.abs(weight).max())
    assert np.abs(weight - run.start["weight"].double().numpy()).max() > 0.05
    assert np.abs(head.weight.detach().double().numpy() - weight).max() < 2e-6 * max(1, scale)
    assert np.abs(head.bias.detach().double().numpy() - bias).max() < 2e-6 * max(1, scale)


def test_batches_carry_the_labels_of_their_images(tmp_path: Path) -> None:
    run = Run(tmp_path, make_encoder(), epochs=2)
    assert [len(labels) for _, labels in run.batches] == [8, 8, 2] * 2
    for images, labels in run.batches:
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        brightest = images.amax(dim=(1, 2, 3))  # of a weak view as of its image: 70 a class
        assert torch.equal((brightest * 255 / 70).floor().clamp(max=2).long(), labels)


def test_the_classifier_learns(frozen: Run) -> None:
    first, last = frozen.progress.history[0], frozen.progress.history[-1]
    assert last["loss"] < 0.95 * first["loss"]
    assert last["accuracy"] > first["accuracy"]
    assert [round(entry["lr"], 6) for entry in frozen.progress.history] == [0.1] * 15 + [0.01] * 5 + [0.001] * 5


def test_history_tells_loss_and_accuracy(tmp_path: Path) -> None:
    """With a rate of next to nothing the head stays, and the epoch's means can be found again."""
    run = Run(tmp_path, make_encoder(), epochs=1, lr=1e-12)
    (epoch,) = run.progress.history
    losses, accuracies = [], []
    classifier = run.stage.classifier()
    for images, labels in run.batches:
        with torch.no_grad():
            scores = classifier(images).double().softmax(dim=1)
        losses.append(-sum(float(scores[i, label].log()) for i, label in enumerate(labels)) / len(labels))
        accuracies.append(sum(int(scores[i].argmax() == label) for i, label in enumerate(labels)) / len(labels))
    assert epoch.keys() == {"loss", "accuracy", "lr"}
    assert epoch["loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert epoch["accuracy"] == pytest.approx(sum(accuracies) / 3, abs=1e-6)


def test_the_head_starts_from_the_seed_alone() -> None:
    def head(seed: int) -> Tensor:
        return SLFStage(SLFSettings(), make_encoder(), LABELS, CLASSES, seed=seed, threat=THREAT).head.weight.detach()

    torch.manual_seed(0)
    first = head(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(head(3), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(head(4), first)
    bound = make_encoder().feature_dim ** -0.5  # the framework's default initialisation
    assert 0.5 * bound < float(first.abs().max()) <= bound


def test_views_are_flipped_only_where_that_is_allowed() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(1, 3, 8, 8) * 20 + 50
    images = ramp.expand(64, 3, 8, 8)
    index = torch.zeros(64, dtype=torch.long)
    for prob, flipped in ((0.0, 0), (0.5, None), (1.0, 64)):
        stage = SLFStage(SLFSettings(flip_prob=prob), make_encoder(), LABELS, CLASSES, seed=0, threat=THREAT)
        middle = stage.views(images, rng.generator(0, "views"), index).images[:, 0, 4]
        found = int((middle[:, 2] > middle[:, 5]).sum())
        assert 16 < found < 48 if flipped is None else found == flipped
