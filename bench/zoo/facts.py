"""What neither names nor shapes say about an encoder: how its stem is padded, and how its input is normalised.

In this order: what the user says, what buffers in the file hold, what the origin of the file always does. Where none of
them says it, the user is asked: a guess would change the features by a tenth and fail nowhere.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bench.errors import BenchError
from bench.monitor import plural
from bench.zoo.constants import CONSTANTS, TYPED, Constants, parse_constants, read_constants
from bench.zoo.form import Form
from bench.zoo.layout import Layout
from bench.zoo.layouts import TABLE


@dataclass(frozen=True)
class ImportChoices:
    """What the user says about a checkpoint, in place of what it says itself; None: as it says."""

    origin: str | None = None
    """The method that wrote it, as :data:`bench.zoo.ORIGINS` calls it."""
    branch: str | None = None
    """``adversarial`` or ``clean``, of a network with several batch-norms; None: the one that its authors evaluate."""
    network: str | None = None
    """The prefix of the network to take, of several."""
    stem_padding: int | None = None
    normalisation: str | None = None
    """``none``, a name of :data:`bench.zoo.constants.CONSTANTS`, or means and deviations as in ``TYPED`` there."""

    def options(self) -> list[str]:
        """Return the options of ``bench import`` that say the same."""
        said = {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items() if value is not None}
        return [word for option, value in said.items() for word in (option, str(value))]


class Facts(NamedTuple):
    """Padding and normalisation, each with who says it."""

    stem_padding: int
    stem_from: str
    constants: Constants | None
    """None: no normalisation."""
    normalisation_from: str
    buffers: str | None = None
    """Where the file holds these constants: the beginning of their names."""


class _Normalisation(NamedTuple):
    constants: Constants | None
    said_by: str
    buffers: str | None = None


def read_facts(
    tensors: Mapping[str, Tensor], network: str, layout: Layout, form: Form, choices: ImportChoices, path: Path
) -> Facts:
    """Return the padding and the normalisation of the encoder in ``path``.

    Args:
        tensors: of the whole state dict.
        network: the prefix of the network among them.
        layout: of the file, or of the origin that the user names.
        form: of the network.
        choices: of the user.
        path: the file, for the message.

    Raises:
        BenchError: one of the two is not known, with the options to type; or a choice that cannot be.
    """
    padding = _padding(layout, form, choices)
    normalisation = _normalisation(tensors, network, layout, form, choices)
    if padding is None or normalisation is None:
        raise BenchError(_question(path, choices, padding is None, normalisation is None))
    constants = normalisation.constants
    if constants and len(constants[0]) != form.channels:
        means, deviations = (",".join([each] * form.channels) for each in ("0.5", "0.25"))
        raise BenchError(
            f"{path} takes images of {plural(form.channels, 'channel')}, and the normalisation has constants for "
            f"{len(constants[0])} ({normalisation.said_by}). Type --normalisation none, or one mean and one deviation "
            f"a channel: {means}/{deviations}"
        )
    return Facts(*padding, constants, normalisation.said_by, normalisation.buffers)


def _padding(layout: Layout, form: Form, choices: ImportChoices) -> tuple[int, str] | None:
    if form.stem == "imagenet":
        if choices.stem_padding is not None:
            raise BenchError("--stem-padding is for 3x3 stems; this one is 7x7, which pads by 3. Leave it out.")
        return 1, "torchvision's stem of this kernel"
    if choices.stem_padding is not None:
        return choices.stem_padding, "--stem-padding"
    if form.wide:
        return 1, "padding as in every published Wide ResNet"
    return None if layout.stem_padding is None else (layout.stem_padding, f"padding as in {layout.title}")


def _normalisation(
    tensors: Mapping[str, Tensor], network: str, layout: Layout, form: Form, choices: ImportChoices
) -> _Normalisation | None:
    if choices.normalisation is not None:
        return _Normalisation(parse_constants(choices.normalisation), "--normalisation")
    if choices.origin and layout.normalisation == "none":
        return _Normalisation(None, f"{layout.title} does not normalise")
    if held := read_constants(tensors, (*(network + norms for norms in layout.norms), *layout.norms)):
        return _Normalisation(held[0], f"the buffers {held[1]}mean and {held[1]}std", held[1])
    if layout.normalisation == "none":
        return _Normalisation(None, f"{layout.title} does not normalise")
    if layout.normalisation is not None:
        return _Normalisation(CONSTANTS[layout.normalisation], f"{layout.title} uses those of {layout.normalisation}")
    classes = _classes(tensors)
    if classes is not None and classes in layout.classes and form.stem == layout.classes_stem:
        name = layout.classes[classes]
        return _Normalisation(CONSTANTS[name], f"{layout.title} uses those of {name} where there are {classes} classes")
    return None


def _classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of the classifier among ``tensors``; None where there is none of a usual name."""
    heads = (tensors.get(f"{name}.weight") for name in ("classifier", "fc", "linear"))
    return next((head.shape[0] for head in heads if head is not None and head.ndim == 2), None)


def _question(path: Path, choices: ImportChoices, padding: bool, normalisation: bool) -> str:
    settled = [
        name for layout in TABLE for name in layout.origins if layout.stem_padding is not None and layout.normalisation
    ]
    lines = [
        f"{path} is a ResNet, but its names and shapes do not show all that decides its features. Import it first, and "
        "type what is missing:"
    ]
    if padding:
        lines.append("--stem-padding 1 (most networks with a 3x3 stem) or --stem-padding 2 (DeACL, solo-learn)")
    if normalisation:
        names = ", ".join(CONSTANTS)
        lines.append(
            f"--normalisation none (its inputs are pixels in [0, 1]), {names}, or means and deviations: {TYPED}"
        )
    lines.append(f"or --origin with the method that wrote it, which decides both: {', '.join(dict.fromkeys(settled))}")
    example = choices
    if padding:
        example = replace(example, stem_padding=1)
    if normalisation:
        example = replace(example, normalisation="cifar")
    return "\n  - ".join(lines) + f"\nFor example: {shlex.join(['bench', 'import', str(path), *example.options()])}"
