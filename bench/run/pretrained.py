"""From an encoder file and what the user asks about it to a run that has its pre-training behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import DATASETS, Dataset, load_dataset
from bench.device import pick_device
from bench.errors import BenchError, DamagedFileError
from bench.method import METHODS
from bench.recipe import DatasetFacts, Recipe, reevaluated
from bench.run.data import dataset_facts, other_target, plan_corruptions, with_corruptions
from bench.run.encoder import EncoderFile, load_encoder
from bench.run.folder import RunDescription, RunFolder
from bench.run.preparation import Run, check_autoattack, check_protocols, check_seed, chosen_protocols


@dataclass(frozen=True)
class CheckpointRequest:
    """What ``bench evaluate`` was asked to do."""

    checkpoint: Path
    dataset: str | None = None
    """Where the pre-training data are; None: where they were."""
    finetune_dataset: str | None = None
    """Data for protocols and evaluation; None: those of pre-training."""
    protocols: Sequence[str] | None = None
    """None: all that the method can be evaluated under."""
    seed: int | None = None
    """Of protocols and evaluation; None: that of pre-training."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the protocols, of ``evaluate`` and of ``threat``."""
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str | None = None
    corruptions: str | None = None
    """none, generate, or the path of a folder of files; None: as the recipe says."""


def prepare_checkpoint(request: CheckpointRequest) -> Run:
    """Return the run that judges the encoder in ``request.checkpoint``; nothing is trained or written yet.

    It is the run that trained the encoder if the file lies in that run's folder, so that nothing finished is done
    again; otherwise one with a folder of its own under ``runs_dir``.

    Raises:
        BenchError: a file that is no encoder of ours or is damaged, settings that pre-training has used already,
            data that are not those of pre-training, and all that :func:`bench.run.prepare` raises.
    """
    file = load_encoder(request.checkpoint)
    trained = file.recipe
    file.check_form(trained)
    method = METHODS.get(trained.method)
    protocols = chosen_protocols(request.protocols, trained.method, method)
    seed = file.origin.seed if request.seed is None else request.seed
    check_seed(seed)
    device = pick_device(request.device)
    home = _home(request.checkpoint, file, trained)
    target = other_target(request.finetune_dataset, request.data_dir, trained.dataset)
    overrides = with_corruptions(request.overrides, request.corruptions)
    if target is None:
        source, dataset = _pretraining_data(request, home, trained)
        recipe = reevaluated(trained, overrides=overrides)
    else:
        # The pre-training data are not needed: the recipe knows all that the encoder has to know of them.
        known = home.source if home else ""
        source, dataset = known if request.dataset is None else request.dataset, target.dataset
        facts = dataset_facts(dataset)
        recipe = reevaluated(trained, overrides=overrides, finetune=facts, resized_from=target.resized_from)
    check_autoattack(recipe)
    check_protocols(recipe, protocols)
    recipe, corruptions = plan_corruptions(recipe, request.corruptions, dataset, request.data_dir)
    folder = (
        RunFolder(home.path, recipe, home.seed, source, home.weights)
        if home
        else RunFolder.of(request.runs_dir, recipe, file.origin.seed, source, file.sha256)
    )
    return Run(
        method,
        dataset,
        recipe,
        seed,
        protocols,
        device,
        folder,
        checkpoint=request.checkpoint,
        corruptions=corruptions,
    )


def _home(path: Path, file: EncoderFile, recipe: Recipe) -> RunFolder | None:
    """Return the run's folder that ``path`` is the encoder of, None where it lies elsewhere."""
    try:
        described = RunDescription.load(path.parent)
        fingerprint, source = described.fingerprint, described.source
    except DamagedFileError:  # the run writes its description anew
        fingerprint, source = file.origin.fingerprint, ""
    except BenchError:
        return None
    for weights in (None, file.sha256):
        folder = RunFolder(path.parent, recipe, file.origin.seed, source, weights)
        if folder.encoder == path and folder.fingerprint == fingerprint:
            return folder
    return None


def _pretraining_data(request: CheckpointRequest, home: RunFolder | None, recipe: Recipe) -> tuple[str, Dataset]:
    """Return what to call the data that the encoder was trained on, and the data."""
    name, expected = recipe.dataset.name, recipe.dataset.sha256
    source = request.dataset or (home.source if home else "") or (name if name in DATASETS else "")
    if not source:
        raise BenchError(
            f"the encoder in {request.checkpoint} was trained on {name!r}, and nothing beside it says where these data "
            f"are. Say so with --dataset npz:PATH, or name others to judge it on with --finetune-dataset."
        )
    dataset = load_dataset(source, request.data_dir)
    if dataset.sha256 == expected:
        _refuse_other_facts(recipe.dataset, dataset_facts(dataset), request.checkpoint, source)
    else:
        raise BenchError(
            f"{source} is not what this encoder was trained on ({name}): its SHA-256 is {dataset.sha256[:12]}, not "
            f"{expected[:12]}. To judge the encoder on other data, type --finetune-dataset {source}"
        )
    return source, dataset


def _refuse_other_facts(claimed: DatasetFacts, found: DatasetFacts, checkpoint: Path, source: str) -> None:
    """Raise BenchError, naming each, for facts that the file ``checkpoint`` claims and the data ``source`` refute.

    A file of one's own data may have been renamed; the name of a dataset that everybody knows is none to borrow.
    """
    named = claimed.name != found.name and (claimed.name in DATASETS or found.name in DATASETS)
    keys = [key for key in DatasetFacts.model_fields if key != "name" or named]
    pairs = [(key, getattr(claimed, key), getattr(found, key)) for key in keys]
    # Files of an earlier version know nothing of some facts.
    wrong = [f"{key} is {held}, not {claim}" for key, claim, held in pairs if claim is not None and claim != held]
    if wrong:
        faults = "\n  - ".join(wrong)
        raise BenchError(
            f"{checkpoint} claims what {source} does not bear out, though pixels and labels are those it was trained "
            f"on:\n  - {faults}\nIts description was changed. Take the encoder from where it was trained."
        )
