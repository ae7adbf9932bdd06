"""Training and evaluation on several processes of one CPU against one process with as many threads.

Both take the same steps of the same stage on the same batch of noise of CIFAR-10's shape, or attack the same batches of
test images. The processes are forked before this one computes, wait between their turns, and are timed until the last
of them has finished.

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
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from comparison import Comparison, arguments, speeds, take_turns
from torch import distributed as dist
from torch import nn
from training import OurStep, noise, stage_of

from bench import rng
from bench.data import Split
from bench.device import keep_freed_memory
from bench.evaluation import sweep
from bench.job import Job
from bench.monitor import Monitor
from bench.nn import Classifier, build_encoder
from bench.recipe import EncoderSettings
from bench.record import SweepSettings

SECTIONS = {"simclr": "stage1", "deacl": "stage2"}
BATCHES = 4
"""Of an evaluation; together they have as many images as a step of training."""
Work = Callable[[], object]


class Together:
    """Processes that work together when they are called; each builds its work with ``make``."""

    def __init__(self, count: int, make: Callable[[], Work]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_work, args=(theirs, rank, count, address, make), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def __call__(self) -> None:
        """Do the work on all of them, and keep the processor seconds that they ``spent``."""
        for end in self._ends:
            end.send(True)
        self.spent = sum(end.recv() for end in self._ends)

    def stop(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.send(False)
        for process in self._processes:
            process.join()


def _work(pipe: "Connection[Any, Any]", rank: int, count: int, address: str, make: Callable[[], Work]) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    work = make()
    while pipe.recv():
        pipe.send(_spent(work))
    dist.destroy_process_group()


def _spent(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _step(method: str, width: int, batch: int) -> OurStep:
    return OurStep(stage_of(method, width, batch, SECTIONS[method]), noise(batch))


def _attack(width: int, batch: int) -> Work:
    """Return what measures a new classifier under PGD-20 on so many batches as a run does, and saves its state."""
    shape, labels = (3, 32, 32), torch.arange(BATCHES * batch) % 10
    settings = EncoderSettings(width=width)
    with rng.scoped(0, "classifier"):
        encoder = build_encoder(settings, image_shape=shape, mean=(0.5,) * 3, std=(0.25,) * 3)
        classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, 10)).eval()
    test = Split(noise(len(labels)), labels)
    pgd = SweepSettings(kind="eps", eps=(8 / 255,), steps=(20,), batch_size=batch)

    def measure() -> None:
        with TemporaryDirectory() as folder:
            sweep(classifier, test, pgd, Job(Path(folder), "timing", 0, torch.device("cpu"), Monitor()))

    return measure


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--methods", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images a step (default %(default)s)")
    parser.set_defaults(threads=2)
    options = parser.parse_args()
    width, batch, count = options.width, options.batch, options.threads
    works: dict[str, Callable[[], Work]] = {
        f"{method}, {SECTIONS[method]}, width {width}, batches of {batch}": partial(_step, method, width, batch)
        for method in options.methods
    }
    evaluated = f"PGD-20, width {width}, {BATCHES} batches of {batch // BATCHES}"
    works[evaluated] = partial(_attack, width, batch // BATCHES)
    together = {title: Together(count, make) for title, make in works.items()}
    comparison = Comparison("devices", options)
    keep_freed_memory()
    for title, processes in together.items():
        one, several = f"1 process, {count} threads", f"{count} processes"
        work = works[title]()
        seconds = take_turns({one: work, several: processes}, options.rounds, wall_clock=True)
        amounts = dict.fromkeys(seconds, batch)
        comparison.add(speeds(title, seconds, amounts, unit="images", ours=several), seconds)
        torch.set_num_threads(1)
        alone, shared = [], []
        for _ in range(options.rounds):
            alone.append(_spent(work))
            processes()
            shared.append(processes.spent)
        torch.set_num_threads(count)
        share = statistics.median(a / b for a, b in zip(alone, shared, strict=True))
        comparison.values[title] = {"alone": alone, "shared": shared, "share": share}
        print(f"{title}: {share:.2f} of the processor seconds of {several} are those of 1 process with 1 thread")
        processes.stop()
    comparison.finish()


if __name__ == "__main__":
    main()
