"""Two methods that share a stage whose steps wait as long as SLOW_STEP says, so that there is time to interrupt it."""

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
        time.sleep(float(os.environ.get("SLOW_STEP", "0")))


First = single_stage(replace(SimCLR.info, title="First"), SimCLRStageSettings, SlowStage)
Second = single_stage(replace(SimCLR.info, title="Second"), SimCLRStageSettings, SlowStage)
