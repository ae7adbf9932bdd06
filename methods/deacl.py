"""DeACL: decoupled adversarial contrastive learning (Zhang et al., ECCV 2022).

Stage 1 is ordinary self-supervised learning. Stage 2 distils it into a robust student: the frozen stage-1
backbone gives each image a pseudo-target, and the student is trained adversarially towards it with the
hyper-parameters of supervised adversarial training: weak views, no projector, no negatives.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import pgd
from bench.data.views import WeakView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss
from bench.nn import Encoder
from bench.recipe import MethodConfig, Start, TrainPlan
from methods.losses import negative_cosine
from methods.simclr import SimCLRStage, SimCLRStageSettings


class PseudoATSettings(TrainPlan):
    """Stage 2 as published.

    Source: DeACL section 4.1 and pantheon5100/DeACL at 3fb81e3, ``bash_files/DeACL_cifar10.sh`` and
    ``solo/methods/mocov2_distillation_AT.py``; fp32 as its scripts ask since 2024.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.5, gt=0)
    lr_batch: int | None = Field(default=256, ge=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    """On every parameter of the student, batch-norm included (Table 3)."""
    warmup_epochs: int = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.003, ge=0)

    lam: float = Field(default=2.0, ge=0)
    """lambda of equation 4: the weight of the adversarial term."""
    steps: int = Field(default=5, ge=0)
    step_size: float = Field(default=0.25, gt=0)
    """In units of eps: 2/255 at 8/255."""
    start: Start = "uniform"
    view: WeakView = WeakView()


class DeACLConfig(MethodConfig):
    """Both stages, and what the student starts from."""

    student_init: Literal["teacher", "scratch"] = "teacher"
    """Table 1: the teacher's weights and batch-norm statistics, or a fresh initialisation."""
    stage1: SimCLRStageSettings = SimCLRStageSettings()
    stage2: PseudoATSettings = PseudoATSettings()


class _Views(NamedTuple):
    images: Tensor
    generator: torch.Generator


class PseudoATStage(Stage):
    """Pseudo-supervised adversarial training: equation 4 of the paper.

    L = -mean cos(f2(x), z) - lambda mean cos(f2(x'), f2(x)), where z = f1(x) is the frozen teacher's feature
    and x' maximises -cos(f2(x'), z) within the threat model. As in the authors' code:

    - teacher, clean student and attack see the same weak view x;
    - the attack runs on the student in eval mode and aims at the teacher's z, not at f2(x);
    - f2(x) and f2(x') come from one train-mode forward pass over [x; x'], so that batch statistics are those
      of the mixed batch and running statistics move once a step;
    - f2(x) is not detached in the second term: the clean branch is pulled towards the adversarial one too.
    """

    name = "pseudo_at"

    def __init__(self, settings: PseudoATSettings, ctx: MethodContext, teacher: Encoder, student: Encoder) -> None:
        super().__init__()
        self.plan: PseudoATSettings = settings
        self.encoder = student
        self.teacher = teacher.requires_grad_(False)
        self._threat = ctx.threat

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Views:
        """uint8 [B, C, H, W] -> one weak view, float [B, C, H, W] in [0, 1]; the attack's start comes later."""
        return _Views(self.plan.view(images, generator), generator)

    def forward(self, views: _Views) -> StepLoss:
        """Return equation 4, with its two terms as scalars."""
        images, generator = views
        self.teacher.eval()
        with torch.no_grad():
            target = self.teacher(images)
        adversarial = self._attack(images, target, generator)
        clean_features, adversarial_features = self.encoder(torch.cat([images, adversarial])).chunk(2)
        distance = negative_cosine(clean_features, target).mean()
        robustness = negative_cosine(adversarial_features, clean_features).mean()
        scalars = {"distance": distance.detach(), "robustness": robustness.detach()}
        return StepLoss(distance + self.plan.lam * robustness, scalars)

    def _attack(self, images: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        student = self.encoder.prepared()
        return pgd(
            lambda x: negative_cosine(student(x), target),
            images,
            threat=self._threat,
            steps=self.plan.steps,
            step_size=self.plan.step_size * self._threat.eps,
            start=self.plan.start,
            generator=generator,
        )


class DeACL:
    """Stage 1 SSL, stage 2 pseudo-supervised adversarial training; the student's backbone is evaluated."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="DeACL",
        year=2022,
        paper="Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness, ECCV 2022",
        summary="ordinary SSL first, then adversarial training towards its features",
        bibtex="""@inproceedings{zhang2022deacl,
  title = {Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness},
  author = {Zhang, Chaoning and Zhang, Kang and Zhang, Chenshuang and Niu, Axi and Feng, Jiu and
            Yoo, Chang D. and Kweon, In So},
  booktitle = {European Conference on Computer Vision},
  year = {2022}
}""",
    )
    config_type: ClassVar[type[MethodConfig]] = DeACLConfig
    native_encoder: ClassVar[Mapping[str, Any]] = {
        "stem_padding": 2,
        "stem_init": "default",
        "normalisation": "cifar",
    }

    def __init__(self, config: DeACLConfig) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield stage 1, then stage 2 with what it learnt."""
        ssl = SimCLRStage(self._config.stage1, ctx)
        yield ssl
        student = deepcopy(ssl.encoder) if self._config.student_init == "teacher" else ctx.new_encoder("student")
        self._student = student
        yield PseudoATStage(self._config.stage2, ctx, ssl.encoder, student)

    def result(self) -> Encoder:
        """Return the robust student."""
        return self._student
