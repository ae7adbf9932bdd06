"""The numbers of AP-DPE: one training stage, with the published values of each of its four runs."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bench.data.views import WeakView
from bench.recipe import AttackSettings, MethodConfig, TrainPlan
from methods.ap_dpe.pretexts import SelfieLoss

Task = Literal["joint", "rotation", "jigsaw", "selfie"]
_FEW_EPOCHS = 0.1
Export = Literal["rotation", "jigsaw", "mean", "trunk"]


class PretextSettings(TrainPlan, AttackSettings):
    """Adversarial pre-training; the defaults are those of the joint run.

    Batch sizes and all other numbers are the scripts' defaults; the README's commands say 32 for the joint run
    and 128 for Rotation. The cosine changes the rate at every step, and weight decay applies to every parameter.

    Source: VITA-Group/Adv-SS-Pretraining at 4ffbebe, ``pretraining/ensemble_pretrain.py`` and
    ``attack_algo_ensemble.py``.
    """

    epochs: int = Field(default=150, ge=1)
    batch_size: int = Field(default=80, ge=2)
    drop_last: bool = False
    lr: float = Field(default=0.001, gt=0)
    """For the published 84,000 steps."""
    short_lr: float | None = Field(default=0.1, gt=0)
    """``lr`` in tiers that keep less than a tenth of the epochs (None: unchanged): the rate of the single tasks. At
    ``tiny`` with 0.001, the pretext tasks stay at chance under attack, the encoder as robust as an untrained one."""
    lr_floor: float = Field(default=1e-8, ge=0)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule_unit: Literal["epoch", "step"] = "step"

    h_weight: float = Field(default=0.1, ge=0)
    """Weight of the log-determinant, for attacker and learner; 0 is AP without DPE, in a fraction of the time."""
    outer_sign: Literal[1, -1, 0] = 1
    """Its sign for the learner: 1 as in the authors' code, so that the learner lowers what the attacker raises."""
    selfie_loss: SelfieLoss = "double-softmax"
    """The authors' form, or ``scaled`` for runs in which Selfie stays at chance."""
    steps: int = Field(default=10, ge=0)
    view: WeakView = WeakView()

    @property
    def unread(self) -> dict[str, str]:
        """Also the sign of a term of weight 0."""
        return {**super().unread, **({} if self.h_weight else {"outer_sign": "h_weight=0"})}

    def scaled(self, factor: float) -> dict[str, Any]:
        """Return this plan scaled to a tier, with ``short_lr`` if the tier keeps few of the epochs."""
        few = factor < _FEW_EPOCHS and self.short_lr is not None
        return {**super().scaled(factor), **({"lr": self.short_lr} if few else {})}


_CLASSIFIED: dict[str, Any] = {
    "epochs": 100,
    "lr": 0.1,
    "lr_floor": 1e-6,
    "nesterov": False,
    "weight_decay": 3e-4,
    "warmup_epochs": 1,
    "warmup_start": 0.01,
    "h_weight": 0.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "joint": {},
    "rotation": {**_CLASSIFIED, "batch_size": 256},
    "jigsaw": {**_CLASSIFIED, "batch_size": 128},
    "selfie": {
        "epochs": 200,
        "batch_size": 128,
        "lr": 0.1,
        "lr_floor": 1e-7,
        "h_weight": 0.0,
        "view": {"padding": 2, "flip_prob": 0.0},
    },
}
"""How the runs on single tasks differ from the joint one (``pretraining/train_adv_*.py``).

Deviation: their warm-up takes the first 200 steps and the cosine already runs from step 0; here the warm-up takes the
whole first epoch (176 or 352 steps), which a tier can scale, and the cosine begins after it.
"""

_EXPORTS: dict[str, tuple[Export, ...]] = {
    "joint": ("rotation", "jigsaw", "mean", "trunk"),
    "rotation": ("rotation", "trunk"),
    "jigsaw": ("jigsaw", "trunk"),
    "selfie": ("trunk",),
}
"""What each run can export; the first is the default."""


class APDPEConfig(MethodConfig):
    """The tasks, and the part of the trained network that is evaluated."""

    task: Task = "joint"
    """All three tasks on one trunk, or a single one with the published numbers of its run."""
    export: Export | None = None
    """What is put on the trunk for evaluation: layer 4 of Rotation, of Jigsaw, the ``mean`` of both, or nothing
    (``trunk``: pooled layer 3, all that Selfie alone has). None: Rotation's, or the single task's own. The paper
    passes on the trunk and leaves layer 4 to fine-tuning, which a linear protocol cannot do."""
    stage1: PretextSettings = PretextSettings()

    @property
    def unread(self) -> dict[str, str]:
        """What only the diversity of several attacks, or only Selfie, reads."""
        single = () if self.task == "joint" else ("stage1.h_weight", "stage1.outer_sign")
        selfie = () if self.task in ("joint", "selfie") else ("stage1.selfie_loss",)
        return dict.fromkeys((*single, *selfie), f"task={self.task}")

    @property
    def exported(self) -> Export:
        """``export``, or its default for the task."""
        return self.export or _EXPORTS[self.task][0]

    @model_validator(mode="before")
    @classmethod
    def _fill_from_task(cls, values: object) -> object:
        if not isinstance(values, dict) or not isinstance(values.get("stage1", {}), dict):
            return values
        published = PUBLISHED.get(str(values.get("task", "joint")), {})
        return {**values, "stage1": {**published, **values.get("stage1", {})}}

    @model_validator(mode="after")
    def _exportable(self) -> Self:
        if self.exported not in _EXPORTS[self.task]:
            allowed = " or ".join(_EXPORTS[self.task])
            raise ValueError(f"task {self.task} has no {self.export} end to export; choose export={allowed}")
        return self
