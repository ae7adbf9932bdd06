"""The devices of this machine, as a grid shares them out."""

import os

import torch

from bench.device import available_memory, pick_device
from bench.grid import Device

_SHARE = 0.9
"""Of the memory: the rest is for what else runs on the device."""


def local_devices(device: str | None, *, at_once: int | None, threads: int, together: int = 1) -> list[Device]:
    """Return the devices that jobs may use; those of a job on several GPUs are one.

    Args:
        device: as in ``--device``; None: every GPU, or the CPU where there is none.
        at_once: the most jobs at once on each device; None: one a GPU, and on the CPU as many as cores for their
            threads.
        threads: CPU threads of a process.
        together: how many devices a job uses.

    Raises:
        BenchError: there is no such device.
    """
    picked = pick_device(device)
    if picked.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory = int(_SHARE * available_memory())
        return [Device("cpu", at_once or max(1, cores // (threads * together)), memory)]
    single = device is not None and picked.index is not None
    numbers = [picked.index] if single else list(range(torch.cuda.device_count()))
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [seen[number] if seen != [""] else str(number) for number in numbers]
    groups = [slice(start, start + together) for start in range(0, max(1, len(names) - together + 1), together)]
    return [
        Device(
            f"cuda:{','.join(map(str, numbers[group]))}",
            at_once or 1,
            int(_SHARE * min(torch.cuda.get_device_properties(number).total_memory for number in numbers[group])),
            {"CUDA_VISIBLE_DEVICES": ",".join(names[group])},
        )
        for group in groups
    ]
