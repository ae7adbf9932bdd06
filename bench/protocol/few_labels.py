"""SLF with the labels of few training images."""

import torch
from torch import Tensor

from bench import rng
from bench.nn import Encoder
from bench.protocol.slf import SLFStage
from bench.recipe import FewLabelSettings, Threat, canonical_digest
from bench.record import LabelledSubset


class FewLabelStage(SLFStage):
    """SLF on a subset of the training images, the same number of each class.

    The subset depends on the labels, the fraction and the seed alone, so all methods use the same one, and 1 % of the
    labels are among the 10 %. An epoch repeats it until it has as many images as the training split: SLF's number of
    steps, under another view each time.
    """

    def __init__(
        self, settings: FewLabelSettings, encoder: Encoder, labels: Tensor, num_classes: int, seed: int, threat: Threat
    ) -> None:
        super().__init__(settings, encoder, labels, num_classes, seed, threat)
        each = settings.labelled(len(labels), num_classes)
        self._chosen = balanced_subset(labels, each, rng.generator(seed, "labelled"))

    def positions(self, count: int) -> Tensor:
        """Return the labelled images' positions, repeated to ``count`` in all."""
        return self._chosen.repeat(-(-count // len(self._chosen)))[:count].sort().values

    @property
    def labelled(self) -> LabelledSubset:
        """The labelled images."""
        positions = self._chosen.tolist()
        return LabelledSubset(images=len(positions), sha256=canonical_digest(positions))


def balanced_subset(labels: Tensor, each: int, generator: torch.Generator) -> Tensor:
    """Return the positions of ``each`` random images of every class, or of all in a class of fewer.

    Args:
        labels: int64 [N], on the CPU.
        each: at least 1.
        generator: of the CPU.

    Returns:
        int64, ascending.
    """
    order = torch.randperm(len(labels), generator=generator)
    drawn = [order[labels[order] == label][:each] for label in labels.unique()]
    return torch.cat(drawn).sort().values
