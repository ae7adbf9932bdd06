"""Verifications: measured again from weights, refused for the weights or the record of others, counted on the board."""

import os
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from board_records import TEST_IMAGES, fill, make_record, outcome, text_of
from in_process import say
from toy_runs import Listener, toy_data, toy_request

from bench.cli import main
from bench.data import Split
from bench.errors import BenchError, BusyRunError, CheckFailedError
from bench.evaluation import Evaluation, evaluate
from bench.job import Job
from bench.leaderboard import check_leaderboard, write_leaderboard
from bench.nn import Classifier
from bench.recipe import Recipe
from bench.record import (
    Flip,
    Outcome,
    Record,
    Verification,
    correct,
    load_record,
    load_verification,
    save_record,
    save_verification,
    signed,
    verification_files,
)
from bench.results import build_leaderboard, known_text
from bench.run import VerificationRequest, Verified, execute, prepare, verify
from bench.zoo import load_tensors

CPU = torch.device("cpu")


class Toy(NamedTuple):
    """A run under SLF and kNN, and its records."""

    folder: Path
    data: str
    slf: Path
    knn: Path

    def weights(self, name: str) -> Path:
        return next((self.folder / "runs").glob(f"**/{name}.safetensors"))

    def request(self, weights: Path, record: Path | None = None, by: str = "Ada") -> VerificationRequest:
        return VerificationRequest(record or self.slf, weights, by, self.data, self.folder / "verifying")


@pytest.fixture
def toy(finished_toy: Path) -> Toy:
    knn, slf = sorted((finished_toy / "results" / "local" / "toy").glob("*.json"))
    return Toy(finished_toy, f"npz:{finished_toy / 'toy.npz'}", slf, knn)


def written(toy: Toy) -> list[Path]:
    return list(verification_files(toy.folder / "results" / "local"))


@pytest.mark.parametrize(("protocol", "weights"), [("slf", "slf"), ("knn", "knn"), ("slf", "encoder")])
def test_what_a_run_keeps_gives_the_outcome_of_every_image_again(toy: Toy, protocol: str, weights: str) -> None:
    path = toy.slf if protocol == "slf" else toy.knn
    before, held = path.read_bytes(), len(written(toy))
    done = verify(toy.request(toy.weights(weights), path), CPU, Listener())
    assert path.read_bytes() == before
    assert load_verification(done.path) == done.verification
    assert done.path.parent == path.parent / "verifications"
    assert len(written(toy)) == held + 1
    assert done.verification.weights == ("encoder" if weights == "encoder" else "classifier")
    assert (done.verification.differ, done.verification.reason) == ({"sa": 0, "ra": 0}, "rounding")
    assert done.verification.fault(done.record) is None
    left = {path.name for path in (toy.folder / "verifying").iterdir()}
    assert left == {".locks"}, "what was unfinished is removed, but no file that another process may lock by now"


def test_a_second_one_of_the_same_record_is_told_who_verifies_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    request = toy.request(toy.weights("slf"))

    def meanwhile(*given: Any, **settings: Any) -> Evaluation:
        with pytest.raises(BusyRunError, match=rf"another process \({os.getpid()} on .*\) is verifying this record"):
            verify(request, CPU, Listener())
        return evaluate(*given, **settings)

    monkeypatch.setattr("bench.run.verification.evaluate", meanwhile)
    held = len(written(toy))
    verify(request, CPU, Listener())
    assert len(written(toy)) == held + 1


def test_another_folder_other_threads_and_other_batches_move_no_image(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine: nothing but copies of the record, the weights and the data, and another batch size."""
    files = {name: Path(shutil.copy(path, tmp_path)) for name, path in (("r", toy.slf), ("w", toy.weights("slf")))}
    data = shutil.copy(toy.data.removeprefix("npz:"), tmp_path / "moved.npz")
    request = VerificationRequest(files["r"], files["w"], "Ada", f"npz:{data}", tmp_path / "verifying", tmp_path / "d")

    def in_batches(classifier: Classifier, test: Split, job: Job, *, recipe: Recipe) -> Evaluation:
        settings = recipe.evaluate.model_copy(update={"batch_size": 3})
        return evaluate(classifier, test, job, recipe=recipe.model_copy(update={"evaluate": settings}))

    monkeypatch.setattr("bench.run.verification.evaluate", in_batches)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        done = verify(request, CPU, Listener())
    finally:
        torch.set_num_threads(threads)
    assert (done.verification.differ, done.verification.apart(done.record)) == ({"sa": 0, "ra": 0}, [])
    assert done.verification.environment.threads == 2
    assert done.path.parent == tmp_path / "verifications"


def test_the_list_of_attacks_is_not_run_again(toy: Toy, tmp_path: Path) -> None:
    record = load_record(toy.slf)
    recipe = {**record.recipe, "evaluate": {**record.recipe["evaluate"], "attacks": ["an-attack-not-installed-here"]}}
    path = save_record(tmp_path, record.model_copy(update={"recipe": recipe}))
    listener = Listener()
    done = verify(toy.request(toy.weights("slf"), path), CPU, listener)
    assert done.verification.differ == {"sa": 0, "ra": 0}
    assert [phase.partition(",")[0] for phase in listener.phases] == ["SA", "RA"]


def test_weights_of_others_and_none_are_refused_and_nothing_is_written(toy: Toy, tmp_path: Path) -> None:
    held = written(toy)
    others = execute(prepare(toy_request(toy.data, tmp_path, seed=1)), tmp_path / "results", Listener())
    other = next((tmp_path / "runs").glob("*/encoder.safetensors"))
    for weights, said in (
        (toy.weights("knn"), "does not hold the classifier that slf makes"),
        (next((tmp_path / "runs").glob("*/*/slf.safetensors")), "weights of another record: its classifier"),
        (other, "weights of another record: its encoder"),
        (toy.folder / "none.safetensors", "is not a file, and a record cannot be verified without its weights"),
    ):
        with pytest.raises(BenchError, match=said):
            verify(toy.request(weights), CPU, Listener())
    edited = tmp_path / "edited.json"
    edited.write_text(others[0][1].read_text().replace('"seed":1', '"seed":2').replace('"seed": 1', '"seed": 2'))
    with pytest.raises(BenchError, match="checksum does not match"):
        verify(toy.request(other, edited), CPU, Listener())
    record = load_record(toy.slf)
    forged = save_record(tmp_path, record.model_copy(update={"ra": record.ra.model_copy(update={"steps": 99})}))
    with pytest.raises(BenchError, match=r"ra.steps is 99, recipe.evaluate.pgd_steps "):
        verify(toy.request(toy.weights("slf"), forged), CPU, Listener())
    elsewhere = toy_data(tmp_path / "elsewhere.npz", classes=4, seed=5)
    with pytest.raises(BenchError, match=r"is not the data of the record"):
        verify(replace(toy.request(toy.weights("slf")), dataset=elsewhere), CPU, Listener())
    with pytest.raises(BenchError, match="--by is empty"):
        verify(toy.request(toy.weights("slf"), by=" "), CPU, Listener())
    assert signed(" Ada  Lovelace\n") == "Ada Lovelace"
    assert written(toy) == held


def test_rounding_is_a_reason_only_where_something_differs(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_record(toy.slf)
    wrong = Outcome.pack([not right for right in record.sa.unpack()], test_images=record.sa.n)
    here = record.model_copy(update={"sa": wrong})
    there = here.model_copy(update={"environment": record.environment.model_copy(update={"platform": "another"})})
    for forged, said in ((here, "rounding explains nothing here"), (there, "More than is allowed is not explained")):
        path = save_record(tmp_path / forged.environment.platform[:7], forged)
        args = ["verify", str(path), "--weights", str(toy.weights("slf")), "--by", "Ada", "--dataset", toy.data]
        end = say(monkeypatch, capsys, *args, "--runs-dir", str(tmp_path / "runs"))
        assert end.code == 3
        assert said in end.stdout


# On the board


def verification(record: Record, by: str = "Ada", **changes: Any) -> Verification:
    values = {
        "record_sha256": record.sealed().sha256,
        "by": by,
        "weights": "classifier",
        "classifier_sha256": record.classifier_sha256,
        "reason": "rounding",
        **{"sa": record.sa, "ra": record.ra.outcome, "aa": record.aa and record.aa.outcome},
        **{"differ": {"sa": 0, "ra": 0, "aa": 0}, "environment": record.environment},
        "finished": datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    }
    return Verification(**values).sealed()


def flipped(before: Outcome, *positions: int) -> Outcome:
    right = before.unpack()
    for position in positions:
        right[position] = not right[position]
    return Outcome.pack(right, test_images=TEST_IMAGES)


def board(results: Path, *found: Verification) -> Path:
    (path,) = (results / "cifar10").glob("*.json")
    for each in found:
        save_verification(path, each)
    return path


def test_the_board_counts_the_people_who_verified_every_seed(tmp_path: Path) -> None:
    records = [make_record(seed=seed) for seed in range(2)]
    fill(tmp_path, *records)
    one, two = sorted((tmp_path / "cifar10").glob("*.json"))
    (row,) = build_leaderboard(tmp_path).rows
    assert known_text(row) == "retrained"
    save_verification(one, verification(records[0]))
    (row,) = build_leaderboard(tmp_path).rows
    assert known_text(row) == "retrained, 1 of 2 seeds verified"
    for path, record in ((one, records[0]), (two, records[1])):
        save_verification(path, verification(record, "Bob"))
        save_verification(path, verification(record, "Carl"))
    save_verification(two, verification(records[1], "Carl", finished=datetime(2026, 2, 1, tzinfo=UTC)))
    (row,) = build_leaderboard(tmp_path).rows
    assert (row.verified, known_text(row)) == ((3, 2), "retrained, verified 2x")
    text = text_of(tmp_path)
    assert "| retrained, verified 2x |" in text
    seen = "from the classifier, on CPU: images that differ: SA 0 of 200, RA 0 of 200, AA 0 of 100."
    assert f"Measured again: DeACL 2022, seed 0, by Ada, 2026-01-01, {seen}" in text


def test_a_person_counts_once_however_the_name_is_typed(tmp_path: Path) -> None:
    record = make_record()
    fill(tmp_path, record)
    (path,) = (tmp_path / "cifar10").glob("*.json")
    for day, name in enumerate(("Zo\u00eb", "zoe\u0308", "ZO\u00cb", " Zo\u00eb  ", "Zoe"), start=1):
        save_verification(path, verification(record, name, finished=datetime(2026, 2, day, tzinfo=UTC)))
    assert build_leaderboard(tmp_path).rows[0].verified == (2,)


def test_images_that_differ_are_named_and_within_the_allowance_they_count(tmp_path: Path) -> None:
    record = make_record().sealed()
    right, wrong = (record.ra.outcome.unpack().index(hit) for hit in (True, False))
    ra = flipped(record.ra.outcome, right, wrong)
    found = verification(record, ra=ra, differ={"sa": 0, "ra": 2, "aa": 0})
    assert found.flips(record)["ra"] == sorted([Flip(right, True), Flip(wrong, False)])
    assert (found.apart(record), found.allowed("ra", TEST_IMAGES), found.fault(record)) == ([], 1, None)
    board(fill(tmp_path, record), found)
    assert build_leaderboard(tmp_path).rows[0].verified == (1,)


def test_an_accuracy_that_is_apart_is_a_flag_and_no_mark(tmp_path: Path) -> None:
    record = make_record(sa=160).sealed()
    found = verification(record, sa=outcome(155, TEST_IMAGES), differ={"sa": 5, "ra": 0, "aa": 0})
    assert found.apart(record) == ["sa"]
    near = make_record(sa=158).sealed()
    for reason, apart in (("other classifier", []), ("other starts", ["sa"]), ("rounding", ["sa"])):
        assert verification(record, sa=found.sa, reason=reason).apart(near) == apart
    board(fill(tmp_path, record), found)
    (row,) = build_leaderboard(tmp_path).rows
    assert row.verified == (0,)
    assert "Ada measured another SA from the same weights (seed 0)" in row.flags


def test_a_verification_of_another_or_a_changed_record_fails_the_check(tmp_path: Path) -> None:
    record = make_record()
    results = fill(tmp_path / "results", record)
    path = board(results)
    for found, said in (
        (verification(record, record_sha256="9" * 64), "no record here has the digest 999999999999"),
        (verification(record, classifier_sha256="8" * 64), "its classifier is not that of the record"),
        (verification(record, differ={"sa": 1, "ra": 0, "aa": 0}), "its counts disagree with its outcomes"),
        (verification(record, aa=None), "only one of the two has AA"),
        (verification(record, ra=outcome(10, 100)), "its RA is of other images"),
    ):
        bad = save_verification(path, found)
        write_leaderboard(results, tmp_path / "LEADERBOARD.md")
        with pytest.raises(CheckFailedError, match=rf"cannot trust .*{bad.name}: {said}"):
            check_leaderboard(results, tmp_path / "LEADERBOARD.md")
        assert build_leaderboard(results).rows[0].verified == (0,)
        bad.unlink()


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_tensors_have_the_names_that_the_page_on_resuming_gives(toy: Toy) -> None:
    encoder, protocol = (load_tensors(toy.weights(name)).tensors for name in ("encoder", "slf"))
    assert {name.partition(".")[0] for name in encoder} == {"backbone", "normalise"}
    assert {"backbone.conv1.weight", "normalise.mean", "normalise.std"} <= encoder.keys()
    head = {"stage.head.weight", "stage.head.bias"}
    assert protocol.keys() == {f"stage.encoder.{name}" for name in encoder} | head


def test_the_weights_and_data_of_a_run_at_hand_are_found(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["verify", str(toy.knn), "--by", "Ada", "--device", "cpu", "--runs-dir", str(toy.folder / "runs")]
    held = written(toy)
    said = say(monkeypatch, capsys, *words)
    assert (said.code, str(toy.weights("knn")) in said.stderr) == (0, True)
    (made,) = {*written(toy)} - {*held}
    assert load_verification(made).differ == {"sa": 0, "ra": 0}
    said = say(monkeypatch, capsys, *words[:-1], str(tmp_path))
    assert f"comes without weights, and no run in {tmp_path} keeps them" in said.stderr


def test_the_command_names_the_images_and_exits_with_3_where_accuracies_are_apart(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = load_record(toy.slf)
    words = ["verify", str(toy.slf), "--by", "Ada", "--results-dir", str(toy.folder / "results")]
    assert command(monkeypatch, *words) == 1
    assert "comes without weights" in capsys.readouterr().err
    right = record.sa.unpack()
    sa = Outcome.pack([not hit if place < 3 else hit for place, hit in enumerate(right)], test_images=len(right))
    other = verification(record, sa=sa, aa=None, differ={"sa": 3, "ra": 0})
    monkeypatch.setattr("bench.run.verify", lambda *given: Verified(record, other, tmp_path / "verification.json"))
    code = command(monkeypatch, *words, "--weights", str(toy.weights("slf")))
    captured = capsys.readouterr()
    assert "withdrawn" not in captured.err
    assert all(str(place) in captured.out for place in range(3))
    assert "rounding explains nothing here" in captured.out
    assert (other.apart(record), code) == (["sa"], 3)
    assert "SA differs by more than the verification allows" in captured.err
    correction = correct(toy.slf, record, toy.folder / "results", reason="data", note="leaked")
    assert command(monkeypatch, *words, "--weights", str(toy.weights("slf"))) == 3
    correction.unlink()
    assert f"{toy.slf} is measured, although it was withdrawn: the data were wrong. leaked\n" in capsys.readouterr().err
