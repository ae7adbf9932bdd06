"""Features of images, clean or attacked, for the analysis of a representation."""

import torch
from torch import Tensor

from bench.attack import NamedAttack
from bench.data import Split, unit_pixels
from bench.evaluation.attacked import attacked_copy
from bench.monitor import Monitor
from bench.nn import Classifier, Encoder
from bench.recipe import Recipe, Threat

_CONSTANT = 1e-3
_MOST = 1024


def clean_features(classifier: Classifier, split: Split, recipe: Recipe, *, device: torch.device) -> Tensor:
    """Return the features of ``split`` from the encoder of ``classifier``: float32 [N, D], on the CPU."""
    classifier = classifier.to(device).eval()
    with torch.no_grad():
        batches = split.images.split(recipe.evaluate.batch_size)
        return torch.cat([classifier.encoder(unit_pixels(batch.to(device))).cpu() for batch in batches])


@torch.no_grad()
def sample_features(encoder: Encoder, images: Tensor, *, batch_size: int, device: torch.device) -> Tensor:
    """Return the features of at most 1,024 evenly spaced images.

    Args:
        encoder: pre-trained, in eval mode on ``device``.
        images: uint8 [N, C, H, W].
        batch_size: images per forward pass.
        device: where to compute.

    Returns:
        float64 [min(N, 1024), D] or fewer rows, on ``device``.
    """
    few = images[:: -(-len(images) // _MOST)]
    return torch.cat([encoder(unit_pixels(batch.to(device))).double() for batch in few.split(batch_size)])


def constant(features: Tensor) -> bool:
    """Return whether ``features`` [N, D] are the same for all images, as after a collapse.

    They count as the same if their root mean square distance from the mean is at most a thousandth of their root mean
    square length.
    """
    spread = (features - features.mean(0)).square().sum(1).mean().sqrt()
    return bool(spread <= _CONSTANT * features.square().sum(1).mean().sqrt())


def attacked_features(
    classifier: Classifier, split: Split, recipe: Recipe, *, seed: int, device: torch.device, monitor: Monitor
) -> Tensor:
    """Return the features of the adversarial images of RA's attack with one start: float32 [N, D], on the CPU.

    Raises:
        InterruptedRunError: a stop was requested.
    """
    classifier, settings = classifier.to(device).eval(), recipe.evaluate
    attacked = attacked_copy(classifier, settings.attack_precision)
    threat = Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)
    attack = NamedAttack(settings.attack, settings)
    found = []
    for first in range(0, len(split), settings.batch_size):
        monitor.check()
        batch = slice(first, first + settings.batch_size)
        x_adv = attack(
            attacked,
            unit_pixels(split.images[batch].to(device)),
            split.labels[batch].to(device),
            threat=threat,
            seed=seed,
            positions=range(first, min(first + settings.batch_size, len(split))),
        )
        with torch.no_grad():
            found.append(classifier.encoder(x_adv).cpu())
    return torch.cat(found)
