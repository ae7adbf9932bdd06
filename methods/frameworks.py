"""The self-supervised frameworks that DeACL can start from, by name (Table 9)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from bench.method import MethodContext
from methods.barlow_twins import BarlowTwinsStage, BarlowTwinsStageSettings
from methods.byol import BYOLStage, BYOLStageSettings
from methods.mocov2 import MoCoStage, MoCoStageSettings
from methods.simclr import SimCLRStage, SimCLRStageSettings
from methods.vicreg import VICRegStage, VICRegStageSettings

FrameworkName = Literal["simclr", "mocov2", "byol", "barlow_twins", "vicreg"]
FrameworkSettings = (
    SimCLRStageSettings | MoCoStageSettings | BYOLStageSettings | BarlowTwinsStageSettings | VICRegStageSettings
)
FrameworkStage = SimCLRStage | MoCoStage | BYOLStage | BarlowTwinsStage | VICRegStage


class Framework(NamedTuple):
    """A framework's settings, with its published recipe as defaults, and the stage that uses them."""

    settings: type[FrameworkSettings]
    stage: Callable[[Any, MethodContext], FrameworkStage]


FRAMEWORKS: Mapping[FrameworkName, Framework] = {
    "simclr": Framework(SimCLRStageSettings, SimCLRStage),
    "mocov2": Framework(MoCoStageSettings, MoCoStage),
    "byol": Framework(BYOLStageSettings, BYOLStage),
    "barlow_twins": Framework(BarlowTwinsStageSettings, BarlowTwinsStage),
    "vicreg": Framework(VICRegStageSettings, VICRegStage),
}
