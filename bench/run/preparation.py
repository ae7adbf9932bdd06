"""Turns a request into a run that is checked and ready to start."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.attack import NamedAttack, check_autoattack
from bench.cost import at_budget
from bench.data import DataIn, Dataset, check_dataset, load_dataset
from bench.device import pick_device, refuse_default_type, refuse_precision
from bench.errors import BenchError, Faults, unknown, warn
from bench.files import check_writable, nearest_folder
from bench.method import METHODS, Method, MethodContext
from bench.nn import unread_settings, with_loaded_encoder
from bench.own_code import typed
from bench.parallel import by_itself, refuse_uneven
from bench.recipe import (
    ALL_PROTOCOLS,
    DEFAULT_PROTOCOLS,
    RELEASED,
    SECTIONS,
    Fidelity,
    FinetuneSettings,
    Recipe,
    TrainPlan,
    build_recipe,
    idle_among,
    load_tier,
    with_checked_fields,
)
from bench.recipe.fields import Whole
from bench.record import RecordName
from bench.run.data import Corruptions, dataset_facts, other_target, plan_corruptions, with_corruptions
from bench.run.encoder import EncoderFile, plain_encoder
from bench.run.folder import ProtocolFolder, RunFolder
from bench.run.handover import check_stages

_COPIES = 4
"""Copies of the encoder that a run keeps on disk: two in the training state with momenta, the result, a classifier."""


@with_checked_fields
@dataclass(frozen=True)
class RunRequest:
    """The options of ``bench run``."""

    method: str
    """Its name, or ``FILE.py:OBJECT`` for one that is not installed."""
    dataset: str
    tier: str | None = None
    """None: ``tiny`` for digits, otherwise ``mini`` on a CPU and ``short`` on a GPU."""
    fidelity: Fidelity = "uniform"
    protocols: str | Sequence[str] | None = None
    """None: SLF, ALF and AFF, or what the method allows of them."""
    finetune_dataset: str | None = None
    """Data for protocols and evaluation (transfer); None: the pre-training data."""
    seed: Whole = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    budget: str | None = None
    """The compute for pre-training: floating-point operations, or ``like:METHOD``; it determines the epochs."""
    runs_dir: Path = Path("runs")
    data_dir: Path = Path("data")
    device: str | None = None
    elsewhere: bool = False
    """Whether it will run on another machine, which has a GPU: then what this machine lacks is no fault."""
    corruptions: str | None = None
    """none, generate, or the path of a folder of files; None: as in the recipe."""
    data_in: DataIn = "auto"
    """Where the images of a folder are kept; no number depends on it."""
    accumulate: int | None = None
    """Compute each batch of all stages and protocols in so many parts; ``overrides`` come before it."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to start or to continue."""

    method: type[Method]
    dataset: Dataset
    recipe: Recipe
    seed: int
    protocols: Sequence[str]
    device: torch.device
    folder: RunFolder
    finetune: Dataset | None = None
    """The data of protocols and evaluation, if they differ from those of pre-training."""
    encoder: EncoderFile | None = None
    """An encoder that is trained already; ``dataset`` is then the data of its evaluation, not of its training."""
    corruptions: Corruptions | None = None
    """The source of its corrupted images; None if the recipe uses none."""

    @property
    def target(self) -> Dataset:
        """The data of protocols and evaluation."""
        return self.finetune or self.dataset

    @property
    def pretrained_on(self) -> str | None:
        """The name of the pre-training data, where protocols use others (transfer).

        Of an encoder that was trained elsewhere the file may say the digest of its data, or a name alone, or nothing.
        """
        known = self.encoder.origin.imported if self.encoder else None
        if known is None:
            return self.recipe.pretrained_on
        if known.trained_on_sha256:
            same = known.trained_on_sha256 == self.dataset.sha256
        else:
            same = known.trained_on == self.dataset.name
        return None if same else known.trained_on or None

    @property
    def finished(self) -> bool:
        """Whether every requested protocol has its record."""
        return all(self.protocol_folder(name).record.exists() for name in self.protocols)

    @property
    def encoder_seed(self) -> int | None:
        """The seed of pre-training, where protocols use another; None also for an encoder trained elsewhere."""
        imported = self.encoder is not None and self.encoder.origin.imported
        return None if imported or self.folder.seed == self.seed else self.folder.seed

    def record_name(self, protocol: str) -> RecordName:
        """Return what the file of its record under ``protocol`` is called after."""
        recipe = self.recipe
        return RecordName(
            dataset=recipe.downstream.dataset.name,
            method=recipe.method,
            pretrained_on=self.pretrained_on,
            tier=recipe.tier,
            fidelity=recipe.fidelity,
            encoder_seed=self.encoder_seed,
            seed=self.seed,
            protocol=protocol,
            protocol_sha256=recipe.protocol_digest(protocol),
        )

    def protocol_folder(self, protocol: str) -> ProtocolFolder:
        """Return the folder of ``protocol``."""
        return self.folder.protocol(protocol, self.seed)

    def with_seed(self, seed: int) -> "Run":
        """Return the run of the same request with another seed."""
        check_seed(seed)
        folder = RunFolder.of(self.folder.path.parent, self.recipe, seed, self.folder.source)
        return replace(self, seed=seed, folder=folder)

    @property
    def context(self) -> MethodContext:
        """What the method receives."""
        assert self.encoder is None, "an encoder that is trained already needs no images to train on"
        data = self.dataset
        index = data.index_train if data.pretrain is None else None
        return MethodContext(self.recipe, self.seed, self.device, data.pretraining_images, index)


def prepare(request: RunRequest, dataset: Dataset | None = None) -> Run:
    """Return the run that ``request`` describes; nothing is trained or written yet.

    Args:
        dataset: the pre-training data, if they are loaded already.

    Raises:
        BenchError: an unknown method, dataset, tier, protocol or setting, a value out of range, bad data, or a method
            whose stages cannot work or whose encoder could not be loaded afterwards.
    """
    faults = Faults()
    with faults:
        request = replace(request, method=METHODS.name_of(request.method))
        method = METHODS.get(request.method)
        protocols = chosen_protocols(request.protocols, request.method, method)
    with faults:
        request = replace(request, overrides=with_loaded_encoder(request.overrides))
    with faults:
        check_seed(request.seed)
    with faults:
        device = pick_device("cpu" if request.elsewhere else request.device)
        there = torch.device("cuda") if request.elsewhere else device
        tier = load_tier(default_tier(request.dataset, there) if request.tier is None else request.tier)
    for name in filter(None, (None if dataset else request.dataset, request.finetune_dataset)):
        with faults:
            check_dataset(name)
    faults.refuse()
    if request.accumulate is not None:
        request = replace(request, overrides={**_in_parts(method, request.accumulate), **request.overrides})
    dataset = dataset or load_dataset(request.dataset, request.data_dir, request.data_in)
    facts = dataset_facts(dataset)
    target = other_target(request.finetune_dataset, request.data_dir, facts, request.data_in)

    def recipe_of(name: str, overrides: Mapping[str, Any]) -> Recipe:
        name = METHODS.name_of(name)
        return build_recipe(
            method=name,
            config_type=METHODS.get(name).config_type,
            native_encoder=METHODS.get(name).native_encoder,
            dataset=facts,
            tier=tier,
            fidelity=request.fidelity,
            overrides=overrides,
            finetune=target and dataset_facts(target.dataset),
            resized_from=target and target.resized_from,
        )

    recipe = recipe_of(request.method, with_corruptions(request.overrides, request.corruptions))
    recipe = mark_idle(recipe, lambda overrides: recipe_of(request.method, overrides))
    with faults:
        check_attacks(recipe)
    if request.budget is not None:
        recipe = by_itself(partial(at_budget, recipe, request.budget, dataset, recipe_of))
    with faults:
        check_protocols(recipe, protocols, there)
    finetune = target and target.dataset
    recipe, corruptions = plan_corruptions(recipe, request.corruptions, finetune or dataset, request.data_dir)
    folder = RunFolder.of(request.runs_dir, recipe, request.seed, dataset.source)
    run = Run(
        method, dataset, recipe, request.seed, protocols, device, folder, finetune=finetune, corruptions=corruptions
    )
    with faults:
        check_stages(replace(run.context, device=there))
    faults.refuse()
    warn_of_unread(recipe, protocols, recipe.overrides)
    for remark in recipe.config.remarks(len(run.context.images)):
        warn(remark)
    return run


def _in_parts(method: type[Method], parts: int) -> dict[str, int]:
    """Return the settings that compute the batches of all stages and protocols of ``method`` in ``parts``."""
    protocols = [section for section, settings in SECTIONS.items() if issubclass(settings, TrainPlan)]
    return {f"{section}.accumulate": parts for section in (*method.config_type().plans(), *protocols)}


def mark_idle(recipe: Recipe, recipe_with: Callable[[Mapping[str, Any]], Recipe]) -> Recipe:
    """Return ``recipe`` with those overrides marked as idle that can be left out together without effect.

    The run is the same with and without them, so a record must not list them as changes.
    """

    def numbers(overrides: Mapping[str, Any]) -> dict[str, Any]:
        return recipe_with(overrides).model_dump(mode="json", exclude={"overrides", "idle"})

    idle = idle_among(recipe.overrides, recipe.overrides, numbers)
    return recipe.model_copy(update={"idle": tuple(idle)})


def warn_of_unread(recipe: Recipe, protocols: Sequence[str], keys: Iterable[str]) -> None:
    """Warn of ``keys`` that nothing reads beside others: of the encoder, the method, or one of ``protocols``."""
    arch, own = recipe.encoder.arch, {name: recipe.protocol(name) for name in protocols if name in SECTIONS}
    plans: dict[str, Any] = {**recipe.config.plans(), **own}
    unread = {name: plan.unread for name, plan in plans.items() if isinstance(plan, TrainPlan)}
    if recipe.evaluate.corruptions == "none":
        unread["evaluate"] = {"corruption_names": "corruptions=none"}
    unread["encoder"] = dict.fromkeys(unread_settings(arch), f"arch={typed(arch)}")
    of_method = recipe.config.unread
    for key in keys:
        name, *parts = key.split(".")
        in_section = unread.get(name, {}).get(parts[0]) if parts else None
        beside = f"{name}.{in_section}" if in_section else of_method.get(key) or of_method.get(name)
        if beside and key not in recipe.idle:
            warn(f"--set {key} has no effect with {beside}, yet counts as a change of the recipe")


def check_seed(seed: int) -> None:
    """Raise BenchError if ``seed`` is out of range."""
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise BenchError(f"seed {seed!r} is out of range; choose a whole number from 0 to {2**32 - 1}.")


def check_attacks(recipe: Recipe) -> None:
    """Raise BenchError for attacks that are unknown, lack a package, or do not fit the settings or the data."""
    data, faults = recipe.downstream.dataset, Faults()
    for name in (recipe.evaluate.attack, *recipe.evaluate.attacks):
        with faults:
            attack = NamedAttack(name, recipe.evaluate)
            attack.check_classes(data.num_classes)
            attack.check_precision(recipe.evaluate.attack_precision)
    with faults:
        refuse_default_type()
    with faults:
        if recipe.evaluate.autoattack:
            check_autoattack(data.num_classes, data.image_shape, recipe.threat.norm, data=data.name)
    faults.refuse()


def check_protocols(recipe: Recipe, protocols: Sequence[str], device: torch.device) -> None:
    """Raise BenchError if one of ``protocols`` cannot train on the data or ``device``; checked before pre-training."""
    images, faults = recipe.downstream.dataset.train_images, Faults()
    for name in protocols:
        if name == RELEASED:
            continue
        settings = recipe.protocol(name)
        with faults:
            settings.check_images(images)
        if isinstance(settings, FinetuneSettings):
            how = "--precision bf16 or --precision fp32"
            with faults:
                refuse_uneven(name, settings.batch_size)
            with faults:
                refuse_precision(settings.precision, device, f"protocol {name} trains", how)
    faults.refuse()


def chosen_protocols(names: str | Sequence[str] | None, title: str, method: type[Method]) -> tuple[str, ...]:
    """Return the protocols ``names``, without duplicates; those in a text stand between commas.

    None: the default ones that ``method``, called ``title``, allows.

    Raises:
        BenchError: unknown protocols, or such as the method does not allow.
    """
    possible, faults = method.info.protocols, Faults()
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    if names is not None and not names:
        raise BenchError(f"no protocol is named. Type one or several of {', '.join(possible)}, or leave them out.")
    for protocol in names or ():
        with faults:
            _check_protocol(protocol, title, method)
    faults.refuse()
    if names is None:
        return tuple(name for name in possible if name in (*DEFAULT_PROTOCOLS, RELEASED))
    return tuple(dict.fromkeys(names))


def _check_protocol(protocol: str, title: str, method: type[Method]) -> None:
    possible = method.info.protocols
    if protocol not in ALL_PROTOCOLS:
        raise unknown("protocol", protocol, possible)
    if protocol not in possible:
        if protocol == RELEASED:
            reason = "it is no whole classifier"
        elif possible == (RELEASED,):
            reason = f"{method.info.title} is a whole classifier, which is judged as it is"
        else:
            reason = f"it is evaluated under {', '.join(possible)} alone"
        raise BenchError(
            f"{title} cannot be evaluated under {protocol}: {reason}. Type --protocols {','.join(possible)}"
        )


def default_tier(dataset: str, device: torch.device) -> str:
    """Return the default tier for ``dataset`` and ``device``."""
    if dataset == "digits":
        return "tiny"
    return "mini" if device.type == "cpu" else "short"


def kept_bytes(run: Run) -> int:
    """Return about how many bytes of weights and states ``run`` keeps on disk."""
    encoder = plain_encoder(run.recipe)
    return _COPIES * sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())


def check_ready(run: Run, results_dir: Path) -> None:
    """Check that ``run`` could start now; nothing is left behind.

    Raises:
        BenchError: its folder or ``results_dir`` cannot be made or written, or the disk has too little space.
        BusyRunError: another process is working on it.
    """
    for folder in (run.folder.path, results_dir):
        check_writable(folder)
    run.folder.check_free()
    needed = kept_bytes(run)
    free = shutil.disk_usage(nearest_folder(run.folder.path)).free
    if free < needed:
        raise BenchError(
            f"the disk of {run.folder.path} has {free / 2**20:.0f} MiB left, and the run needs about "
            f"{needed / 2**20:.0f} MiB there. Free some space, or choose another --runs-dir."
        )
