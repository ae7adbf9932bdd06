"""The objectives of attacks on classifiers, and a record of the images whose gradient gives no direction."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Objective = Callable[[Tensor], Tensor]
"""x_adv [B, C, H, W] -> [B], the values to maximise. Images must not influence each other's values, except
in contrastive losses."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [B, K] and labels int64 [B] -> [B], the values to maximise."""


def log_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return m, the logsumexp of the wrong classes' logits minus the right logit: [B, K], int64 [B] -> [B].

    Cross-entropy is softplus(m), so its gradient is sigmoid(m) > 0 times that of m. A step along the gradient's
    sign, or along the gradient divided by its length, is the same for both in exact arithmetic. In floating point
    the gradient of cross-entropy is rounded to zero where the right logit is far ahead; that of m is not.
    """
    right = labels[:, None]
    wrong = logits.scatter(1, right, -torch.inf).logsumexp(1)
    return wrong - logits.gather(1, right)[:, 0]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image; its gradient vanishes in float32 where the right logit is far ahead."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest wrong logit minus the right one, which is positive where the image is misclassified.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks" (2017), objective f6, uncut.
    """
    right = labels[:, None]
    return logits.scatter(1, right, -torch.inf).amax(1) - logits.gather(1, right)[:, 0]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio: :func:`margin` over the largest logit minus the third largest.

    It does not change when all logits are scaled or shifted. There must be at least 3 classes.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks" (2020), equation 6.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def margin_objective(model: nn.Module, labels: Tensor) -> Objective:
    """Return the objective of supervised attacks: each image's :func:`log_margin` under ``labels`` (int64 [B])."""
    return lambda x: log_margin(model(x), labels)


class GradientWatch:
    """Notes the images whose gradient is zero everywhere or not finite somewhere; passed as ``on_gradient``.

    Such an image is not moved, so its outcome shows little about the model.
    """

    first: Tensor
    """bool [B]: found at the first step."""
    last: Tensor
    """bool [B]: found at the latest step."""

    @property
    def used(self) -> bool:
        """Whether any gradient was passed; an external attack need not pass one."""
        return hasattr(self, "first")

    def __call__(self, gradient: Tensor) -> None:
        """Note the gradient of the next step, [B, C, H, W]."""
        flat = gradient.flatten(1)
        self.last = (flat == 0).all(1) | ~flat.isfinite().all(1)
        if not hasattr(self, "first"):
            self.first = self.last
