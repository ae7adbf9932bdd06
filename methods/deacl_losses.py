"""The forms of DeACL's second-stage loss: thirteen names, composed from two terms and three measures.

The authors' code lists the names but implements only the default, so the other twelve are our reading: ce is the
clean student, ae the adversarial one, gt the teacher's target, and "u2v" pulls u towards v. What the names leave
open is our choice: the definitions of :func:`divergence` and :func:`info_nce` and a common temperature. In "u2v"
neither side is detached, as in the implemented default.

Source: DeACL section 3.3; ``solo/methods/mocov2_distillation_AT.py`` of pantheon5100/DeACL at 3fb81e3.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.losses import in_float32, negative_cosine

Measure = Callable[[Tensor, Tensor, float], Tensor]
"""(u [B, D], v [B, D], temperature) -> how far u is from v, a scalar."""


def cosine(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows of -cos(u_i, v_i); it has no temperature."""
    return negative_cosine(u, v).mean()


@in_float32
def divergence(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows of KL(softmax(v_i / T) || softmax(u_i / T)), the direction of TRADES."""
    of_u, of_v = (F.log_softmax(features / temperature, dim=1) for features in (u, v))
    return F.kl_div(of_u, of_v, reduction="batchmean", log_target=True)


@in_float32
def info_nce(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE: the mean of -log(exp(cos(u_i, v_i) / T) / sum over j of exp(cos(u_i, v_j) / T)).

    The negatives of an image are the other images of the batch.
    """
    of_u, of_v = (F.normalize(features, dim=1) for features in (u, v))
    return F.cross_entropy(of_u @ of_v.T / temperature, torch.arange(len(of_u), device=u.device))


class LossForm(NamedTuple):
    """The student that is pulled towards the teacher, and the measures."""

    pulled: Literal["clean", "adversarial"]
    to_teacher: Measure
    to_clean: Measure | None
    """Pulls the adversarial student towards the clean one, weighted by lambda; None: no second term."""

    @property
    def has_temperature(self) -> bool:
        """Whether any of its measures has one."""
        return not {self.to_teacher, self.to_clean} <= {cosine, None}


LossName = Literal[
    "ce2gt_ae2ce",
    "ae2gt_ae2ce",
    "pgd",
    "ae2gt_kl",
    "ae2gt_infonce",
    "ce2gt_ae2ce_kl",
    "ce2gt_ae2ce_infonce",
    "cs.ce2gt._kl.ae2ce.",
    "kl.ce2gt._cs.ae2ce.",
    "cs.ce2gt._infonce.ae2ce.",
    "infonce.ce2gt._cs.ae2ce.",
    "infonce.ce2gt._kl.ae2ce.",
    "kl.ce2gt._infonce.ae2ce.",
]

LOSS_FORMS: Mapping[LossName, LossForm] = {
    "ce2gt_ae2ce": LossForm("clean", cosine, cosine),
    "ae2gt_ae2ce": LossForm("adversarial", cosine, cosine),
    "pgd": LossForm("adversarial", cosine, None),
    "ae2gt_kl": LossForm("adversarial", divergence, None),
    "ae2gt_infonce": LossForm("adversarial", info_nce, None),
    "ce2gt_ae2ce_kl": LossForm("clean", divergence, divergence),
    "ce2gt_ae2ce_infonce": LossForm("clean", info_nce, info_nce),
    "cs.ce2gt._kl.ae2ce.": LossForm("clean", cosine, divergence),
    "kl.ce2gt._cs.ae2ce.": LossForm("clean", divergence, cosine),
    "cs.ce2gt._infonce.ae2ce.": LossForm("clean", cosine, info_nce),
    "infonce.ce2gt._cs.ae2ce.": LossForm("clean", info_nce, cosine),
    "infonce.ce2gt._kl.ae2ce.": LossForm("clean", info_nce, divergence),
    "kl.ce2gt._infonce.ae2ce.": LossForm("clean", divergence, info_nce),
}
