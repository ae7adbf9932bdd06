"""What is asked of the bench from Python: a value of another type is told at once, with its field."""

from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.matrix import MatrixRequest
from bench.run import EvaluationRequest, RunRequest, VerificationRequest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": True}, "RunRequest: seed: must be a number (given: True)"),
        ({"seed": 1.5}, "RunRequest: seed: must be a whole number (given: 1.5)"),
        ({"tier": 5}, "RunRequest: tier: must be text (given: 5)"),
        ({"overrides": ["stage1.lr=1"]}, "RunRequest: overrides: must be a section of keys (given: ['stage1.lr=1'])"),
        ({"protocols": 3}, "RunRequest: protocols: must be text or a Sequence (given: 3)"),
        ({"data_dir": 5}, "RunRequest: data_dir: must be a path (given: 5)"),
        ({"fidelity": "naive"}, "RunRequest: fidelity: must be 'uniform' or 'native' (given: 'naive')"),
        ({"method": None, "dataset": None}, "2 faults\n  - method: must be text (given: None)\n  - dataset: must"),
        (
            {"threads": 2},
            "RunRequest: got an unexpected keyword argument 'threads'. Its arguments: method, dataset, tier",
        ),
    ],
)
def test_a_value_of_another_type_is_told_at_once(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError) as raised:
        RunRequest(**{"method": "simclr", "dataset": "digits", **values})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (EvaluationRequest, {"encoder": 3}, "EvaluationRequest: encoder: must be text or a path (given: 3)"),
        (EvaluationRequest, {}, "EvaluationRequest: missing a required argument: 'encoder'. Its arguments: encoder, "),
        (
            MatrixRequest,
            {"methods": ["simclr"], "datasets": 3},
            "MatrixRequest: datasets: must be a Sequence (given: 3)",
        ),
        (
            VerificationRequest,
            {"record": None, "weights": "w", "by": "me"},
            "VerificationRequest: record: must be a path (given: None)",
        ),
    ],
)
def test_so_are_those_of_the_other_commands(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError) as raised:
        kind(**values)
    assert message in str(raised.value)


def test_a_text_is_a_path() -> None:
    place: Any = "runs"
    assert RunRequest("simclr", "digits", runs_dir=place).runs_dir == Path("runs")
