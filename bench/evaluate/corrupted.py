"""Accuracy on corrupted test images, one (corruption, severity) at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.data.corruptions import CorruptedImages
from bench.nn import Classifier
from bench.recipe import SEVERITIES, Settings
from bench.record import CorruptionEvaluation
from bench.reporting import Reporter
from bench.stop import Stop


class CorruptionCounts(Settings):
    """Images classified correctly under one corruption, at the severities done, from 1 on."""

    sha256: str
    """Digest of the corrupted images; counts on others are of no use."""
    correct: tuple[int, ...] = ()


def evaluate_corrupted(
    classifier: Classifier,
    corrupted: CorruptedImages,
    labels: Tensor,
    *,
    done: Mapping[str, CorruptionCounts],
    keep: Callable[[dict[str, CorruptionCounts]], None],
    batch_size: int,
    device: torch.device,
    reporter: Reporter,
    stop: Stop,
) -> CorruptionEvaluation:
    """Measure ``classifier`` on every corruption of ``corrupted``.

    Args:
        classifier: in eval mode, on ``device``.
        corrupted: copies of the whole test split.
        labels: int64 [N], of the test split.
        done: counts of an interrupted evaluation.
        keep: given the counts so far after each (corruption, severity).
        batch_size: images a forward pass.
        device: where to work.
        reporter: told about progress.
        stop: asked before each batch.

    Raises:
        BenchError: the corrupted images cannot be read any more.
        InterruptedRunError: a stop was requested; the finished severities are kept.
    """
    counts = {
        name: done[name] if name in done and done[name].sha256 == digest else CorruptionCounts(sha256=digest)
        for name, digest in corrupted.digests.items()
    }
    n = len(labels)
    finished = n * sum(len(cell.correct) for cell in counts.values())
    reporter.begin("common corruptions", n * len(counts) * len(SEVERITIES), done=finished)
    for name in counts:
        for severity in SEVERITIES[len(counts[name].correct) :]:
            correct = 0
            for first in range(0, n, batch_size):
                stop.check()
                batch = slice(first, first + batch_size)
                images = corrupted.batch(name, severity, batch).to(device).float().div(255)
                with torch.no_grad():
                    hits = classifier(images).argmax(1) == labels[batch].to(device)
                correct += int(hits.sum())
                reporter.advance(len(images), f"{name}, severity {severity}")
            update = {"correct": (*counts[name].correct, correct)}
            counts[name] = counts[name].model_copy(update=update)
            keep(dict(counts))
    reporter.end()
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
