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


def _layout(name: str, network: str, classes: dict[int, str]) -> Layout:
    """Return the layout in which the network is called ``network``, with the normalisation of so many classes."""
    return Layout(
        name,
        _ORIGINS,
        signs=(rf"{network}\.conv1\.weight", r"classifier\.weight", r"projector\.0\.weight"),
        network=f"{network}.",
        stem_padding=2,
        classes=classes,
        parts=_PARTS,
    )


LAYOUTS = (
    _layout("solo-learn", "backbone", {10: "cifar-2021-12", 100: "cifar100"}),
    _layout("solo-learn-2021", "encoder", {10: "cifar", 100: "cifar"}),
)
