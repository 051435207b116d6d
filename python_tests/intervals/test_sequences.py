# SPDX-License-Identifier: MIT
from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from certcal_ext.intervals.clopper_pearson import clopper_pearson
from certcal_ext.intervals.sequences import mixture_interval, union_interval

#: Chance that a correct implementation fails one of the coverage tests.
FALSE_ALARM = 1e-6


def log_martingale(k: int, n: int, a: float, b: float, p: float) -> mpmath.mpf:
    """log M_n(p) in 40 digits."""
    with mpmath.workdps(40):
        head = mpmath.log(mpmath.beta(a + k, b + n - k)) - mpmath.log(mpmath.beta(a, b))
        tail = k * mpmath.log(p) if k else mpmath.mpf(0)
        tail += (n - k) * mpmath.log(1 - mpmath.mpf(p)) if k < n else 0
        return head - tail


@pytest.mark.parametrize("n", [1, 2, 31, 1000, 100_000])
@pytest.mark.parametrize("alpha", [1e-9, 1e-3, 0.3])
@pytest.mark.parametrize("prior", [(0.5, 0.5), (990.5, 10.5), (2000.5, 0.5)])
def test_ends_are_excluded_and_close_to_what_is_not(
    n: int, alpha: float, prior: tuple[float, float]
) -> None:
    counts = sorted({0, 1, n // 2, n - 1, n})
    lower, upper = mixture_interval(counts, n, alpha, *prior)
    threshold = -mpmath.log(mpmath.mpf(alpha))
    for k, low, high in zip(counts, lower, upper, strict=True):
        if low > 0:
            assert log_martingale(k, n, *prior, low) >= threshold
            inward = low + 1e-6 * (k / n - low)
            assert log_martingale(k, n, *prior, inward) < threshold
        if high < 1:
            assert log_martingale(k, n, *prior, high) >= threshold
            inward = high - 1e-6 * (high - k / n)
            assert log_martingale(k, n, *prior, inward) < threshold


def test_no_draws_say_nothing() -> None:
    lower, upper = mixture_interval([0, 5], [0, 10], 1e-3)
    assert (lower[0], upper[0]) == (0, 1)
    assert 0 < lower[1] < 0.5 < upper[1] < 1
    assert mixture_interval(np.array([], int), 10, 1e-3).lower.shape == (0,)


def test_prior_far_from_the_truth_is_wide_and_still_valid() -> None:
    lower, upper = mixture_interval([0], 10_000, 1e-3, successes=1e6, failures=1e-3)
    assert lower[0] == 0
    assert 0.9 < upper[0] < 1


@given(
    n=st.integers(1, 3000),
    alpha=st.floats(1e-12, 0.9),
    a=st.floats(0.01, 2000),
    b=st.floats(0.01, 2000),
    data=st.data(),
)
def test_intervals_hold_the_estimate_and_shrink_with_alpha(
    n: int, alpha: float, a: float, b: float, data: st.DataObject
) -> None:
    k = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=5))
    lower, upper = mixture_interval(k, n, alpha, a, b)
    assert ((lower >= 0) & (lower <= np.array(k) / n) & (np.array(k) / n <= upper)).all()
    assert (upper <= 1).all()
    wider = mixture_interval(k, n, alpha / 10, a, b)
    assert (wider.lower <= lower).all()
    assert (wider.upper >= upper).all()


def test_prior_near_the_truth_makes_it_narrower() -> None:
    far = mixture_interval([9900], 10_000, 1e-3)
    near = mixture_interval([9900], 10_000, 1e-3, 990.5, 10.5)
    exact = clopper_pearson([9900], 10_000, 1e-3)
    union = union_interval([9900], 10_000, 1e-3)
    widths = [(i.upper - i.lower)[0] for i in (exact, near, far, union)]
    assert widths == sorted(widths)
    assert widths[1] < 1.3 * widths[0]


def paths(p: float, runs: int, steps: int, seed: int) -> np.ndarray:
    """(runs, steps) running counts."""
    return np.cumsum(np.random.default_rng(seed).random((runs, steps)) < p, axis=1)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_mixture_covers_at_every_step_at_once(p: float) -> None:
    # A run fails where any of its 300 intervals misses p: the worst stopping rule there is. Exact
    # binomial test of "at most alpha"; false alarm 1e-6.
    alpha, runs, steps = 0.1, 500, 300
    k = paths(p, runs, steps, seed=int(1000 * p))
    n = np.tile(np.arange(1, steps + 1), (runs, 1))
    prior = (50 * p + 0.5, 50 * (1 - p) + 0.5)
    lower, upper = mixture_interval(k.reshape(-1), n.reshape(-1), alpha, *prior)
    missed = ((lower > p) | (upper < p)).reshape(k.shape).any(axis=1).sum()
    assert binomtest(int(missed), runs, alpha, alternative="greater").pvalue > FALSE_ALARM
    assert missed > 0  # it is not that wide: the test can see something


def test_fixed_intervals_do_not_cover_at_every_step() -> None:
    # The same test sees that Clopper-Pearson intervals may not be looked at again and again.
    alpha, runs, steps, p = 0.1, 1000, 600, 0.5
    k = paths(p, runs, steps, seed=1)
    missed = np.zeros(runs, bool)
    for n in range(1, steps + 1, 5):
        lower, upper = clopper_pearson(k[:, n - 1], n, alpha)
        missed |= (lower > p) | (upper < p)
    assert binomtest(int(missed.sum()), runs, alpha, alternative="greater").pvalue < FALSE_ALARM


def test_union_covers_at_every_step_at_once() -> None:
    alpha, runs, steps, p = 0.3, 1000, 300, 0.9
    k = paths(p, runs, steps, seed=2)
    missed = np.zeros(runs, bool)
    for n in range(1, steps + 1):
        lower, upper = union_interval(k[:, n - 1], n, alpha)
        missed |= (lower > p) | (upper < p)
    assert binomtest(int(missed.sum()), runs, alpha, alternative="greater").pvalue > FALSE_ALARM


def test_union_spends_alpha_in_all() -> None:
    spent = sum(5.0 / ((t + 4.0) * (t + 5.0)) for t in range(1, 100_000))
    assert 1 - 1e-4 < spent < 1
    one = union_interval([7], 10, 0.1)
    same = clopper_pearson([7], 10, 5 * 0.1 / (14 * 15))
    assert one.lower[0] == same.lower[0]
    assert one.upper[0] == same.upper[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.5], 2, 0.1), TypeError, "k: expected whole numbers"),
        (([3], 2, 0.1), ValueError, "k: expected counts from 0 to n, got 3 of 2 in row 0"),
        (([-1], 2, 0.1), ValueError, "k: expected counts from 0 to n"),
        (([1], [2, 3], 0.1), ValueError, "n: expected 1 entries"),
        (([1], [2.0], 0.1), TypeError, "n: expected whole numbers"),
        (([0], -1, 0.1), ValueError, "n: expected draws from 0"),
        (([1], 2, 0.0), ValueError, "alpha"),
        (([1], 2, 0.1, 0.0), ValueError, "successes: expected finite numbers above 0"),
        (([1], 2, 0.1, 1.0, np.nan), ValueError, "failures: expected finite numbers above 0"),
        (([1], 2, 0.1, [1.0, 2.0]), ValueError, "successes: expected 1 entries"),
    ],
)
def test_bad_arguments(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixture_interval(*arguments)


def test_bad_arguments_of_the_union() -> None:
    with pytest.raises(ValueError, match="n: expected"):
        union_interval([0], 0, 0.1)
    with pytest.raises(ValueError, match="alpha: expected a probability"):
        union_interval([1], 10**9, 1e-9)
