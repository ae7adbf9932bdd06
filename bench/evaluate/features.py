"""Features of test images, clean or attacked, for those who look at a representation itself."""

import torch
from torch import Tensor

from bench import rng
from bench.attack import PGD, Threat, cross_entropy_objective
from bench.data import Split
from bench.nn import Classifier
from bench.recipe import Recipe
from bench.stop import Stop


def clean_features(classifier: Classifier, split: Split, recipe: Recipe, *, device: torch.device) -> Tensor:
    """Return what the encoder of ``classifier`` makes of ``split``: float32 [N, D], on the CPU."""
    classifier = classifier.to(device).eval()
    with torch.no_grad():
        batches = split.images.split(recipe.evaluate.batch_size)
        return torch.cat([classifier.encoder(batch.to(device).float().div(255)).cpu() for batch in batches])


def attacked_features(
    classifier: Classifier, split: Split, recipe: Recipe, *, seed: int, device: torch.device, stop: Stop
) -> Tensor:
    """Return the features of the images that RA's attack finds, with one start: float32 [N, D], on the CPU.

    Raises:
        InterruptedRunError: a stop was requested.
    """
    classifier, settings = classifier.to(device).eval(), recipe.evaluate
    attacked, threat = classifier.prepared(), Threat(norm=recipe.threat.norm, eps=recipe.eval_eps)
    attack = PGD(settings.pgd_steps, settings.pgd_step_size, settings.pgd_start)
    found = []
    for first in range(0, len(split), settings.batch_size):
        stop.check()
        batch = slice(first, first + settings.batch_size)
        x_adv = attack(
            cross_entropy_objective(attacked, split.labels[batch].to(device)),
            split.images[batch].to(device).float().div(255),
            threat=threat,
            generator=rng.generator(seed, "pgd", first, 0, device=device),
        )
        with torch.no_grad():
            found.append(classifier.encoder(x_adv).cpu())
    return torch.cat(found)
