"""Draws the pictures of docs/doctor.md: what each check looks at, on a sound evaluation and on a broken one.

All numbers are computed here, on the zoo of the tests: a small sound classifier of digits, and sabotages of it.
Run from the repository's root: ``python perf/doctor_pictures.py``, and then ``python perf/doctor_page.py``.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from doctor_cases import (
    accuracies,
    along_eps,
    along_half_eps,
    along_steps,
    answering,
    at_first_norm,
    attacked,
    both,
    by_averages,
    by_losses,
    by_search,
    by_suite,
    by_transfer,
    case,
    changed,
    climbs,
    constant,
    copied,
    cosines,
    guesses,
    imprecise,
    inner_gradients,
    largest_gradients,
    logits,
    moved,
    nearest_training_image,
    normalised,
    of_other_images,
    of_parts,
    of_same_images,
    other_encoder,
    outputs,
    over_starts,
    promised_and_measured,
    repeated,
    rounding,
    spread_of_features,
    surviving,
    weights,
    with_autoattack,
    with_training_images,
)
from matplotlib import rc_context
from matplotlib.axes import Axes
from torch import Tensor

from bench.doctor import input_gradient
from bench.report.figures import COLOURS, GREY, new_figure, styled

FOLDER = Path(__file__).parents[1] / "docs" / "doctor"
BLUE, RED = COLOURS[:2]

_POINTS = 64
"""In a panel, evenly spaced: each takes room in the file."""


class Picture(NamedTuple):
    """Two panels with the same axes."""

    draw: Callable[[Axes, Any, str], None]
    sound: Any
    broken: Any
    sabotage: str
    """Title of the broken case."""
    x: str
    y: str


def main() -> None:
    """Draw all pictures, or those of the checks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="which to draw; default: all")
    names = parser.parse_args().checks or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"no picture is drawn of {', '.join(unknown)}. There are: {', '.join(PICTURES)}")
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in names:
        torch.manual_seed(0)
        path = FOLDER / f"{name.replace(' ', '-')}.svg"
        path.write_bytes(drawn(PICTURES[name]()))
        print(f"{path}: {path.stat().st_size / 1000:.1f} kB", flush=True)


def drawn(picture: Picture) -> bytes:
    """Return the picture as SVG, with its text as text."""
    buffer = io.BytesIO()
    with styled(), rc_context({"svg.fonttype": "none"}):
        figure = new_figure(5.6, 1.9)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        values = picture.sound, picture.broken
        sound, broken = with_edges(*values) if picture.draw is histogram else values
        cases = ((sound, BLUE, "sound"), (broken, RED, picture.sabotage))
        for axes, (values, colour, title) in zip(panels, cases, strict=True):
            picture.draw(axes, values, colour)
            axes.set_title(title, fontsize=8.5)
            axes.set_xlabel(picture.x)
        panels[0].set_ylabel(picture.y)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def points(axes: Axes, values: tuple[Tensor, Tensor], colour: str) -> None:
    """Points beside the diagonal, on which both values are the same."""
    few = slice(None, None, -(-len(values[0]) // _POINTS))
    axes.plot(*(each[few] for each in values), "o", color=colour, markersize=2.5)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8)


def lines(axes: Axes, values: Sequence[Sequence[float]], colour: str) -> None:
    """Lines over 0, 1, 2, ... or, where each has its own, over the first half of its pair."""
    for line in values:
        axes.plot(*(line if isinstance(line, tuple) else (range(len(line)), line)), color=colour, linewidth=0.9)


def bars(axes: Axes, values: dict[str, float], colour: str) -> None:
    """Bars with names and numbers."""
    shown = axes.bar(list(values), list(values.values()), color=colour, width=0.6)
    axes.bar_label(shown, fmt="{:.3g}", fontsize=7.5, padding=1)
    axes.margins(y=0.18)
    axes.grid(visible=False, axis="x")


def cloud(axes: Axes, values: tuple[Tensor, Tensor], colour: str) -> None:
    """Points."""
    axes.plot(*values, "o", color=colour, markersize=2.5)


def histogram(axes: Axes, values: tuple[Tensor, Tensor], colour: str) -> None:
    """How many values there are between each two edges."""
    found, edges = values
    axes.hist(found.tolist(), bins=edges.tolist(), color=colour)


def with_edges(sound: Tensor, broken: Tensor, bins: int = 24) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the values of two histograms with the same edges."""
    both = torch.cat([sound.flatten(), broken.flatten()]).double()
    pad = 1e-6 * (both.amax() - both.amin())
    edges = torch.linspace(float(both.amin() - pad), float(both.amax() + pad), bins + 1)
    return (sound.flatten(), edges), (broken.flatten(), edges)


STUCK = "train-mode batch-norm"
PICTURES: dict[str, Callable[[], Picture]] = {
    "deterministic": lambda: Picture(
        points,
        *both(lambda one: (logits(one)[:32].flatten(), logits(one)[:32].flatten()), "dropout left on"),
        "logits, first pass",
        "second pass",
    ),
    "eval mode": lambda: Picture(
        points, *both(lambda one: of_parts(one, 8), STUCK), "logits in a batch of 32", "in batches of 8"
    ),
    "logits": lambda: Picture(lines, *both(outputs, "softmax output"), "class, by rank", "output"),
    "scale of logits": lambda: Picture(
        histogram,
        *both(lambda one: (largest_gradients(one) + 1e-30).log10(), "logits x 1e4"),
        "log10 of the gradient",
        "images",
    ),
    "batch independence": lambda: Picture(
        points, *both(lambda one: of_parts(one, 1), "reads the batch's mean"), "logits in a batch", "alone"
    ),
    "attacked copy": lambda: Picture(
        points,
        copied(case(), keep=True),
        copied(case(), keep=False),
        "folded without its bias",
        "logits of the classifier",
        "of the copy",
    ),
    "float64 agreement": lambda: Picture(
        points,
        rounding(case()),
        rounding(imprecise()),
        "adds and takes away 2e7",
        "logits in float64",
        "in float32",
    ),
    "pixel range": lambda: Picture(
        histogram,
        case().sample.images[:, 0],
        normalised(case().sample.images)[:, 0],
        "normalised before",
        "pixel at the encoder",
        "pixels",
    ),
    "inside the ball": lambda: Picture(
        histogram,
        moved(case(), attacked(case())),
        moved(case(), case().sample.images + 1.25 * (attacked(case()) - case().sample.images)),
        "no projection",
        "distance / eps",
        "images",
    ),
    "unit of eps": lambda: Picture(
        bars,
        {"eps": case().threat.eps, "at the encoder": case().threat.eps},
        {"eps": case().threat.eps, "at the encoder": case().threat.eps / 0.35},
        "normalised before",
        "",
        "largest move of a pixel",
    ),
    "normalisation": lambda: Picture(
        bars,
        accuracies(case()),
        accuracies(case("normalised pixels fed as [0, 1]")),
        "normalisation forgotten",
        "images",
        "accuracy [%]",
    ),
    "input statistics": lambda: Picture(
        bars,
        at_first_norm(case().classifier),
        at_first_norm(case("normalised pixels fed as [0, 1]").classifier),
        "normalisation forgotten",
        "",
        "variance",
    ),
    "zero gradient": lambda: Picture(
        lines,
        *both(
            lambda one: input_gradient(one.attacked, one.sample.images, one.sample.labels)[:6, 0, 8].tolist(),
            "quantised input",
        ),
        "pixel of the middle row",
        "gradient",
    ),
    "pixels without gradient": lambda: Picture(
        lines,
        *both(
            lambda one: input_gradient(one.attacked, attacked(one, steps=0), one.sample.labels)[:6, 0, 8].tolist(),
            "stairs with short ramps",
        ),
        "pixel of the middle row",
        "gradient",
    ),
    "finite difference": lambda: Picture(
        points, *both(promised_and_measured, "random noise layer"), "promised change of the loss", "measured"
    ),
    "gradient stability": lambda: Picture(
        histogram, *both(cosines, "fine ripples"), "cosine after a small move", "images"
    ),
    "inner optimisation": lambda: Picture(bars, *both(inner_gradients, "test-time optimiser"), "", "in one pass"),
    "loss growth": lambda: Picture(lines, *both(climbs, "quantised input"), "step", "log-margin"),
    "unbounded attack": lambda: Picture(lines, *both(along_eps, "fine ripples"), "eps", "accuracy [%]"),
    "attack repeated": lambda: Picture(bars, *both(repeated, "RA by cross-entropy, logits x 1e4"), "", "accuracy [%]"),
    "RA and AA": lambda: Picture(
        bars, of_same_images(), of_other_images(), "AA on another subset", "robust under", "images [%]"
    ),
    "black-box attack": lambda: Picture(
        bars,
        surviving("sound"),
        surviving("straight-through estimator missing"),
        "straight-through estimator missing",
        "after",
        "of 16 images",
    ),
    "smaller radius": lambda: Picture(lines, *both(along_half_eps, "random resizing"), "eps", "accuracy [%]"),
    "number of steps": lambda: Picture(lines, *both(along_steps, "random resizing"), "steps", "accuracy [%]"),
    "restarts": lambda: Picture(bars, *both(over_starts, "dropout left on"), "starts", "accuracy [%]"),
    "margin loss": lambda: Picture(bars, *both(by_losses, "logits x 1e-4"), "", "accuracy [%]"),
    "averaged gradient": lambda: Picture(bars, *both(by_averages, "stairs with short ramps"), "", "images left"),
    "random search": lambda: Picture(bars, *both(by_search, "quantised input"), "", "images left"),
    "transfer": lambda: Picture(bars, *both(by_transfer, "detached gradient"), "", "images left"),
    "missed by AutoAttack": lambda: Picture(
        bars,
        by_suite(with_autoattack()),
        by_suite(case("AA on another subset than RA")),
        "AA on another subset",
        "",
        "images left [%]",
    ),
    "encoder unchanged": lambda: Picture(
        points,
        weights(case().classifier.encoder, case().classifier.encoder),
        weights(case().classifier.encoder, other_encoder()),
        "changed by SLF",
        "weights before",
        "after",
    ),
    "features vary": lambda: Picture(
        cloud,
        spread_of_features(case().classifier),
        spread_of_features(changed(constant).classifier),
        "collapsed",
        "feature 1",
        "feature 2",
    ),
    "better than guessing": lambda: Picture(
        bars, guesses(case().classifier), guesses(changed(constant).classifier), "collapsed", "", "accuracy [%]"
    ),
    "training and test apart": lambda: Picture(
        histogram,
        nearest_training_image(case().sample.images),
        nearest_training_image(with_training_images()),
        "40 training images",
        "distance to the nearest training image",
        "images",
    ),
    "weights unchanged": lambda: Picture(
        points,
        weights(case().classifier, case().classifier, only="running"),
        weights(case(STUCK).classifier, answering(), only="running"),
        STUCK,
        "before",
        "after",
    ),
}


if __name__ == "__main__":
    main()
