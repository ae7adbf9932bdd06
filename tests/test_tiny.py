"""Full ``tiny`` runs on digits: each robust method must show its effect. Minutes a method: ``make test-slow``."""

from pathlib import Path

import pytest

from bench.method import METHODS
from bench.record import Record
from bench.run import RunRequest, execute, prepare

NON_ROBUST_AA = 0.3
"""What ordinary pre-training stays below at 16/255. AutoAttack decides: VICReg's features hide their gradient from
PGD, whose accuracy says nothing there."""


def tiny(method: str, folder: Path, **evaluation: bool | int) -> Record:
    overrides = {f"evaluate.{key}": value for key, value in {"autoattack": False, **evaluation}.items()}
    first = METHODS.get(method).info.protocols[:1]
    run = prepare(RunRequest(method, "digits", "tiny", protocols=first, overrides=overrides, runs_dir=folder / "runs"))
    return execute(run, folder / "results")[0][0]


@pytest.fixture(scope="module")
def simclr(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return tiny("simclr", tmp_path_factory.mktemp("simclr"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS.get(name).info.robust])
def test_ordinary_pretraining_is_not_robust(method: str, tmp_path: Path) -> None:
    record = tiny(method, tmp_path, autoattack=True, autoattack_images=50)
    assert record.aa is not None
    assert record.aa.outcome.accuracy < NON_ROBUST_AA


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS.get(name).info.robust])
def test_robust_pretraining_shows_its_effect(method: str, tmp_path: Path, simclr: Record) -> None:
    """The lower end of its 95 % interval is above the upper end of SimCLR's."""
    assert tiny(method, tmp_path).ra.outcome.interval[0] > simclr.ra.outcome.interval[1]


@pytest.mark.slow
def test_deacl_stays_accurate_and_keeps_most_of_it_under_attack(tmp_path: Path) -> None:
    record = tiny("deacl", tmp_path)
    assert record.sa.accuracy > 0.93
    assert record.ra.outcome.accuracy > 0.6


@pytest.mark.slow
def test_adversarial_finetuning_of_everything_is_more_robust_than_a_linear_classifier(tmp_path: Path) -> None:
    """DeACL's encoder, and SimCLR's, which is not robust: AFF makes up for what pre-training left out."""
    for method in ("deacl", "simclr"):
        request = RunRequest(
            method,
            "digits",
            "tiny",
            protocols=("slf", "aff"),
            overrides={"evaluate.autoattack": False},
            runs_dir=tmp_path / "runs",
        )
        (slf, _), (aff, _) = execute(prepare(request), tmp_path / "results")
        # The lower end of one 95 % interval above the upper end of the other.
        assert aff.ra.outcome.interval[0] > slf.ra.outcome.interval[1], method
