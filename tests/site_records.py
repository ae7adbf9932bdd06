"""Records to make sites of: the one that comes with the bench, with whatever a test changes."""

from pathlib import Path
from typing import Any

from bench.record import Outcome, Record, load_record, save_record

RESULTS = Path(__file__).parents[1] / "results"


def template() -> Record:
    """DeACL on digits: 360 test images, of which AutoAttack saw 100."""
    return load_record(next((RESULTS / "digits").glob("deacl-tiny-uniform-s0-slf-*.json")))


def robust(record: Record, count: int) -> dict[str, Any]:
    """The change that makes exactly the first ``count`` of a record's attacked images survive AutoAttack."""
    assert record.aa is not None
    n = record.aa.outcome.n
    images = record.aa.outcome.positions(record.sa.n)
    outcome = Outcome.pack([i < count for i in range(n)], images=images, test_images=record.sa.n)
    return {"aa": record.aa.model_copy(update={"outcome": outcome, "survivors": {"square": count}})}


def add(results: Path, record: Record, **changes: Any) -> Path:
    """Write ``record`` with ``changes`` under ``results`` and return its file."""
    return save_record(results, Record.model_validate({**dict(record), **changes}))


def fill(results: Path) -> Path:
    """Write a board of two methods, three seeds, two protocols and a warning; return ``results``."""
    record = template()
    assert record.aa is not None
    for seed in range(3):
        add(results, record, seed=seed, **robust(record, 60 + seed))
    other = {"method": "simclr", "title": "SimCLR", "year": 2020, "protocol_sha256": "a" * 64}
    add(results, record, **other, **robust(record, 5))
    warned = record.aa.model_copy(update={"warnings": ["the model is randomized"]})
    add(results, record, **{**other, "protocol": "alf", "protocol_sha256": "b" * 64}, aa=warned)
    add(results, record, protocol="aff", protocol_sha256="c" * 64, aa=None, overrides={"threat.eps": 8 / 255})
    (results / "published").mkdir()
    published = (RESULTS / "published" / "published.json").read_bytes()
    (results / "published" / "published.json").write_bytes(published)
    return results
