"""Several processes of one run on this machine's CPU, forked from the test: torch is imported already."""

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist


def run_together(count: int, work: Callable[[], Any]) -> list[Any]:
    """Return what ``work()`` returns in each of ``count`` processes that know each other."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = [context.Process(target=_join, args=(rank, count, port, work, results)) for rank in range(count)]
    for child in children:
        child.start()
    found = dict(results.get() for _ in children)
    for child in children:
        child.join()
    for value in found.values():
        if isinstance(value, Exception):
            raise value
    return [found[rank] for rank in range(count)]


def _join(rank: int, count: int, port: int, work: Callable[[], Any], results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    try:
        results.put((rank, work()))
    except Exception as error:  # what cannot be pickled counts: nothing was put then
        results.put((rank, error))
    dist.destroy_process_group()
