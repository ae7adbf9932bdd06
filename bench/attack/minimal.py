"""The minimum-norm attack: the nearest misclassified image, and so the accuracy at every radius from one run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.attack.ball import distance
from bench.errors import BenchError
from bench.recipe import Norm, Threat


@dataclass(frozen=True)
class MinimumNorm:
    """FMN under ``linf`` and DDN under ``l2``, from the package foolbox.

    FMN for ``l2`` is not used: foolbox 3.3.4 does not project its perturbations onto the ball.

    Source: Pintor et al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints" (2021), and Rony
    et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and Defenses" (2019).
    """

    steps: int = 100

    @property
    def package(self) -> str:
        """The package whose attacks run; raises BenchError where it is not installed."""
        name: str = _foolbox().__name__
        return name

    def nearest(self, model: nn.Module, images: Tensor, labels: Tensor, *, norm: Norm) -> Tensor:
        """Return the nearest misclassified images that were found; the image itself where none was found.

        Args:
            model: in eval mode, [B, C, H, W] in [0, 1] -> logits [B, K].
            images: float32 [B, C, H, W] in [0, 1].
            labels: int64 [B].
            norm: in which perturbations are measured.

        Raises:
            BenchError: foolbox is not installed.
        """
        foolbox = _foolbox()
        attack = foolbox.attacks.LInfFMNAttack if norm == "linf" else foolbox.attacks.DDNAttack
        subject = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        with torch.enable_grad():
            found, _, _ = attack(steps=self.steps)(subject, images, labels, epsilons=None)
        nearest: Tensor = found.detach()
        return nearest

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: Threat, generator: Any = None
    ) -> Tensor:
        """Return the nearest misclassified images where ``threat`` allows them, and the image itself elsewhere."""
        found = self.nearest(model, images, labels, norm=threat.norm)
        allowed = distance(found, images, threat.norm) <= threat.eps
        return torch.where(allowed[:, None, None, None], found, images)


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:
        raise BenchError(
            f"the attack 'min-norm' needs foolbox ({error}). Type: pip install 'ssl-robustness-bench[foolbox]'"
        ) from None
    return foolbox
