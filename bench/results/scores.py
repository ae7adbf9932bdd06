"""The scores of a row: accuracies over its seeds, each with its spread."""

from collections.abc import Sequence
from statistics import fmean

from bench.recipe import Settings
from bench.record import CorruptionEvaluation, Outcome, exact_mean, sample_std, shared
from bench.results.groups import Group
from bench.results.wording import percent


class Score(Settings):
    """One kind of accuracy over the seeds of a row, as shares of 1."""

    accuracy: float
    """Mean over the seeds."""
    std: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    interval: tuple[float, float] | None
    """95 % interval over the images; None for several seeds."""
    n: int
    """Test images measured, the same number for each seed."""

    @property
    def spread(self) -> str | tuple[str, str]:
        """In percent: the standard deviation, or for one seed the ends of the interval."""
        if self.std is not None:
            return percent(self.std, self.n)
        assert self.interval is not None, "a score of one seed has an interval"
        return percent(self.interval[0], self.n), percent(self.interval[1], self.n)


class CorruptionScore(Settings):
    """Accuracy under common corruptions over the seeds of a row."""

    mean: Score
    """Over all corruptions and severities, each weighing the same."""
    accuracies: dict[str, float]
    """By corruption, mean over its severities and the seeds."""
    images: str
    """Origin of the images, ``files`` or the package that made them, and of the severities."""
    sha256: str
    """Digest of the corrupted images."""


def mean_score(outcomes: Sequence[Outcome | CorruptionEvaluation]) -> Score:
    """Return mean and spread of one measurement over the seeds, all of the same number of images."""
    accuracies = [outcome.accuracy for outcome in outcomes]
    alone = len(outcomes) == 1
    return Score(
        accuracy=exact_mean(accuracies),
        std=None if alone else sample_std(accuracies),
        interval=outcomes[0].interval if alone else None,
        n=outcomes[0].n,
    )


def ra_on_aa(group: Group) -> Score | None:
    """Return RA on the images of AA, where those are fewer, or None."""
    found = []
    for one in group.seeds:
        ra, attacked = one.record.ra.outcome, one.record.aa
        if attacked is None:
            return None
        aa = attacked.outcome
        if (aa.n, aa.images) == (ra.n, ra.images):
            return None
        both = shared(ra, aa, test_images=one.facts.test_images)
        if len(both.positions) != aa.n:
            return None
        found.append(Outcome.pack(both.a.tolist(), images=both.positions.tolist(), test_images=one.facts.test_images))
    return mean_score(found)


def corruption_score(found: Sequence[CorruptionEvaluation | None]) -> CorruptionScore | None:
    """Return the mean over the seeds, or None unless all of them used the same corrupted images."""
    measured = [one for one in found if one]
    if len(measured) < len(found) or len({(one.sha256, one.n, *sorted(one.correct)) for one in measured}) != 1:
        return None
    first = measured[0]
    return CorruptionScore(
        mean=mean_score(measured),
        accuracies={name: fmean(one.accuracies[name] for one in measured) for name in first.correct},
        images=f"{first.package or first.source}: {first.parametrisation}",
        sha256=first.sha256,
    )
