"""SLF with few labels: which images are labelled, and that everything else is SLF."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import torch
from test_slf import CLASSES, CPU, LABELS, THREAT, make_encoder, make_images
from torch import Tensor

from bench import protocol, rng
from bench.cli._options import Protocols
from bench.errors import BenchError
from bench.job import Job
from bench.protocol import FewLabelStage, SLFStage
from bench.protocol.few_labels import balanced_subset
from bench.recipe import SECTIONS, FewLabelSettings, SLFSettings
from bench.train import train


def stage(fraction: float, seed: int = 0, labels: Tensor = LABELS) -> FewLabelStage:
    settings = FewLabelSettings(fraction=fraction, batch_size=8, epochs=1)
    return FewLabelStage(settings, make_encoder(), labels, CLASSES, seed, THREAT)


def positions(fraction: float, seed: int = 0, labels: Tensor = LABELS) -> list[int]:
    return stage(fraction, seed, labels).positions(len(labels)).tolist()


def test_every_class_has_the_same_number_and_at_least_one() -> None:
    labels = torch.arange(600) % CLASSES
    labels[:90] = 0
    for fraction, each in ((0.0001, 1), (0.01, 2), (0.1, 20)):
        chosen = set(positions(fraction, labels=labels))
        assert Counter(labels[sorted(chosen)].tolist()) == dict.fromkeys(range(CLASSES), each)


def test_a_class_with_fewer_images_gives_all_it_has() -> None:
    labels = torch.tensor([0, 1, 1, 1, 0, 1, 2, 1])
    chosen = balanced_subset(labels, 3, rng.generator(0, "test"))
    assert Counter(labels[chosen].tolist()) == {0: 2, 1: 3, 2: 1}


def test_the_subset_depends_on_the_seed_alone_and_fewer_labels_are_among_more() -> None:
    labels = torch.arange(300) % CLASSES
    few, more = (set(positions(fraction, labels=labels)) for fraction in (0.02, 0.2))
    assert few < more
    assert few == set(positions(0.02, labels=labels)) != set(positions(0.02, seed=1, labels=labels))
    one, same, other = stage(0.02, 0, labels), stage(0.02, 0, labels), stage(0.02, 1, labels)
    assert one.labelled == same.labelled != other.labelled
    assert one.labelled.images == len(few)


def test_an_epoch_has_as_many_images_as_in_slf_and_only_labelled_ones(tmp_path: Path) -> None:
    made = stage(0.3)
    chosen = set(positions(0.3))
    seen: list[int] = []
    views = made.views

    def watched(images: Tensor, generator: torch.Generator, index: Tensor) -> object:
        seen.extend(index.tolist())
        return views(images, generator, index)

    made.views = watched  # type: ignore[method-assign,assignment]
    train(made, make_images(), Job(tmp_path, "test", 0, CPU))
    assert len(seen) == len(LABELS) == 18
    assert set(seen) == chosen
    assert max(Counter(seen).values()) - min(Counter(seen).values()) <= 1


@pytest.mark.parametrize("name", ["slf-1pct", "slf-10pct"])
def test_its_settings_are_those_of_slf(name: str) -> None:
    section = SECTIONS[name].parse({"preset": "deacl-2024"}, name)
    slf = SLFSettings(preset="deacl-2024")
    assert section.model_dump(exclude={"fraction"}) == slf.model_dump()


@pytest.mark.parametrize("name", ["slf-1pct", "slf-10pct"])
def test_no_labels_are_left_to_select_an_epoch_by(name: str) -> None:
    with pytest.raises(BenchError, match=r"selection: must be 'last': .* none are left to select an epoch by"):
        SECTIONS[name].parse({"selection": "best"}, name)
    assert SECTIONS[name].parse({"selection": "last"}, name) == SECTIONS[name].parse({}, name)


def test_with_all_labels_it_is_slf() -> None:
    all_labels = stage(1.0)
    slf = SLFStage(SLFSettings(batch_size=8, epochs=1), make_encoder(), LABELS, CLASSES, seed=0, threat=THREAT)
    assert all_labels.positions(18).tolist() == slf.positions(18).tolist()


def test_every_section_of_a_protocol_has_a_stage_and_the_help_names_it() -> None:
    assert protocol._STAGES.keys() == SECTIONS.keys()
    (option,) = [each for each in get_args(Protocols) if hasattr(each, "help")]
    assert all(re.search(rf"\b{name}\b", option.help) for name in SECTIONS)
