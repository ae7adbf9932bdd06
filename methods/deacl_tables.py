"""The ablations of DeACL's paper, as grids: its Tables 1, 3, 4, 5, 6 and 9, and its studies of lambda and the loss.

Every table holds the default, which the paper's tables repeat: teacher-initialised student, weight decay 5e-4, weak
views, no projector, no contrastive term, SimCLR.

Source: DeACL section 4 and the tables named; section 3.3 for the loss.
"""

from collections.abc import Mapping
from typing import Any

from bench.method import AblationCell, AblationTable
from methods.deacl_losses import LOSS_FORMS

_OUR_READING = "The effect of the setting is in no public code: ours is a reading of the paper."


def _cells(key: str, variant: str, *rows: tuple[Any, Any, str]) -> tuple[AblationCell, ...]:
    """Return one cell a row: a value of the setting ``key``, the published ``variant``'s word for it, a label."""
    return tuple(AblationCell({key: value}, label, {variant: published}) for value, published, label in rows)


def _views(clean: str, adversarial: str, published: Mapping[str, str] | None = None) -> AblationCell:
    return AblationCell(
        {"stage2.clean_view": clean, "stage2.adversarial_view": adversarial},
        f"{clean}, {adversarial}",
        published,
    )


def _columns(first: str, second: str) -> dict[str, str]:
    return {"stage2_aug_col1": first, "stage2_aug_col2": second}


TABLES: Mapping[str, AblationTable] = {
    "1": AblationTable(
        "Table 1, initialisation of the student",
        _cells(
            "student_init",
            "student_init",
            ("teacher", "teacher", "from the teacher"),
            ("scratch", "scratch", "from scratch"),
        ),
        "DeACL, ECCV 2022, Table 1",
    ),
    "3": AblationTable(
        "Table 3, weight decay of stage 2",
        _cells(
            "stage2.weight_decay",
            "stage2_weight_decay",
            *((decay, decay, f"{decay:g}") for decay in (1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3)),
        ),
        "DeACL, ECCV 2022, Table 3",
    ),
    "4": AblationTable(
        "Table 4, augmentation in stage 2 (clean view, adversarial view)",
        (
            _views("weak", "weak", _columns("weak", "weak")),
            _views("strong", "strong", _columns("strong", "strong")),
            _views("weak", "strong"),
            _views("strong", "weak"),
        ),
        "DeACL, ECCV 2022, Table 4",
        unplaced={
            "column 1 weak, column 2 strong": _columns("weak", "strong"),
            "column 1 strong, column 2 weak": _columns("strong", "weak"),
        },
        notes=(
            "Which of the paper's two columns is the clean view and which the adversarial one is not known to us, so "
            "its two mixed lines are listed separately.",
            _OUR_READING,
        ),
    ),
    "5": AblationTable(
        "Table 5, projector in stage 2",
        _cells(
            "stage2.projector",
            "stage2_projector",
            ("none", False, "without projector"),
            ("stage1", True, "with the projector of stage 1"),
        ),
        "DeACL, ECCV 2022, Table 5",
        notes=(_OUR_READING,),
    ),
    "6": AblationTable(
        "Table 6, prevention of collapse in stage 2",
        _cells(
            "stage2.contrastive",
            "stage2_collapse_prevention",
            (0.0, False, "without contrastive term"),
            (1.0, True, "with contrastive term"),
        ),
        "DeACL, ECCV 2022, Table 6",
        notes=(_OUR_READING, "The paper's weight of the term is not known to us; ours is 1."),
    ),
    "9": AblationTable(
        "Table 9, framework of stage 1",
        _cells(
            "ssl",
            "stage1_ssl",
            ("simclr", "simclr", "SimCLR"),
            ("mocov2", "mocov2", "MoCo v2"),
            ("byol", "byol", "BYOL"),
            ("barlow_twins", "barlow_twins", "Barlow Twins"),
            ("vicreg", "vicreg", "VICReg"),
        ),
        "DeACL, ECCV 2022, Table 9",
    ),
    "lambda": AblationTable(
        "lambda, the weight of the adversarial term",
        tuple(AblationCell({"stage2.lam": value}, f"{value:g}") for value in (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)),
        "DeACL, ECCV 2022, supplement",
        notes=("The paper's study is in its supplement, which we have not seen; the values are ours.",),
    ),
    "loss": AblationTable(
        "form of the loss",
        tuple(AblationCell({"stage2.loss": name}, name) for name in LOSS_FORMS),
        "DeACL, ECCV 2022, section 3.3",
        notes=(
            "The names are those of the authors' code, which implements only the first; the others are our reading.",
            "Section 3.3 calls `pgd` worse and cosine better than KL by a large margin; it gives no numbers.",
        ),
    ),
}
