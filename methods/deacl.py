"""DeACL: decoupled adversarial contrastive learning (Zhang et al., ECCV 2022).

Stage 1 is ordinary self-supervised learning. Stage 2 distils it into a robust student: the frozen stage-1
backbone provides a pseudo-target for each image, and the student is trained adversarially towards it with the
hyper-parameters of supervised adversarial training: weak views, no projector, no negatives.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from bench.attack import PGD, attacking
from bench.data.views import StrongView, WeakView
from bench.method import MethodContext, MethodInfo, Stage, StepLoss
from bench.nn import Encoder, trainable_copy
from bench.recipe import AttackSettings, MethodConfig, TrainPlan
from methods.deacl_losses import LOSS_FORMS, LossName, info_nce
from methods.deacl_tables import TABLES
from methods.frameworks import FRAMEWORKS, FrameworkName, FrameworkSettings, FrameworkStage
from methods.losses import negative_cosine, nt_xent
from methods.simclr import SimCLRStageSettings
from methods.solo_learn import NATIVE_ENCODER

ViewName = Literal["weak", "strong"]


class PseudoATSettings(TrainPlan, AttackSettings):
    """Stage 2 as published, and the settings of the paper's ablations.

    The settings for Tables 4, 5 and 6 and for ``loss`` are in no public code: their effect here is our reading.

    Source: DeACL section 4.1 and pantheon5100/DeACL at 3fb81e3, ``bash_files/DeACL_cifar10.sh`` and
    ``solo/methods/mocov2_distillation_AT.py``; fp32, as in its scripts since 2024.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.5, gt=0)
    lr_batch: int | None = Field(default=256, ge=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    """On every parameter of the student, batch-norm included (Table 3)."""
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_start: float = Field(default=0.003, ge=0)

    lam: float = Field(default=2.0, ge=0)
    """lambda of equation 4: the weight of the adversarial term."""
    loss: LossName = "ce2gt_ae2ce"
    """Form of the loss, by the names of the authors' code; see ``methods.deacl_losses``. The attack does not change."""
    temperature: float = Field(default=0.1, gt=0)
    """Temperature of the loss forms with KL or InfoNCE, and of the contrastive term."""
    contrastive: float = Field(default=0.0, ge=0)
    """Table 6: weight of a term against collapse, NT-Xent between the student's clean and adversarial features."""
    projector: Literal["none", "stage1"] = "none"
    """Table 5: ``stage1`` keeps that stage's projector on both networks, frozen on the teacher, trained on the
    student; losses and attack then use its outputs."""

    clean_view: ViewName = "weak"
    """Table 4: the view for the teacher and the clean student."""
    adversarial_view: ViewName = "weak"
    """Table 4: the view that the attack starts from. If it has the strength of the clean view, it is the same view; if
    not, it is another view of the image, and the target stays the teacher's feature of the clean view."""
    view: WeakView = WeakView()
    strong_view: StrongView = StrongView()
    """SimCLR's. Views are never normalised, only encoders normalise; the authors' pipeline for these would do both."""

    @property
    def unread(self) -> dict[str, str]:
        """Also what no term of the loss reads."""
        form = LOSS_FORMS[self.loss]
        without = [] if self.contrastive or form.has_temperature else ["temperature"]
        without += [] if form.to_clean else ["lam"]
        used, named = {self.clean_view, self.adversarial_view}, {"weak": "view", "strong": "strong_view"}
        views = [name for strength, name in named.items() if strength not in used]
        others = dict.fromkeys(views, f"adversarial_view={self.adversarial_view}")
        return {**super().unread, **dict.fromkeys(without, f"loss={self.loss}"), **others}


class DeACLConfig(MethodConfig):
    """Both stages, and the student's initialisation."""

    student_init: Literal["teacher", "scratch"] = "teacher"
    """Table 1: the teacher's weights and batch-norm statistics, or a fresh initialisation."""
    ssl: FrameworkName = "simclr"
    """Table 9: the framework of stage 1. Its online backbone, never the momentum network, is the teacher."""
    stage1: FrameworkSettings = {}  # type: ignore[assignment]  # the validator makes it the settings of `ssl`
    """The settings class and the published recipe are those of ``ssl``."""
    stage2: PseudoATSettings = PseudoATSettings()

    @field_validator("stage1", mode="before")
    @classmethod
    def _of_framework(cls, value: Any, info: ValidationInfo) -> Any:
        framework: FrameworkName | None = info.data.get("ssl")
        if framework is None:
            return SimCLRStageSettings()  # `ssl` itself is refused, and the configuration with it
        return FRAMEWORKS[framework].settings.model_validate(value)


class _Views(NamedTuple):
    images: Tensor
    generator: torch.Generator
    attacked: Tensor
    """The view that the attack starts from; ``images`` itself except for Table 4."""


class PseudoATStage(Stage):
    """Pseudo-supervised adversarial training: equation 4 of the paper.

    L = -mean cos(f2(x), z) - lambda mean cos(f2(x'), f2(x)), where z = f1(x) is the frozen teacher's feature
    and x' maximises -cos(f2(x'), z) within the threat model. As in the authors' code:

    - teacher, clean student and attack see the same weak view x;
    - the attack runs on the student in eval mode and aims at the teacher's z, not at f2(x);
    - f2(x) and f2(x') come from one train-mode forward pass over [x; x'], so that batch statistics are those
      of the mixed batch and running statistics move once a step;
    - f2(x) is not detached in the second term: the clean branch is pulled towards the adversarial one too.

    The settings change nothing else. In particular the attack always maximises -cos(f2(x'), z), and [x; x'] is one
    batch under every loss form, even if f2(x) is in no term.

    Args:
        settings: the stage's plan and constants.
        ctx: the run.
        teacher: f1, followed by its projector if the student has one; frozen here.
        student: f2, which is trained and passed on.
        projector: is put on the student in training; None: nothing.
    """

    name = "pseudo_at"
    distributed = True

    def __init__(
        self,
        settings: PseudoATSettings,
        ctx: MethodContext,
        teacher: nn.Module,
        student: Encoder,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.plan: PseudoATSettings = settings
        self.encoder = student
        self.projector = nn.Identity() if projector is None else projector
        self.teacher = teacher.requires_grad_(False)
        self._threat = ctx.threat

    @property
    def per_image(self) -> bool:  # type: ignore[override]  # whether it is depends on the form of the loss
        """Whether no term compares the images of a batch: with InfoNCE or NT-Xent one does."""
        form = LOSS_FORMS[self.plan.loss]
        return info_nce not in (form.to_teacher, form.to_clean) and self.plan.contrastive == 0

    def views(self, images: Tensor, generator: torch.Generator, index: Tensor) -> _Views:
        """uint8 [B, C, H, W] -> one view each, float [B, C, H, W] in [0, 1]; the attack's start comes later."""
        plan = self.plan
        views: dict[ViewName, WeakView | StrongView] = {"weak": plan.view, "strong": plan.strong_view}
        clean = views[plan.clean_view](images, generator)
        same = plan.adversarial_view == plan.clean_view
        return _Views(clean, generator, clean if same else views[plan.adversarial_view](images, generator))

    def forward(self, views: _Views) -> StepLoss:
        """Return the loss, with its terms as scalars."""
        images, generator, attacked = views
        self.teacher.eval()
        with torch.no_grad():
            target = self.teacher(images)
        adversarial = self._attack(attacked, target, generator)
        features = self.projector(self.encoder(torch.cat([images, adversarial])))
        clean_features, adversarial_features = features.chunk(2)
        return self._loss(clean_features, adversarial_features, target)

    def _attack(self, images: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        student = self.encoder.prepared()
        with attacking(self.projector):
            return PGD.of(self.plan)(
                lambda x: negative_cosine(self.projector(student(x)), target),
                images,
                threat=self._threat,
                generator=generator,
            )

    def _loss(self, clean: Tensor, adversarial: Tensor, target: Tensor) -> StepLoss:
        plan, form = self.plan, LOSS_FORMS[self.plan.loss]
        pulled = clean if form.pulled == "clean" else adversarial
        terms = {"distance": form.to_teacher(pulled, target, plan.temperature)}
        total = terms["distance"]
        if form.to_clean is not None:
            terms["robustness"] = form.to_clean(adversarial, clean, plan.temperature)
            total = total + plan.lam * terms["robustness"]
        if plan.contrastive > 0:
            terms["contrastive"] = nt_xent(clean, adversarial, plan.temperature)
            total = total + plan.contrastive * terms["contrastive"]
        return StepLoss(total, {name: term.detach() for name, term in terms.items()})


class DeACL:
    """Stage 1 SSL, stage 2 pseudo-supervised adversarial training; the student's backbone is evaluated."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="DeACL",
        year=2022,
        paper="Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness, ECCV 2022",
        url="https://arxiv.org/abs/2207.10899",
        summary="ordinary SSL first, then adversarial training towards its features",
        views="2, then 1",
        passes="2 fb, then 7 fb + 1 f",
        outside="its own stage-1 encoder as teacher",
        tables=TABLES,
        bibtex="""@inproceedings{zhang2022deacl,
  title = {Decoupled Adversarial Contrastive Learning for Self-supervised Adversarial Robustness},
  author = {Zhang, Chaoning and Zhang, Kang and Zhang, Chenshuang and Niu, Axi and Feng, Jiu and
            Yoo, Chang D. and Kweon, In So},
  booktitle = {European Conference on Computer Vision},
  year = {2022}
}""",
    )
    config_type: ClassVar[type[MethodConfig]] = DeACLConfig
    native_encoder: ClassVar[Mapping[str, Any]] = NATIVE_ENCODER

    def __init__(self, config: DeACLConfig) -> None:
        self._config = config

    def stages(self, ctx: MethodContext) -> Iterator[Stage]:
        """Yield stage 1, then stage 2 with its encoder."""
        config = self._config
        ssl = FRAMEWORKS[config.ssl].stage(config.stage1, ctx)
        yield ssl
        self._student, projector = _student(config.student_init, ctx, ssl)
        if config.stage2.projector == "stage1":
            teacher = nn.Sequential(ssl.encoder, ssl.projector)
            yield PseudoATStage(config.stage2, ctx, teacher, self._student, projector)
        else:
            yield PseudoATStage(config.stage2, ctx, ssl.encoder, self._student)

    def result(self) -> Encoder:
        """Return the robust student."""
        return self._student


def _student(
    init: Literal["teacher", "scratch"], ctx: MethodContext, ssl: FrameworkStage
) -> tuple[Encoder, nn.Sequential]:
    """Return the student's encoder and projector before stage 2: copies of the teacher's, or fresh ones."""
    projector = trainable_copy(ssl.projector)
    if init == "teacher":
        return trainable_copy(ssl.encoder), projector
    with ctx.scoped("student", "projector"):
        for layer in projector:
            if isinstance(layer, nn.Linear | nn.BatchNorm1d):
                layer.reset_parameters()
    return ctx.new_encoder("student"), projector
