# SPDX-License-Identifier: MIT
"""From votes to confidence intervals and on to probits; every rounding goes outward."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, ndtri

from certcal_ext import _check

#: Most draws per sample for which the accuracy of the binomial tails was measured (see
#: ``_tail_margin``).
MAX_DRAWS = 10**9

_FIRST_SLACK = 1e-12
_PROBIT_SLACK = 2e-15


class Interval(NamedTuple):
    """A lower and an upper end for each sample.

    Attributes:
        lower: (N,) float64.
        upper: (N,) float64.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def clopper_pearson(k: Any, n: int, alpha: float) -> Interval:
    """Exact two-sided confidence intervals of a binomial probability, rounded outward.

    Theorem (Clopper and Pearson, Biometrika 1934): for K ~ Binomial(n, p), with ``lower(k) = sup{p:
    P(K >= k) <= alpha/2}`` and ``upper(k) = inf{p: P(K <= k) <= alpha/2}``, the interval [lower(K),
    upper(K)] holds p with probability at least 1 - alpha, whatever p is. The ends come from
    ``betaincinv``, are moved outward by 1e-12 of their distance to 0 or 1, and are then *checked*:
    the tail at the returned end, evaluated forward with ``betainc``, lies below alpha/2 by more
    than the error of that evaluation, or the end is moved further.

    Args:
        k: (N,) or () whole numbers, successes among n draws.
        n: number of draws, 1 to 10^9.
        alpha: failure probability of the interval, both sides together, 1e-15 to 1.

    Returns:
        ``Interval`` of the shape of ``k``. ``k = 0`` has lower end 0 and ``k = n`` has upper end 1,
        exactly.

    Raises:
        TypeError: ``k`` or ``n`` are not whole numbers.
        ValueError: a ``k`` outside [0, n]; ``n`` or ``alpha`` out of range.

    Example:
        >>> lower, upper = clopper_pearson([0, 99_000, 100_000], n=100_000, alpha=1e-3)
        >>> lower.round(4), upper.round(4)
        (array([0.    , 0.9889, 0.9999]), array([1.00e-04, 9.91e-01, 1.00e+00]))
    """
    draws = _check.whole_number("n", n, 1, MAX_DRAWS)
    tail = _check.failure_probability("alpha", alpha) / 2
    given = _check.array("k", k)
    successes = _check.int_vector("k", given.reshape(-1))
    outside = (successes < 0) | (successes > draws)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"k: expected counts from 0 to n = {draws}, got {successes[row]} in row {row}"
        )
    unique, where = np.unique(successes, return_inverse=True)
    lower = _lower_end(unique, draws, tail)
    # p is the probability of a success, 1 - p of a failure: the upper end is one minus the lower
    # end of the failures. Taken that way round it keeps its accuracy next to 1.
    failures = _lower_end(draws - unique, draws, tail)
    upper = np.where(failures > 0, np.minimum(np.nextafter(1.0 - failures, 2.0), 1.0), 1.0)
    return Interval(lower[where].reshape(given.shape), upper[where].reshape(given.shape))


def _tail_margin(n: int) -> float:
    """Relative error allowed to ``betainc``.

    Measured against 40-digit sums over tails from 5e-16 to 0.49: at most 1.5e-12 up to n = 10^7 and
    1.4e-11 up to 10^9.
    """
    return 2e-11 if n <= 10**7 else 2e-10


def _lower_end(k: NDArray[np.int64], n: int, tail: float) -> NDArray[np.float64]:
    """For each count a p at or below the largest with P(Binomial(n, p) >= k) <= tail."""
    positive = k > 0
    a = np.where(positive, k, 1).astype(np.float64)
    b = n - a + 1.0  # P(Binomial(n, p) >= k) = I_p(k, n - k + 1)
    root = betaincinv(a, b, tail)
    root = np.where(np.isfinite(root), root, 0.0)
    slack = np.maximum(_FIRST_SLACK * np.minimum(root, 1.0 - root), np.spacing(root))
    end = np.maximum(root - slack, 0.0)
    while True:
        loose = betainc(a, b, end) > tail * (1.0 - _tail_margin(n))
        if not loose.any():
            return np.where(positive, end, 0.0)
        slack[loose] *= 4.0
        end = np.maximum(root - slack, 0.0)  # ends at 0 at the latest, where the tail is 0


def probit(lower: Any, upper: Any) -> Interval:
    """Standard normal quantiles of the two ends, rounded outward.

    ``ndtri`` was measured to be right to 6e-16 of its value (40-digit arithmetic, p from 1e-300 to
    1 - 2^-53); the results are moved outward by 2e-15 of it and one more step.

    Args:
        lower: (N,) probabilities.
        upper: (N,) probabilities, each at least its ``lower``.

    Returns:
        ``Interval`` of probits; -inf for a probability of 0 and +inf for 1.

    Raises:
        TypeError: the ends are not numbers.
        ValueError: not 0 <= lower <= upper <= 1, or shapes that differ.

    Example:
        >>> probit([0.0, 0.5], [0.5, 1.0]).upper.round(6)
        array([ 0., inf])
    """
    low = _check.float_vector("lower", lower)
    high = _check.float_vector("upper", upper, low.size)
    _check.require_ordered(low, high)
    return Interval(_outward(ndtri(low), -np.inf), _outward(ndtri(high), np.inf))


def _outward(value: NDArray[np.float64], direction: float) -> NDArray[np.float64]:
    slack = np.where(np.isfinite(value), np.abs(value) * _PROBIT_SLACK, 0.0)
    moved = np.nextafter(value + np.copysign(slack, direction), direction)
    return np.where(np.isfinite(value), moved, value)


def best_radius(n: int, alpha: float, sigma: float) -> float:
    """The radius that a sample with n of n votes is certified at: no other votes are certified further.

    ``sigma * Phi^-1((alpha/2)^(1/n))``, from the interval as it is computed and rounded down, or 0 where even all votes
    certify nothing. That is of one two-sided interval at alpha; where alpha is shared in another way (early stopping,
    runner-up bounds), ``Certificates.best_radius`` says how far it can reach.

    Args:
        n: number of draws.
        alpha: failure probability of an interval, both sides together.
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        An l2 radius in the units of ``sigma``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Example:
        >>> round(best_radius(100_000, 1e-3, 0.25), 3)
        0.947
    """
    draws = _check.whole_number("n", n, 1, MAX_DRAWS)
    scale = _check.positive_number("sigma", sigma)
    return radius_of(clopper_pearson([draws], draws, alpha).lower, scale)


def radius_of(lower: NDArray[np.float64], sigma: float) -> float:
    """The largest radius that one of the lower ends of the class's probability certifies, rounded down; at least 0."""
    margin = float(np.max(probit(lower, np.ones_like(lower)).lower))
    # More than the roundings of the product, and of radius / sigma, which is rounded up where it is compared.
    return max(0.0, sigma * margin * (1 - 2.0**-49))
