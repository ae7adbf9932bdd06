"""Records: outcomes that agree with their bitmap, and files that cannot be changed unnoticed."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.errors import BenchError
from bench.recipe import CORRUPTIONS
from bench.record import (
    AttackList,
    AutoAttackEvaluation,
    CorruptionEvaluation,
    Diagnosis,
    Environment,
    Inventory,
    LabelledSubset,
    ListedAttack,
    Outcome,
    PGDEvaluation,
    PhaseCost,
    Record,
    load_record,
    record_files,
    record_path,
    save_record,
    wilson_interval,
)

SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 360, 1001)


def coin(n: int, seed: int = 0) -> list[bool]:
    return [bool(flip) for flip in np.random.default_rng([seed, n]).random(n) < 0.6]


def make_record(**changes: Any) -> Record:
    outcome = Outcome.pack(coin(50), test_images=50)
    return Record(
        **{
            "method": "deacl",
            "title": "DeACL",
            "year": 2022,
            "dataset": "digits",
            "tier": "tiny",
            "tier_sha256": "5" * 64,
            "fidelity": "uniform",
            "seed": 0,
            "protocol": "slf",
            "overrides": {"stage2.weight_decay": 1e-05},
            "recipe": {"threat": {"norm": "linf", "eps": 16 / 255}},
            "pretraining_sha256": "1" * 64,
            "protocol_sha256": "2" * 64,
            "encoder_sha256": "3" * 64,
            "classifier_sha256": "4" * 64,
            "sa": outcome,
            "ra": PGDEvaluation(
                outcome=outcome, eps=16 / 255, steps=20, step_size=4 / 255, start="uniform", restarts=1
            ),
            "cost": {
                "stage:ssl": PhaseCost(seconds=30.5, device="CPU"),
                "stage:pseudo_at": PhaseCost(seconds=12.25, device="CPU"),
                "slf": PhaseCost(seconds=100, device="CPU"),
            },
            "history": {"stage:ssl": [{"epoch": 1, "loss": 0.1 + 0.2}]},
            "environment": Environment(bench="0", packages={}, python="3", platform="test", device="CPU", threads=1),
            "started": "2024-01-01T00:00:00+00:00",
            "finished": "2024-01-01T01:00:00+00:00",
            **changes,
        }
    )


# Outcomes


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("fill", ["coin", "all", "none"])
def test_an_outcome_gives_back_what_was_packed(n: int, fill: str) -> None:
    correct = {"coin": coin(n), "all": [True] * n, "none": [False] * n}[fill]
    outcome = Outcome.pack(correct, test_images=n)
    assert outcome.unpack() == correct
    assert (outcome.n, outcome.correct, outcome.accuracy) == (n, sum(correct), sum(correct) / n)
    assert outcome.positions(n) == list(range(n))
    assert Outcome.parse(json.loads(outcome.model_dump_json()), "outcome") == outcome


@pytest.mark.parametrize(("n", "test_images"), [(1, 1), (1, 9), (5, 8), (8, 8), (9, 17), (100, 1001)])
def test_a_subset_keeps_the_positions_of_its_images(n: int, test_images: int) -> None:
    chosen = sorted(np.random.default_rng(n).choice(test_images, n, replace=False).tolist())
    outcome = Outcome.pack(coin(n), images=chosen, test_images=test_images)
    assert outcome.positions(test_images) == chosen
    assert outcome.unpack() == coin(n)
    assert outcome.n == n


def test_bits_stand_in_image_order_most_significant_first() -> None:
    outcome = Outcome.pack([True, False, False, False, False, False, False, True, True], test_images=9)
    assert outcome.bits == "gYA="  # base64 of 0b10000001 0b10000000


@pytest.mark.parametrize("n", [1, 2, 5, 10, 100, 10_000])
def test_the_interval_is_wilsons(n: int) -> None:
    for correct in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"correct": 6}, "disagrees with the per-image outcomes"),
        ({"accuracy": 0.7}, "disagrees with the per-image outcomes"),
        ({"bits": "AAA="}, "disagrees with the per-image outcomes"),
        ({"bits": "AA=="}, "does not hold 10 outcomes"),
        ({"bits": "qiA="}, "bits beyond its 10 outcomes"),  # an eleventh image, correct in place of the ninth
        ({"interval": (0.25, 0.75)}, "the interval disagrees"),
        ({"interval": (0.0, 1.0)}, "the interval disagrees"),
        ({"n": 17}, "does not hold 17 outcomes"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"accuracy": float("nan")}, "accuracy"),
        ({"n": 0}, "n:"),
        ({"bits": "not base64"}, "the bitmap is not base64"),
        ({"votes": 3}, "votes"),
    ],
)
def test_numbers_that_disagree_with_the_bitmap_are_refused(change: dict[str, Any], complaint: str) -> None:
    values = Outcome.pack([True, False] * 5, test_images=10).model_dump()
    with pytest.raises(BenchError, match=complaint):
        Outcome.parse({**values, **change}, "sa")


@pytest.mark.parametrize("named", [[0, 1], [0, 1, 2, 9], []])
def test_a_mask_that_names_another_number_of_images_is_refused(named: list[int]) -> None:
    subset = Outcome.pack([True, False, True], images=[2, 3, 8], test_images=10)
    other = np.zeros(10, dtype=bool)
    other[named] = True
    mask = base64.b64encode(np.packbits(other).tobytes()).decode()
    with pytest.raises(BenchError, match="bitmap of measured images does not name 3 of them"):
        Outcome.parse({**subset.model_dump(), "images": mask}, "aa")


def make_autoattack(outcome: Outcome, survivors: dict[str, int]) -> AutoAttackEvaluation:
    return AutoAttackEvaluation(
        **{"outcome": outcome, "eps": 0.1, "version": "standard", "package": "p", "package_version": "1"},
        **{"targets": 9, "survivors": survivors, "warnings": []},
    )


def test_survivors_must_end_at_the_outcome() -> None:
    outcome = Outcome.pack([True, False] * 5, test_images=10)
    good = make_autoattack(outcome, {"apgd-ce": 8, "square": 5})
    for survivors in ({"apgd-ce": 8, "square": 6}, {"square": 5, "apgd-ce": 8}, {"apgd-ce": 0}):
        with pytest.raises(BenchError, match="last attack's survivors disagree"):
            AutoAttackEvaluation.parse({**good.model_dump(), "survivors": survivors}, "aa")


def test_survivors_that_rise_are_refused() -> None:
    outcome = Outcome.pack([True, False] * 5, test_images=10)
    good = make_autoattack(outcome, {"apgd-ce": 5, "square": 5})
    for survivors in ({"apgd-ce": 3, "square": 5}, {"apgd-ce": 11, "square": 5}):
        with pytest.raises(BenchError, match=r"cannot mend images: \[\d+, 5\] of 10 are standing"):
            AutoAttackEvaluation.parse({**good.model_dump(), "survivors": survivors}, "aa")


def make_corruptions(n: int = 10, **correct: tuple[int, ...]) -> CorruptionEvaluation:
    facts = {"source": "files", "parametrisation": "CIFAR-C", "sha256": "6" * 64}
    return CorruptionEvaluation.parse({**facts, "n": n, "correct": correct}, "corruptions")


def test_corruption_accuracy_is_the_mean_of_means() -> None:
    two = make_corruptions(fog=(10, 8, 6, 4, 2), snow=(5, 5, 5, 5, 0))
    assert two.accuracies == pytest.approx({"fog": 0.6, "snow": 0.4})
    assert two.accuracy == pytest.approx(0.5)
    assert two.interval == pytest.approx(wilson_interval(5, 10))
    assert two.interval_of(0.6) == pytest.approx(wilson_interval(6, 10))
    assert not two.complete
    every: dict[str, Any] = dict.fromkeys(CORRUPTIONS, (1, 1, 1, 1, 1))
    assert make_corruptions(**every).complete


def test_the_interval_of_a_mean_over_cells_holds_what_it_promises() -> None:
    """Images that are right or wrong in all cells alike are the worst case, and there it is Wilson's own."""
    rng = np.random.default_rng(0)
    n, trials, p = 200, 2000, 0.7
    for shared in (True, False):
        shape = (trials, n, 1 if shared else 5)
        means = (rng.random(shape) < p).mean(axis=(1, 2))
        inside = [low <= p <= high for low, high in map(make_corruptions(n, fog=(0,) * 5).interval_of, means)]
        assert np.mean(inside) > 0.93
        assert (np.mean(inside) > 0.99) != shared


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"correct": {"fogg": (1, 1, 1, 1, 1)}}, "unknown corruption 'fogg'. Did you mean 'fog'"),
        ({"correct": {"fog": (1, 1, 1, 1)}}, "fog has 4 counts; each of the 5 severities needs one"),
        ({"correct": {"fog": (1, 1, 11, 1, 1)}}, "counts outside 0 to 10"),
        ({"correct": {"fog": (1, 1, -1, 1, 1)}}, "counts outside 0 to 10"),
        ({"correct": {}}, "no corruption was measured"),
        ({"n": 0}, "n:"),
        ({"source": "generated"}, "generated images have a package"),
        ({"package": "p"}, "files have none"),
    ],
)
def test_impossible_corruption_counts_are_refused(change: dict[str, Any], complaint: str) -> None:
    values = make_corruptions(fog=(5, 4, 3, 2, 1)).model_dump()
    with pytest.raises(BenchError, match=complaint):
        CorruptionEvaluation.parse({**values, **change}, "corruptions")


# Records on disk


def test_a_record_survives_the_disk_and_is_sealed(tmp_path: Path) -> None:
    record = make_record()
    path = save_record(tmp_path, record)
    loaded = load_record(path)
    assert path == record_path(tmp_path, record)
    assert path.parent == tmp_path / "digits"
    assert loaded == record.sealed()
    assert loaded.sha256 == record.content_digest() != ""
    assert loaded.pretraining_seconds == 42.75


def test_the_seal_covers_every_field() -> None:
    record = make_record()
    outcome = Outcome.pack(coin(50, seed=1), test_images=50)
    texts = {name: "other" for name, value in record if isinstance(value, str)}
    times = {name: datetime(2025, 1, 1, tzinfo=UTC) for name in ("started", "finished")}
    other = {
        **{
            **texts,
            **times,
            "seed": 1,
            "encoder_seed": 1,
            "year": 2023,
            "overrides": {},
            "recipe": {},
            "cost": {},
            "history": {},
            "doctor": (Diagnosis(check="deterministic", verdict="sound", found="the same"),),
        },
        **{"sa": outcome, "ra": record.ra.model_copy(update={"outcome": outcome}), "schema_version": 1},
        **{"pretrained_on": "stl10", "selected_epoch": 3, "labelled": LabelledSubset(images=4, sha256="6" * 64)},
        "aa": make_autoattack(outcome, {}),
        "attacks": AttackList(eps=0.1, attacks=(ListedAttack(attack="pgd", outcome=outcome, tried=50),)),
        "corruptions": make_corruptions(fog=(5, 4, 3, 2, 1)),
        "environment": record.environment.model_copy(update={"python": "4"}),
        **{"environments": {"stage:ssl": (record.environment,)}, "code": {"stage:ssl": "5" * 64}},
        "doubts": ("constant features",),
        **{"data": Inventory(read={"train": 3}), "pretraining_data": Inventory()},
    }
    assert other.keys() == Record.model_fields.keys()
    for name in other.keys() - {"sha256"}:
        changed = record.model_copy(update={name: other[name]})
        assert changed.content_digest() != record.content_digest(), name
    assert record.sealed().content_digest() == record.content_digest()


def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    first = save_record(tmp_path, make_record())
    before = first.read_bytes()
    assert save_record(tmp_path, make_record()) == first
    assert first.read_bytes() == before
    assert list(record_files(tmp_path)) == [first]


def test_saving_never_overwrites(tmp_path: Path) -> None:
    runs = [make_record(finished=f"2024-01-0{day}T00:00:00+00:00") for day in (1, 2, 3)]
    paths = [save_record(tmp_path, run) for run in runs]
    assert len(set(paths)) == 3
    assert [load_record(path).finished for path in paths] == [run.finished for run in runs]
    assert [save_record(tmp_path, run) for run in runs] == paths


def test_record_files_are_sorted_and_leave_out_what_is_no_record(tmp_path: Path) -> None:
    for name in (
        "z/b.json",
        "z/a.json",
        "a/c.json",
        "published/p.json",
        "a/.c.json.tmp",
        "a/.d.json",
        "a/e.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in record_files(tmp_path)]
    assert names == ["a/c.json", "z/a.json", "z/b.json"]


def edited(key: str, value: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), key: value})


def without(key: str) -> Callable[[str], str]:
    return lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != key})


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "cannot read"),
        (lambda text: "", "cannot read"),
        (lambda text: "[1, 2]", "this is no record of the bench: it has no schema_version. Give another file"),
        (edited("schema_version", 99), "schema version 99, this program reads 1 to 4. Update the bench"),
        (without("schema_version"), "this is no record of the bench"),
        (edited("schema_version", None), "schema version None"),
        (edited("seed", 1), "checksum does not match"),
        (edited("sha256", "0" * 64), "checksum does not match"),
        (without("sha256"), "checksum does not match"),
        (without("sa"), "sa: is missing"),
        (without("year"), "year: is missing"),
        (without("tier_sha256"), "tier_sha256: is missing"),
        (edited("surprise", 1), "surprise: there is no such key"),
        (edited("finished", "yesterday"), "finished: must be a valid datetime"),
        (edited("started", "2024-01-01T00:00:00"), "started: must have timezone info"),
        (
            lambda text: text.replace('"correct": ', '"correct": 1', 1),
            "disagrees with the per-image outcomes",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, damage: Callable[[str], str], complaint: str) -> None:
    path = save_record(tmp_path, make_record())
    path.write_text(damage(path.read_text()))
    with pytest.raises(BenchError, match=complaint) as caught:
        load_record(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.json", "binary.json"):
        with pytest.raises(BenchError, match=f"cannot read .*{name}"):
            load_record(tmp_path / name)
