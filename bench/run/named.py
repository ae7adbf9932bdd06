"""Opens what a user names: a file, a run, a network as ``KIND:NAME`` or ``FILE.py:NAME``, or ``robustbench:NAME``."""

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import rng
from bench.errors import BenchError
from bench.nn import ENCODERS, Encoder, Outsider, UnfitImagesError, backbone_factory, build_encoder
from bench.own_code import as_typed, is_in_file
from bench.recipe import EncoderSettings
from bench.robustbench import KIND, find_entry
from bench.run.command import to_finish
from bench.run.encoder import EncoderFile, Origin, load_encoder
from bench.run.finished import find_run
from bench.run.imported import Import, WeightsReport
from bench.zoo import (
    ImportChoices,
    describe_constants,
    fit_weights,
    form_channels,
    image_channels,
    is_foreign,
    normalisation_settings,
    parse_constants,
    read_weights,
    released_tensors,
    short_name,
)

_ENCODER = "encoder.safetensors"
_NETWORK = "backbone.network."
_OPTIONS = "encoder.options"
_ASSUMED = 32  # pixels a side


class WeightChoices(NamedTuple):
    """What a user types about the weights of a named network."""

    file: Path | None = None
    normalisation: str | None = None
    """As in ``bench import``; None: what the network's library says."""
    network: str | None = None
    """What the names of the network begin with in the file; None: found by its names."""


def is_named(given: str | Path) -> bool:
    """Return whether ``given`` is ``KIND:NAME`` of a known kind or ``FILE.py:NAME``, not the path of weights."""
    return ENCODERS.in_family(str(given)) or is_in_file(str(given))


def encoder_path(given: str | Path, runs_dir: Path) -> str | Path:
    """Return the file that ``given`` means: itself, or the encoder of a run or an export, by folder or name.

    A run is named as in :func:`bench.run.run_folder`. The name of a network stays a name.

    Raises BenchError if there is none.
    """
    if is_named(given):
        return given
    ways = (
        "Type the path of an encoder.safetensors, or a run's name; "
        f"`bench runs --runs-dir {shlex.quote(str(runs_dir))}` lists them."
    )
    if not str(given):
        raise BenchError(f"the name of an encoder is empty. {ways}")
    path = Path(given)
    for file in (path, path / _ENCODER, path / "model.safetensors", runs_dir / path / _ENCODER):
        if file.is_file():
            return file
    run = find_run(runs_dir, str(given))
    if run is None:
        what = f"holds no {_ENCODER}" if path.is_dir() else "is not a file"
        raise BenchError(f"{given} {what}. {ways}")
    if not (run / _ENCODER).is_file():
        raise BenchError(f"the run {run.name} has no encoder yet. {to_finish(run)}")
    return run / _ENCODER


def open_encoder(
    given: str | Path, choices: WeightChoices, overrides: Mapping[str, Any], *, dataset: str | None, data_dir: Path
) -> EncoderFile:
    """Return the encoder that ``given`` names: a network, a classifier of RobustBench, or the path of a file.

    Args:
        given: what the user typed.
        choices: of the weights, for a network or a classifier.
        overrides: dotted keys to values; those of ``encoder.options`` are for a network.
        dataset: the data that the user names, which decide between several classifiers of one name.
        data_dir: where weights of RobustBench are downloaded to.

    Raises:
        BenchError: there is none of that name, or its weights are not given, cannot be had or read, or do not fit.
    """
    released = str(given).startswith(f"{KIND}:")
    if _options(overrides) and (released or not is_named(given)):
        raise BenchError(
            f"encoder.options are for a network that is named: timm:NAME, torchvision:NAME or FILE.py:NAME. The form "
            f"of {given} is known already. Leave them out."
        )
    if released:
        return _released(str(given), choices, dataset, data_dir / KIND)
    if is_named(given):
        return _outside(str(given), choices, _options(overrides))
    if any(each is not None for each in choices):
        if not is_foreign(Path(given)):
            raise BenchError(
                f"{given} is a file of the bench, with the weights and the normalisation of its encoder: no other can "
                "be chosen. Leave them out."
            )
        kept = ImportChoices(normalisation=choices.normalisation, network=choices.network).options()
        raise BenchError(
            f"--weights, --normalisation and --network are for a network that is named: timm:NAME, torchvision:NAME or "
            f"FILE.py:NAME. {given} is a file of weights itself. Type "
            f"{shlex.join(['bench', 'import', str(given), *kept])}, and evaluate the encoder that it writes."
        )
    return load_encoder(Path(given))


def _released(given: str, choices: WeightChoices, dataset: str | None, folder: Path) -> EncoderFile:
    if (choices.normalisation, choices.network) != (None, None):
        raise BenchError(f"{given} is a whole classifier, whose normalisation and network are its own. Leave them out.")
    entry = find_entry(given.partition(":")[2], dataset)
    form = EncoderSettings(arch=entry.origin, normalisation="none")
    tensors = released_tensors(entry, folder, choices.file)
    return EncoderFile(tensors, Origin(imported=Import(title=entry.title, year=entry.year, encoder=form)))


def is_option(key: str) -> bool:
    """Return whether the override ``key`` is an option of the network, or all of them."""
    return f"{key}.".startswith(f"{_OPTIONS}.")


def _options(overrides: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(overrides.get(_OPTIONS, {}))
    return found | {
        key.removeprefix(f"{_OPTIONS}."): each for key, each in overrides.items() if is_option(key) and key != _OPTIONS
    }


def _plain(form: EncoderSettings, channels: int, size: tuple[int, int] | None) -> Encoder:
    """Return an encoder for images of ``size``; without one the data decide it, which are not read yet."""
    try:
        with rng.scoped(0, "plain encoder"):
            return build_encoder(form, image_shape=(channels, *(size or (_ASSUMED, _ASSUMED))), mean=(), std=())
    except UnfitImagesError as error:
        if size is not None:
            raise
        raise UnfitImagesError(
            f"{error}\nWeights are read before any data, so images of {_ASSUMED}x{_ASSUMED} are assumed here, "
            "whatever yours are: for images of 8x8, input_size=8."
        ) from error


def _outside(given: str, choices: WeightChoices, options: dict[str, Any]) -> EncoderFile:
    arch = ENCODERS.name_of(given)
    factory = backbone_factory(arch)
    assert isinstance(factory, Outsider), "all kinds are of other libraries, or of a user's own file"
    if choices.file is None:
        where = f" Its published weights: {factory.input.download}" if factory.input.download else ""
        raise BenchError(
            f"{given} is a network without weights, and none are downloaded; random weights are not judged. Type "
            "--weights FILE, in Python bench.load_encoder(..., weights=FILE): a state_dict of PyTorch or safetensors."
            f"{where}"
        )
    weights = read_weights(choices.file)
    size = factory.input_size(options)
    constants = factory.input.constants if choices.normalisation is None else parse_constants(choices.normalisation)
    form = EncoderSettings(
        arch=arch,
        options={**options, **({} if size is None else {"input_size": list(size)})},
        **normalisation_settings(constants),
    )
    channels = len(constants[0]) if constants else form_channels(form, weights.tensors)
    encoder = _plain(form, channels, size)
    network = encoder.backbone.get_submodule("network")
    if (found := image_channels(network, weights.tensors)) not in (None, channels):
        raise BenchError(
            f"{choices.file} is for images of {found} channels, and the normalisation has constants for "
            f"{channels}. Type --normalisation none, or {found} means and deviations."
        )
    fitted = fit_weights(weights, network, given, choices.network)
    constant = {key: each for key, each in encoder.state_dict().items() if not key.startswith(_NETWORK)}
    report = WeightsReport(
        file=choices.file.name,
        sha256=weights.sha256,
        network=fitted.prefix,
        features=encoder.feature_dim,
        tensors=len(fitted.tensors),
        input="images as they are" if size is None else f"images resized to {size[0]}x{size[1]}, bilinear",
        normalisation=describe_constants(constants),
        normalisation_from=factory.input.known_from if choices.normalisation is None else "--normalisation",
        dropped=fitted.dropped,
    )
    known = Import(
        title=f"{as_typed(arch).removeprefix('FILE.py:')}, {short_name(choices.file)}",
        year=datetime.now(UTC).year,
        encoder=form,
        weights=report,
    )
    tensors = {**constant, **{f"{_NETWORK}{key}": each for key, each in fitted.tensors.items()}}
    return EncoderFile(tensors, Origin(imported=known))
