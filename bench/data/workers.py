"""Processes that decode the coming batches of stored images while the present one is used."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.stored import StoredImages
from bench.parallel import devices

_AHEAD = 2
"""Batches that each process decodes before they are needed."""
_MOST = 16
"""Processes."""


def free_cores() -> int:
    """Return how many processes may decode: one for each core that the run does not need itself, up to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(_MOST, cores // devices() - 1))


def decoded_batches(images: StoredImages, positions: Sequence[list[int]], workers: int) -> Iterator[Tensor]:
    """Yield the images at each of ``positions``, uint8 [B, C, H, W], decoded by ``workers`` processes.

    Raises:
        BenchError: an image was changed, or cannot be read any longer.
        BrokenProcessPool: a process was lost.
    """
    # Where processes can be forked they share the list of images, and start in no time. They never touch a GPU.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    start = (os.getpid(), images.encoded, images.decoder)
    pool = ProcessPoolExecutor(min(workers, len(positions)), context, initializer=_begin, initargs=start)
    coming = (pool.submit(_decode, each) for each in positions)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: those of torch are idle
            ahead: deque[Future[NDArray[np.uint8]]] = deque(islice(coming, _AHEAD * workers))
        while ahead:
            yield torch.from_numpy(ahead.popleft().result())
            ahead.extend(islice(coming, 1))
    finally:
        pool.shutdown(cancel_futures=True)


_images: StoredImages
"""Of a worker process."""


def _begin(parent: int, *images: Any) -> None:
    """Prepare a worker process, which leaves requests to stop to the process ``parent``, and ends with it."""
    global _images
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _images = StoredImages(*images)


def _end_with(parent: int) -> None:
    """End this process as soon as ``parent`` was killed: it would wait for work for ever, and keep the run's lock."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def _decode(positions: list[int]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = _images.decoded(positions, threads=1).numpy()
    return pixels
