"""DynACL: dynamic adversarial contrastive learning (Luo, Wang & Wang, ICLR 2023).

ACL whose augmentation anneals from strong to weak, while the weight moves from the loss of clean views to that of
attacked ones. The first view of an image passes the network, the second its moving average, which is evaluated.
"""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from bench.data.views import StrongView
from bench.method import MethodContext, MethodInfo, StepLoss, single_stage
from bench.nn import branches
from bench.recipe import MethodConfig
from methods.acl import ACLSettings, Branch, DualStream, Views
from methods.annealing import AnnealedSettings
from methods.losses import nt_xent
from methods.momentum import MomentumNetwork


class DynACLSettings(AnnealedSettings):
    """The released recipe: ``train_DynACL.py`` of PKU-ML/DYNACL at 7d143db; all else is ACL's."""

    schedule: str = "warmup-cosine"
    warmup_start: float = Field(default=0.5, ge=0)
    """The rate moves once an epoch, and the first of ten epochs has a tenth of it."""

    tau: float = Field(default=0.99, ge=0, lt=1)
    """Share of its weights that the momentum network keeps at an update; with 1 it would never learn."""
    view: StrongView = ACLSettings().view.model_copy(update={"interpolation": "bilinear"})

    def adversarial_weight(self, epoch: int) -> float:
        """Return the weight of the loss of attacked views in the 0-based ``epoch``; that of clean views makes it 2.

        The code counts epochs from 1 here and from 0 for the strength, so each level begins an epoch earlier.
        """
        return 1 + self.reweighting * ((epoch + 1) * self.levels // self.epochs / self.levels)


class DynACLConfig(MethodConfig):
    """The stage, and the stream that is evaluated."""

    branch: Literal["adversarial", "clean"] = "adversarial"
    """Which batch-norm layers the evaluated encoder has."""
    stage1: DynACLSettings = DynACLSettings()


class Streams(nn.Module):
    """A network in two branches, which share all weights but those of batch-norm."""

    def __init__(self, network: Branch) -> None:
        super().__init__()
        self.clean, self.adversarial = branches(network, 2)


class DynACLStage(DualStream):
    """Minimises the weighted sum of ACL's two losses between a network and its moving average.

    As in the authors' code:

    - first views pass the network and second ones the momentum network, also in the attack, which follows the
      gradients of both views;
    - the momentum network has batch-norm statistics of its own inputs, in both branches;
    - it moves before the step: it follows the weights that have just been used.
    """

    plan: DynACLSettings

    def __init__(self, config: DynACLConfig, ctx: MethodContext) -> None:
        super().__init__(config.stage1, ctx)
        self.online = Streams(self.new_branch(ctx))
        steps = self.plan.epochs * self.plan.steps_per_epoch(len(ctx.images))
        self.momentum = MomentumNetwork(self.online, tau=(self.plan.tau, self.plan.tau), updates=steps)
        self.encoder = getattr(self.followers, config.branch).encoder
        self.before_epoch(0)

    @property
    def followers(self) -> Streams:
        """The branches of the momentum network."""
        network: Any = self.momentum.network
        followers: Streams = network
        return followers

    def before_epoch(self, epoch: int) -> None:
        """Set the strength of augmentation and the weight of the losses."""
        self.view = self.plan.view_in(epoch)
        self.adversarial_weight = self.plan.adversarial_weight(epoch)

    def forward(self, views: Views) -> StepLoss:
        """Return the weighted sum of both losses, halved, with each as a scalar; moves the momentum network."""
        images, generator = views
        pair = self.online.adversarial, self.followers.adversarial
        online, follower = (branch.prepared() for branch in pair)
        attacked = self.attacked(lambda x: self._contrast(online, follower, x), images, generator)
        adversarial = self._contrast(*pair, attacked)
        clean = self._contrast(self.online.clean, self.followers.clean, images)
        self.momentum.follow(self.online)
        weight = self.adversarial_weight
        total = (weight * adversarial + (2 - weight) * clean) / 2
        return StepLoss(total, {"adversarial": adversarial.detach(), "clean": clean.detach()})

    def _contrast(self, online: Branch, follower: Branch, images: Tensor) -> Tensor:
        first, second = images.chunk(2)
        return nt_xent(online(first), follower(second), self.plan.temperature)


DynACL = single_stage(
    MethodInfo(
        title="DynACL",
        year=2023,
        paper="Rethinking the Effect of Data Augmentation in Adversarial Contrastive Learning, ICLR 2023",
        url="https://openreview.net/forum?id=0qmwFNJyxCL",
        summary="ACL with an augmentation that anneals from strong to weak, and a momentum network",
        views="2",
        passes="12 fb + 2 f",
        bibtex="""@inproceedings{luo2023dynacl,
  title = {Rethinking the Effect of Data Augmentation in Adversarial Contrastive Learning},
  author = {Luo, Rundong and Wang, Yifei and Wang, Yisen},
  booktitle = {International Conference on Learning Representations},
  year = {2023}
}""",
    ),
    DynACLConfig,
    DynACLStage,
    native_encoder={"normalisation": "imagenet"},
)
"""ACL under an augmentation that anneals; the momentum network's adversarial branch is evaluated."""
