"""Training on several processes of one CPU against one process with as many threads.

Both take the same steps of the same stage on the same batch of noise of CIFAR-10's shape. The processes are forked
before this one computes, wait between their turns, and are timed until the last of them has finished.

Where other programs use the cores, these times say little. The second figure does not depend on them: the processor
seconds of a step, in one process with one thread and in all processes together. Their ratio is the share of the work
that is not overhead: what each process repeats, the statistics of batch-norm, and the exchange.

Run from the repository's root on a machine with two free cores: ``python perf/devices.py``.
"""

import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from comparison import Comparison, arguments, speeds, take_turns
from torch import distributed as dist
from training import OurStep, stage_of

from bench import rng
from bench.device import keep_freed_memory

SECTIONS = {"simclr": "stage1", "deacl": "stage2"}


class Together:
    """Processes that take steps together when they are called."""

    def __init__(self, count: int, method: str, width: int, batch: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_work, args=(theirs, rank, count, address, method, width, batch), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def __call__(self) -> None:
        """Take a step on all of them, and keep the processor seconds that they ``spent``."""
        for end in self._ends:
            end.send(True)
        self.spent = sum(end.recv() for end in self._ends)

    def stop(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.send(False)
        for process in self._processes:
            process.join()


def _work(
    pipe: "Connection[Any, Any]", rank: int, count: int, address: str, method: str, width: int, batch: int
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    step = _step(method, width, batch)
    while pipe.recv():
        pipe.send(_spent(step))
    dist.destroy_process_group()


def _spent(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _step(method: str, width: int, batch: int) -> OurStep:
    images = torch.randint(256, (batch, 3, 32, 32), generator=rng.generator(0, "images")).to(torch.uint8)
    return OurStep(stage_of(method, width, batch, SECTIONS[method]), images)


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--methods", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images a step (default %(default)s)")
    parser.set_defaults(threads=2)
    options = parser.parse_args()
    together = {method: Together(options.threads, method, options.width, options.batch) for method in options.methods}
    comparison = Comparison("devices", options)
    keep_freed_memory()
    for method, processes in together.items():
        one, several = f"1 process, {options.threads} threads", f"{options.threads} processes"
        step = _step(method, options.width, options.batch)
        seconds = take_turns({one: step, several: processes}, options.rounds, wall_clock=True)
        title = f"{method}, {SECTIONS[method]}, width {options.width}, batches of {options.batch}"
        amounts = dict.fromkeys(seconds, options.batch)
        comparison.add(speeds(title, seconds, amounts, unit="images", ours=several), seconds)
        torch.set_num_threads(1)
        alone, shared = [], []
        for _ in range(options.rounds):
            alone.append(_spent(step))
            processes()
            shared.append(processes.spent)
        torch.set_num_threads(options.threads)
        share = statistics.median(a / b for a, b in zip(alone, shared, strict=True))
        comparison.values[method] = {"alone": alone, "shared": shared, "share": share}
        print(f"{title}: {share:.2f} of the processor seconds of {several} are those of 1 process with 1 thread")
        processes.stop()
    comparison.finish()


if __name__ == "__main__":
    main()
