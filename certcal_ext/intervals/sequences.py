# SPDX-License-Identifier: MIT
"""Intervals of a vote probability that hold at every number of draws at once.

A Clopper-Pearson interval is valid at one number of draws, fixed beforehand. Who looks at the
votes and then decides whether to draw more needs a confidence sequence: with probability
1 - alpha the intervals at n = 1, 2, 3, ... all hold the true probability, so the one at any
stopping time does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS, Interval, clopper_pearson

#: Relative error allowed to each term of the log of the test martingale (measured: 4e-16).
_TERM_ERROR = 4e-15
_HALVINGS = 64


def mixture_interval(
    k: Any, n: Any, alpha: float, successes: Any = 0.5, failures: Any = 0.5
) -> Interval:
    """The beta-binomial confidence sequence at n draws, rounded outward.

    Theorem (Robbins, Ann. Math. Stat. 1970; Ville 1939): for draws of probability p, the ratio
    M_n(p) = B(a + k, b + n - k) / (B(a, b) p^k (1 - p)^(n - k)) of the likelihood averaged over a
    Beta(a, b) prior to that of p is a nonnegative martingale of mean 1, so it reaches 1/alpha at any
    n with probability at most alpha. The set of p with M_n(p) < 1/alpha is an interval, as log M_n
    is convex in p. The prior may depend on anything but the draws that are counted, so votes of
    separate planning draws may set it: the nearer it is to the truth, the narrower the interval.

    Args:
        k: (N,) whole numbers, successes among the draws.
        n: (N,) or () whole numbers, draws so far, 0 to 10^9; at 0 the interval is [0, 1].
        alpha: failure probability of the whole sequence, both sides together.
        successes: (N,) or (), the prior's a, above 0.
        failures: (N,) or (), the prior's b, above 0.

    Returns:
        ``Interval`` of (N,) ends around k / n, which is never excluded: no average of likelihoods
        is above the largest one. A prior far from the truth makes the interval wider, not invalid.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: counts outside [0, n], a prior that is not positive and finite, or ``alpha``
            out of range.

    Example:
        >>> lower, upper = mixture_interval([990, 1000], 1000, 1e-3, successes=99, failures=1)
        >>> lower.round(4), upper.round(4)
        (array([0.9715, 0.9907]), array([0.998, 1.   ]))
    """
    level = _check.failure_probability("alpha", alpha)
    hits = _check.int_vector("k", k)
    draws = _whole("n", n, hits.size)
    a = _positive("successes", successes, hits.size)
    b = _positive("failures", failures, hits.size)
    _require_counts(hits, draws)
    misses = draws - hits
    terms = [gammaln(a + hits), gammaln(b + misses), gammaln(a + b)]
    terms += [-gammaln(a + b + draws), -gammaln(a), -gammaln(b)]
    head = np.sum(terms, axis=0)
    slack = _TERM_ERROR * (np.sum(np.abs(terms), axis=0) + 1.0)
    threshold = -math.log(level)

    def excluded(p: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether p is outside of the interval beyond doubt."""
        fit = xlogy(hits, p) + xlog1py(misses, -p)
        result: NDArray[np.bool_] = head - slack - (1.0 - _TERM_ERROR) * fit >= threshold
        return result

    middle = hits / np.maximum(draws, 1)
    lower = _end(excluded, np.zeros(hits.size), middle)
    upper = _end(excluded, np.ones(hits.size), middle)
    return Interval(lower, upper)


def _end(excluded: Any, outside: NDArray[np.float64], inside: NDArray[np.float64]) -> Any:
    """The last excluded p between an end of [0, 1] and the estimate, or that end itself."""
    outside, inside = outside.copy(), inside.copy()
    for _ in range(_HALVINGS):
        p = 0.5 * (outside + inside)
        out = excluded(p)
        outside = np.where(out, p, outside)
        inside = np.where(out, inside, p)
    return outside


def union_interval(k: Any, n: int, alpha: float) -> Interval:
    """The confidence sequence made of exact intervals by a union bound over all n.

    Theorem (Voracek, NeurIPS 2024): the Clopper-Pearson interval at alpha_t = 5 alpha / ((t + 4)
    (t + 5)) for every number of draws t; the alpha_t sum to alpha.

    Args:
        k: (N,) whole numbers, successes among the draws.
        n: draws so far, 1 to 10^9.
        alpha: failure probability of the whole sequence, both sides together.

    Returns:
        ``Interval`` of (N,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: counts outside [0, n], or ``alpha`` out of range, at this n too.

    Example:
        >>> union_interval([1000], 1000, 1e-3).lower.round(4)
        array([0.9804])
    """
    draws = _check.whole_number("n", n, 1, MAX_DRAWS)
    level = _check.failure_probability("alpha", alpha)
    return clopper_pearson(k, draws, 5.0 * level / ((draws + 4.0) * (draws + 5.0)))


def _whole(name: str, value: Any, size: int) -> NDArray[np.int64]:
    given = _check.array(name, value)
    result = _check.int_vector(name, np.broadcast_to(given, size) if given.ndim == 0 else given)
    if result.size != size:
        raise ValueError(f"{name}: expected {size} entries, as k has, got {result.size}")
    return result


def _positive(name: str, value: Any, size: int) -> NDArray[np.float64]:
    given = _check.array(name, value)
    result = _check.float_vector(
        name, np.broadcast_to(given, size) if given.ndim == 0 else given, size
    )
    good = np.isfinite(result) & (result > 0)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{name}: expected finite numbers above 0, got {result[row]} in row {row}")
    return result


def _require_counts(k: NDArray[np.int64], n: NDArray[np.int64]) -> None:
    bad = (n < 0) | (n > MAX_DRAWS)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"n: expected draws from 0 to {MAX_DRAWS}, got {n[row]} in row {row}")
    bad = (k < 0) | (k > n)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"k: expected counts from 0 to n, got {k[row]} of {n[row]} in row {row}")
