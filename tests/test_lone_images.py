"""A last batch of one image, which batch-norm cannot train on, is refused before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
from toy_runs import SMALL, toy_data

from bench.errors import BenchError
from bench.run import RunRequest, execute, prepare


def request(tmp_path: Path, protocol: str, changes: dict[str, Any], method: str = "simclr") -> RunRequest:
    small = {key: value for key, value in SMALL.items() if method == "simclr" or not key.startswith("stage1")}
    return RunRequest(
        method,
        toy_data(tmp_path / "toy.npz"),
        tier="tiny",
        protocols=[protocol],
        overrides={**small, **changes},
        runs_dir=tmp_path / "runs",
        device="cpu",
    )


@pytest.mark.parametrize(
    ("protocol", "method", "changes", "key"),
    [
        ("aff", "simclr", {"aff.batch_size": 23}, "aff.drop_last=true"),
        ("aff", "supervised", {"aff.batch_size": 23}, "aff.drop_last=true"),
        ("aff", "simclr", {"aff.preset": "deacl-2024", "aff.batch_size": 23}, "aff.drop_last=true"),
        # A tenth of 24 is held out: 22 images are left.
        ("aff", "simclr", {"aff.selection": "best", "aff.batch_size": 7}, "aff.drop_last=true"),
        ("slf", "simclr", {"slf.batch_size": 23, "slf.encoder_bn": "train"}, "slf.drop_last=true"),
        ("slf", "simclr", {"stage1.batch_size": 23, "stage1.drop_last": False}, "stage1.drop_last=true"),
        ("alf", "simclr", {"alf.batch_size": 25}, "alf.batch_size=12"),
        ("slf", "simclr", {"stage1.batch_size": 25}, "stage1.batch_size=12"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_key_to_set(
    protocol: str, method: str, changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    asked = request(tmp_path, protocol, changes, method)
    with pytest.raises(BenchError, match=f"--set {key}"):
        prepare(asked)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [("slf", {"slf.batch_size": 23}), ("aff", {"aff.batch_size": 23, "aff.drop_last": True})],
)
def test_a_frozen_encoder_takes_one_image_and_drop_last_leaves_it_out(
    protocol: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    ((record, _),) = execute(prepare(request(tmp_path, protocol, changes)), tmp_path / "results")
    assert record.sa.n == 16
