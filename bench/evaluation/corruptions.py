"""Accuracy on corrupted test images, one (corruption, severity) at a time."""

from functools import partial

import torch

from bench.attack import correct
from bench.data.corruptions import CorruptedImages
from bench.evaluation.measurement import Measurement
from bench.evaluation.state import CorruptionCounts
from bench.parallel import in_turn
from bench.recipe import SEVERITIES
from bench.record import CorruptionEvaluation


def corruption_accuracy(work: Measurement, corrupted: CorruptedImages) -> CorruptionEvaluation:
    """Measure the classifier on every corruption of ``corrupted``, copies of the whole test split.

    Raises:
        BenchError: the corrupted images can no longer be read.
        InterruptedRunError: a stop was requested; the finished severities are kept.
    """
    done, labels, monitor, size = work.state.corruptions, work.test.labels, work.job.monitor, work.settings.batch_size
    counts = {
        name: done[name] if name in done and done[name].sha256 == digest else CorruptionCounts(sha256=digest)
        for name, digest in corrupted.digests.items()
    }
    n = len(labels)
    finished = n * sum(len(cell.correct) for cell in counts.values())
    monitor.begin("common corruptions", n * len(counts) * len(SEVERITIES), done=finished)
    work.begin("corruptions")
    for name in counts:
        for severity in SEVERITIES[len(counts[name].correct) :]:
            correct = 0
            measured = partial(_right, work, corrupted, name, severity)
            for first, right in zip(range(0, n, size), in_turn(range(0, n, size), measured), strict=True):
                correct += right
                monitor.advance(min(size, n - first), f"{name}, severity {severity}")
            update = {"correct": (*counts[name].correct, correct)}
            counts[name] = counts[name].model_copy(update=update)
            work.keep(corruptions=dict(counts))
    monitor.end()
    package, version = corrupted.package or (None, None)
    return CorruptionEvaluation(
        source="generated" if corrupted.package else "files",
        parametrisation=corrupted.parametrisation,
        package=package,
        package_version=version,
        sha256=corrupted.sha256,
        n=n,
        correct={name: cell.correct for name, cell in counts.items()},
    )


@torch.no_grad()
def _right(work: Measurement, corrupted: CorruptedImages, name: str, severity: int, first: int) -> int:
    """Return how many images of the batch from ``first`` on are classified correctly."""
    work.job.monitor.check()
    batch = slice(first, first + work.settings.batch_size)
    images, wanted = work.to_device(corrupted.batch(name, severity, batch), work.test.labels[batch])
    return int(correct(work.classifier(images), wanted).sum())
