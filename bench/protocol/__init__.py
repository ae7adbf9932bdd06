"""Protocols: from a pre-trained encoder to a classifier, the same way for every method."""

from collections.abc import Mapping

from torch import Tensor, nn

from bench.nn import Classifier, Encoder
from bench.protocol.adversarial import AFFStage, ALFStage, divergence
from bench.protocol.few_labels import FewLabelStage
from bench.protocol.knn import KNNStage
from bench.protocol.slf import SLFStage
from bench.protocol.stage import FinetuneStage, ProtocolStage
from bench.recipe import Recipe

__all__ = [
    "AFFStage",
    "ALFStage",
    "FewLabelStage",
    "FinetuneStage",
    "KNNStage",
    "ProtocolStage",
    "SLFStage",
    "build_protocol",
    "divergence",
    "released_classifier",
]


def build_protocol(name: str, recipe: Recipe, encoder: Encoder, labels: Tensor, seed: int) -> ProtocolStage:
    """Return the stage of the protocol ``name`` (one of ``PROTOCOLS``) under the recipe.

    Args:
        name: the protocol.
        recipe: gives its settings, the threat model and the number of classes.
        encoder: the encoder to evaluate; some protocols change it in place.
        labels: int64 [N], of the training images.
        seed: the run's seed.

    Raises:
        BenchError: too few training images to select an epoch on, if the recipe selects one, or for k neighbours.
    """
    return _STAGES[name](recipe.protocol(name), encoder, labels, recipe.dataset.num_classes, seed, recipe.threat)


def released_classifier(encoder: Encoder) -> Classifier:
    """Return the classifier of the protocol ``released``: ``encoder`` gives logits, and nothing is trained."""
    return Classifier(encoder, nn.Identity()).eval()  # type: ignore[arg-type]  # no linear head


_STAGES: Mapping[str, type[SLFStage | ALFStage | AFFStage | FewLabelStage | KNNStage]] = {
    **{"slf": SLFStage, "alf": ALFStage, "aff": AFFStage},
    **{"knn": KNNStage, "knn-200": KNNStage, "slf-1pct": FewLabelStage, "slf-10pct": FewLabelStage},
}
"""By the name of the protocol."""
