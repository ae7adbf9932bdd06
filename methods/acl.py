"""ACL: adversarial contrastive learning (Jiang, Chen, Chen & Wang, NeurIPS 2020).

SimCLR is made robust by contrasting views that PGD has perturbed against the contrastive loss itself. The best
variant, dual stream, averages the losses of clean and of perturbed views. Both pass the same weights, but separate
batch-norm layers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from bench.attack import PGD
from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss, single_stage
from bench.nn import Encoder, branches, frozen_copy
from bench.optim import LARS, trained
from bench.recipe import AttackSettings, MethodConfig, OptimizerName, Threat, TrainPlan
from methods.losses import nt_xent
from methods.schedules import acl_rate

Variant = Literal["ds", "a2a", "a2s", "s2s"]


class ACLSettings(TrainPlan, AttackSettings):
    """The released recipe: ``train_simCLR.py`` of VITA-Group/Adversarial-Contrastive-Learning at 399eabd.

    It differs from the SimCLR settings that the paper refers to: LARS has no exclusions, the peak rate is 5
    and crops start at a tenth of the area.
    """

    epochs: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=512, ge=2)
    drop_last: bool = False
    optimizer: OptimizerName = "lars"
    lr: float = Field(default=5.0, gt=0)
    """No scaling rule is published."""
    weight_decay: float = Field(default=1e-6, ge=0)
    lars_eta: float = Field(default=0.001, gt=0)
    lars_clip: bool = False
    lars_exclude_vectors: bool = False
    lars_lr_in_momentum: bool = True
    """Accumulate lr times the scaled gradient, as ACL's own LARS does, not the gradient alone."""
    schedules = {**TrainPlan.schedules, "acl": acl_rate}
    shaped_by = {**TrainPlan.shaped_by, "acl": {"warmup_epochs", "lr_floor"}}
    schedule: str = "acl"
    warmup_epochs: float = Field(default=10, ge=0)
    """The rate rises at every step."""
    lr_floor: float = Field(default=1e-6, ge=0)

    temperature: float = Field(default=0.5, gt=0)
    projector_layers: Literal[2, 3] = 3
    """The first release had 2, later ones 3; it is not known which gave the paper's numbers."""
    view: StrongView = StrongView(
        order="crop_first",
        crop_scale=(0.1, 1.0),
        interpolation="bicubic",
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.0,
    )

    @property
    def unread(self) -> dict[str, str]:
        """Also what only LARS reads."""
        momentum = {} if self.optimizer == "lars" else {"lars_lr_in_momentum": f"optimizer={self.optimizer}"}
        return {**super().unread, **momentum}


_TWO_BRANCHES: tuple[Variant, ...] = ("ds", "a2s")


class ACLConfig(MethodConfig):
    """The stage, its streams, and the stream that is evaluated."""

    variant: Variant = "ds"
    """``ds``, dual stream: the mean of ``s2s`` and ``a2a``. ``a2a``, adversarial to adversarial: both views
    attacked. ``a2s``, adversarial to standard: one view attacked. ``s2s``, standard to standard: SimCLR."""
    branch: Literal["adversarial", "clean"] = "adversarial"
    """Which batch-norm layers the evaluated encoder has, in the variants with two sets."""
    stage1: ACLSettings = ACLSettings()

    @property
    def unread(self) -> dict[str, str]:
        """The branch, where there is one."""
        return {} if self.variant in _TWO_BRANCHES else {"branch": f"variant={self.variant}"}


class Branch(nn.Module):
    """An encoder and its projector: [B, C, H, W] in [0, 1] -> [B, D]."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of ``images``."""
        embeddings: Tensor = self.projector(self.encoder(images))
        return embeddings

    def prepared(self) -> "Branch":
        """Return a frozen eval-mode copy that is cheaper to attack; see :meth:`Encoder.prepared`."""
        return Branch(self.encoder.prepared(), frozen_copy(self.projector))


def projection_head(width: int, layers: int) -> nn.Sequential:
    """Return ACL's projector: linear layers as wide as the features, batch-norm after each, ReLU between them.

    Only the first layer has a bias. Source: ``models/resnet_multi_bn.py`` at 399eabd.
    """
    first: list[nn.Module] = [nn.Linear(width, width), nn.BatchNorm1d(width)]
    rest = [
        (nn.ReLU(inplace=True), nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)) for _ in range(1, layers)
    ]
    return nn.Sequential(*first, *(module for group in rest for module in group))


class RateInMomentum(LARS):
    """LARS whose momentum accumulates lr g instead of g; the two differ while the rate changes.

    Source: ACL's ``lars_optimizer.py`` at 399eabd.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale the gradients in place, by the rate as well, then take SGD's step at rate 1."""
        self.scale_gradients()
        rates = [float(group["lr"]) for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            torch._foreach_mul_([p.grad for p in group["params"] if p.grad is not None], rate)
            group["lr"] = 1.0
        result = SGD.step(self, closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result


class Views(NamedTuple):
    """Two views of each image, half a batch apart, and where the attack's start is drawn from."""

    images: Tensor
    generator: torch.Generator


class DualStream(Stage):
    """What ACL and its descendants have in common: network, optimiser, views, and an attack on all views together."""

    name = "pretrain"
    distributed = True
    plan: ACLSettings
    threat: Threat
    view: StrongView

    def __init__(self, plan: ACLSettings, ctx: MethodContext) -> None:
        super().__init__()
        self.plan, self.view, self.threat = plan, plan.view, ctx.threat

    def new_branch(self, ctx: MethodContext) -> Branch:
        """Return a newly initialised encoder and its projector."""
        encoder = ctx.new_encoder(self.name)
        with ctx.scoped(self.name, "projector"):
            return Branch(encoder, projection_head(encoder.feature_dim, self.plan.projector_layers))

    def optimizer(self) -> Optimizer:
        """Return the plan's optimiser, or ACL's own form of LARS."""
        if self.plan.optimizer == "lars" and self.plan.lars_lr_in_momentum:
            return RateInMomentum(trained(self), self.plan)
        return super().optimizer()

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> Any:
        """uint8 [B, C, H, W] -> two views, float [2B, C, H, W] in [0, 1]; the attack's start comes later."""
        return Views(self.view(torch.cat([images, images]), generator), generator)

    def attacked(self, loss: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``images``, moved jointly to increase ``loss``, one scalar for all of them."""
        return PGD.of(self.plan)(lambda x: loss(x).expand(len(x)), images, threat=self.threat, generator=generator)

    def attack_both(self, branch: Branch, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return two views of all images, moved jointly to increase their contrast in ``branch`` in eval mode."""
        target = branch.prepared()
        return self.attacked(lambda x: self.contrast(target, x), images, generator)

    def contrast(self, branch: Branch, images: Tensor) -> Tensor:
        """Return NT-Xent of two views, half a batch apart, which pass ``branch`` together."""
        first, second = branch(images).chunk(2)
        return nt_xent(first, second, self.plan.temperature)


class ACLStage(DualStream):
    """Minimises NT-Xent between two views, clean or attacked according to the variant.

    As in the authors' code:

    - clean images pass the clean branch, attacked ones the adversarial branch, and so does the attack;
    - one attack perturbs both views of all images to maximise their joint loss, negatives included, in eval mode;
    - the train-mode passes come one after the other, adversarial first, so that each branch's running
      statistics move once a step, with its own images;
    - no pair and no negative crosses the streams.

    The released code has no switch for ``a2a``, and for ``a2s`` only an attack that can skip every other row. Our
    reading: ``a2a`` is the adversarial term alone, with one set of batch-norm layers; in ``a2s`` the
    first view is attacked against the fixed embeddings of the second, and each view passes the branch of its
    kind, in the attack as in the loss.

    The authors keep the two views of an image in neighbouring rows; here they are half a batch apart, which changes
    no quantity. The linear probe that they train alongside is left out: no stage sees a label.
    """

    def __init__(self, config: ACLConfig, ctx: MethodContext) -> None:
        super().__init__(config.stage1, ctx)
        self.variant = variant = config.variant
        streams = branches(self.new_branch(ctx), 2 if variant in _TWO_BRANCHES else 1)
        self.clean, self.adversarial = streams[0], streams[-1]
        self.encoder = (self.clean if config.branch == "clean" else self.adversarial).encoder

    def forward(self, views: Views) -> StepLoss:
        """Return the mean of the variant's terms, with each term as a scalar."""
        images, generator = views
        terms: dict[str, Tensor] = {}
        if self.variant == "a2s":
            terms["mixed"] = self._mixed_term(images, generator)
        if self.variant in ("ds", "a2a"):
            attacked = self.attack_both(self.adversarial, images, generator)
            terms["adversarial"] = self.contrast(self.adversarial, attacked)
        if self.variant in ("ds", "s2s"):
            terms["clean"] = self.contrast(self.clean, images)
        total = torch.stack(list(terms.values())).mean()
        return StepLoss(total, {name: term.detach() for name, term in terms.items()})

    def _mixed_term(self, images: Tensor, generator: torch.Generator) -> Tensor:
        first, second = images.chunk(2)
        target = self.adversarial.prepared()
        with torch.no_grad():
            fixed = self.clean.prepared()(second)
        attacked = self.attacked(lambda x: nt_xent(target(x), fixed, self.plan.temperature), first, generator)
        return nt_xent(self.adversarial(attacked), self.clean(second), self.plan.temperature)


ACL = single_stage(
    MethodInfo(
        title="ACL",
        year=2020,
        paper="Robust Pre-Training by Adversarial Contrastive Learning, NeurIPS 2020",
        url="https://arxiv.org/abs/2010.13337",
        summary="contrastive learning of clean and of attacked views, each with its own batch-norm layers",
        views="2",
        passes="14 fb",
        bibtex="""@inproceedings{jiang2020acl,
  title = {Robust Pre-Training by Adversarial Contrastive Learning},
  author = {Jiang, Ziyu and Chen, Tianlong and Chen, Ting and Wang, Zhangyang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}""",
    ),
    ACLConfig,
    ACLStage,
    native_encoder={"normalisation": "imagenet"},
)
"""Contrastive learning of attacked and clean views, in one stage; the adversarial branch is evaluated."""
