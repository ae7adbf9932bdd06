"""RoCL, and A-InfoNCE on it: one batch-norm, shortcuts called ``shortcut``, no normalisation of the input.

Other CIFAR ResNets have the same names. What tells RoCL's files is what they hold beside the weights; weights that were
taken out of them are told by ``--origin rocl``.

Source: Kim-Minseon/RoCL at b6d5185, ``src/models/resnet.py`` and ``src/utils.py``.
"""

from bench.zoo.layout import Layout

LAYOUTS = (
    Layout(
        "rocl",
        {"rocl": ("RoCL", 2020), "rocl-a-infonce": ("A-InfoNCE", 2022)},
        signs=(r"layer2\.0\.shortcut\.0\.weight",),
        beside=frozenset({"acc", "optimizer_state", "rng_state"}),
        stem_padding=1,
        normalisation="none",
    ),
)
