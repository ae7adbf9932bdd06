"""The memory of a run, by which jobs are packed: that of its largest step, in whatever order its parts are named."""

from pathlib import Path
from typing import Any

import pytest
from toy_runs import toy_data, toy_request

from bench.run import peak_memory, prepare


class TrainedWeights:
    """Stands for a probe: the memory of AFF is the number of its weights that are trained, any other's is 0."""

    def __init__(self, stage: Any, images: object, *, device: object) -> None:
        self.stage, self.plan = stage, stage.plan

    def memory(self, batch: int, parts: int) -> int:
        trained = [one.numel() for one in self.stage.parameters() if one.requires_grad]
        return sum(trained) if self.stage.name == "aff" else 0


def test_a_protocol_that_freezes_its_encoder_makes_no_other_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.projection.StageProbe", TrainedWeights)
    data = toy_data(tmp_path / "toy.npz")

    def memory(*protocols: str) -> int:
        return peak_memory(prepare(toy_request(data, tmp_path, protocols=protocols)))

    assert memory("aff") == memory("aff", "slf")
