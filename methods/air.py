"""AIR: adversarial invariant regularisation (Xu, Zhang, Liu, Sugiyama & Kankanhalli, NeurIPS 2023).

Dual-stream ACL, trained under DynACL's curriculum, with two regularisers: a view's relation to the image that it was
made of should not depend on the augmentation, whether the view is clean (SIR) or attacked (AIR).
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bench.data import unit_pixels
from bench.method import MethodContext, MethodInfo, StepLoss, single_stage
from bench.nn import branches
from bench.recipe import MethodConfig
from methods.acl import DualStream
from methods.annealing import AnnealedSettings
from methods.losses import in_float32, nt_xent

Divergence = Literal["released", "kl"]


class AIRSettings(AnnealedSettings):
    """The released recipe: ``pretraining.py`` of GodXuxilie/Enhancing_ACL_via_AIR at 15cf0a7; all else is ACL's.

    The defaults are DynACL-AIR. ``levels=1`` is ACL-AIR: the augmentation keeps its full strength, and both losses
    have the weight 1.
    """

    lambda1: float = Field(default=0.5, ge=0)
    """Weight of the regulariser of clean views, SIR."""
    lambda2: float = Field(default=0.5, ge=0)
    """Weight of the regulariser of attacked views, AIR."""
    divergence: Divergence = "released"
    """``released``: what the authors' code computes, with which the published numbers were made. ``kl``: the paper's
    Kullback-Leibler divergence. See :func:`divergence_of`."""


class AIRConfig(MethodConfig):
    """The stage, and the stream that is evaluated."""

    branch: Literal["adversarial", "clean"] = "adversarial"
    """Which batch-norm layers the evaluated encoder has."""
    stage1: AIRSettings = AIRSettings()


@in_float32
def log_shares(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return each image's share of its batch, as a logarithm: [N, D], [N, D] -> [N].

    The shares are the softmax over i of cos(z_i, anchor_i) / T. They compare no image with another one.
    """
    return F.log_softmax(F.cosine_similarity(z, anchors, dim=1) / temperature, dim=0)


@in_float32
def divergence_of(first: Tensor, second: Tensor, divergence: Divergence) -> Tensor:
    """Return how far the shares p of first views and q of second views are apart, from log p and log q: [N] -> scalar.

    ``kl`` is KL(q || p), the sum of q (log q - log p): the order in which the code passes the views. ``released`` is
    the sum of q (log q - p), since the code passes p to ``F.kl_div`` where it expects log p.

    Source: ``AIR.py`` at 15cf0a7.
    """
    compared = first.exp() if divergence == "released" else first
    return (second.exp() * (second - compared)).sum()


class AIRViews(NamedTuple):
    """Two views of each image, half a batch apart, the images themselves, and where the attack's start is drawn from.

    All images are float [., C, H, W] in [0, 1].
    """

    images: Tensor
    originals: Tensor
    generator: torch.Generator


class AIRStage(DualStream):
    """Minimises the weighted sum of ACL's two losses and of the two regularisers.

    As in the authors' code:

    - under DynACL's curriculum, too, there is no momentum network, and the sum is not halved;
    - the attack is ACL's, on the contrastive loss alone;
    - the train-mode passes come one after the other: attacked views in the adversarial branch, clean views in the
      clean branch, then the images themselves in the clean branch, whose running statistics thus move twice a step;
    - shares of attacked views are products of two softmaxes, and do not sum to one.
    """

    plan: AIRSettings

    def __init__(self, config: AIRConfig, ctx: MethodContext) -> None:
        super().__init__(config.stage1, ctx)
        self.clean, self.adversarial = branches(self.new_branch(ctx), 2)
        self.encoder = getattr(self, config.branch).encoder
        self.before_epoch(0)

    def before_epoch(self, epoch: int) -> None:
        """Set the strength of augmentation and the weight of the losses."""
        self.view = self.plan.view_in(epoch)
        self.adversarial_weight = self.plan.adversarial_weight(epoch)

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> AIRViews:
        """uint8 [B, C, H, W] -> two views and the images themselves; the attack's start comes later."""
        both, _ = super().views(images, generator, index)
        return AIRViews(both, unit_pixels(images), generator)

    def forward(self, views: AIRViews) -> StepLoss:
        """Return the weighted sum of the four terms, with each as a scalar."""
        plan, tau, weight = self.plan, self.plan.temperature, self.adversarial_weight
        attacked = self.adversarial(self.attack_both(self.adversarial, views.images, views.generator)).chunk(2)
        clean = self.clean(views.images).chunk(2)
        originals = self.clean(views.originals)
        adversarial, standard = (nt_xent(z[0], z[1], tau) for z in (attacked, clean))
        shares = [log_shares(z, originals, tau) for z in clean]
        products = [
            log_shares(z, originals, tau) + log_shares(z, own, tau) for z, own in zip(attacked, clean, strict=True)
        ]
        sir, air = (divergence_of(p[0], p[1], plan.divergence) for p in (shares, products))
        total = (2 - weight) * standard + weight * adversarial + plan.lambda1 * sir + plan.lambda2 * air
        terms = {"adversarial": adversarial, "clean": standard, "sir": sir, "air": air}
        return StepLoss(total, {name: term.detach() for name, term in terms.items()})


AIR = single_stage(
    MethodInfo(
        title="DynACL-AIR",
        year=2023,
        paper="Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization, NeurIPS 2023",
        url="https://arxiv.org/abs/2305.00374",
        summary="ACL under DynACL's curriculum, regularised so that features do not depend on the augmentation",
        views="3",
        passes="15 fb",
        bibtex="""@inproceedings{xu2023air,
  title = {Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization},
  author = {Xu, Xilie and Zhang, Jingfeng and Liu, Feng and Sugiyama, Masashi and Kankanhalli, Mohan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}""",
    ),
    AIRConfig,
    AIRStage,
    native_encoder={"normalisation": "imagenet"},
)
"""ACL with two regularisers, under an augmentation that anneals; the adversarial branch is evaluated."""
