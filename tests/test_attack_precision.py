"""Attacks whose gradients are computed in low precision, and whose verdicts are not."""

from pathlib import Path

import pytest
import torch
from evaluations import CPU, SPLIT, Recorder, Shared, classifier, measure, outcomes, recipe
from evaluations import short_attacks as short_attacks
from evaluations import whole as whole
from test_autoattack import only_the_original_is_installed as only_the_original_is_installed
from torch import Tensor

from bench.evaluation import Evaluation, attacked_copy, attacked_features


class WrongInLow(Shared):
    """A backbone that answers the opposite in low precision, and counts these answers by their gradient mode."""

    def __init__(self) -> None:
        super().__init__()
        self.low = {True: 0, False: 0}

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        if not torch.is_autocast_enabled("cpu"):
            return features
        self.low[torch.is_grad_enabled()] += 1
        return -features


def test_every_image_is_judged_in_fp32(tmp_path: Path) -> None:
    backbone = WrongInLow()
    found = measure(tmp_path, model=classifier(backbone), attack_precision="bf16", eps=0.0)
    clean = found.sa.unpack()
    assert found.ra.outcome.unpack() == clean
    assert found.aa is not None
    assert found.aa.outcome.unpack() == [clean[i] for i in found.aa.outcome.positions(len(clean))]
    assert (found.ra.precision, found.aa.precision) == ("bf16", "bf16")
    assert backbone.low[True] > 0
    assert backbone.low[False] == 0


@pytest.mark.usefixtures("only_the_original_is_installed")
def test_the_original_package_judges_in_fp32_too(tmp_path: Path) -> None:
    backbone = WrongInLow()
    found = measure(tmp_path, model=classifier(backbone), attack_precision="bf16", eps=0.0)
    assert found.aa is not None
    assert found.aa.package == "autoattack"
    assert found.aa.outcome.correct == sum(found.sa.unpack()[i] for i in found.aa.outcome.positions(22))
    assert backbone.low[False] == 0


def test_the_gradients_are_those_of_low_precision(tmp_path: Path, whole: Evaluation) -> None:
    found = measure(tmp_path, model=classifier(WrongInLow()), attack_precision="bf16", autoattack=False)
    assert found.ra.outcome.correct > whole.ra.outcome.correct  # the attack climbs the opposite of the loss
    features = [
        attacked_features(classifier(WrongInLow()), SPLIT, recipe(attack_precision=one), seed=0, device=CPU, monitor=m)
        for one, m in (("fp32", Recorder()), ("bf16", Recorder()))
    ]
    assert not torch.equal(*features)


def test_fp32_is_the_default_and_wraps_nothing(tmp_path: Path, whole: Evaluation) -> None:
    assert outcomes(measure(tmp_path, attack_precision="fp32")) == outcomes(whole)
    assert whole.aa is not None
    assert (whole.ra.precision, whole.aa.precision) == ("fp32", "fp32")
    model = classifier()
    assert type(attacked_copy(model, "fp32")) is type(model)
    assert recipe().protocol_digest("slf") == recipe(attack_precision="fp32").protocol_digest("slf")
    assert recipe().protocol_digest("slf") != recipe(attack_precision="bf16").protocol_digest("slf")


def test_logits_of_low_precision_arrive_in_float32() -> None:
    model = classifier()
    images = SPLIT.images[:4].float() / 255
    low = attacked_copy(model, "bf16")
    logits = low(images)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())
    assert torch.equal(torch.no_grad()(low)(images), model(images))
