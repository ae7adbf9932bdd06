"""The verdict on an answer: whether it is right."""

from torch import Tensor


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which images are classified correctly: [B, K], int64 [B] -> bool [B], without waiting for the device.

    An image with a logit that is not finite is wrong: it has no answer, though ``argmax`` gives one for it.
    """
    right: Tensor = (logits.argmax(1) == labels) & logits.isfinite().all(1)
    return right
