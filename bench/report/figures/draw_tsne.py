"""From finished runs to the t-SNE of their features."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bench import rng
from bench.data import Dataset, Split
from bench.evaluate import attacked_features, clean_features
from bench.monitor import Monitor
from bench.recipe import canonical_digest
from bench.report.figures.files import save_figure
from bench.report.figures.tsne import Panel, embed, tsne_figure
from bench.report.figures.words import conditions, file_name, free_name, seeds_text
from bench.results import settings_text
from bench.run import Finished

Conditions = tuple[str, str | None, str, str, str]
"""Dataset, what the encoder was pre-trained on, tier, fidelity, protocol."""

_LETTERS = 34
"""Of a line above a panel."""
_LONGEST = 80
"""Letters for the runs in a file name."""


def draw_tsne(
    chosen: Sequence[Finished],
    output: Path,
    *,
    data_dir: Path,
    device: torch.device,
    images: int = 2000,
    adversarial: bool = False,
    monitor: Monitor | None = None,
) -> list[Path]:
    """Draw the features that the encoders of ``chosen`` make of test images, one panel a run.

    Runs of another tier or fidelity have a figure of their own.

    Args:
        chosen: at least one; all on the same data under the same protocol.
        output: folder of the figure.
        data_dir: where datasets are.
        device: where to compute the features.
        images: how many test images to show: all, or a subset that depends on the dataset alone.
        adversarial: show, in a row below, the same images attacked as for RA, embedded together with them.
        monitor: told about progress, and asked to stop between batches and panels.

    Raises:
        BenchError: missing data or weights; ``output`` cannot be written.
        InterruptedRunError: a stop was requested; nothing is kept.
    """
    monitor = monitor or Monitor()
    dataset = chosen[0].dataset(data_dir)
    shown = _subset(dataset, images)
    tables: dict[Conditions, list[Finished]] = {}
    for finished in chosen:
        record = finished.record
        common: Conditions = (record.dataset, record.pretrained_on, record.tier, record.fidelity, record.protocol)
        tables.setdefault(common, []).append(finished)
    files: list[Path] = []
    monitor.begin("t-SNE", len(chosen), unit="runs")
    for common, table in tables.items():
        figure = _figure(table, common, dataset, shown, device, adversarial, monitor)
        name = file_name("tsne", *common, _runs_text(table), "attacked" if adversarial else "")
        identity = [finished.record.protocol_sha256 for finished in table]
        files += save_figure(figure, output, free_name(name, identity, files))
    monitor.end()
    return files


def _figure(
    table: Sequence[Finished],
    common: Conditions,
    dataset: Dataset,
    shown: Split,
    device: torch.device,
    adversarial: bool,
    monitor: Monitor,
) -> Figure:
    labels = shown.labels.numpy()
    upper, lower = [], []
    for finished in table:
        monitor.check()
        title, recipe = _panel_text(finished), finished.recipe
        classifier = finished.classifier(dataset, device)
        features = [clean_features(classifier, shown, recipe, device=device)]
        if adversarial:
            seed = finished.record.seed
            features.append(attacked_features(classifier, shown, recipe, seed=seed, device=device, monitor=monitor))
        points = embed(torch.cat(features).numpy())
        upper.append(Panel(title, points[: len(shown)], labels))
        if adversarial:
            lower.append(Panel(f"{title}\nattacked", points[len(shown) :], labels))
        monitor.advance(1)
    return tsne_figure(
        [*upper, *lower],
        dataset.classes,
        title=f"{conditions(*common)}: features of {len(shown)} test images, t-SNE",
        across=len(upper) if adversarial else 4,
    )


def _panel_text(finished: Finished) -> str:
    """Return the method with all in which its recipe departs from the tier's, and the seed."""
    record = finished.record
    departures = ", ".join(settings_text(record.overrides))
    name = fill(f"{record.title} ({departures})" if departures else record.title, _LETTERS)
    return f"{name}\nseed {record.seed}"


def _runs_text(table: Sequence[Finished]) -> str:
    """Return the runs as a file name has them: their recipes, each with its seeds, or a digest where that is long."""
    recipes: dict[str, list[int]] = {}
    for finished in table:
        record = finished.record
        recipes.setdefault("-".join([record.method, *settings_text(record.overrides)]), []).append(record.seed)
    text = "-".join(f"{recipe}-{seeds_text(sorted(seeds))}" for recipe, seeds in recipes.items())
    if len(text) <= _LONGEST:
        return text
    return f"{len(table)}-runs-{canonical_digest(sorted(finished.record.sha256 for finished in table))[:8]}"


def _subset(dataset: Dataset, images: int) -> Split:
    test = dataset.test
    if images >= len(test):
        return test
    order: Tensor = torch.randperm(len(test), generator=rng.generator(0, "t-SNE", dataset.sha256))
    chosen = order[:images].sort().values
    return Split(test.images[chosen], test.labels[chosen])
