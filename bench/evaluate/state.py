"""What an evaluation has finished so far, on disk after every batch."""

from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.evaluate.corrupted import CorruptionCounts
from bench.files import read_json, write_json
from bench.recipe import Settings, canonical_digest
from bench.reporting import Reporter


class EvaluationState(Settings):
    """Outcomes image by image, in test-split order, of the batches done."""

    owner: str
    """Digest of the protocol, the encoder and the seed that this state belongs to."""
    clean: tuple[bool, ...] = ()
    robust: tuple[bool, ...] = ()
    """Under PGD."""
    autoattack: dict[str, Any] | None = None
    """The adapter's own state."""
    corruptions: dict[str, CorruptionCounts] = {}
    """By corruption."""
    seconds: dict[str, float] = {}
    """Wall-clock by measurement, added up over interruptions."""

    def save(self, path: Path) -> None:
        """Write this state to ``path``, atomically, under a checksum."""
        values = self.model_dump(mode="json")
        write_json(path, {"sha256": canonical_digest(values), "state": values})


def load_evaluation(path: Path, owner: str, reporter: Reporter) -> EvaluationState:
    """Return the state in ``path``, or an empty one if there is none, or if it is damaged, which is said."""
    fresh = EvaluationState(owner=owner)
    if not path.exists():
        return fresh
    try:
        values = read_json(path)
        if canonical_digest(values["state"]) != values["sha256"]:
            raise BenchError("its checksum does not match")
        state = EvaluationState.parse(values["state"], str(path))
    except (BenchError, KeyError, TypeError) as error:
        reporter.note(f"{path} is damaged ({error}); this evaluation starts again.")
        return fresh
    if state.owner != owner:
        raise BenchError(f"{path} belongs to another run. Move it away, or choose another --runs-dir.")
    return state
