"""RoCL: robust contrastive learning (Kim, Tack & Hwang, NeurIPS 2020).

Without labels, an attack makes one view of an image unrecognisable as another view of the same image. The
network then learns contrastively that both views and the attacked one belong together.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from bench.attack import PGD, attacking
from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from bench.recipe import AttackSettings, OptimizerName, Start, TrainPlan
from methods.losses import in_float32
from methods.schedules import rocl_rate


class RoCLSettings(TrainPlan, AttackSettings):
    """The released recipe: the README's command and ``src/argument.py`` of Kim-Minseon/RoCL at b6d5185.

    Its eps of 0.0314 stands for 8/255. Here eps is the threat model's, and the step keeps the published ratio.
    """

    epochs: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=512, ge=2)
    """256 on each of two GPUs, with batch statistics shared between them."""
    drop_last: bool = False
    optimizer: OptimizerName = "lars"
    lr: float = Field(default=1.5, gt=0)
    """0.1 times the warm-up's multiplier of 15. No scaling rule is published."""
    weight_decay: float = Field(default=1e-6, ge=0)
    lars_eta: float = Field(default=0.001, gt=0)
    lars_clip: bool = False
    lars_exclude_vectors: bool = False
    """LARS scales and decay reaches every tensor, biases and batch-norm too."""
    schedules = {**TrainPlan.schedules, "rocl": rocl_rate}
    shaped_by = {**TrainPlan.shaped_by, "rocl": {"warmup_epochs", "warmup_start", "schedule_unit"}}
    schedule: str = "rocl"
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.1, ge=0)

    temperature: float = Field(default=0.5, gt=0)
    regularisation: float = Field(default=1 / 256, ge=0)
    """Weight of the extra term between the attacked view and view 2: ``--lamda`` 256 is its divisor."""
    steps: int = Field(default=7, ge=0)
    step_size: float = Field(default=0.007 / 0.0314, gt=0)
    start: Start = "uniform-clamped"
    attack_groups: int = Field(default=2, ge=1)
    """Number of equal parts of the batch for the attack and the extra term; negatives come from the same part only, as
    each of the two GPUs saw its own 256 images. With 1, the whole batch. Each part needs two images: without a
    negative there is nothing to attack, as for single images of a last batch."""
    projector: tuple[PositiveInt, ...] = Field(default=(2048, 128), min_length=1)
    """Widths of the projector's hidden and output layers; no batch-norm."""
    view: StrongView = StrongView(
        order="jitter_first",
        crop_scale=(0.08, 1.0),
        interpolation="bilinear",
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.0,
    )

    @model_validator(mode="after")
    def _negatives_in_each_group(self) -> Self:
        if self.attack_groups > self.batch_size // 2:
            raise ValueError(
                f"attack_groups {self.attack_groups} of a batch_size of {self.batch_size} would hold single images, "
                f"without a negative; at most {self.batch_size // 2}"
            )
        return self


@in_float32
def directed_nt_xent(views: Sequence[Tensor], temperature: float) -> Tensor:
    """Return RoCL's contrastive loss, whose gradient moves each embedding but not those that it is compared with.

    Over all pairs of an embedding i and another view p of its image, the sum of
    -log(exp(s_ip / T) / sum over j != i of exp(s_ij / T)), divided by the number of embeddings (so with three
    views it is twice the mean). s is the cosine similarity, differentiated with respect to i alone. Further
    views of i's image count as negatives in the denominator.

    Args:
        views: V tensors [N, D], the embeddings of each view, in the same order.
        temperature: T > 0.

    Source: ``src/loss.py`` at b6d5185, without its two guards of 1e-8, which move a value by about 1e-5. The
    objective in the paper, as we recall it, has all positives of an embedding in one logarithm; the code does not.
    """
    u = F.normalize(torch.cat(list(views)), dim=1)
    similarity = (u @ u.detach().T / temperature).fill_diagonal_(-torch.inf)
    row = torch.arange(len(u), device=u.device)
    positives = torch.stack([row.roll(len(views[0]) * shift) for shift in range(1, len(views))], dim=1)
    return -similarity.log_softmax(dim=1).gather(1, positives).sum() / len(u)


@in_float32
def instance_loss(z: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return what the attack maximises: how badly each ``z_i`` is identified with ``targets_i``.

    These are the terms of the directed NT-Xent of (z, targets) that depend on z: the others compare fixed targets
    with columns that pass no gradient.

    Args:
        z: [N, D], embeddings under attack; each value has a gradient only for its own row.
        targets: [N, D], embeddings of the other views, fixed.
        temperature: T > 0.

    Returns:
        [N].
    """
    u, fixed = F.normalize(z, dim=1), F.normalize(targets, dim=1)
    # The diagonal of this [N, 2N] compares each z with itself.
    similarity = (u @ torch.cat([u.detach(), fixed]).T / temperature).fill_diagonal_(-torch.inf)
    positives = torch.arange(len(u), 2 * len(u), device=u.device)
    return F.cross_entropy(similarity, positives, reduction="none")


class _Views(NamedTuple):
    first: Tensor
    second: Tensor
    generator: torch.Generator


class RoCLStage(Stage):
    """Minimises the contrastive loss of view 1, view 2 and attacked view 1, plus a small term of the last two alone.

    As in the authors' code:

    - only view 1 is attacked, to maximise NT-Xent with view 2 as positive, negatives included;
    - the attack runs in eval mode and moves no running statistics;
    - the extra term comes from a separate train-mode pass over [attacked; view 2], before the pass over all
      three views, so that running statistics move twice a step;
    - clean and attacked images share one set of batch-norm layers.

    Deliberate deviations: view 2's embedding, which is the same in each attack step, is computed once per attack.
    Under native fidelity the convolutions keep the bench's initialisation, while the authors use the framework's.
    """

    name = "pretrain"
    distributed = True

    def __init__(self, settings: RoCLSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: RoCLSettings = settings
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector])
        self._threat = ctx.threat

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Views:
        """uint8 [B, C, H, W] -> two strong views, float [B, C, H, W] in [0, 1]; the attack's start comes later."""
        first, second = self.plan.view(torch.cat([images, images]), generator).chunk(2)
        return _Views(first, second, generator)

    def forward(self, views: _Views) -> StepLoss:
        """Return the loss, with its two terms as scalars."""
        first, second, generator = views
        attacked = self._attack(first, second, generator)
        extra = self._extra_term(attacked, second)
        embeddings = self.projector(self.encoder(torch.cat([first, second, attacked])))
        contrastive = directed_nt_xent(embeddings.chunk(3), self.plan.temperature)
        scalars = {"contrastive": contrastive.detach(), "extra": extra.detach()}
        return StepLoss(contrastive + self.plan.regularisation * extra, scalars)

    def _attack(self, images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        encoder = self.encoder.prepared()
        with attacking(self.projector):
            with torch.no_grad():
                targets = self._groups(self.projector(encoder(others)))

            def objective(x: Tensor) -> Tensor:
                groups = zip(self._groups(self.projector(encoder(x))), targets, strict=True)
                return torch.cat([instance_loss(z, target, self.plan.temperature) for z, target in groups])

            return PGD.of(self.plan)(objective, images, threat=self._threat, generator=generator)

    def _extra_term(self, attacked: Tensor, others: Tensor) -> Tensor:
        """Return the mean over the groups of NT-Xent between their attacked and second views."""
        embeddings = self.projector(self.encoder(torch.cat([attacked, others])))
        pairs = zip(*map(self._groups, embeddings.chunk(2)), strict=True)
        return torch.stack([directed_nt_xent(pair, self.plan.temperature) for pair in pairs]).mean()

    def _groups(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        # The last batch of an epoch may hold fewer images than there are groups.
        return embeddings.tensor_split(min(self.plan.attack_groups, len(embeddings)))


RoCL = single_stage(
    MethodInfo(
        title="RoCL",
        year=2020,
        paper="Adversarial Self-Supervised Contrastive Learning, NeurIPS 2020",
        url="https://arxiv.org/abs/2006.07589",
        summary="contrastive learning of two views and an instance-wise attack on one of them",
        views="2",
        passes="12 fb + 1 f",
        bibtex="""@inproceedings{kim2020rocl,
  title = {Adversarial Self-Supervised Contrastive Learning},
  author = {Kim, Minseon and Tack, Jihoon and Hwang, Sung Ju},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}""",
    ),
    RoCLSettings,
    RoCLStage,
    native_encoder={"stem_init": "default", "normalisation": "none"},
)
"""Contrastive learning with instance-wise attacks, in one stage; the projector is discarded."""
