"""ACL, DynACL, AIR and RCS: two batch-norms everywhere (0 clean, 1 adversarial), normalisation inside by buffers.

DynACL also saves a pair of networks, of which the momentum network, ``encoder_k``, is evaluated. After fine-tuning, and
in DynACL++ and AIR++, there is a single batch-norm. On STL-10 all but RCS have a 7x7 stem.

Source: VITA-Group/Adversarial-Contrastive-Learning at 399eabd, ``train_simCLR.py`` and ``models/resnet_multi_bn.py``;
PKU-ML/DYNACL, ``train_DynACL.py`` and ``LPAFT.py``; GodXuxilie/Enhancing_ACL_via_AIR and .../Efficient_ACL_via_RCS.
"""

from bench.zoo.layout import Layout

_ACL, _DYNACL = {"acl": ("ACL", 2020)}, {"dynacl": ("DynACL", 2023)}
_FAMILY = {**_ACL, **_DYNACL, "air": ("AIR", 2023), "rcs": ("RCS", 2023)}
_TUNED = {**_ACL, "dynacl++": ("DynACL++", 2023), "air++": ("AIR++", 2023), "rcs": ("RCS", 2023)}
_BRANCHES = {"adversarial": "bn_list.1.", "clean": "bn_list.0."}
_PARTS = {"fc": "the projector", "encoder_q": "the online network"}

LAYOUTS = (
    Layout(
        "dynacl-pair",
        _DYNACL,
        signs=(r"encoder_q\.conv1\.weight", r"encoder_k\.bn1\.bn_list\.1\.weight"),
        network="encoder_k.",
        branches=_BRANCHES,
        stem_padding=1,
        normalisation="imagenet",
        parts=_PARTS,
    ),
    Layout(
        "acl",
        _FAMILY,
        signs=(r"bn1\.bn_list\.1\.weight",),
        branches=_BRANCHES,
        stem_padding=1,
        normalisation="imagenet",
        parts=_PARTS,
    ),
    Layout(
        "acl-one-stream",
        _FAMILY,
        signs=(r"bn1\.bn_list\.0\.weight",),
        branches={"only": "bn_list.0."},
        stem_padding=1,
        normalisation="imagenet",
        parts=_PARTS,
    ),
    Layout(
        "acl-single-bn",
        _TUNED,
        signs=(r"layer2\.0\.downsample\.0\.weight",),
        constants="imagenet",
        caution="RobustSSL-Benchmark's fine-tuned AdvCL and A-InfoNCE look the same, but do not use their constants of "
        "normalisation: for these type --origin advcl or --origin a-infonce.",
        stem_padding=1,
        normalisation="imagenet",
    ),
)
