"""Two methods that share a stage whose steps wait while the file SLOW_WHILE exists: there is time to interrupt it."""

import os
import time
from dataclasses import replace

from bench.method import single_stage
from methods.simclr import SimCLR, SimCLRStage, SimCLRStageSettings


class SlowStage(SimCLRStage):
    """SimCLR's, with pauses that change nothing else."""

    shared = True

    def after_step(self) -> None:
        """Wait."""
        if os.path.exists(os.environ.get("SLOW_WHILE", "")):
            time.sleep(1)


First = single_stage(replace(SimCLR.info, title="First"), SimCLRStageSettings, SlowStage)
Second = single_stage(replace(SimCLR.info, title="Second"), SimCLRStageSettings, SlowStage)
