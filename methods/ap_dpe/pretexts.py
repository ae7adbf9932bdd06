"""The three pretext tasks: the puzzle each makes from an image, and its loss.

A task is an encoder with a head. ``pose`` draws the puzzle of a batch once per step, so that attack, clean and
adversarial pass see the same rotation, permutation or mask; ``forward`` solves it.
"""

import math
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.nn import Encoder
from methods.ap_dpe.attention import AttentionPooling
from methods.ap_dpe.grid import CELLS, cells, reorder, rotate
from methods.losses import in_float32

SelfieLoss = Literal["double-softmax", "scaled"]


class Puzzle(NamedTuple):
    """The task for one batch."""

    images: Tensor
    """[B, C, H, W] in [0, 1]: the input of the attack and the encoder, already rotated or permuted."""
    answer: Tensor
    """int64: classes [B], or Selfie's order of the sixteen cells."""


class Judged(NamedTuple):
    """The loss and accuracy of the answers to a puzzle."""

    loss: Tensor
    """[B]."""
    accuracy: Tensor
    """Detached scalar in [0, 1]."""


class Pretext(Protocol):
    """The interface of a task."""

    def pose(self, images: Tensor, generator: torch.Generator) -> Puzzle:
        """Draw a puzzle from ``images`` [B, C, H, W] in [0, 1]."""

    def __call__(self, images: Tensor, answer: Tensor, generator: torch.Generator) -> Judged:
        """Return the result of the network on ``images``, the puzzle's own or attacked ones."""


class Rotation(nn.Module):
    """Task: predict by how many quarter turns the image was rotated.

    The labels of a batch are balanced: 0, 1, 2, 3 in turn, shuffled, and cut to the batch.
    """

    classes = 4

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.feature_dim, self.classes)

    def pose(self, images: Tensor, generator: torch.Generator) -> Puzzle:
        """Turn each of ``images``, counter-clockwise."""
        batch = len(images)
        shuffled = torch.randperm(self.classes * (batch // self.classes + 1), generator=generator, device=images.device)
        turns = shuffled[:batch] % self.classes
        return Puzzle(rotate(images, turns), turns)

    def forward(self, images: Tensor, answer: Tensor, generator: torch.Generator) -> Judged:
        """Return the cross-entropy of the turns ``answer`` (int64 [B])."""
        return _classified(self.head(self.encoder(images)), answer)


class Jigsaw(nn.Module):
    """Task: predict by which of 31 permutations the image's sixteen cells were shuffled.

    Class 0 is the identity; the other 30 are drawn once, and kept with the weights. Classes are drawn uniformly,
    and then set to 0 with probability 0.1.
    """

    permutations: Tensor
    classes = 31
    identity_prob = 0.1

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.feature_dim, self.classes)
        drawn = [torch.randperm(CELLS) for _ in range(self.classes - 1)]
        self.register_buffer("permutations", torch.stack([torch.arange(CELLS), *drawn]))

    def pose(self, images: Tensor, generator: torch.Generator) -> Puzzle:
        """Permute the cells of each of ``images``."""
        batch, device = len(images), images.device
        drawn = torch.randint(self.classes, (batch,), generator=generator, device=device)
        spared = torch.rand(batch, generator=generator, device=device) < self.identity_prob
        answer = drawn.masked_fill(spared, 0)
        return Puzzle(reorder(images, self.permutations[answer]), answer)

    def forward(self, images: Tensor, answer: Tensor, generator: torch.Generator) -> Judged:
        """Return the cross-entropy of the permutations ``answer`` (int64 [B])."""
        return _classified(self.head(self.encoder(images)), answer)


class Selfie(nn.Module):
    """Task: assign four hidden patches to their four cells.

    One random order of the cells per batch: the first four are hidden, the other twelve visible. The encoder, which
    ends after layer 3, sees all sixteen as separate small images.

    Args:
        encoder: [B, C, H / 4, W / 4] -> [B, channels].
        loss: ``double-softmax``, or ``scaled``; see :func:`selfie_loss`.

    Source: Selfie (Trinh et al., arXiv 1906.02940).
    """

    hidden = 4

    def __init__(self, encoder: Encoder, loss: SelfieLoss) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = AttentionPooling(encoder.feature_dim)
        self._loss: SelfieLoss = loss

    def pose(self, images: Tensor, generator: torch.Generator) -> Puzzle:
        """Draw which cells are hidden; ``images`` stay as they are."""
        return Puzzle(images, torch.randperm(CELLS, generator=generator, device=images.device))

    def forward(self, images: Tensor, answer: Tensor, generator: torch.Generator) -> Judged:
        """Return the loss of placing the hidden patches ``answer[:4]``; ``generator`` draws the dropout."""
        hidden, visible = answer[: self.hidden], answer[self.hidden :]
        patches = self.encoder(cells(images).flatten(0, 1)).unflatten(0, (len(images), CELLS))
        queries = self.pooling(patches[:, visible], hidden, generator)
        scores = queries @ patches[:, hidden].mT
        right = scores.detach().argmax(dim=2) == torch.arange(self.hidden, device=scores.device)
        loss = selfie_loss(scores, self._loss, channels=self.encoder.feature_dim)
        return Judged(loss, right.float().mean())


@in_float32
def selfie_loss(scores: Tensor, kind: SelfieLoss, *, channels: int) -> Tensor:
    """Return the loss of each image, [B].

    ``double-softmax`` is the authors' form: their cross-entropy, which contains a softmax, gets
    probabilities, and the terms of the M queries are added up. With M = 4 each term lies in [0.744, 1.744], chance is
    1.386, and almost no gradient is left once the inner softmax is saturated. ``scaled`` is one cross-entropy of
    scores / sqrt(channels), averaged over the queries.

    Args:
        scores: products [B, M, M], queries x hidden patches, the right ones on the diagonal.
        kind: which of the two forms.
        channels: length of a query.
    """
    target = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    if kind == "double-softmax":
        return F.cross_entropy(scores.softmax(dim=2).mT, target, reduction="none").sum(dim=1)
    return F.cross_entropy((scores / math.sqrt(channels)).mT, target, reduction="none").mean(dim=1)


def _classified(logits: Tensor, answer: Tensor) -> Judged:
    right = logits.detach().argmax(dim=1) == answer
    return Judged(F.cross_entropy(logits, answer, reduction="none"), right.float().mean())
