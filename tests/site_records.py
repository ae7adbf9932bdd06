"""Records to make sites of: the one that comes with the bench, with whatever a test changes."""

from pathlib import Path
from typing import Any

from bench.record import Outcome, Record, Sweep, SweepSettings, load_record, save_record, save_sweep

RESULTS = Path(__file__).parents[1] / "results"


def template() -> Record:
    """DeACL on digits: 360 test images, of which AutoAttack saw 100."""
    records = map(load_record, sorted((RESULTS / "digits").glob("deacl-tiny-uniform-s0-slf-*.json")))
    plain = (record for record in records if not record.overrides and record.recipe["budget"] is None)
    return next(record for record in plain if record.protocol == "slf")


def robust(record: Record, count: int) -> dict[str, Any]:
    """The change that makes exactly the first ``count`` of a record's attacked images survive AutoAttack."""
    assert record.aa is not None
    n = record.aa.outcome.n
    images = record.aa.outcome.positions(record.sa.n)
    outcome = Outcome.pack([i < count for i in range(n)], images=images, test_images=record.sa.n)
    return {"aa": record.aa.model_copy(update={"outcome": outcome, "survivors": {"square": count}})}


def add(results: Path, record: Record, **changes: Any) -> Path:
    """Write ``record`` with ``changes``, its recipe's too, under ``results`` and return its file."""
    stated = {name: changes[name] for name in ("method", "tier", "fidelity") if name in changes}
    recipe = {**changes.get("recipe", record.recipe), **stated}
    # No two seeds train the same classifier.
    trained = {"classifier_sha256": f"{changes.get('seed', record.seed):064x}"}
    return save_record(results, Record.model_validate({**dict(record), **trained, **changes, "recipe": recipe}))


def add_sweep(results: Path, record: Record, correct: list[int], **changes: Any) -> Path:
    """Write the sweep of ``record`` over eps that leaves the first so many images right; return its file."""
    grid = tuple(4 * place / 255 for place in range(len(correct)))
    outcomes = tuple(Outcome.pack([i < count for i in range(100)], test_images=100) for count in correct)
    shared = {name: getattr(record, name) for name in Sweep.model_fields.keys() & Record.model_fields.keys()}
    sweep = {
        **{name: value for name, value in shared.items() if name not in ("schema_version", "sha256", "environments")},
        **{"dataset_sha256": record.recipe["dataset"]["sha256"], "record_sha256": record.sha256},
        **{"settings": SweepSettings(kind="eps", eps=grid, steps=(20,)), "outcomes": outcomes},
        **{"cost": next(iter(record.cost.values()))},
    }
    return save_sweep(results, Sweep(**{**sweep, **changes}))


def fill(results: Path) -> Path:
    """Write a board of two methods, three seeds, three protocols, a warning and a sweep; return ``results``."""
    record = template()
    assert record.aa is not None
    for seed in range(3):
        add(results, record, seed=seed, **robust(record, 60 + seed))
    other = {"method": "simclr", "title": "SimCLR", "year": 2020, "protocol_sha256": "a" * 64}
    add(results, record, **other, **robust(record, 5))
    warned = record.aa.model_copy(update={"warnings": ["the model is randomized"]})
    add(results, record, **{**other, "protocol": "alf", "protocol_sha256": "b" * 64}, aa=warned)
    add(results, record, protocol="aff", protocol_sha256="c" * 64, aa=None, overrides={"threat.eps": 8 / 255})
    for seed in range(2):
        add_sweep(results, record, [95, 80, 60 + seed], seed=seed)
    add_sweep(results, record, [97, 5, 0], method="simclr", title="SimCLR", year=2020)
    return results
