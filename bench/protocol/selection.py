"""Model selection: the epoch with the highest robust accuracy on held-out training images."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack import PGD, attacking, correct, margin_objective
from bench.data import ImageSource, unit_pixels
from bench.errors import BenchError
from bench.nn import Classifier
from bench.recipe import FinetuneSettings, Threat

_STEP_SIZE = 0.25  # of eps, as in RA


def held_out(settings: FinetuneSettings, count: int, num_classes: int, seed: int) -> Tensor:
    """Return the positions of the held-out images among ``count``: int64, ascending; they depend only on the seed.

    Raises:
        BenchError: fewer held-out images than classes.
    """
    wanted = settings.held_out(count)
    if wanted < num_classes:
        raise BenchError(
            f"{settings.section}.selection_fraction={settings.selection_fraction:g} holds out {wanted} of {count} "
            f"training images, fewer than there are classes ({num_classes}): too few to select an epoch on. Set a "
            f"larger fraction, or {settings.section}.selection=last, with --set."
        )
    order = torch.randperm(count, generator=rng.generator(seed, "held out"))
    return order[:wanted].sort().values


class BestEpoch(nn.Module):
    """The best classifier so far and its accuracy: part of the stage's state, so that resuming is exact.

    Args:
        chosen: int64 [M], the positions of the held-out images.
        seed: the run's; the attack has the same random starts in every epoch.
    """

    chosen: Tensor
    epoch: Tensor
    """The epoch of the best classifier, from 1 on; 0 before the first."""
    accuracy: Tensor
    """Its robust accuracy on the held-out images."""

    def __init__(
        self, classifier: Classifier, chosen: Tensor, settings: FinetuneSettings, threat: Threat, seed: int
    ) -> None:
        super().__init__()
        self.classifier = deepcopy(classifier).requires_grad_(False)
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self._settings, self._threat, self._seed = settings, threat, seed

    def judge(self, classifier: Classifier, epoch: int, images: ImageSource, labels: Tensor) -> Mapping[str, float]:
        """Measure ``classifier`` after the 0-based ``epoch``, and keep a copy if it is better than all before.

        ``images`` and ``labels`` are those of the whole training split.
        """
        accuracy = self._robust_accuracy(classifier, images, labels[self.chosen])
        if accuracy > float(self.accuracy):
            self.classifier.load_state_dict(classifier.state_dict())
            self.accuracy.fill_(accuracy)
            self.epoch.fill_(epoch + 1)
        return {"held-out robust accuracy": accuracy}

    def _robust_accuracy(self, classifier: Classifier, images: ImageSource, labels: Tensor) -> float:
        right, attacked = 0, classifier.prepared()
        generator = rng.generator(self._seed, self._settings.section, "selection", device=labels.device)
        size = self._settings.batch_size
        batches = images.batches(self.chosen.split(size))  # they may not fit the memory together
        attack = PGD(self._settings.selection_steps, _STEP_SIZE, "uniform")
        for batch, target in zip(batches, labels.split(size), strict=True):
            objective = margin_objective(attacked, target)
            adversarial = attack(objective, unit_pixels(batch), threat=self._threat, generator=generator)
            with attacking(classifier), torch.no_grad():  # as in RA, on the classifier itself
                right += int(correct(classifier(adversarial), target).sum())
        return right / len(labels)
