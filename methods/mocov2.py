"""MoCo v2+: contrast with a queue of a momentum network's past outputs. A first stage for DeACL (Table 9)."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data.views import StrongView
from bench.errors import BenchError
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import mlp
from bench.recipe import OptimizerName
from methods.losses import in_float32
from methods.momentum import MomentumNetwork, Rate
from methods.solo_learn import NATIVE_ENCODER, GentleZooPlan, TwoViews


class MoCoStageSettings(GentleZooPlan):
    """The recipe of solo-learn's CIFAR model zoo in 2021.

    Two rules keep the queue meaningful in scaled recipes; on CIFAR as published they change nothing. It holds whole
    batches and no image twice: its length is the largest multiple of the batch size that exceeds neither
    ``queue`` nor the number of images, and the run's history records it. It starts with random keys, which under
    the published plan are replaced before the warm-up ends. At the full rate they drive all outputs into one direction
    permanently, so if the warm-up is shorter than the queue, places without a real key are ignored. The first step
    then has no negatives: its loss is 0, and it only fills the queue.

    Plain SGD at its published rate, after the nine steps of warm-up that ``tiny`` would leave, made the encoder a
    constant function for one of two seeds: hence the gentle plan.

    Source: vturrisi/solo-learn at fca55e3, ``bash_files/pretrain/cifar/mocov2plus.sh``. Later recipes of that
    repository have 256 outputs and train no probe on the momentum network, which has no effect on the encoder.
    """

    optimizer: OptimizerName = "sgd"
    lr: float = Field(default=0.3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    """On all parameters, batch-norm and biases included."""

    temperature: float = Field(default=0.2, gt=0)
    queue: int = Field(default=32768, ge=1)
    """Past keys of each view kept as negatives, at most."""
    tau: tuple[Rate, Rate] = (0.99, 0.999)
    """Share of its weights that the momentum network keeps at an update, from the first to the last."""
    projector: tuple[PositiveInt, ...] = Field(default=(2048, 128), min_length=1)
    """Widths of the projector's hidden and output layers; no batch-norm."""
    view: StrongView = StrongView(crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.5)
    """Both views. Blur 0.5 as in that generation's parser default."""

    def queue_length(self, images: int) -> int:
        """Return the length of the queue when training on ``images`` images; raises BenchError if it is 0."""
        most = min(self.queue, images)
        if most < self.batch_size:
            batch = f"Type --set stage1.batch_size={most}, or fewer, or enlarge" if most > 1 else "Enlarge"
            raise BenchError(
                f"MoCo's queue holds whole batches, but a batch is {self.batch_size} images and the queue has room "
                f"for {most} (stage1.queue = {self.queue}, {images} training images). {batch} the queue."
            )
        return most - most % self.batch_size

    def starts_empty(self, images: int) -> bool:
        """Return whether the queue's random start is ignored because the warm-up is too short for it."""
        return self.warmup_epochs * self.steps_per_epoch(images) * self.batch_size < self.queue_length(images)


@in_float32
def queue_contrast(query: Tensor, key: Tensor, queue: Tensor, temperature: float, *, filled: Tensor) -> Tensor:
    """Return InfoNCE with one positive key and the queue as negatives.

    The mean over i of -log(exp(q_i.k_i / T) / (exp(q_i.k_i / T) + sum over j of exp(q_i.n_j / T))).

    Args:
        query: [B, D], of unit length.
        key: [B, D], of unit length; row i is the positive of query i.
        queue: [L, D], of unit length: the negatives n_j of all queries.
        temperature: T > 0.
        filled: int64 scalar, how many rows of the queue count, from the first.

    Source: MoCo (He et al., CVPR 2020), equation 1.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    unfilled = torch.arange(len(queue), device=queue.device) >= filled
    negatives = (query @ queue.T).masked_fill(unfilled, -torch.inf)
    logits = torch.cat([positive, negatives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


@in_float32
def _unit(z: Tensor) -> Tensor:
    return F.normalize(z, dim=1)


class MoCoStage(Stage):
    """Distinguishes the other view's key from past ones, for both views: symmetric MoCo v2.

    The queue of each view is read before the step's own keys enter it, in place of its oldest. Keys are not
    shuffled over devices, and only the online backbone is passed on.
    """

    name = "ssl"
    distributed = True
    shared = True
    queues: Tensor
    oldest: Tensor
    filled: Tensor

    def __init__(self, settings: MoCoStageSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan: MoCoStageSettings = settings
        images = len(ctx.images)
        length = settings.queue_length(images)
        self.encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            self.projector = mlp([self.encoder.feature_dim, *settings.projector])
        with ctx.scoped(self.name, "queues"):
            queues = torch.randn(2, length, settings.projector[-1])
        steps = settings.epochs * settings.steps_per_epoch(images)
        self.momentum = MomentumNetwork(self._online(), tau=settings.tau, updates=steps)
        self.register_buffer("queues", F.normalize(queues, dim=2))
        self.register_buffer("oldest", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0 if settings.starts_empty(images) else length))

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> TwoViews:
        """uint8 [B, C, H, W] -> two independent strong views of each, float [B, C, H, W] in [0, 1]."""
        return self.plan.view(images, generator), self.plan.view(images, generator)

    def forward(self, views: TwoViews) -> StepLoss:
        """Return the mean of both views' contrasts, and the queue's length for the record."""
        online = self._online()
        q1, q2 = (_unit(online(view)) for view in views)
        k1, k2 = (_unit(self.momentum(view)) for view in views)
        self._keys = torch.stack([k1, k2])
        first = queue_contrast(q1, k2, self.queues[1], self.plan.temperature, filled=self.filled)
        second = queue_contrast(q2, k1, self.queues[0], self.plan.temperature, filled=self.filled)
        return StepLoss((first + second) / 2, {"queue": self.queues.new_full((), self.queues.shape[1])})

    def after_step(self) -> None:
        """Update the momentum network, and replace the oldest keys by those of the step."""
        self.momentum.follow(self._online())
        batch, length = self._keys.shape[1], self.queues.shape[1]
        places = self.oldest + torch.arange(batch, device=self.oldest.device)
        self.queues.index_copy_(1, places, self._keys)
        self.oldest.add_(batch).remainder_(length)
        self.filled.add_(batch).clamp_(max=length)

    def _online(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.projector)


MoCo = single_stage(
    MethodInfo(
        title="MoCo v2+",
        year=2020,
        paper="Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297",
        url="https://arxiv.org/abs/2003.04297",
        summary="contrastive learning against a queue of past keys; not robust",
        views="2",
        passes="2 fb + 2 f",
        robust=False,
        bibtex="""@article{chen2020mocov2,
  title = {Improved Baselines with Momentum Contrastive Learning},
  author = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},
  journal = {arXiv preprint arXiv:2003.04297},
  year = {2020}
}""",
    ),
    MoCoStageSettings,
    MoCoStage,
    native_encoder=NATIVE_ENCODER,
)
"""A non-robust row: self-supervised learning without adversarial training."""
