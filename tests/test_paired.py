"""The statistics behind every comparison: paired proportions, McNemar's test, Welch's interval."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from bench.record import Outcome, Pairs, mcnemar_exact, newcombe_interval, sample_std, shared, welch

# Outcomes on the images that two records share


def random_outcome(rng: np.random.Generator, test_images: int, *, whole: bool) -> tuple[Outcome, dict[int, bool]]:
    """An outcome, and the same as a plain mapping from position to right."""
    chosen = range(test_images) if whole else sorted(rng.permutation(test_images)[: test_images // 2].tolist())
    right = {position: bool(rng.random() < 0.6) for position in chosen}
    return Outcome.pack(list(right.values()), images=None if whole else list(right), test_images=test_images), right


@pytest.mark.parametrize("test_images", [2, 9, 64, 101])
@pytest.mark.parametrize("whole", [(True, True), (True, False), (False, True), (False, False)])
def test_shared_images_are_those_that_both_measured(test_images: int, whole: tuple[bool, bool]) -> None:
    rng = np.random.default_rng([test_images, *whole])
    (a, right_a), (b, right_b) = (random_outcome(rng, test_images, whole=one) for one in whole)
    both = shared(a, b, test_images=test_images)
    expected = sorted(right_a.keys() & right_b.keys())
    assert both.positions.tolist() == expected
    assert both.a.tolist() == [right_a[i] for i in expected]
    assert both.b.tolist() == [right_b[i] for i in expected]
    cells = [(right_a[i], right_b[i]) for i in expected]
    counts = [cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))]
    assert list(both.pairs) == counts


def test_an_outcome_fits_its_own_test_split_alone() -> None:
    whole = Outcome.pack([True] * 9, test_images=9)
    part = Outcome.pack([True, False, True], images=[0, 4, 8], test_images=9)
    for outcome, size in [(whole, 8), (whole, 10), (part, 8), (part, 17)]:
        assert "test images" in (outcome.misfit(size) or "")
    assert (whole.misfit(9), part.misfit(9)) == (None, None)
    assert [flags.nonzero()[0].tolist() for flags in part.spread(9)] == [[0, 4, 8], [0, 8]]


# Newcombe's interval


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((18, 12, 2, 18), 0.0562, 0.3290), ((53, 0, 0, 1), -0.0729, 0.0729)],
)
def test_the_interval_has_the_published_values(cells: Sequence[int], low: float, high: float) -> None:
    # Newcombe 1998, worked examples of method 10, to the four digits printed there.
    assert newcombe_interval(Pairs(*cells)) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("cells", [(36, 12, 2, 0), (0, 5, 0, 3), (7, 0, 0, 0), (0, 0, 4, 0), (3, 8, 9, 4)])
def test_exchanging_the_two_mirrors_the_interval(cells: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = cells
    low, high = newcombe_interval(Pairs(both, only_a, only_b, neither))
    assert newcombe_interval(Pairs(both, only_b, only_a, neither)) == pytest.approx((-high, -low), abs=1e-12)
    assert newcombe_interval(Pairs(neither, only_a, only_b, both)) == pytest.approx((low, high), abs=1e-12)
    assert -1 <= low <= (only_a - only_b) / sum(cells) <= high <= 1


def tables(n: int) -> Iterator[Pairs]:
    for both in range(n + 1):
        for only_a in range(n + 1 - both):
            for only_b in range(n + 1 - both - only_a):
                yield Pairs(both, only_a, only_b, n - both - only_a - only_b)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # Every possible outcome of 24 images, each with its probability: no sampling, so no luck.
    n = 24
    possible = [(pairs, newcombe_interval(pairs)) for pairs in tables(n)]
    coverages = []
    for truth in [(0.4, 0.2, 0.1, 0.3), (0.5, 0.1, 0.1, 0.3), (0.05, 0.3, 0.05, 0.6), (0.7, 0.15, 0.05, 0.1)]:
        difference = truth[1] - truth[2]
        covered = 0.0
        for pairs, (low, high) in possible:
            if low <= difference <= high:
                ways = math.factorial(n) // math.prod(map(math.factorial, pairs))
                covered += ways * math.prod(p**k for p, k in zip(truth, pairs, strict=True))
        coverages.append(covered)
    assert 0.94 < np.mean(coverages) < 0.98, coverages
    assert min(coverages) > 0.93, coverages


def test_the_interval_agrees_with_a_bootstrap_on_many_images() -> None:
    pairs = Pairs(500, 130, 70, 300)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(pairs.n, np.array(pairs) / pairs.n, size=20_000)
    bootstrap = np.quantile((draws[:, 1] - draws[:, 2]) / pairs.n, [0.025, 0.975])
    assert newcombe_interval(pairs) == pytest.approx(bootstrap, abs=0.003)


# McNemar's test


def test_mcnemar_is_the_binomial_test_of_the_images_that_differ() -> None:
    for only_a in range(13):
        for only_b in range(13):
            expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
            assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("only_a", "only_b"), [(5000, 5200), (0, 10_000), (4000, 6000)])
def test_mcnemar_is_exact_for_many_images(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9, abs=1e-300)


# Welch


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (3, 7), (10, 2)])
def test_welch_agrees_with_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sizes)
    a, b = rng.normal(0.6, 0.01, sizes[0]).tolist(), rng.normal(0.58, 0.05, sizes[1]).tolist()
    expected = ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = welch(a, b)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_the_standard_deviation_is_numpys_and_exactly_zero_without_spread() -> None:
    values = np.random.default_rng(0).random(7)
    assert sample_std(values.tolist()) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert sample_std([0.1] * 3) == 0.0


def test_without_any_spread_there_is_no_test_and_equal_accuracies_have_no_difference() -> None:
    for k, m, n in product(range(101), range(2, 6), range(2, 6)):
        assert welch([k / 100] * m, [k / 100] * n) == (0.0, None, None)
    assert welch([0.5, 0.5], [0.25, 0.25]) == (0.25, None, None)
    assert welch([0.5, 0.5], [0.25, 0.26]).p_value is not None
