# SPDX-License-Identifier: MIT
from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import binomial_tail, normal_cdf
from scipy.special import ndtri

from certcal_ext.intervals.clopper_pearson import best_radius, clopper_pearson, probit

SIZES = (1, 2, 31, 32, 33, 100, 257, 100_000, 1_000_000)
ALPHAS = (1e-15, 1e-9, 1e-3, 0.05, 0.5)


def counts_of(n: int) -> list[int]:
    """The extremes, their neighbours, and a few in between."""
    random = np.random.default_rng(n)
    ends = [0, 1, 2, n // 2, n // 2 + 1, n - 2, n - 1, n]
    return sorted({k for k in [*ends, *random.integers(0, n + 1, 4).tolist()] if 0 <= k <= n})


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_true_clopper_pearson_bound_is_not_inside_and_close(n: int, alpha: float) -> None:
    # lower = sup{p: P(K >= k) <= alpha/2}: the exact tail at our end must not exceed alpha/2, and
    # 1e-10 further in it must. The upper end of k is one minus the lower end of n - k failures.
    counts = counts_of(n)
    lower, upper = clopper_pearson(counts, n, alpha)
    for k, low, high in zip(counts, lower, upper, strict=True):
        if k == 0:
            assert low == 0
        else:
            assert binomial_tail(k, n, low) <= mpmath.mpf(alpha) / 2
            assert binomial_tail(k, n, low * (1 + 1e-10)) > mpmath.mpf(alpha) / 2
        if k == n:
            assert high == 1
        else:
            # 1 - high is exact in 40 digits, and so is what a step of 1e-10 makes of it.
            with mpmath.workdps(40):
                failures = 1 - mpmath.mpf(high)
                assert binomial_tail(n - k, n, failures) <= mpmath.mpf(alpha) / 2
                inside = 1 - mpmath.mpf(high) * (1 - mpmath.mpf("1e-10"))
                if inside < mpmath.mpf(n - k) / n:
                    assert binomial_tail(n - k, n, inside) > mpmath.mpf(alpha) / 2


def test_upper_end_keeps_its_accuracy_next_to_one() -> None:
    # At n = 10^6 and one failure, 1 - upper is 5e-10: an error of 1e-12 in `upper` would be 0.2 %
    # of it.
    n, alpha = 1_000_000, 1e-3
    high = clopper_pearson([n - 1], n, alpha).upper[0]
    exact = -math.expm1(math.log1p(-alpha / 2) / n)
    assert 1 - high == pytest.approx(exact, rel=1e-6)


def test_counts_keep_their_shape_and_order() -> None:
    k = np.array([[3, 0], [10, 3]], dtype=np.int32)
    result = clopper_pearson(k, 10, 0.05)
    assert result.lower.shape == result.upper.shape == (2, 2)
    assert result.lower[0, 0] == result.lower[1, 1]
    assert clopper_pearson(7, 10, 0.05).lower.shape == ()
    assert clopper_pearson(np.array([], int), 10, 0.05).lower.shape == (0,)


@given(n=st.integers(1, 3000), alpha=st.floats(1e-12, 0.9), data=st.data())
def test_intervals_are_ordered_and_grow_with_the_count(
    n: int, alpha: float, data: st.DataObject
) -> None:
    k = sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=6, unique=False)))
    lower, upper = clopper_pearson(k, n, alpha)
    assert ((lower >= 0) & (lower <= upper) & (upper <= 1)).all()
    assert (np.diff(lower) >= 0).all()
    assert (np.diff(upper) >= 0).all()
    if alpha < 0.5:  # beyond that the two sides may cross the estimate
        assert ((lower <= np.array(k) / n) & (np.array(k) / n <= upper)).all()


def test_interval_covers_at_its_rate() -> None:
    # Exact, not sampled: the probability under p that the interval misses p is the sum over the
    # counts that miss.
    n, alpha = 50, 0.1
    k = np.arange(n + 1)
    lower, upper = clopper_pearson(k, n, alpha)
    for p in np.linspace(0.01, 0.99, 99):
        weight = np.array([math.comb(n, int(i)) * p**i * (1 - p) ** (n - i) for i in k])
        assert weight[(lower > p) | (p > upper)].sum() <= alpha


@pytest.mark.parametrize(
    ("k", "n", "alpha", "error", "words"),
    [
        ([3], 2, 0.1, ValueError, "k: expected counts from 0 to n = 2, got 3 in row 0"),
        ([0, -1], 2, 0.1, ValueError, "got -1 in row 1"),
        ([1.0], 2, 0.1, TypeError, "k: expected whole numbers"),
        ([True], 2, 0.1, TypeError, "k: expected whole numbers"),
        ([1], 0, 0.1, ValueError, "n: expected a whole number from 1"),
        ([1], 10**9 + 1, 0.1, ValueError, "n: expected"),
        ([1], 2.0, 0.1, TypeError, "n: expected a whole number"),
        ([1], True, 0.1, TypeError, "n: expected a whole number"),
        ([1], 2, 0.0, ValueError, "alpha: expected a probability"),
        ([1], 2, 1.0, ValueError, "alpha: expected a probability"),
        ([1], 2, -0.1, ValueError, "alpha: expected a probability"),
        ([1], 2, math.nan, ValueError, "alpha: expected a finite number"),
        ([1], 2, "0.1", TypeError, "alpha: expected a number"),
        (object(), 2, 0.1, TypeError, "k: expected whole numbers"),
        ([[1], [1, 2]], 2, 0.1, TypeError, "k: expected an array"),
    ],
)
def test_bad_arguments_of_clopper_pearson(
    k: object, n: object, alpha: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        clopper_pearson(k, n, alpha)  # type: ignore[arg-type]


def probabilities() -> np.ndarray:
    random = np.random.default_rng(1)
    near_half = 2.0 ** -np.arange(2, 53)
    return np.concatenate(
        [
            10.0 ** -np.arange(1.0, 300.0, 13.0),
            0.5 + near_half,
            0.5 - near_half,
            1 - 2.0 ** -np.arange(1.0, 54.0),
            random.random(100),
        ]
    )


def test_probit_is_outward_and_close() -> None:
    p = probabilities()
    lower, upper = probit(p, p)
    for value, low, high in zip(p, lower, upper, strict=True):
        exact = mpmath.mpf(float(value))
        assert normal_cdf(mpmath.mpf(low)) <= exact <= normal_cdf(mpmath.mpf(high))
        # Stated slack: 2e-15 of the value a side and one step, plus ndtri's own 6e-16 of it.
        assert high - low <= 1e-14 * abs(ndtri(value)) + 1e-300


def test_probit_of_the_ends() -> None:
    lower, upper = probit([0.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 0.5])
    assert lower.tolist()[:3] == [-np.inf, -np.inf, np.inf]
    assert upper.tolist()[:3] == [-np.inf, np.inf, np.inf]
    assert lower[3] < 0 < upper[3]


@pytest.mark.parametrize(
    ("lower", "upper", "error", "words"),
    [
        ([0.5], [0.4], ValueError, "lower 0.5 and upper 0.4 in row 0"),
        ([0.1, math.nan], [0.4, 0.5], ValueError, "row 1"),
        ([-0.1], [0.4], ValueError, "row 0"),
        ([0.1], [1.1], ValueError, "row 0"),
        ([0.1], [0.2, 0.3], ValueError, "upper: expected 1 entries"),
        (["a"], [0.2], TypeError, "lower: expected real numbers"),
    ],
)
def test_bad_arguments_of_probit(
    lower: object, upper: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        probit(lower, upper)


def test_best_radius_is_that_of_all_votes() -> None:
    for n in (100, 1000, 100_000):
        lower = clopper_pearson([n], n, 1e-3).lower
        assert best_radius(n, 1e-3, 0.25) == pytest.approx(0.25 * ndtri(lower[0]), rel=1e-9)
    assert best_radius(5, 1e-3, 0.25) == 0  # even 5 of 5 votes bound the class from 0.22 only


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_best_radius_needs_a_positive_sigma(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma: expected"):
        best_radius(10, 0.1, sigma)
