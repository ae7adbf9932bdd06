"""APGD of the official AutoAttack package, untargeted, and targeted at few classes that are near."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench import rng
from bench.attack.official import apgd, installed_package
from bench.recipe import Norm, Threat

_CANDIDATES = 20
"""Classes with the largest wrong logits that are ranked; one backward pass each."""


class _FromPackage:
    @property
    def package(self) -> str:
        """The package whose APGD runs."""
        return installed_package()


@dataclass(frozen=True)
class APGD(_FromPackage):
    """Auto-PGD on cross-entropy or the difference of logits ratio, from one random start.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks" (2020), algorithm 1; 100 steps as in their standard version.
    """

    loss: Literal["ce", "dlr"]
    steps: int = 100

    @property
    def least_classes(self) -> int:
        """As many as the loss compares."""
        return 3 if self.loss == "dlr" else 2

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat, generator: torch.Generator
    ) -> Tensor:
        """Return ``images``, with those that were broken replaced."""
        seed = _drawn(generator)
        with rng.scoped(seed, "apgd", device=images.device):
            attack = apgd(model, threat, steps=self.steps, seed=seed % 2**31, loss=self.loss)
            found: Tensor = attack.perturb(images, labels)
        return found


@dataclass(frozen=True)
class TargetedAPGD(_FromPackage):
    """Auto-PGD on the targeted difference of logits ratio, once for each of the ``targets`` that rank first.

    Ranked by the logit this is APGD-T of AutoAttack, which takes 9 targets. Ranked by the distance to the decision
    boundary, few targets are enough: Melamed et al., "MALT Powers Up Adversarial Attacks" (2024), section 3.
    """

    targets: int
    ranking: Literal["logit", "distance"]
    steps: int = 100

    least_classes: ClassVar[int] = 4

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat, generator: torch.Generator
    ) -> Tensor:
        """Return ``images``, with those that were broken replaced; an image is tried until one target breaks it."""
        seed = _drawn(generator)
        nearest = nearest_classes(model, images, labels, norm=threat.norm if self.ranking == "distance" else None)
        found = images.clone()
        standing = torch.arange(len(images), device=images.device)
        with rng.scoped(seed, "apgd", device=images.device):
            for targets in nearest[:, : self.targets].T:
                if not len(standing):
                    break
                x, y = images[standing], labels[standing]
                attack = apgd(model, threat, steps=self.steps, seed=seed % 2**31, loss="dlr-targeted")
                attack.init_hyperparam(x)
                attack.y_target = targets[standing]
                _, correct, _, x_adv = attack.attack_single_run(x, y)
                broken = correct == 0
                found[standing[broken]] = x_adv[broken]
                standing = standing[~broken]
        return found


def nearest_classes(model: nn.Module, images: Tensor, labels: Tensor, *, norm: Norm | None) -> Tensor:
    """Return the wrong classes of each image, nearest first, among the 20 with the largest logits.

    Args:
        model: [B, C, H, W] -> logits [B, K].
        images: [B, C, H, W].
        labels: int64 [B].
        norm: in which the distance to the boundary of each class is measured, on the linear model that has the logits
            and gradients of ``model`` at the image; None: by the logit alone.

    Returns:
        int64 [B, min(20, K - 1)].
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits: Tensor = model(x)
        ranked = logits.detach().scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
        candidates = ranked[:, : min(_CANDIDATES, logits.shape[1] - 1)]
        if norm is None:
            return candidates
        gaps = logits.gather(1, labels[:, None]) - logits.gather(1, candidates)
        slopes = [torch.autograd.grad(gap.sum(), x, retain_graph=True)[0].flatten(1) for gap in gaps.T]
    # A linear function falls fastest, over a step of length 1 in a norm, by the dual norm of its gradient.
    dual = 1 if norm == "linf" else 2
    steepness = torch.stack([torch.linalg.vector_norm(slope, ord=dual, dim=1) for slope in slopes], dim=1)
    return candidates.gather(1, (gaps.detach() / steepness.clamp_min(1e-12)).argsort(1))


def _drawn(generator: Any) -> int:
    """Return the seed for a library that draws from the global generators."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
