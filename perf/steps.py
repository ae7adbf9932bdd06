"""Seconds a step of every stage of every method with a ResNet-18 of full width, at batches of 256 and 512 images.

All steps are timed in one process, alternately, so that other load on the machine affects all alike. Timed are the
larger batch, or the largest that fits time and memory, and a quarter of it, unless all batches of a stage are whole.
Other figures are read from the line through these and marked "~". The images are noise of CIFAR-10's shape.

Run from the repository's root: ``python perf/steps.py [METHOD ...] [--threads 2] [--minutes 9] [--output FILE]``.
"""

import argparse
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table

from bench.cost import Effort, StageProbe, StepTimes, Subject, data_like, time_in_turn, timed_methods
from bench.device import device_name, pick_device
from bench.files import write_json
from bench.recipe import load_tier

BATCHES = (256, 512)
_SHARE = 0.8
"""Share of the free memory that the tensors of a step may take; kernels need some as well."""


def main() -> None:
    """Time, print a table, and write the figures if requested."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's, on a CPU")
    parser.add_argument("--minutes", type=float, default=9, help="approximate limit for the whole run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each step is timed")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the best there is")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)

    with Console(stderr=True).status("building") as status:
        owners, probes = [], []
        for name in asked.methods or timed_methods():
            owner = Subject.of(name, data_like("cifar10", Path("data")), tier=load_tier("paper"))
            images = owner.data.random_images()
            for stage in owner.stages(device):
                status.update(f"counting the memory of {name}'s steps")
                stage.plan = stage.plan.model_copy(update={"batch_size": max(BATCHES)})
                probe = StageProbe(stage, images, device=device)
                if not fits(probe, max(BATCHES), device):
                    probe.plan = probe.plan.model_copy(update={"batch_size": min(BATCHES)})
                owners.append(name)
                probes.append(probe)
        times = time_in_turn(probes, Effort(asked.rounds, 60 * asked.minutes, said=status.update))

    rows = [
        {
            "method": name,
            "stage": probe.stage.name,
            "timed": taken.seconds,
            "seconds": {batch: taken.at(batch) for batch in BATCHES},
        }
        for name, probe, taken in zip(owners, probes, times, strict=True)
    ]
    if asked.output:
        environment = {"device": device_name(device), "torch": torch.__version__, "threads": asked.threads}
        write_json(asked.output, {**environment, "rows": rows})
    Console().print(table(owners, probes, times, device_name(device)))


def fits(probe: StageProbe, batch: int, device: torch.device) -> bool:
    """Return whether a step on ``batch`` images fits in memory: on a CPU the system kills what needs too much."""
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    return probe.memory(batch) <= _SHARE * free


def table(owners: list[str], probes: list[StageProbe], times: list[StepTimes], device: str) -> Table:
    """Return the figures, and the ratio of each stage's step to that of DeACL's second stage where it was timed."""
    shown = Table(title=f"Seconds a step, ResNet-18, {device}", caption="~: on the line through what was timed")
    for heading in ("method", "stage", "timed at", *map(str, BATCHES), "to DeACL's second"):
        shown.add_column(heading, justify="left" if heading in ("method", "stage") else "right")
    deacl = [taken for name, taken in zip(owners, times, strict=True) if name == "deacl"]
    for name, probe, taken in zip(owners, probes, times, strict=True):
        cells = [f"{'' if batch in taken.seconds else '~'}{taken.at(batch):.3g}" for batch in BATCHES]
        ratio = f"{taken.at(BATCHES[0]) / deacl[-1].at(BATCHES[0]):.2f}" if deacl else ""
        shown.add_row(name, probe.stage.name, ", ".join(map(str, taken.seconds)), *cells, ratio)
    return shown


if __name__ == "__main__":
    main()
