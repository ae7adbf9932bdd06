"""RA and AA on the same images: the one check of an evaluation that needs nothing but its record.

The doctor makes it at the end of an evaluation, and the board for records that are older than the doctor.
"""

from bench.record.diagnosis import Diagnosis, Verdict
from bench.record.outcome import Outcome
from bench.record.record import AutoAttackEvaluation, PGDEvaluation
from bench.record.shares import verdict_on

RA_AND_AA = "RA and AA"
"""The name of the check."""

_GAP = 0.16
"""By how much RA may exceed AA: the largest gap among the published numbers (RoCL's on CIFAR-10)."""

_REVERSED = 0.01
"""The share of images that RA's attack may break although AutoAttack left them: none in 99 published records."""


def ra_and_aa(
    sa: Outcome | None, ra: PGDEvaluation | None, aa: AutoAttackEvaluation | None, *, test_images: int
) -> Diagnosis | None:
    """Return whether RA and AA fit together on the images that both attacked; None: they cannot be compared."""
    if ra is None or aa is None or ra.eps != aa.eps:
        return None
    (by_ra, after_ra), (by_aa, after_aa) = (one.outcome.spread(test_images) for one in (ra, aa))
    both = by_ra & by_aa
    n, left_ra, left_aa = (int(each.sum()) for each in (both, both & after_ra, both & after_aa))
    ra_alone = int((both & after_ra & ~after_aa).sum())
    aa_alone = left_aa - (left_ra - ra_alone)
    wrong = 0
    if sa is not None:
        by_sa, right = sa.spread(test_images)
        wrong = int((by_sa & by_aa & after_aa & ~right).sum())
    found = (
        f"on the same {n} images RA counts {left_ra} as robust and AA {left_aa}: {ra_alone} under RA alone, {aa_alone} "
        f"under AA alone; {wrong} of AA's are wrong without an attack"
    )
    numbers = {"images": n, "RA": left_ra, "AA": left_aa}
    numbers |= {"robust under RA alone": ra_alone, "robust under AA alone": aa_alone, "wrong before": wrong}
    # AutoAttack's gap to PGD is what it is for; that PGD breaks what AutoAttack leaves has not happened in our records.
    verdicts: list[Verdict] = [
        verdict_on(ra_alone, n, tolerance=_GAP, usual=_GAP, standing=left_ra),
        verdict_on(aa_alone, n, tolerance=_REVERSED, standing=left_aa),
        "doubt" if wrong > 2 else "note" if wrong else "sound",
    ]
    worst = next(verdict for verdict in ("fail", "doubt", "note", "sound") if verdict in verdicts)
    return Diagnosis(
        check=RA_AND_AA, verdict=worst, found=found, numbers={name: float(value) for name, value in numbers.items()}
    )
