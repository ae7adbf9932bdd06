"""SLF, standard linear finetuning: a linear classifier on frozen features."""

from torch.nn import functional as F

from bench.method import StepLoss
from bench.protocol.stage import FinetuneStage, Labelled, accuracy
from bench.recipe import SLFSettings


class SLFStage(FinetuneStage[SLFSettings]):
    """Trains a linear classifier with cross-entropy on clean, weakly augmented training images.

    The encoder gets no gradient in either variant. With ``encoder_bn = "eval"`` it is frozen exactly; with
    ``"train"`` its batch-norm statistics are overwritten, so a changed encoder is evaluated.

    Source: AdvCL's ``finetuning_advCL_SLF.py`` (eval); DeACL's ``adv_finetune.py`` at 3fb81e3 (train).
    """

    def forward(self, views: Labelled) -> StepLoss:
        """Return the mean cross-entropy of the linear classifier."""
        logits = self.head(self.encoder(views.images))
        return StepLoss(F.cross_entropy(logits, views.labels), {"accuracy": accuracy(logits, views.labels)})
