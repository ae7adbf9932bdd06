"""How far it is from the command to the attack: a reader of a traceback, or of the code, passes few of our frames."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from in_process import say
from toy_runs import SMALL, toy_data

from bench.attack import PGD

OURS = {"bench", "methods"}
SETTINGS = {**SMALL, "stage2.epochs": 1, "stage2.batch_size": 8, "stage2.warmup_epochs": 0, "stage1.epochs": 1}


def our_frames() -> list[str]:
    """Return the functions of ours that are being called, from the command on; torch's and the standard library's
    are not counted, ``nn.Module.__call__`` among them."""
    frame, found = sys._getframe(2), []
    while frame is not None:
        if frame.f_globals.get("__name__", "").split(".")[0] in OURS:
            found.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found[::-1]


def test_at_most_nine_frames_lead_from_the_command_to_any_attack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths: Counter[tuple[str, ...]] = Counter()
    attack = PGD.__call__

    def watched(self: PGD, *args: object, **kwargs: object) -> object:
        paths[tuple(our_frames())] += 1
        return attack(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(PGD, "__call__", watched)
    command = ["run", "deacl", "--dataset", toy_data(tmp_path / "toy.npz"), "--protocols", "slf,alf"]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={str(value).lower()}"]
    folders = ["--runs-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path / "results"), "--device", "cpu"]
    code, _, err = say(monkeypatch, capsys, *command, *folders)
    assert code == 0, err
    working = [path for path in paths if "execution.execute" in path and "examination.examine" not in path]
    assert {path[-1] for path in working} >= {"deacl._attack", "adversarial._attack", "supervised.__call__"}
    longest = max(working, key=len)
    assert len(longest) <= 9, " > ".join(longest)
