"""Encoder files whose description lies: nothing is written outside the folders, no fact is believed over the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_runs import carry_out, toy_data, toy_request

from bench.errors import BenchError
from bench.recipe import override_text, parse_overrides
from bench.run import EvaluationRequest, RunRequest, prepare, prepare_evaluation
from bench.zoo import load_tensors, save_tensors


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRequest, Path]:
    """A finished run and its encoder."""
    folder = tmp_path_factory.mktemp("trained")
    request = toy_request(toy_data(folder / "toy.npz"), folder)
    carry_out(request, folder / "results")
    return request, prepare(request).folder.encoder


def forged(encoder: Path, path: Path, changes: Mapping[str, Any]) -> Path:
    """Write the encoder to ``path`` with a right checksum, and ``changes`` at dotted keys of its description."""
    tensors, metadata = load_tensors(encoder)
    for key, value in changes.items():
        *sections, last = key.split(".")
        part = metadata
        for section in sections:
            part = part[section]
        part[last] = value
    save_tensors(path, tensors, metadata)
    return path


def judged(path: Path, data: str, tmp_path: Path) -> Any:
    request = EvaluationRequest(
        path, dataset=data, protocols=("slf",), runs_dir=tmp_path / "in" / "runs", data_dir=tmp_path, device="cpu"
    )
    return prepare_evaluation(request)


@pytest.mark.parametrize("key", ["dataset.name", "tier", "method"])
@pytest.mark.parametrize("name", ["../../x/y", "/etc/x", "..", "a b; curl x | sh", "", "x\ny"])
def test_no_name_leads_out_of_the_folders(
    trained: tuple[RunRequest, Path], tmp_path: Path, key: str, name: str
) -> None:
    request, encoder = trained
    path = forged(encoder, tmp_path / "mine.safetensors", {f"recipe.{key}": name})
    with pytest.raises(BenchError, match=r"no name|unknown method"):
        judged(path, request.dataset, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.safetensors"]


FACTS = {
    "image_shape": [3, 64, 64],
    "num_classes": 11,
    "train_images": 50_000,
    "test_images": 10_000,
    "eps": 0.5,
    "mirror": False,
    "mean": [0.1, 0.1, 0.1],
    "std": [0.1, 0.1, 0.1],
    "published_as": "cifar10",
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_that_the_data_refute_is_named(trained: tuple[RunRequest, Path], tmp_path: Path, fact: str) -> None:
    request, encoder = trained
    path = forged(encoder, tmp_path / "mine.safetensors", {f"recipe.dataset.{fact}": FACTS[fact]})
    with pytest.raises(BenchError, match=f"contradicts .*\n  - {fact} is ") as caught:
        judged(path, request.dataset, tmp_path)
    assert str(caught.value).count("\n  - ") == 1


def test_all_of_them_are_named_together(trained: tuple[RunRequest, Path], tmp_path: Path) -> None:
    request, encoder = trained
    path = forged(encoder, tmp_path / "x.safetensors", {f"recipe.dataset.{key}": value for key, value in FACTS.items()})
    with pytest.raises(BenchError) as caught:
        judged(path, request.dataset, tmp_path)
    assert str(caught.value).count("\n  - ") == len(FACTS)


def test_ones_own_file_may_be_renamed_but_not_to_a_known_name(trained: tuple[RunRequest, Path], tmp_path: Path) -> None:
    request, encoder = trained
    path = forged(encoder, tmp_path / "x.safetensors", {"recipe.dataset.name": "other"})
    assert judged(path, request.dataset, tmp_path).recipe.dataset.name == "other"
    path = forged(encoder, tmp_path / "x.safetensors", {"recipe.dataset.name": "cifar10"})
    with pytest.raises(BenchError, match="name is toy, not cifar10"):
        judged(path, request.dataset, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe.dataset.num_classes", 10**9, "num_classes"),
        ("recipe.dataset.image_shape", [3, 10**6, 10**6], "image_shape"),
        ("recipe.encoder.width", 1024, "the weights do not fit"),
        ("seed", 10**30, "64 bits|seed"),
        ("seed", -1, "seed"),
        ("recipe", {}, "unknown method"),
        ("recipe.overrides", {"a": {"b": 10**25}}, "64 bits"),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_spent(
    trained: tuple[RunRequest, Path], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    request, encoder = trained
    path = forged(encoder, tmp_path / "x.safetensors", {key: value})
    with pytest.raises(BenchError, match=message):
        judged(path, request.dataset, tmp_path)


def test_a_run_without_its_description_is_still_its_encoders_home(
    trained: tuple[RunRequest, Path], tmp_path: Path
) -> None:
    request, encoder = trained
    description = encoder.parent / "run.json"
    whole = description.read_bytes()
    try:
        description.write_bytes(whole[:20])
        assert judged(encoder, request.dataset, tmp_path).folder.path == encoder.parent
    finally:
        description.write_bytes(whole)


@pytest.mark.parametrize("value", ["a\n```\ncurl x | sh", "$(x)\t", "\x1b[2J"])
def test_an_override_to_type_is_one_line(value: str) -> None:
    text = override_text("slf.x", value)
    assert text.isprintable()
    assert parse_overrides([text]) == {"slf.x": value}
