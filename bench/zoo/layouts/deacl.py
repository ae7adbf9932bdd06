"""DeACL and ProFeAT: a student beside what it learns from; the stem pads by 2.

Source: pantheon5100/DeACL at 3fb81e3, ``solo/methods/base_for_adversarial_training.py`` and
``solo/models/resnet_add_normalize.py``; val-iisc/ProFeAT, ``utils.py`` and ``finetune.py``.
"""

from bench.zoo.layout import Layout

LAYOUTS = (
    Layout(
        "deacl",
        {"deacl": ("DeACL", 2022)},
        signs=(r"backbone\.conv1\.weight", r"momentum_backbone\.normalize\.mean"),
        network="backbone.",
        stem_padding=2,
        normalisation="cifar",
        parts={"momentum_backbone": "the frozen clean teacher"},
    ),
    Layout(
        "profeat",
        {"profeat": ("ProFeAT", 2024)},
        signs=(r"backbone\.conv1\.weight", r"backbone\.normalize\.mean", r"projector\.0\.weight"),
        network="backbone.",
        stem_padding=2,
        normalisation="cifar100",  # whatever the data: it follows the network
        parts={"projector": "the teacher's frozen projector"},
    ),
)
