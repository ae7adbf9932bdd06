"""Recipes: every number of a run, validated as one frozen, hashable object."""

from bench.recipe.corruptions import CORRUPTIONS, FAMILIES, SEVERITIES, CorruptionSource
from bench.recipe.overrides import flatten, outside, override_text, parse_overrides, section, within
from bench.recipe.plan import BatchNormScope, OptimizerName, Precision, TrainPlan
from bench.recipe.presets import PRESETS
from bench.recipe.protocols import (
    ALL_PROTOCOLS,
    DEFAULT_PROTOCOLS,
    PROTOCOLS,
    RELEASED,
    SECTIONS,
    AdversarialSettings,
    AFFSettings,
    ALFSettings,
    FewLabelSettings,
    FinetuneSettings,
    KNNSettings,
    LinearSettings,
    ProtocolSettings,
    SLFSettings,
    preset_overrides,
    protocol_title,
)
from bench.recipe.recipe import SHARED, DatasetFacts, Finetune, MethodConfig, Recipe, build_recipe, parse_recipe
from bench.recipe.reevaluate import reevaluated
from bench.recipe.sections import (
    AttackSettings,
    EncoderSettings,
    EvaluationSettings,
    Fidelity,
    Start,
    attack_name,
)
from bench.recipe.settings import MirrorProbability, Settings, canonical_digest
from bench.recipe.threat import Norm, Threat, radius_fault
from bench.recipe.tiers import Tier, load_tier, tier_names

__all__ = [
    "ALL_PROTOCOLS",
    "CORRUPTIONS",
    "DEFAULT_PROTOCOLS",
    "FAMILIES",
    "PRESETS",
    "PROTOCOLS",
    "RELEASED",
    "SECTIONS",
    "SEVERITIES",
    "SHARED",
    "AFFSettings",
    "ALFSettings",
    "AdversarialSettings",
    "AttackSettings",
    "BatchNormScope",
    "CorruptionSource",
    "DatasetFacts",
    "EncoderSettings",
    "EvaluationSettings",
    "FewLabelSettings",
    "Fidelity",
    "Finetune",
    "FinetuneSettings",
    "KNNSettings",
    "LinearSettings",
    "MethodConfig",
    "MirrorProbability",
    "Norm",
    "OptimizerName",
    "Precision",
    "ProtocolSettings",
    "Recipe",
    "SLFSettings",
    "Settings",
    "Start",
    "Threat",
    "Tier",
    "TrainPlan",
    "attack_name",
    "build_recipe",
    "canonical_digest",
    "flatten",
    "load_tier",
    "outside",
    "override_text",
    "parse_overrides",
    "parse_recipe",
    "preset_overrides",
    "protocol_title",
    "radius_fault",
    "reevaluated",
    "section",
    "tier_names",
    "within",
]
