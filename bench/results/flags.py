"""Reasons to distrust a row, found in its records."""

from collections.abc import Iterator, Mapping

from bench.record import Doubt, Record, shared
from bench.results.groups import Group
from bench.results.measured import Measured
from bench.results.provenance import code_flags, ran_dirty

_DOUBTS: Mapping[Doubt, str] = {
    "constant features": "the encoder gives all training images the same features (seed {}): pre-training collapsed",
    "constant classifier": "the classifier gives all test images the same answer (seed {}), which no attack can change",
    "one test class": "all test images are of one class (seed {}), so an answer that is always the same is right",
}

MASKING_GAP = 0.20
"""By how much RA may exceed AA on the same images. Among the published numbers the largest gap is 0.16 (RoCL's
on CIFAR-10); a loss that hides its gradients from PGD makes one of 0.5 and more."""


def reliability_flags(group: Group) -> tuple[str, ...]:
    """Return what speaks against trusting the numbers of ``group``, but for AutoAttack's own warnings."""
    return tuple(
        [
            *_guessing(group),
            *_doubts(group),
            *_masking(group),
            *_blind(group),
            *_dirty(group),
            *code_flags([*group.seeds]),
        ]
    )


def is_guessing(one: Measured) -> bool:
    """Return whether chance alone may explain the SA: 1 / classes is not below its interval."""
    return one.record.sa.interval[0] * one.facts.num_classes <= 1


def _guessing(group: Group) -> Iterator[str]:
    seeds = [str(one.record.seed) for one in group.seeds if is_guessing(one)]
    if seeds:
        yield (
            f"SA is no better than guessing (seed {', '.join(seeds)}), so RA and AA say nothing: an answer that is "
            "always the same cannot be attacked"
        )


def _doubts(group: Group) -> Iterator[str]:
    for doubt, sentence in _DOUBTS.items():
        seeds = [str(one.record.seed) for one in group.seeds if doubt in one.record.doubts]
        if seeds:
            yield sentence.format(", ".join(seeds))


def _masking(group: Group) -> Iterator[str]:
    gaps = [_gap(one.record, one.facts.test_images) for one in group.seeds]
    largest = max((gap for gap in gaps if gap is not None), default=0.0)
    if largest > MASKING_GAP:
        yield (
            f"RA exceeds AA by {100 * largest:.0f} points on the same images: gradient masking suspected, "
            "so RA says little"
        )


def _blind(group: Group) -> Iterator[str]:
    for one in group.seeds:
        found, images = one.record.ra.no_gradient, one.record.ra.outcome.n
        if found and (found.first or found.last):
            yield (
                f"PGD had no direction for {found.first} of {images} images at its first step and for {found.last} at "
                f"its last (seed {one.record.seed}): their gradient is zero or not finite, so RA says little"
            )


def _gap(record: Record, test_images: int) -> float | None:
    """Return RA less AA on the images that both attacked, with one radius."""
    if record.aa is None or record.aa.eps != record.ra.eps:
        return None
    both = shared(record.ra.outcome, record.aa.outcome, test_images=test_images)
    return both.pairs.difference if len(both.positions) else None


def _dirty(group: Group) -> Iterator[str]:
    seeds = [str(one.record.seed) for one in group.seeds if ran_dirty(one.record)]
    if seeds:
        yield f"the code had uncommitted changes (seed {', '.join(seeds)}), so nobody can repeat it"
