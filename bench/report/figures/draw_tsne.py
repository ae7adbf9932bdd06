"""From finished runs to the t-SNE of their features."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench import rng
from bench.data import Dataset, Split
from bench.evaluate import attacked_features, clean_features
from bench.report.figures.files import save_figure
from bench.report.figures.tsne import Panel, embed, tsne_figure
from bench.report.figures.words import conditions, file_name
from bench.reporting import Reporter, Silent
from bench.run import Finished
from bench.stop import Stop


def draw_tsne(
    chosen: Sequence[Finished],
    output: Path,
    *,
    data_dir: Path,
    device: torch.device,
    images: int = 2000,
    adversarial: bool = False,
    reporter: Reporter | None = None,
    stop: Stop | None = None,
) -> list[Path]:
    """Draw the features that the encoders of ``chosen`` make of test images, one panel a run.

    Args:
        chosen: at least one; all on the same data under the same protocol.
        output: folder of the figure.
        data_dir: where datasets are.
        device: where to compute the features.
        images: how many test images to show: all, or a subset that depends on the dataset alone.
        adversarial: show, in a row below, the same images attacked as for RA, embedded together with them.
        reporter: told about progress.
        stop: asked between batches and panels.

    Raises:
        BenchError: missing data or weights; ``output`` cannot be written.
        InterruptedRunError: a stop was requested; nothing is kept.
    """
    reporter, stop = reporter or Silent(), stop or Stop()
    dataset = chosen[0].dataset(data_dir)
    shown = _subset(dataset, images)
    labels = shown.labels.numpy()
    upper, lower = [], []
    reporter.begin("t-SNE", len(chosen), unit="runs")
    for finished in chosen:
        stop.check()
        title, recipe = f"{finished.record.title}, seed {finished.record.seed}", finished.recipe
        classifier = finished.classifier(dataset, device)
        features = [clean_features(classifier, shown, recipe, device=device)]
        if adversarial:
            seed = finished.record.seed
            features.append(attacked_features(classifier, shown, recipe, seed=seed, device=device, stop=stop))
        points = embed(torch.cat(features).numpy())
        upper.append(Panel(title, points[: len(shown)], labels))
        if adversarial:
            lower.append(Panel(f"{title}, attacked", points[len(shown) :], labels))
        reporter.advance(1)
    reporter.end()
    record = chosen[0].record
    common = (record.dataset, record.pretrained_on, record.tier, record.fidelity, record.protocol)
    figure = tsne_figure(
        [*upper, *lower],
        dataset.classes,
        title=f"{conditions(*common)}: features of {len(shown)} test images, t-SNE",
        across=len(upper) if adversarial else 4,
    )
    return save_figure(figure, output, file_name("tsne", *common, *(["attacked"] if adversarial else [])))


def _subset(dataset: Dataset, images: int) -> Split:
    test = dataset.test
    if images >= len(test):
        return test
    order: Tensor = torch.randperm(len(test), generator=rng.generator(0, "t-SNE", dataset.sha256))
    chosen = order[:images].sort().values
    return Split(test.images[chosen], test.labels[chosen])
