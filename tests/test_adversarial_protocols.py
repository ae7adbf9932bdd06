"""ALF and AFF: TRADES' formula, who is trained, what the attack does."""

import math

import pytest
import torch
from torch import Tensor

from bench import rng
from bench.attack import distance
from bench.data import unit_pixels
from bench.errors import BenchError
from bench.nn import Classifier, Encoder, build_encoder
from bench.protocol import AFFStage, ALFStage, divergence
from bench.recipe import AFFSettings, ALFSettings, EncoderSettings, Threat
from bench.zoo import digest

THREAT = Threat(eps=16 / 255)
IMAGES = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=rng.generator(0, "images"))
LABELS = torch.arange(12) % 4


def encoder() -> Encoder:
    with rng.scoped(0, "encoder"):
        built = build_encoder(EncoderSettings(width=2), image_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    built(torch.rand(16, 3, 16, 16, generator=rng.generator(0, "warm")))  # running statistics that are not 0 and 1
    return built


def aff(**changes: object) -> AFFStage:
    return AFFStage(AFFSettings.parse(changes, "aff"), encoder(), LABELS, 4, 0, THREAT)


def step(stage: AFFStage | ALFStage) -> Tensor:
    index = torch.arange(12)
    total: Tensor = stage(stage.views(IMAGES, rng.generator(0, "step"), index)).total
    return total


def logits(stage: AFFStage, images: Tensor) -> Tensor:
    return Classifier(stage.encoder, stage.head)(images)  # type: ignore[no-any-return]


def test_divergence_is_the_sum_over_classes() -> None:
    clean, attacked = (
        torch.randn(5, 4, dtype=torch.float64, generator=rng.generator(seed, "logits")) for seed in (0, 1)
    )
    for row in range(5):
        p, q = clean[row].softmax(0).tolist(), attacked[row].softmax(0).tolist()
        expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        assert divergence(clean, attacked)[row].item() == pytest.approx(expected, abs=1e-12)
    assert divergence(clean, clean).abs().max() == 0


def test_trades_is_equation_3_and_reaches_both_branches() -> None:
    stage = aff().train()
    views = stage.views(IMAGES, rng.generator(0, "step"), torch.arange(12))
    adversarial = stage._attack(views.images, views.labels, rng.generator(0, "attack"))
    assert distance(adversarial, views.images, THREAT.norm).max() <= THREAT.eps
    clean, attacked = logits(stage, views.images), logits(stage, adversarial)
    expected = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(views.labels):
        p, q = clean[row].double().softmax(0), attacked[row].double().softmax(0)
        expected = expected - p[label].log() / 12 + 6 * (p * (p / q).log()).sum() / 12
    again = aff().train()
    views = again.views(IMAGES, rng.generator(0, "step"), torch.arange(12))
    # The step draws its attack from the generator that the views leave behind.
    assert again(views._replace(generator=rng.generator(0, "attack"))).total.item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_attack_raises_the_divergence_it_maximises() -> None:
    stage = aff(steps=10).eval()
    images = IMAGES.float() / 255
    adversarial = stage._attack(images, LABELS, rng.generator(0, "attack"))
    with torch.no_grad():
        clean, attacked = logits(stage, images), logits(stage, adversarial)
    assert (divergence(clean, attacked) > 1e-6).all()


def test_pgd_at_is_cross_entropy_on_adversarial_images() -> None:
    stage = aff(loss="pgd", start="uniform").train()
    total = step(stage)
    again = aff(loss="pgd", start="uniform").train()
    views = again.views(IMAGES, rng.generator(0, "step"), torch.arange(12))
    adversarial = again._attack(views.images, views.labels, views.generator)
    assert torch.equal(total, torch.nn.functional.cross_entropy(logits(again, adversarial), LABELS))


def test_the_attack_moves_no_running_statistics_and_each_batch_passes_once() -> None:
    stage = aff().train()
    before = int(stage.encoder.backbone.bn1.num_batches_tracked)  # type: ignore[union-attr, arg-type]
    step(stage).backward()
    after = int(stage.encoder.backbone.bn1.num_batches_tracked)  # type: ignore[union-attr, arg-type]
    assert after == before + 2


def test_aff_trains_the_encoder() -> None:
    stage = aff().train()
    step(stage).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stage.encoder.parameters() if p.ndim > 1)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_alf_trains_the_classifier_alone(mode: str) -> None:
    stage = ALFStage(ALFSettings.parse({"encoder_bn": mode}, "alf"), encoder(), LABELS, 4, 0, THREAT).train()
    before = digest(stage.encoder.state_dict())
    parameters = digest(dict(stage.encoder.named_parameters()))
    step(stage).backward()
    assert stage.head.weight.grad is not None
    assert stage.head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in stage.encoder.parameters())
    assert digest(dict(stage.encoder.named_parameters())) == parameters
    assert (digest(stage.encoder.state_dict()) == before) == (mode == "eval")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_alf_attacks_the_present_classifier_and_copies_a_frozen_encoder_once(mode: str) -> None:
    stage = ALFStage(ALFSettings.parse({"encoder_bn": mode}, "alf"), encoder(), LABELS, 4, 0, THREAT).train()
    first = stage.attacked().encoder
    step(stage)
    with torch.no_grad():
        stage.head.weight += 1
    attacked, expected = stage.attacked(), Classifier(stage.encoder, stage.head).prepared()
    images = unit_pixels(IMAGES)
    assert torch.equal(attacked(images), expected(images))
    assert not any(parameter.requires_grad for parameter in attacked.parameters())
    assert (attacked.encoder is first) == (mode == "eval")


def test_trades_cannot_start_at_the_clean_image() -> None:
    for start in ("uniform", "gaussian"):
        assert AFFSettings.parse({"start": start}, "aff").start == start
    assert AFFSettings.parse({"loss": "pgd", "start": "clean"}, "aff").start == "clean"
    with pytest.raises(BenchError, match=r"loss=trades has no gradient with start=clean.*use start=gaussian"):
        AFFSettings.parse({"start": "clean"}, "aff")
