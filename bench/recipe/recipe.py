"""The recipe: every number of a run, resolved from method, dataset, tier, fidelity and ``--set``."""

import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, create_model, model_validator

from bench.errors import BenchError, unknown
from bench.own_code import typed
from bench.recipe.fields import (
    Amount,
    DatasetName,
    Digest,
    Name,
    Radius,
    Scalar,
    Side,
    Text,
    WithoutFolders,
    without_folders,
)
from bench.recipe.overrides import flatten, insert, outside, section, within
from bench.recipe.plan import Precision, TrainPlan
from bench.recipe.protocols import PROTOCOLS, SECTIONS
from bench.recipe.sections import STEMMED, EncoderSettings, EvaluationSettings, Fidelity
from bench.recipe.settings import Settings, canonical_digest
from bench.recipe.threat import Norm, Threat, default_radius, radius_fault
from bench.recipe.tiers import Tier

SHARED = ("encoder", "threat", *PROTOCOLS, "evaluate")
"""The sections that all methods have; each other section belongs to a method."""


class MethodConfig(Settings):
    """A method's own settings with its paper's defaults; each stage is a field that extends TrainPlan."""

    def plans(self) -> dict[str, TrainPlan]:
        """Return the stages' settings by field name, in order."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, TrainPlan)}

    def section_of(self, plan: TrainPlan) -> str | None:
        """Return the section that is ``plan``, as users type it ("stage1"); None: it is none of them."""
        return next((name for name, own in self.plans().items() if own is plan), None)

    @property
    def unread(self) -> dict[str, str]:
        """The keys or sections that nothing reads beside the values of others, each with what leaves it unread.

        Where that is another setting of the same stage, :attr:`TrainPlan.unread` says it.
        """
        return {}

    def remarks(self, images: int) -> Iterable[str]:
        """Say where training on ``images`` images differs from these settings; each is a warning before the start."""
        return ()


Conventions = Literal["cifar", "imagenet"]
"""How papers treat images of this size: the stem and the input normalisation of the encoder, and weak views."""


class DatasetFacts(Settings):
    """Facts about the data in recipes and records."""

    later = {"conventions": "cifar"}

    name: DatasetName
    published_as: Text | None = None
    """The name under which papers' numbers for exactly these images are listed."""
    sha256: Digest
    image_shape: tuple[Side, Side, Side]
    num_classes: int = Field(ge=2, le=100_000)
    train_images: int = Field(ge=1, le=10**9)
    test_images: int = Field(ge=1, le=10**9)
    mirror: bool = True
    """Whether a mirrored image still shows its class; where not, no view is flipped."""
    eps: Radius
    """The dataset's default Linf radius."""
    conventions: Conventions = "cifar"
    """The source of defaults that depend on the size of the images; ``imagenet`` for own images above 64 pixels."""
    mean: tuple[Scalar, ...]
    std: tuple[Scalar, ...]

    def radius(self, norm: Norm) -> float:
        """Return the default radius under ``norm``."""
        return default_radius(norm, self.eps, self.image_shape)


class Finetune(Settings):
    """How protocols and evaluation differ from pre-training: in the data (transfer), or only in the threat model."""

    dataset: DatasetFacts
    """Facts about the images as the classifier receives them."""
    threat: Threat
    resized_from: tuple[int, int] | None = None
    """Height and width of the images before they were resized to the pre-training images, by bilinear interpolation
    with antialiasing; None: they were not resized."""


class Recipe(Settings):
    """Every number of a run except its seed. It has a section of its own name for each protocol, with defaults."""

    later = {"precision": None}

    method: Name
    config: SerializeAsAny[MethodConfig]
    dataset: DatasetFacts
    tier: Name
    tier_sha256: Digest
    fidelity: Fidelity
    overrides: dict[str, Annotated[Any, WithoutFolders]]
    """What the user set with ``--set``, as written."""
    idle: tuple[str, ...] = ()
    """Keys of ``overrides`` that change no number."""
    budget: Amount | None = None
    """Floating-point operations for pre-training, from which the epochs follow; None: no budget."""
    precision: Precision | None = None
    """Of all stages and protocols, unless one has its own; None: what the tier, or else each paper, gives them."""
    encoder: EncoderSettings
    threat: Threat
    evaluate: EvaluationSettings
    finetune: Finetune | None = None
    """None: protocols and evaluation use the data and the threat model of pre-training."""

    @model_validator(mode="after")
    def _evaluation_radius_fits_the_norm(self) -> Self:
        if fault := radius_fault(self.downstream.threat.norm, self.eval_eps):
            raise ValueError(f"evaluate.{fault}")
        return self

    def pretraining_digest(self) -> str:
        """Return the SHA-256 of all that decides the encoder; runs with the same one share weights."""
        return canonical_digest(self._only({"method", "config", "dataset", "encoder", "threat"}))

    def protocol_digest(self, protocol: str) -> str:
        """Return the SHA-256 of all that decides a protocol's result, given the encoder."""
        sections = {protocol, "evaluate", "threat"} | ({"finetune"} if self.finetune else set())
        own = self._only(sections)
        # Its record belongs to another table, though the encoder may be shared.
        own |= {name: value for name in ("budget", "precision") if (value := getattr(self, name)) is not None}
        return canonical_digest({"pretraining": self.pretraining_digest(), **own})

    def training_digest(self, protocol: str) -> str:
        """Return the SHA-256 of all that decides a protocol's classifier, given the encoder; not its evaluation."""
        sections = {protocol, "threat"} | ({"finetune"} if self.finetune else set())
        return canonical_digest({"pretraining": self.pretraining_digest(), **self._only(sections)})

    def protocol(self, name: str) -> Any:
        """Return the section of the protocol ``name``, of the class that :data:`bench.recipe.SECTIONS` gives it."""
        return getattr(self, name)

    def _only(self, sections: set[str]) -> dict[str, Any]:
        # A classifier that is judged as released has no section of a protocol.
        values = {name: getattr(self, name) for name in sections if name in type(self).model_fields}
        return {name: value.counted() if isinstance(value, Settings) else value for name, value in values.items()}

    def overrides_of(self, protocol: str) -> dict[str, Any]:
        """Return the overrides that affect its result, without idle ones and those of other protocols."""
        active = {key: without_folders(value) for key, value in self.overrides.items() if key not in self.idle}
        return outside(active, *(name for name in PROTOCOLS if name != protocol))

    @property
    def downstream(self) -> "Recipe":
        """The recipe for protocols and evaluation, with their data and threat model.

        Use only its numbers: digests are those of the whole recipe.
        """
        if self.finetune is None:
            return self
        return self.model_copy(update={"dataset": self.finetune.dataset, "threat": self.finetune.threat})

    @property
    def pretrained_on(self) -> str | None:
        """The name of the pre-training data, where protocols use others (transfer)."""
        transfer = self.finetune and self.finetune.dataset.sha256 != self.dataset.sha256
        return self.dataset.name if transfer else None

    @property
    def eval_eps(self) -> float:
        """The radius at which robust accuracy is measured."""
        return self.threat.eps if self.evaluate.eps is None else self.evaluate.eps


def build_recipe(
    *,
    method: str,
    config_type: type[MethodConfig],
    native_encoder: Mapping[str, Any],
    dataset: DatasetFacts,
    tier: Tier,
    fidelity: Fidelity = "uniform",
    overrides: Mapping[str, Any] | None = None,
    finetune: DatasetFacts | None = None,
    resized_from: tuple[int, int] | None = None,
) -> Recipe:
    """Return the recipe of ``method`` on ``dataset``.

    Published values come first, then the tier's scaling, then what the data demand, then (under native
    fidelity) the encoder settings of the method's own paper, then the user's overrides: ``precision``, which is that of
    every stage and protocol, before all others.

    Args:
        native_encoder: the encoder settings in which its paper differs from the uniform ones.
        overrides: dotted keys to values, from :func:`bench.recipe.parse_overrides`.
        finetune: facts about the data of protocols and evaluation, if they differ.
        resized_from: height and width of their images before they were resized.

    Raises:
        BenchError: listing every unknown key or, after that, every bad value together.
    """
    overrides = dict(overrides or {})
    precision = overrides.get("precision")
    values = {
        "method": method,
        "dataset": dataset,
        "tier": tier.name,
        "tier_sha256": tier.digest(),
        "fidelity": fidelity,
        "overrides": overrides,
        "precision": None if precision == tier.precision else precision,
        "config": _scaled(config_type, tier, overrides, dataset),
        "encoder": _encoder(dataset, tier, native_encoder if fidelity == "native" else {}, overrides),
        "threat": _default_threat(dataset, overrides),
        **{name: protocol_section(name, tier, finetune or dataset, precision) for name in PROTOCOLS},
        "evaluate": dict(tier.evaluate),
    }
    if finetune:
        threat = _default_threat(finetune, overrides)
        values["finetune"] = {"dataset": finetune, "threat": threat, "resized_from": resized_from}
    what = f"recipe of tier {tier.name}"
    refuse_unknown(overrides, parse_recipe(values, config_type, what), (*SHARED, "config", "precision"))
    for key, value in outside(overrides, "precision").items():
        insert(values, key if section(key) in SHARED else f"config.{key}", value)
    for key, value in (within(overrides, "threat") if finetune else {}).items():
        insert(values, f"finetune.{key}", value)
    return with_one_radius(parse_recipe(values, config_type, what))


def with_one_radius(recipe: Recipe) -> Recipe:
    """Return ``recipe`` without a radius of the evaluation where that is the one of its threat model anyway."""
    if recipe.evaluate.eps != recipe.downstream.threat.eps:
        return recipe
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"eps": None})})


def parse_recipe(values: Any, config_type: type[MethodConfig], what: str) -> Recipe:
    """Return the recipe that nested plain ``values`` hold; raises BenchError that lists every fault."""
    return _recipe_of(config_type).parse(values, what)


@cache
def _recipe_of(config_type: type[MethodConfig]) -> type[Recipe]:
    """Return the recipe class of one method; making a class takes longer than validating with it."""
    protocols: dict[str, Any] = {name: (section, Field(default_factory=section)) for name, section in SECTIONS.items()}
    return create_model("Recipe", __base__=Recipe, config=(config_type, ...), **protocols)


def protocol_section(name: str, tier: Tier, dataset: DatasetFacts, precision: Any) -> dict[str, Any]:
    """Return what ``tier``, data and ``precision`` give the section of protocol ``name``; the rest are defaults."""
    of_data = {"flip_prob": (dataset.mirror, 0.0), "crop": (dataset.conventions == "cifar", "resized")}
    common = {**{key: other for key, (usual, other) in of_data.items() if not usual}, **_of_stage(precision)}
    known = SECTIONS[name].model_fields
    return {**tier.protocol(name), **{key: value for key, value in common.items() if key in known}}


def _of_stage(precision: Any) -> dict[str, Any]:
    """Return what the recipe's ``precision`` gives a stage: nothing if there is none, or a wrong one, listed once."""
    return {"precision": precision} if precision in get_args(Precision) else {}


def _encoder(
    dataset: DatasetFacts, tier: Tier, native: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the encoder's settings: of the tier, then what the data demand, then ``native`` ones."""
    values = dict(tier.encoder)
    stemmed = overrides.get("encoder.arch", {**values, **native}.get("arch", "resnet18")) in STEMMED
    if dataset.conventions == "imagenet":
        values |= {"normalisation": "imagenet", **({"options": {"stem": "imagenet"}} if stemmed else {})}
    if stemmed and _stem({**values, **native}, overrides) == "imagenet":
        native = {key: value for key, value in native.items() if key != "stem_padding"}  # of the 3x3 stem
    return {**values, **native}


def _stem(encoder: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Return the option ``stem`` that ``overrides`` leave of the settings ``encoder``; None: it has none."""
    options = overrides.get(_OPEN, encoder.get("options"))
    return overrides.get(f"{_OPEN}.stem", options.get("stem") if isinstance(options, Mapping) else None)


def _default_threat(dataset: DatasetFacts, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the radius of ``dataset`` under the requested norm."""
    return {"eps": dataset.radius("l2" if overrides.get("threat.norm") == "l2" else "linf")}


def _scaled(
    config_type: type[MethodConfig], tier: Tier, overrides: Mapping[str, Any], dataset: DatasetFacts
) -> dict[str, Any]:
    choices = {key: value for key, value in overrides.items() if key in config_type.model_fields}
    try:
        published = config_type.parse(choices, "--set")
    except BenchError:
        published, choices = config_type(), {}  # the whole recipe's validation will list this fault with all others
    plans = {
        name: plan.suited(mirror=dataset.mirror, conventions=dataset.conventions)
        for name, plan in published.plans().items()
    }
    # In Python, not JSON, form: a stage's nested settings keep their types when they are validated again.
    common = _of_stage(overrides.get("precision"))
    scaled = {name: tier.scale(_chosen(name, plan, tier, overrides)) for name, plan in plans.items()}
    return {**choices, **{name: {**plan.model_dump(), **scaled[name], **common} for name, plan in plans.items()}}


_LENGTHS = ("epochs", "warmup_epochs", "decay_epochs", "batch_size")
"""What a tier multiplies in every stage."""


def _chosen(name: str, plan: TrainPlan, tier: Tier, overrides: Mapping[str, Any]) -> TrainPlan:
    """Return the ``plan`` of stage ``name`` with the published lengths and every choice that scaling may depend on."""
    own = {key.partition(".")[2]: value for key, value in within(overrides, name).items()}
    values = plan.model_dump()
    known = dict(flatten(values)).keys() - {*_LENGTHS}
    for key, value in {**tier.stages, **own}.items():
        if key in known:
            insert(values, key, value)
    try:
        return type(plan).parse(values, name)
    except BenchError:
        return plan  # as in _scaled: the whole recipe's validation will list this fault


_OPTIONS = ("dataset", "tier", "fidelity", "seed", "budget", "device")
_OPEN = "encoder.options"
"""A section whose keys belong to a user's own encoder."""


def refuse_unknown(overrides: Mapping[str, Any], recipe: Recipe, sections: Sequence[str]) -> None:
    """Raise BenchError, listing all of them, for ``overrides`` that are not keys of ``sections`` of ``recipe``.

    Also for ``true`` and ``false`` where a number stands: validation would read them as 1 and 0.
    """
    dump = recipe.model_dump(mode="json", include=set(sections))
    present = dict(flatten({**dump.pop("config", {}), **dump}))
    allowed = present.keys()
    # An encoder that was trained elsewhere has no method to be listed.
    listed = shlex.join(["bench", "methods", typed(recipe.method)]) if recipe.config.plans() else "--dry-run --recipe"
    hint, faults = f"`{listed}` lists them all.", []
    for key, value in overrides.items():
        if isinstance(value, bool) and type(present.get(key)) in (int, float):
            faults.append(f"--set {key}={str(value).lower()}: must be a number, such as {present[key]:g}.")
        if key in allowed or f"{key}.".startswith(f"{_OPEN}."):
            continue
        if key in _OPTIONS:
            several = ", or --seeds where a command takes several" if key == "seed" else ""
            faults.append(f"--set {key}: that is an option of its own: --{key} {overrides[key]}{several}")
        elif any(known.startswith(f"{key}.") for known in allowed):
            faults.append(f"--set {key}: that is a section; set one of its keys, as {key}.KEY=VALUE.")
        else:
            faults.append(_stage_meant(key, recipe, allowed) or str(unknown("setting", key, allowed, hint)))
    if faults:
        raise BenchError("\n".join(faults))


def _stage_meant(key: str, recipe: Recipe, allowed: Set[str]) -> str:
    """Return the fault of a ``key`` whose section may be a stage's own name, as progress shows it; empty: it is not."""
    head, _, rest = key.partition(".")
    plans = recipe.config.plans()
    meant = [f"{name}.{rest}" for name in plans if f"{name}.{rest}" in allowed]
    if head in {section(known) for known in allowed} or not (meant or head.startswith("stage")):
        return ""
    near = f"Did you mean {' or '.join(map(repr, meant))}? " if meant else ""
    name, listed = typed(recipe.method), ", ".join(plans)
    sections = f"The sections of {name}'s stages are {listed}." if plans else f"{name} has no stages of pre-training."
    return f"unknown setting {key!r}. {near}{sections}"
