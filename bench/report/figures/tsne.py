"""The features of test images in the plane, by t-SNE, one panel a run (DeACL, figure 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from bench import rng
from bench.data import Dataset, Split
from bench.errors import BenchError
from bench.evaluation import attacked_features, clean_features
from bench.monitor import Monitor
from bench.recipe import canonical_digest
from bench.report.figures.style import RULE, heading, mark, new_figure, save_figure, styled
from bench.report.figures.words import free_name, seeds_text, table_file, table_text
from bench.results import Measured, TableKey, grouped, named, radius_text, recipe_departures, table_of, tier_forms
from bench.run import Finished

_TITLE_LETTERS = 34
"""Letters of a line above a panel."""
_RUNS_LETTERS = 80
"""Letters for the runs in a file name."""

Points = NDArray[np.float32]
"""[N, 2]."""

_PERPLEXITY = 30.0  # scikit-learn's default
_ACROSS = 4
_LISTED = 20
"""The most classes that have a legend: more would take the room of the points, and repeat colours and shapes."""
_LONGEST = 20
"""Letters of a class name that the legend shows."""
_FEWEST = 4
"""Test images, from which on t-SNE has a neighbourhood of one image or more."""
_MARK, _LETTER, _LINE = 0.35, 0.08, 0.17
"""Inches of the legend: a mark with its margins, a letter, and a line."""


class Panel(NamedTuple):
    """One run."""

    title: str
    points: Points
    labels: NDArray[np.int64]
    """[N], position in the class names."""


def embed(features: NDArray[np.float32]) -> Points:
    """Return ``features`` [N, D], N >= 4, in the plane: [N, 2], the same at every call.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; scikit-learn's code.
    """
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    return np.asarray(tsne.fit_transform(features), dtype=np.float32)


def tsne_figure(panels: Sequence[Panel], classes: Sequence[str], *, title: str, across: int = _ACROSS) -> Figure:
    """Return the figure of ``panels``, points coloured and shaped by class.

    Args:
        across: panels in a row.
    """
    across = min(len(panels), across)
    down = -(-len(panels) // across)
    listed, width = _legend(classes), max(2.5 * across, 4.0)
    longest = max((len(str(line.get_label())) for line in listed), default=0)
    columns = max(1, min(len(classes), 5 * across, int(width / (_MARK + _LETTER * longest))))
    rows = -(-len(listed) // columns)
    with styled():
        figure = new_figure(width, 2.6 * down + 0.6 + _LINE * max(0, rows - 2))
        grid = figure.subplots(down, across, squeeze=False).flat
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel, classes)
        heading(figure, title if listed else f"{title}; {len(classes)} classes, without a legend")
        if listed:
            figure.legend(handles=listed, loc="outside lower left", ncols=columns, handlelength=1, columnspacing=1.4)
        return figure


def _draw(axes: Axes, panel: Panel, classes: Sequence[str]) -> None:
    axes.set_title(panel.title, fontsize=9, fontweight="normal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color=RULE)
    size = min(12.0, 4000 / len(panel.points))
    for number in range(len(classes)):
        points = panel.points[panel.labels == number]
        if not len(points):
            continue
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=mark(number).colour,
            marker=mark(number).marker,
            linewidths=0,
            alpha=0.75,
        )


def _legend(classes: Sequence[str]) -> list[Line2D]:
    if len(classes) > _LISTED:
        return []
    marks = map(mark, range(len(classes)))
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in classes]
    return [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="", label=name)
        for style, name in zip(marks, names, strict=True)
    ]


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

    Runs that the board holds apart, as of another tier or budget, get separate figures.

    Args:
        chosen: at least one; all on the same data under the same protocol.
        images: how many test images to show: all, or a subset that depends on the dataset alone.
        adversarial: show, in a row below, the same images attacked as for RA, embedded together with them.
        monitor: receives the progress, and may stop the work between batches and panels.

    Raises:
        BenchError: missing data or weights; ``output`` cannot be written.
        InterruptedRunError: a stop was requested; nothing is kept.
    """
    monitor = monitor or Monitor()
    dataset = chosen[0].dataset(data_dir)
    shown = _subset(dataset, images)
    if len(shown) < _FEWEST:
        raise BenchError(f"t-SNE needs {_FEWEST} test images or more; here are {len(shown)}, of {dataset.name}.")
    forms = tier_forms(finished.record for finished in chosen)
    files: list[Path] = []
    monitor.begin("t-SNE", len(chosen), unit="runs")
    for table in grouped(chosen, lambda finished: _table(finished, forms)):
        key = _table(table[0], forms)
        figure = _drawn(table, key, dataset, shown, device, adversarial, monitor)
        name = table_file("tsne", key, _runs_text(table), "attacked" if adversarial else "")
        identity = [finished.record.protocol_sha256 for finished in table]
        files += save_figure(figure, output, free_name(name, identity, files))
    monitor.end()
    return files


def _table(finished: Finished, forms: Mapping[str, str]) -> TableKey:
    return table_of(Measured(finished.path, finished.record, finished.record.read_recipe()), forms)


def _drawn(
    table: Sequence[Finished],
    key: TableKey,
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
        classifier = finished.classifier(device)
        features = [clean_features(classifier, shown, recipe, device=device)]
        if adversarial:
            seed = finished.record.seed
            features.append(attacked_features(classifier, shown, recipe, seed=seed, device=device, monitor=monitor))
        points = embed(torch.cat(features).numpy())
        upper.append(Panel(title, points[: len(shown)], labels))
        if adversarial:
            attack = radius_text(recipe.threat.norm, recipe.eval_eps)
            lower.append(Panel(f"{title}\nattacked, {attack}", points[len(shown) :], labels))
        monitor.advance(1)
    return tsne_figure(
        [*upper, *lower],
        dataset.classes,
        title=f"{table_text(key)}: features of {len(shown)} test images, t-SNE",
        across=len(upper) if adversarial else 4,
    )


def _panel_text(finished: Finished) -> str:
    """Return the method, how its recipe differs from the tier's, and the seed."""
    name = named(finished.record.title, _departures(finished))
    return f"{fill(name, _TITLE_LETTERS)}\nseed {finished.record.seed}"


def _departures(finished: Finished) -> list[str]:
    record = finished.record
    return recipe_departures(record, local=False, encoder_seed=record.encoder_seed)


def _runs_text(table: Sequence[Finished]) -> str:
    """Return the runs as a file name has them: their recipes, each with its seeds, or a digest where that is long."""
    recipes: dict[str, list[int]] = {}
    for finished in table:
        record = finished.record
        recipes.setdefault("-".join([record.method, *_departures(finished)]), []).append(record.seed)
    text = "-".join(f"{recipe}-{seeds_text(sorted(seeds))}" for recipe, seeds in recipes.items())
    if len(text) <= _RUNS_LETTERS:
        return text
    return f"{len(table)}-runs-{canonical_digest(sorted(finished.record.sha256 for finished in table))[:8]}"


def _subset(dataset: Dataset, images: int) -> Split:
    test = dataset.test
    if images >= len(test):
        return test
    order: Tensor = torch.randperm(len(test), generator=rng.generator(0, "t-SNE", dataset.sha256))
    chosen = order[:images].sort().values
    return Split(test.images[chosen], test.labels[chosen])
