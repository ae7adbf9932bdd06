"""AdvCL, and A-InfoNCE on it: three batch-norms (normal, PGD, PGD on pseudo-labels), no normalisation of the input.

Source: LijieFan/AdvCL at 24cb7a6, ``models/resnet_cifar_multibn_ensembleFC.py``, ``pretraining_advCL.py`` and
``finetuning_advCL_SLF.py``, which evaluates batch-norm 1; yqy2001/A-InfoNCE, ``Asym-AdvCL``.
"""

from bench.zoo.layout import Layout

_ORIGINS = {"advcl": ("AdvCL", 2021), "a-infonce": ("A-InfoNCE", 2022)}
_PSEUDO = "a classifier of pseudo-labels"

LAYOUTS = (
    Layout(
        "advcl",
        _ORIGINS,
        signs=(r"bn1\.bn_list\.2\.weight",),
        branches={"adversarial": "bn_list.1.", "clean": "bn_list.0.", "pseudo-labels": "bn_list.2."},
        stem_padding=1,
        normalisation="none",
        parts={
            **{f"fc_{count:03d}": _PSEUDO for count in (2, 10, 50, 100, 500)},
            **{"head_proj": "the projector", "head_pred": "the predictor", "head_ce": _PSEUDO},
        },
    ),
    Layout(
        "advcl-tuned",
        _ORIGINS,
        signs=(r"layer2\.0\.shortcut\.0\.weight", r"head_proj\.0\.weight"),
        stem_padding=1,
        normalisation="none",
        parts={"head_proj": "an unused projector", "head_pred": "an unused predictor", "linear": "an unused layer"},
    ),
)
