"""solo-learn on CIFAR: the online network of SimCLR, MoCo v2+, BYOL, Barlow Twins and VICReg; the stem pads by 2.

Normalisation is in the data loader, so it follows from the data set, which the size of the classifier tells, and from
the version: until 2021-12 the network was called ``encoder``, and CIFAR-100 was normalised by CIFAR-10's constants.

Source: vturrisi/solo-learn at fca55e3, ``solo/methods/base.py`` and ``solo/utils/contrastive_dataloader.py``; at
9187ea3, ``solo/data/pretrain_dataloader.py``.
"""

from bench.zoo.layout import Layout

_ORIGINS = {"solo-learn": ("solo-learn", 2022)}
_PARTS = {
    "momentum_backbone": "the momentum network",
    "momentum_encoder": "the momentum network",
    "momentum_projector": "the momentum network's projector",
    "momentum_classifier": "a classifier on the momentum network",
    "queue": "the queue of past keys",
    "queue_ptr": "the position in the queue",
    "predictor": "the predictor",
}

LAYOUTS = (
    Layout(
        "solo-learn",
        _ORIGINS,
        signs=(r"backbone\.conv1\.weight", r"classifier\.weight", r"projector\.0\.weight"),
        network="backbone.",
        stem_padding=2,
        classes={10: "cifar-2021-12", 100: "cifar100"},
        parts=_PARTS,
    ),
    Layout(
        "solo-learn-2021",
        _ORIGINS,
        signs=(r"encoder\.conv1\.weight", r"classifier\.weight", r"projector\.0\.weight"),
        network="encoder.",
        stem_padding=2,
        classes={10: "cifar", 100: "cifar"},
        parts=_PARTS,
    ),
)
