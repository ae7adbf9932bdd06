"""The course of training: every quantity that a run logged, epoch by epoch, one row a phase."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.report.figures.style import GREY, heading, mark, new_figure, styled

History = Mapping[str, Sequence[Mapping[str, float]]]
"""By phase, in order: one entry an epoch; as in a record."""

_NAMES = {"lr": "learning rate"}
_MARKED = 15
"""Epochs up to which each is marked; beyond, the marks would hide the line."""


def curves_figure(histories: Mapping[str, History], *, title: str) -> Figure:
    """Return the figure of ``histories``, one line each in every panel.

    Args:
        histories: by label ("seed 0"), at least one, with the same phases, of which one was logged; kNN logs nothing.
    """
    named = dict.fromkeys(phase for history in histories.values() for phase in history)
    quantities = {phase: found for phase in named if (found := _quantities(histories, phase))}
    phases, columns = list(quantities), max(map(len, quantities.values()))
    with styled():
        figure = new_figure(max(2.1 * columns, 4.2) + 0.3, 1.65 * len(phases) + 0.7)
        panels = figure.subplots(len(phases), columns, squeeze=False)
        for row, phase in zip(panels, phases, strict=True):
            for number, axes in enumerate(row):
                if number < len(quantities[phase]):
                    _panel(axes, histories, phase, quantities[phase][number])
                else:
                    axes.set_axis_off()
            row[0].set_ylabel(_phase_name(phase), fontweight="bold")
        figure.align_ylabels(panels[:, 0])
        heading(figure, title)
        if len(histories) > 1:
            handles = [_handle(number, label) for number, label in enumerate(histories)]
            figure.legend(handles=handles, loc="outside lower left", ncols=6)
        return figure


def _quantities(histories: Mapping[str, History], phase: str) -> list[str]:
    """Return what ``phase`` logged: the loss first, the learning rate last."""
    names = {name for history in histories.values() for epoch in history.get(phase, ()) for name in epoch}
    return sorted(names, key=lambda name: (name == "lr", name != "loss", name))


def _panel(axes: Axes, histories: Mapping[str, History], phase: str, quantity: str) -> None:
    for number, history in enumerate(histories.values()):
        entries = history.get(phase, ())
        epochs = [epoch for epoch, entry in enumerate(entries, 1) if quantity in entry]
        style = mark(number)
        axes.plot(
            epochs,
            [entries[epoch - 1][quantity] for epoch in epochs],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker if len(epochs) <= _MARKED else "",
            markersize=3,
            linewidth=1.3,
        )
    axes.set_title(_NAMES.get(quantity, quantity), fontsize=9, fontweight="normal")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("epoch", fontsize=8, color=GREY)


def _handle(number: int, label: str) -> Line2D:
    style = mark(number)
    return Line2D([], [], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=3, label=label)


def _phase_name(phase: str) -> str:
    """Return the kind of a phase above its own name: "stage:ssl" is too long for the height of a panel."""
    return phase.replace(":", "\n")
