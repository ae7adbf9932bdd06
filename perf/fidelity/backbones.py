"""AP-DPE's backbones and diversity term beside the authors' code, and WRN-28-10 beside DeACL's.

Run from the repository's root: ``python perf/fidelity/backbones.py PATH/TO/CLONE PATH/TO/DEACL``. It prints the section
of ``docs/fidelity.md``.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import ours
import torch
from clone import Clone, Upstream, on_cpu
from command import run
from table import Table, farthest
from torch import nn

from bench.nn import ENCODERS, Normalise
from methods.ap_dpe.diversity import log_det

UPSTREAMS = (
    Upstream("VITA-Group/Adv-SS-Pretraining", "4ffbebea582f858ec6165f082f52ded1fc9b817d"),
    Upstream("pantheon5100/DeACL", "3fb81e3fa4a30116fc5c90169040023187e9079a"),
)

BATCH = 2
NOTE = f"Compared: upstream's own networks and diversity term, with our weights loaded, on {BATCH} images, float64."


def compare(clone: Clone, deacl: Clone) -> Iterator[Table]:
    """Yield the table."""
    table = Table("Backbones, and AP-DPE's diversity term", f"{clone.upstream}; WRN-28-10: {deacl.upstream}", NOTE)
    with clone.importing("finetune", absent={"advertorch": {}}), on_cpu():
        for depth in (18, 34, 50):
            compare_backbone(table, depth)
    absent: dict[str, dict[str, Any]] = {"timm": {}, "timm.models.registry": {"register_model": lambda build: build}}
    with deacl.importing(bare=["solo", "solo.models"], absent=absent):
        compare_wide(table)
    with clone.importing("pretraining"), on_cpu():
        compare_log_det(table)
    yield table


def compare_backbone(table: Table, depth: int) -> None:
    """Add a pre-activation ResNet's size and features."""
    theirs = getattr(import_module("resnetv2"), f"ResNet{depth}")()
    theirs.linear = nn.Identity()
    mine = ENCODERS.get(f"preact-resnet{depth}")(64, (3, 32, 32), 1, "kaiming")
    theirs.load_state_dict(ours.renamed(mine.state_dict(), {"downsample": "shortcut"}))
    name = f"pre-activation ResNet-{depth}"
    table.equal(f"{name}, parameters without head", ours.parameters(mine), ours.parameters(theirs))
    table.equal(f"{name}, state entries", len(mine.state_dict()), len(theirs.state_dict()))
    add_features(table, name, mine, theirs)


def add_features(table: Table, name: str, mine: nn.Module, theirs: nn.Module) -> None:
    """Add the features of the same images in train mode, which moves the statistics, and then in eval mode."""
    images = ours.images(BATCH)
    for training in (True, False):
        with torch.no_grad():
            both = [network.train(training)(images) for network in (mine, theirs)]
        largest = [f"max {float(features.abs().max()):.4f}" for features in both]
        mode = "train" if training else "eval"
        gap = {"": farthest([both[0]], [both[1]])}
        table.add(f"{name}, features, {mode} mode", largest[0], largest[1], gap, within=1e-10)


def compare_wide(table: Table) -> None:
    """Add WRN-28-10's size and features."""
    theirs = import_module("solo.models.wide_resnet").wide_resnet28w10()
    backbone = ENCODERS.get("wide-resnet28-10")(16, (3, 32, 32), 1, "kaiming")
    words = {"layer1.": "block1.layer.", "layer2.": "block2.layer.", "layer3.": "block3.layer."}
    state = ours.renamed(backbone.state_dict(), {**words, "downsample": "convShortcut"})
    missing, unknown = theirs.load_state_dict(state, strict=False)
    table.equal("WRN-28-10, entries that upstream lacks", len(unknown), 0)
    rest = "normalize, block2.layer.0.bn1, block3.layer.0.bn1"
    only = sorted({name.rpartition(".")[0] for name in missing}, key=rest.index)
    table.equal("WRN-28-10, what only upstream has (two batch-norms of unused output)", rest, ", ".join(only))
    constants = Normalise(theirs.normalize.mean.tolist(), theirs.normalize.std.tolist())
    add_features(table, "WRN-28-10", nn.Sequential(constants, backbone), theirs)


def compare_log_det(table: Table) -> None:
    """Add the diversity term of random, and of near-parallel, gradients."""
    theirs = import_module("attack_algo_ensemble").calculate_log_det
    draw = ours.generator("gradients")
    base = torch.randn(BATCH, 3, 32, 32, generator=draw)
    for name, spread in (("random", 1e3), ("near-parallel", 1e-4)):
        gradients = [base + spread * torch.randn(base.shape, generator=draw) for _ in range(3)]
        table.number(f"h of {name} gradients", log_det(gradients).mean(), theirs(*gradients), within=1e-8)


if __name__ == "__main__":
    run(__doc__, UPSTREAMS, compare)
