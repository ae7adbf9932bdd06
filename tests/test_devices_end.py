"""How a run on several devices ends: with the reason, whichever process knows it."""

from functools import partial

import pytest
from processes import run_together

from bench.errors import BenchError
from bench.parallel import by_itself, devices, first_then_others, launch, on_first, refuse_uneven
from bench.parallel.group import _UNSAID


def _what_is_refused() -> str:
    try:
        first_then_others(partial(refuse_uneven, "stage1", 9))
    except BenchError as error:
        return str(error)
    return "nothing"


def test_what_only_the_others_refuse_is_refused_on_all_devices() -> None:
    """The first device works by itself, as one, while the others wait: any batch divides there."""
    first, other = run_together(2, _what_is_refused)
    assert first == other
    assert "stage1.batch_size is 9, which does not divide by 2 devices" in first


def test_work_by_itself_within_such_work_leaves_the_device_alone() -> None:
    counts = run_together(2, lambda: (on_first(lambda: (by_itself(devices), devices())), devices()))
    assert counts == [((1, 1), 2)] * 2


@pytest.mark.parametrize("code", [1, 3, 75, 130])
def test_what_the_first_process_has_said_is_the_exit_code_of_all(code: int) -> None:
    """75: another process is working on the run."""
    assert launch(1, lambda: code) == code


def test_a_process_that_lost_its_connection_is_reported() -> None:
    with pytest.raises(BenchError, match="another process of this run ended"):
        launch(1, lambda: _UNSAID)
