"""Protocols: from a pre-trained encoder to a classifier, the same way for every method."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.nn import Classifier, Encoder
from bench.protocol.adversarial import AFFStage, ALFStage, divergence
from bench.protocol.slf import SLFStage
from bench.protocol.stage import ProtocolStage
from bench.recipe import Recipe

__all__ = ["AFFStage", "ALFStage", "ProtocolStage", "SLFStage", "build_protocol", "divergence", "released_classifier"]


def build_protocol(name: str, recipe: Recipe, encoder: Encoder, labels: Tensor, seed: int) -> ProtocolStage[Any]:
    """Return the stage of the protocol ``name`` (one of ``PROTOCOLS``) under the recipe.

    Args:
        name: the protocol.
        recipe: gives its settings, the threat model and the number of classes.
        encoder: the encoder to evaluate; some protocols change it in place.
        labels: int64 [N], of the training images.
        seed: the run's seed.

    Raises:
        BenchError: too few training images to select an epoch on, if the recipe selects one.
    """
    settings = getattr(recipe, name)
    return _STAGES[name](settings, encoder, labels, recipe.dataset.num_classes, seed, recipe.threat)


def released_classifier(encoder: Encoder) -> Classifier:
    """Return the classifier of the protocol ``released``: ``encoder`` gives logits, and nothing is trained."""
    return Classifier(encoder, nn.Identity()).eval()  # type: ignore[arg-type]  # the one head that is not linear


_STAGES: Mapping[str, type[ProtocolStage[Any]]] = {"slf": SLFStage, "alf": ALFStage, "aff": AFFStage}
