"""An augmentation that anneals: the curriculum of DynACL, which AIR trains under, too."""

from pydantic import Field

from bench.data.views import StrongView
from methods.acl import ACLSettings


class AnnealedSettings(ACLSettings):
    """ACL's settings, and those of the curriculum; ``view`` is the augmentation at full strength."""

    levels: int = Field(default=20, ge=1)
    """How many strengths of augmentation and how many weights there are: one for 50 of the 1000 epochs."""
    reweighting: float = Field(default=2 / 3, ge=0, le=1)
    """How far the weight of the loss of attacked views rises above 1, and that of clean views falls, at strength 0."""

    def strength(self, epoch: int) -> float:
        """Return the strength of augmentation in the 0-based ``epoch``: from 1 down to 1 / levels."""
        return 1 - epoch * self.levels // self.epochs / self.levels

    def adversarial_weight(self, epoch: int) -> float:
        """Return the weight of the loss of attacked views in the 0-based ``epoch``; that of clean views makes it 2."""
        return 1 + self.reweighting * (1 - self.strength(epoch))

    def view_in(self, epoch: int) -> StrongView:
        """Return the augmentation of the 0-based ``epoch``."""
        return weakened(self.view, self.strength(epoch))


def weakened(view: StrongView, strength: float) -> StrongView:
    """Return ``view`` at a ``strength`` between 0 and 1: at 0 images are mirrored, and get its largest crop."""
    smallest, largest = view.crop_scale
    return view.model_copy(
        update={
            "crop_scale": (largest - strength * (largest - smallest), largest),
            "jitter": tuple(strength * part for part in view.jitter),
            "jitter_prob": strength * view.jitter_prob,
            "grayscale_prob": strength * view.grayscale_prob,
            "blur_prob": strength * view.blur_prob,
            "solarize_prob": strength * view.solarize_prob,
        }
    )
