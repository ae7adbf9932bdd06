"""AP-DPE: a pre-activation ResNet-50, within a pair of normalisation (``0.``) and network (``1.``), or bare.

The joint model of the ensemble has a trunk without batch-norm and ReLU after the stem: another network, not taken.

Source: VITA-Group/Adv-SS-Pretraining at 4ffbebe, ``pretraining/resnetv2.py`` and ``train_adv_rotation.py``.
"""

from bench.zoo.layout import Layout

_ORIGINS = {"ap-dpe": ("AP-DPE", 2020)}
_PARTS = {"linear": "the classifier of rotations or permutations"}

LAYOUTS = (
    Layout(
        "ap-dpe",
        _ORIGINS,
        signs=(r"1\.layer1\.0\.bn0\.weight",),
        network="1.",
        norms=("0.",),
        stem_padding=1,
        normalisation="imagenet",
        parts=_PARTS,
    ),
    Layout(
        "ap-dpe-bare",
        _ORIGINS,
        signs=(r"layer1\.0\.bn0\.weight",),
        stem_padding=1,
        normalisation="imagenet",
        parts=_PARTS,
    ),
)
