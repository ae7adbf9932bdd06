"""Test images before and after the attack, a few of each verdict."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.attack import NamedAttack
from bench.data import Dataset, unit_pixels
from bench.evaluation import attacked_copy
from bench.recipe import Threat
from bench.report.verdict import Verdict, verdicts
from bench.run import Finished


class Example(NamedTuple):
    """One test image under the attack of RA; pictures are uint8 [C, H, W]."""

    position: int
    """In the test split."""
    verdict: Verdict
    """As the record has it."""
    label: str
    clean: np.ndarray
    clean_prediction: str
    adversarial: np.ndarray
    adversarial_prediction: str
    perturbation: np.ndarray
    """Amplified; grey is no change."""
    amplified: float
    """By how much."""


def examples(finished: Finished, dataset: Dataset, device: torch.device, *, of_each: int) -> list[Example]:
    """Return the first ``of_each`` test images of each verdict under the attack of RA, attacked again.

    The attack is the first of the record's restarts. The outcome of an image may differ from a record whose starts were
    drawn per batch, or that has further restarts.

    Raises:
        BenchError: the classifier's weights are missing, damaged, or not those of the record.
    """
    record, settings = finished.record, finished.recipe.evaluate
    found = verdicts(record.sa, record.ra.outcome)
    chosen = [
        place for verdict in Verdict for place in [i for i, each in enumerate(found) if each is verdict][:of_each]
    ]
    classifier = finished.classifier(device)
    images = unit_pixels(dataset.test.images[chosen].to(device))
    labels = dataset.test.labels[chosen].to(device)
    threat = Threat(norm=finished.recipe.threat.norm, eps=record.ra.eps)
    adversarial = NamedAttack(settings.attack, settings)(
        attacked_copy(classifier, settings.attack_precision),
        images,
        labels,
        threat=threat,
        seed=record.seed,
        positions=chosen,
    )
    with torch.no_grad():
        predictions = [classifier(batch).argmax(1).tolist() for batch in (images, adversarial)]
    factor = _amplification(adversarial - images)
    pictures = [_pixels(x) for x in (images, adversarial, 0.5 + factor * (adversarial - images))]
    return [
        Example(
            position=place,
            verdict=found[place],
            label=dataset.classes[labels[i]],
            clean=pictures[0][i],
            clean_prediction=dataset.classes[predictions[0][i]],
            adversarial=pictures[1][i],
            adversarial_prediction=dataset.classes[predictions[1][i]],
            perturbation=pictures[2][i],
            amplified=factor,
        )
        for i, place in enumerate(chosen)
    ]


def _amplification(perturbations: Tensor) -> float:
    """Return the factor that makes the largest change of a pixel as large as black or white is from grey."""
    largest = float(perturbations.abs().max())
    return 0.5 / largest if largest else 1.0


def _pixels(images: Tensor) -> np.ndarray:
    pixels: np.ndarray = images.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return pixels
