"""Verifications: what others found who scored the weights of a record again; they lie beside the records."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from unicodedata import normalize

from pydantic import AwareDatetime

from bench.errors import BenchError
from bench.files import inside
from bench.monitor import Monitor
from bench.recipe import Settings
from bench.recipe.fields import Count, Digest, Name, Text
from bench.record.environment import Environment
from bench.record.outcome import Outcome, shared
from bench.record.record import Record
from bench.record.sealed import Sealed, load_sealed, save_sealed

VERIFICATION_SCHEMA: Literal[1] = 1
_FOLDER = "verifications"

Reason = Literal["rounding", "other starts", "other classifier"]
"""Why outcomes may differ. ``rounding``: the weights are the same, and so is the code's arithmetic, but another machine
rounds sums differently, which moves images on the boundary. ``other starts``: the record is of a version that drew
PGD's random starts per batch. ``other classifier``: only the encoder was at hand, and the protocol ran again."""

_ALLOWED: Mapping[Reason, float] = {"rounding": 0.005, "other starts": 0.02, "other classifier": 0.02}
"""By how much an accuracy may differ, as a share of 1; by one image in any case. Other starts move RA alone."""


class _Signed(Settings):
    by: Text


def signed(by: str) -> str:
    """Return ``by`` on one line with single spaces, so that one person has one name.

    Raises:
        BenchError: it is empty, or cannot be printed.
    """
    name = " ".join(by.split())
    if not name:
        raise BenchError("--by is empty. Type your name, as in --by 'Ada Lovelace'")
    return _Signed.parse({"by": name}, "--by").by


def person(by: str) -> str:
    """Return what is the same for every way to type the name ``by``: its case, spaces and form of Unicode."""
    return normalize("NFKC", " ".join(by.split()).casefold())


class Flip(NamedTuple):
    """One image whose outcome differs."""

    position: int
    """In the test split."""
    right: bool
    """Whether the record has it right; the verification then has it wrong."""


class Verification(Sealed):
    """The accuracies of one record, measured again from its weights."""

    schema_version: Literal[1] = VERIFICATION_SCHEMA
    record_sha256: Digest
    """Digest of the record."""
    by: Text
    """Who verified it."""
    weights: Literal["classifier", "encoder"]
    """What was at hand."""
    classifier_sha256: Digest
    """Digest of the classifier that was measured."""
    reason: Reason
    sa: Outcome
    ra: Outcome
    aa: Outcome | None = None
    differ: dict[Name, Count]
    """By measurement: images whose outcome is not the record's."""
    environment: Environment
    """The machine, packages and code."""
    finished: AwareDatetime

    def flips(self, record: Record) -> dict[str, list[Flip]]:
        """Return, by measurement, the images whose outcome is not that of ``record``, whose verification this is."""
        found = {}
        for name, (before, after) in self._pairs(record).items():
            both = shared(before, after, test_images=record.sa.n)
            found[name] = [
                Flip(int(position), bool(right))
                for position, right, now in zip(both.positions, both.a, both.b, strict=True)
                if right != now
            ]
        return found

    def apart(self, record: Record) -> list[str]:
        """Return the measurements whose accuracy differs from that of ``record`` by more than is allowed."""
        pairs = self._pairs(record).items()
        return [name for name, (a, b) in pairs if abs(a.correct - b.correct) > self.allowed(name, a.n)]

    def allowed(self, measure: str, images: int) -> float:
        """Return by how many of ``images`` images the accuracy called ``measure`` may differ."""
        reason = "rounding" if self.reason == "other starts" and measure != "ra" else self.reason
        return max(1.0, _ALLOWED[reason] * images)

    def fault(self, record: Record) -> str | None:
        """Return why this cannot be a verification of ``record``, or None."""
        if self.record_sha256 != record.sha256:
            return f"it verifies a record of digest {self.record_sha256[:12]}, and this one has {record.sha256[:12]}"
        if self.weights == "classifier" and self.classifier_sha256 != record.classifier_sha256:
            return "its classifier is not that of the record"
        pairs = self._pairs(record)
        if (self.aa is None) != (record.aa is None):
            return "only one of the two has AA"
        for name, (a, b) in pairs.items():
            if (a.n, a.images) != (b.n, b.images):
                return f"its {name.upper()} is of other images than the record's"
        if self.differ != {name: len(flips) for name, flips in self.flips(record).items()}:
            return "its counts disagree with its outcomes"
        return None

    def _pairs(self, record: Record) -> dict[str, tuple[Outcome, Outcome]]:
        pairs = {"sa": (record.sa, self.sa), "ra": (record.ra.outcome, self.ra)}
        if record.aa and self.aa:
            pairs["aa"] = (record.aa.outcome, self.aa)
        return pairs


def save_verification(record: Path, found: Verification, monitor: Monitor | None = None) -> Path:
    """Write ``found`` beside the file ``record``, which stays as it is, and return its path.

    Those of several people stand side by side.
    """
    name = f"{record.stem}.{found.content_digest()[:8]}.json"
    return save_sealed(inside(record.parent, _FOLDER, name), found, monitor)


def load_verification(path: Path) -> Verification:
    """Return the verification in ``path``; errors are those of :func:`bench.record.sealed.load_sealed`."""
    return load_sealed(path, Verification, schema=VERIFICATION_SCHEMA)


def verification_files(folder: Path) -> Iterator[Path]:
    """Yield the files under ``folder`` that should be verifications, in a stable order."""
    return (path for path in sorted(folder.glob(f"*/{_FOLDER}/*.json")) if not path.name.startswith("."))
