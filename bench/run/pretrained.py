"""Turns an encoder file and a request to evaluate it into a run whose pre-training is done."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.data import DATASETS, DataIn, Dataset, load_dataset
from bench.device import pick_device
from bench.errors import BenchError, DamagedFileError
from bench.method import METHODS, Method
from bench.recipe import (
    PROTOCOLS,
    DatasetFacts,
    Recipe,
    build_recipe,
    idle_among,
    load_tier,
    outside,
    reevaluated,
    with_checked_fields,
    within,
)
from bench.recipe.fields import Whole
from bench.robustbench import KIND, Entry, find_entry
from bench.run.data import dataset_facts, other_target, plan_corruptions, with_corruptions
from bench.run.encoder import EncoderFile
from bench.run.folder import RunDescription, RunFolder
from bench.run.imported import Imported, ImportedConfig
from bench.run.named import WeightChoices, is_option, open_encoder
from bench.run.preparation import (
    Run,
    check_attacks,
    check_protocols,
    check_seed,
    chosen_protocols,
    default_tier,
    mark_idle,
    warn_of_unread,
)


@with_checked_fields
@dataclass(frozen=True)
class EvaluationRequest:
    """The options of ``bench evaluate``."""

    encoder: str | Path
    """The path of an ``encoder.safetensors`` or of a checkpoint; a network, ``KIND:NAME`` or ``FILE.py:NAME``; or a
    classifier, ``robustbench:NAME``."""
    dataset: str | None = None
    """The source of the pre-training data; None: unchanged. For an imported encoder: the data to evaluate it on."""
    finetune_dataset: str | None = None
    """Data for protocols and evaluation; None: the pre-training data."""
    protocols: str | Sequence[str] | None = None
    """None: all protocols that the method allows."""
    seed: Whole | None = None
    """Of protocols and evaluation; None: the seed of pre-training."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the protocols, of ``evaluate`` and of ``threat``."""
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str | None = None
    corruptions: str | None = None
    """none, generate, or the path of a folder of files; None: as in the recipe."""
    data_in: DataIn = "auto"
    """Where the images of a folder are kept; no number depends on it."""
    weights: WeightChoices = field(default_factory=WeightChoices)
    """Of a network or a classifier that is named."""

    @property
    def entry(self) -> Entry | None:
        """The classifier of RobustBench that is named; None: something else is. BenchError if there is none."""
        kind, _, name = str(self.encoder).partition(":")
        return find_entry(name, self.finetune_dataset or self.dataset) if kind == KIND else None

    def open(self) -> EncoderFile:
        """Return the encoder; raises BenchError as :func:`bench.run.named.open_encoder`."""
        named = self.finetune_dataset or self.dataset
        return open_encoder(self.encoder, self.weights, self.overrides, dataset=named, data_dir=self.data_dir)


def prepare_evaluation(request: EvaluationRequest) -> Run:
    """Return the run that evaluates the encoder in ``request.encoder``; nothing is trained or written yet.

    If the file is in the folder of the run that trained the encoder, it is that run, so that finished work is not
    repeated; otherwise it is a run with a new folder under ``runs_dir``.

    Raises:
        BenchError: a file that is damaged or not an encoder file of the bench, settings that pre-training has used
            already, data that are not those of pre-training, and all that :func:`bench.run.prepare` raises.
    """
    entry = request.entry
    data = None if entry is None else _entry_data(request, entry)  # refused before weights are downloaded
    encoder = request.open()
    origin = encoder.origin
    seed = origin.seed if request.seed is None else request.seed
    check_seed(seed)
    device = pick_device(request.device)
    case = _imported(request, encoder, device, data) if origin.imported else _trained_here(request, encoder)
    protocols = chosen_protocols(request.protocols, case.recipe.method, case.method)
    check_attacks(case.recipe)
    check_protocols(case.recipe, protocols, device)
    recipe, corruptions = plan_corruptions(case.recipe, request.corruptions, case.dataset, request.data_dir)
    warn_of_unread(recipe, protocols, request.overrides)
    home = case.home
    folder = (
        RunFolder(home.path, recipe, home.seed, case.source, home.weights)
        if home
        else RunFolder.of(request.runs_dir, recipe, origin.seed, case.source, encoder.sha256)
    )
    return Run(
        case.method,
        case.dataset,
        recipe,
        seed,
        protocols,
        device,
        folder,
        encoder=encoder,
        corruptions=corruptions,
    )


class _Case(NamedTuple):
    """What depends on an encoder's origin."""

    method: type[Method]
    recipe: Recipe
    dataset: Dataset
    """The data that it is evaluated on."""
    source: str
    """The user's name for the pre-training data; for an imported encoder, for the data that it is evaluated on."""
    home: RunFolder | None = None
    """The folder of the run that trained it, if its file is there."""


class _Data(NamedTuple):
    """What an encoder that was trained elsewhere is evaluated on."""

    source: str
    dataset: Dataset


def _entry_data(request: EvaluationRequest, entry: Entry) -> _Data:
    """Return the data to evaluate ``entry`` on; raises BenchError if it is not for these."""
    source = _evaluated_on(request) or entry.dataset
    if source == "imagenet":
        raise BenchError(
            f"{entry.origin} needs images of ImageNet, which are not downloaded. Make them of your own copy with "
            f"examples/make_imagenet_npz.py, as docs/robustbench.md says, and type --dataset npz:imagenet.npz"
        )
    dataset = load_dataset(source, request.data_dir, request.data_in)
    if dataset.num_classes != entry.classes:
        raise BenchError(
            f"{entry.origin} tells {entry.classes} classes apart, and {dataset.name} has {dataset.num_classes}. Type "
            f"--dataset {entry.dataset}, or other data of these {entry.classes} classes."
        )
    if dataset.image_shape != (3, entry.side, entry.side):
        shape = "x".join(map(str, dataset.image_shape))
        raise BenchError(
            f"{entry.origin} takes images of 3x{entry.side}x{entry.side}, and those of {dataset.name} are {shape}. "
            "Resize them to that size."
        )
    return _Data(source, dataset)


def _evaluated_on(request: EvaluationRequest) -> str | None:
    """Return the data that are named for an encoder that was trained elsewhere; None: none are. BenchError: two are."""
    named = {request.dataset, request.finetune_dataset} - {None}
    if len(named) > 1:
        raise BenchError(
            f"--dataset {request.dataset} and --finetune-dataset {request.finetune_dataset}: {request.encoder} was "
            "trained elsewhere, so both are the data to evaluate it on. Keep one of them."
        )
    return named.pop() if named else None


def _imported_data(request: EvaluationRequest, encoder: EncoderFile, title: str) -> _Data:
    """Return the data to evaluate an encoder on that was trained elsewhere; raises BenchError if none are named."""
    source = _evaluated_on(request)
    if source is None:
        raise BenchError(
            f"{request.encoder} was trained elsewhere ({title}), so the data to evaluate it on must be named. "
            f"Type, for example, --dataset {encoder.example_data}"
        )
    return _Data(source, load_dataset(source, request.data_dir, request.data_in))


def _imported(request: EvaluationRequest, encoder: EncoderFile, device: torch.device, data: _Data | None) -> _Case:
    """Prepare an encoder that was trained elsewhere: nothing is known about its training data."""
    known = encoder.origin.imported
    assert known is not None
    source, dataset = data or _imported_data(request, encoder, known.title)
    tier = load_tier(default_tier(source, device))
    # The options of a named network are in its form already.
    asked = {key: each for key, each in request.overrides.items() if not (known.weights and is_option(key))}
    overrides = with_corruptions(asked, request.corruptions)

    def recipe_of(overrides: Mapping[str, Any]) -> Recipe:
        return build_recipe(
            method=Imported.name,
            config_type=Imported.config_type,
            native_encoder=known.encoder.model_dump(),
            dataset=dataset_facts(dataset),
            tier=tier,
            fidelity="native",
            overrides={**_threat(known.entry, overrides), **overrides},
        )

    # The entry's own threat model is no departure from it.
    recipe = mark_idle(recipe_of(overrides).model_copy(update={"overrides": overrides}), recipe_of)
    if recipe.encoder != known.encoder or recipe.config != Imported.config_type():
        raise BenchError("--set encoder: this encoder is trained already, so its form is fixed. Leave it out.")
    recipe = recipe.model_copy(update={"config": ImportedConfig(weights=encoder.sha256)})
    _check_form(encoder, recipe, dataset)
    return _Case(known.method, recipe, dataset, source)


def _check_form(encoder: EncoderFile, recipe: Recipe, dataset: Dataset) -> None:
    try:
        encoder.check_form(recipe)
    except BenchError as error:
        channels = dataset.image_shape[0]
        if channels == encoder.channels:
            raise
        raise BenchError(
            f"the weights are for images of {encoder.channels} channels, and the data have {channels} channels "
            f"({dataset.name}). Give other data, or a network and weights for these.\n{error}"
        ) from error


def _threat(entry: Entry | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the threat model that an entry was published under; nothing where the data's default holds."""
    if entry is None or entry.eps is None:
        return {}
    norm = entry.threat.lower()
    own = overrides.get("threat.norm", norm) == norm  # its radius says nothing about another norm
    return {"threat.norm": norm, **({"threat.eps": entry.eps} if own else {})}


def _trained_here(request: EvaluationRequest, encoder: EncoderFile) -> _Case:
    trained = encoder.recipe
    encoder.check_form(trained)
    home = _home(Path(request.encoder), encoder, trained)
    target = other_target(request.finetune_dataset, request.data_dir, trained.dataset, request.data_in)
    overrides, method = with_corruptions(request.overrides, request.corruptions), METHODS.get(trained.method)
    if target is None:
        source, dataset = _pretraining_data(request, home, trained)
        return _Case(method, _judged_again(trained, method, overrides), dataset, source, home)
    # The pre-training data are not needed: the recipe holds all facts about them that the encoder needs.
    known = home.source if home else ""
    if request.dataset is not None:
        known, _ = _pretraining_data(request, home, trained)
    facts = dataset_facts(target.dataset)
    recipe = _judged_again(trained, method, overrides, facts, target.resized_from)
    return _Case(method, recipe, target.dataset, known, home)


def _judged_again(
    trained: Recipe,
    method: type[Method],
    overrides: Mapping[str, Any],
    finetune: DatasetFacts | None = None,
    resized_from: tuple[int, int] | None = None,
) -> Recipe:
    """Return ``trained`` with ``overrides`` after it; what is no change for a run from the start is marked as idle."""
    target: dict[str, Any] = {"finetune": finetune, "resized_from": resized_from}
    recipe = reevaluated(trained, overrides=overrides, **target)
    own_threat = within(recipe.overrides, "finetune")  # which no run from the start has
    after = {*PROTOCOLS, "evaluate", *(() if own_threat else ("threat", "finetune"))}

    def numbers(one: Recipe) -> dict[str, Any]:
        return one.model_dump(mode="json", include=after)

    def from_the_start(given: Mapping[str, Any]) -> dict[str, Any]:
        whole = build_recipe(
            method=recipe.method,
            config_type=method.config_type,
            native_encoder=method.native_encoder,
            dataset=recipe.dataset,
            tier=load_tier(recipe.tier),
            fidelity=recipe.fidelity,
            overrides=outside(given, "finetune"),
            **target,
        )
        return numbers(whole)

    with suppress(BenchError):  # its tier is missing, such as a user's own
        if from_the_start(recipe.overrides) == numbers(recipe):
            idle = idle_among(within(recipe.overrides, *after), recipe.overrides, from_the_start)
            return recipe.model_copy(update={"idle": (*outside(dict.fromkeys(recipe.idle), *after), *idle)})
    new = [key for key in overrides if key in recipe.overrides and key not in trained.overrides]
    idle = idle_among(new, overrides, lambda given: numbers(reevaluated(trained, overrides=given, **target)))
    return recipe.model_copy(update={"idle": (*recipe.idle, *idle)})


def _home(path: Path, encoder: EncoderFile, recipe: Recipe) -> RunFolder | None:
    """Return the folder of the run whose encoder is ``path``; None if the file is elsewhere."""
    try:
        described = RunDescription.load(path.parent)
        fingerprint, source = described.fingerprint, described.source
    except DamagedFileError:  # the run writes its description again
        fingerprint, source = encoder.origin.fingerprint, ""
    except BenchError:
        return None
    for weights in (None, encoder.sha256):
        folder = RunFolder(path.parent, recipe, encoder.origin.seed, source, weights)
        if folder.encoder == path and folder.fingerprint == fingerprint:
            return folder
    return None


def _pretraining_data(request: EvaluationRequest, home: RunFolder | None, recipe: Recipe) -> tuple[str, Dataset]:
    """Return the name and the data that the encoder was trained on."""
    name, expected = recipe.dataset.name, recipe.dataset.sha256
    given = request.dataset or request.finetune_dataset  # both are these data here
    source = given or (home.source if home else "") or (name if name in DATASETS else "")
    if not source:
        raise BenchError(
            f"the encoder in {request.encoder} was trained on {name!r}, and the location of these data is not known. "
            f"Give it with --dataset npz:PATH, or name other data to evaluate it on with --finetune-dataset."
        )
    dataset = load_dataset(source, request.data_dir, request.data_in)
    if dataset.sha256 == expected:
        _refuse_other_facts(recipe.dataset, dataset_facts(dataset), Path(request.encoder), source)
    else:
        raise BenchError(
            f"{source} is not what this encoder was trained on ({name}): its SHA-256 is {dataset.sha256[:12]}, not "
            f"{expected[:12]}. To evaluate the encoder on other data, type --finetune-dataset {source}"
        )
    return source, dataset


def _refuse_other_facts(claimed: DatasetFacts, found: DatasetFacts, path: str | Path, source: str) -> None:
    """Raise BenchError with a list of the facts in the file ``path`` that contradict the data ``source``.

    The user's own data may have been renamed, but the name of a listed dataset must match.
    """
    named = claimed.name != found.name and (claimed.name in DATASETS or found.name in DATASETS)
    # Before they had conventions, own data of any size had the defaults of CIFAR.
    earlier = ("eps", "conventions") if claimed.conventions != found.conventions == "imagenet" else ()
    keys = [key for key in DatasetFacts.model_fields if key not in earlier and (key != "name" or named)]
    pairs = [(key, getattr(claimed, key), getattr(found, key)) for key in keys]
    # Files of an earlier version lack some facts.
    wrong = [f"{key} is {held}, not {claim}" for key, claim, held in pairs if claim is not None and claim != held]
    if wrong:
        faults = "\n  - ".join(wrong)
        raise BenchError(
            f"the description in {path} contradicts {source}, although pixels and labels are those it was trained "
            f"on:\n  - {faults}\nThe description was changed. Use the original encoder file."
        )
