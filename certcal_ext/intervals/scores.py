# SPDX-License-Identifier: MIT
"""Confidence intervals for a mean score, from a histogram and the mean; every rounding goes outward.

A sample's n scores lie in [0, 1]. What is kept of them is a histogram over J equal bins and their mean. Among all
scores with that histogram and that mean one multiset is the most spread out (``_widest_spread``): an interval made from
it is never narrower than the one that the scores themselves would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext.intervals.clopper_pearson import MAX_DRAWS, Interval

#: What a given mean may differ from the mean of the scores; the means of a ``ScoreHistogram`` differ by less than 2^-50.
MEAN_SLACK = 2.0**-40

_MAX_SCORE_BINS = 2**24
_SLACK = MEAN_SLACK + 2.0**-47  # with the rounding of the sums below
_UNIT = 2.0**-53
_CHUNK = 2**21  # entries of the arrays (rows, J + 1) that exist at the same time

# Betting: fractions are 2^(q/4). The share of alpha spent on the variance, the share of the capital put on the mixture,
# and the fractions of the mixture with their weights were chosen on synthetic scores (docs/scores.md); any choice made
# before the draws is valid.
_STEPS = 4
_LARGEST_STEP = 7 * _STEPS
_VARIANCE_SHARE = 0.05
_MIXTURE_SHARE = 0.4
_MIXTURE_STEPS = _STEPS * np.arange(-1, 7)  # 1/2, 1, ..., 64
_MIXTURE_WEIGHTS = np.array([1, 1, 1, 1, 2, 2, 2, 2]) / 12


def score_counts(counts: Any) -> NDArray[np.int64]:
    """Checks histograms of scores.

    Args:
        counts: (N, J) whole numbers at least 0, each row with at least one draw and at most 10^9.

    Returns:
        (N, J) int64.

    Raises:
        TypeError: not whole numbers.
        ValueError: another shape, a negative count, or a row without draws or with too many.

    Example:
        >>> score_counts([[0, 3], [1, 2]]).shape
        (2, 2)
    """
    given = _check.array("counts", counts)
    if given.ndim != 2 or not 1 <= given.shape[1] <= _MAX_SCORE_BINS:
        raise ValueError(
            f"counts: expected shape (N, J) with 1 to {_MAX_SCORE_BINS} bins, got {given.shape}"
        )
    result = _check.int_vector("counts", given.reshape(-1)).reshape(given.shape)
    if result.size and result.min() < 0:
        row = int(np.argmin(result.min(axis=1)))
        raise ValueError(
            f"counts: expected numbers of at least 0, got {result[row].min()} in row {row}"
        )
    # Each count is checked by itself first: the sum of a row could wrap around.
    draws = np.where(result.max(axis=1, initial=0) > MAX_DRAWS, MAX_DRAWS + 1, result.sum(axis=1))
    bad = (draws < 1) | (draws > MAX_DRAWS)
    if bad.any():
        row = int(np.argmax(bad))
        came = "more" if draws[row] > MAX_DRAWS else "0"
        raise ValueError(
            f"counts: expected 1 to {MAX_DRAWS} draws in each row, got {came} in row {row}"
        )
    return result


def _checked_mean(mean: Any, size: int | None = None) -> NDArray[np.float64]:
    result = _check.float_vector("mean", mean, size)
    good = (result >= 0) & (result <= 1)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"mean: expected means in [0, 1], got {result[row]} in row {row}")
    return result


def _log_up(x: float) -> float:
    """A float at or above log x, for x >= 1."""
    return math.log(x) * (1 + 4 * _UNIT) + 4 * _UNIT


def _around(mean: NDArray[np.float64], below: Any, above: Any) -> Interval:
    """[mean - below, mean + above], with the slack of the mean and the roundings, cut to [0, 1]."""
    return Interval(
        np.maximum(mean - below - _SLACK, 0.0),
        np.minimum(mean + above + _SLACK, 1.0),
    )


def hoeffding(mean: Any, n: Any, alpha: float) -> Interval:
    """Two-sided intervals for a mean score, from the mean alone.

    Theorem (Hoeffding, JASA 1963): the mean of n independent values in [0, 1] exceeds its expectation by sqrt(log(2 /
    alpha) / (2 n)) with probability at most alpha / 2, and so on the other side. Sound for every mean within 2^-40 of
    the true one.

    Args:
        mean: (N,) mean scores.
        n: number of draws, one for all or (N,).
        alpha: failure probability of an interval, both sides together.

    Returns:
        ``Interval`` of (N,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a mean outside [0, 1], ``n`` or ``alpha`` out of range.

    Source:
        Kumar et al., "Certifying confidence via randomized smoothing" (NeurIPS 2020), section 3.

    Example:
        >>> hoeffding([0.9], 100_000, 1e-3).lower.round(4)
        array([0.8938])
    """
    means = _checked_mean(mean)
    given = _check.array("n", n)
    every = np.broadcast_to(given, means.shape) if given.ndim == 0 else given
    draws = _check.int_vector("n", every, means.size)
    bad = (draws < 1) | (draws > MAX_DRAWS)
    if bad.any():
        raise ValueError(
            f"n: expected 1 to {MAX_DRAWS} draws, got {draws[np.argmax(bad)]} in row {int(np.argmax(bad))}"
        )
    logarithm = _log_up(2.0 / _check.failure_probability("alpha", alpha))
    width = np.sqrt(logarithm / (2.0 * draws)) * (1 + 8 * _UNIT)
    return _around(means, width, width)


def _residual(counts: NDArray[np.int64], mean: NDArray[np.float64]) -> Interval:
    """Sum of the scores less the sum of their bins' left edges, in bin widths: between the two ends.

    Floats: n J <= 2^54 and each operation is right to a relative 2^-53; the additional 2^-47 in ``_SLACK`` covers them.
    """
    draws, bins = counts.sum(axis=1), counts.shape[1]
    edges = (counts @ np.arange(bins)).astype(np.float64)
    scale = draws * float(bins)
    rest = scale * mean - edges
    low, high = rest - scale * _SLACK, rest + scale * _SLACK
    bad = (high < 0) | (low > draws)
    if bad.any():
        row = int(np.argmax(bad))
        least = edges[row] / scale[row]
        raise ValueError(
            f"mean: expected a mean that the counts allow, from {least} to {least + 1 / bins}, "
            f"got {mean[row]} in row {row}"
        )
    return Interval(np.maximum(low, 0.0), np.minimum(high, draws.astype(np.float64)))


def _widest_spread(counts: NDArray[np.int64], residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, J + 1) weights on the edges: the most spread-out scores with these counts and this sum.

    Theorem: for every convex f, the sum of f over scores x with these counts and this sum is at most that over the edges
    under these weights. Proof: within bin b, f lies below its chord, so the sum is at most the sum over b of
    n_b f(e_b) + slope_b r_b, where r_b in [0, n_b h] is what the scores of bin b have above its left edge e_b. Slopes of
    a convex function rise with b, and the r_b have a given sum: the maximum fills the bins from the last one down. A
    filled bin has its scores at its right edge, an empty one at its left.

    For a concave f the same weights give the smallest sum; if f also rises, a smaller residual makes it smaller still.
    """
    draws = counts.sum(axis=1, keepdims=True)
    above = draws - np.cumsum(counts, axis=1)  # scores in later bins
    moved = np.clip(residual[:, None] - above, 0.0, counts)
    weights = np.zeros((counts.shape[0], counts.shape[1] + 1))
    weights[:, :-1] = counts - moved
    weights[:, 1:] += moved
    return weights


class _Rows(NamedTuple):
    """Some samples: their scores at the least and the greatest sum that the slack of the mean allows."""

    draws: NDArray[np.float64]
    mean: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def variance(self) -> NDArray[np.float64]:
        """The variance (divisor n) of the most spread-out scores, or more, by at most twice ``margin``.

        The mean square moves by at most twice what the mean moves by, which is two slacks from the true mean to that of
        ``most``, and the square of the mean by two slacks more; the sums cost J + 4 roundings.
        """
        edges = np.linspace(0.0, 1.0, self.least.shape[1])
        square = self.most @ np.square(edges) / self.draws
        return np.maximum(square - np.square(self.mean), 0.0) + self.margin

    @property
    def margin(self) -> float:
        return 8.0 * _SLACK + float(self.least.shape[1] + 16) * 2 * _UNIT


def _chunked(
    counts: Any, mean: Any, interval: Callable[[_Rows], Interval]
) -> tuple[NDArray[np.float64], Interval]:
    """The checked means, and ``interval`` of the rows, a chunk at a time."""
    histogram = score_counts(counts)
    size, bins = histogram.shape
    means = _checked_mean(mean, size)
    residual = _residual(histogram, means)
    result = Interval(np.empty(size), np.empty(size))
    step = max(1, _CHUNK // (bins + 1))
    for begin in range(0, size, step):
        part = slice(begin, min(begin + step, size))
        rows = _Rows(
            histogram[part].sum(axis=1).astype(np.float64),
            means[part],
            _widest_spread(histogram[part], residual.lower[part]),
            _widest_spread(histogram[part], residual.upper[part]),
        )
        result.lower[part], result.upper[part] = interval(rows)
    return means, result


def empirical_bernstein(counts: Any, mean: Any, alpha: float) -> Interval:
    """Two-sided intervals for a mean score, by its empirical variance.

    Theorem (Maurer and Pontil, COLT 2009, theorem 4): with V the sample variance (divisor n - 1) of n >= 2 independent
    values in [0, 1], their mean exceeds its expectation by sqrt(2 V log(2 / d) / n) + 7 log(2 / d) / (3 (n - 1)) with
    probability at most d, and so on the other side; here d = alpha / 2. V is bounded from above by the most spread-out
    scores with these counts and this mean. One draw gives [0, 1].

    Args:
        counts: (N, J) whole numbers: draws with score in [j/J, (j+1)/J), the last bin with 1.
        mean: (N,) means of the scores, right to within 2^-40.
        alpha: failure probability of an interval, both sides together.

    Returns:
        ``Interval`` of (N,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a row without draws, a mean that the counts do not allow, ``alpha`` out of range.

    Source:
        Maurer and Pontil, "Empirical Bernstein bounds and sample-variance penalization" (COLT 2009); the variance from
        a histogram: this project.

    Example:
        >>> import numpy as np
        >>> counts = np.zeros((1, 100), int); counts[0, -1] = 100_000
        >>> empirical_bernstein(counts, [0.9999], 1e-3).lower.round(4)
        array([0.9997])
    """
    logarithm = _log_up(4.0 / _check.failure_probability("alpha", alpha))

    def interval(rows: _Rows) -> Interval:
        others = np.maximum(rows.draws - 1.0, 0.25)  # one draw: wider than [0, 1]
        width = np.sqrt(2.0 * rows.variance() / others * logarithm)
        width = (width + 7.0 * logarithm / (3.0 * others)) * (1 + 16 * _UNIT)
        return _around(rows.mean, width, width)

    return _chunked(counts, mean, interval)[1]


def betting(counts: Any, mean: Any, alpha: float) -> Interval:
    """Two-sided intervals for a mean score, by betting against each smaller and each larger mean.

    Theorem (lower end). Let K(t, m) be the product over the draws of (1 + t x_i) / (1 + t m), t > 0: its expectation is
    1 where m is the mean mu, since E[1 + t x] = 1 + t mu, and it falls in m. Let t* be a function of the distribution
    alone, T a set computed from the draws that holds t* but for a probability v, and M(m) a mixture of K(t, m) over fixed
    t and weights. Then (1 - b) K(t*, mu) + b M(mu) has expectation 1 and, by Markov's inequality, reaches 1/d with
    probability at most d. Let m be such that (1 - b) K(t, m) + b M(m) >= 1/d for every t in T. Then mu > m but for a
    probability v + d: for mu <= m, the larger K(t*, mu) and M(mu) would reach 1/d as well. The upper end is one minus
    the lower end of 1 - x.

    Here t* = sqrt(2 log(1/d) / n) / s rounded to a power of 2^(1/4), the fraction that Chernoff's bound asks for at the
    standard deviation s, and T comes from the interval for s of Maurer and Pontil (theorem 10). The mixture serves
    confident scores, whose s is hardly known. Both ends share T: 0.05 alpha for T, 0.475 alpha for each end. So the
    price for not knowing s is small, and it is not the price of a mixture over all fractions. Only the histogram and
    the mean are known: the sum of log(1 + t x_i), concave in x, is smallest over the most spread-out scores.

    Args:
        counts: (N, J) whole numbers: draws with score in [j/J, (j+1)/J), the last bin with 1.
        mean: (N,) means of the scores, right to within 2^-40.
        alpha: failure probability of an interval, both sides together.

    Returns:
        ``Interval`` of (N,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a row without draws, a mean that the counts do not allow, ``alpha`` out of range.

    Source:
        Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024), for the
        capital; the fraction as a function of the distribution and the bound from a histogram: this project.

    Example:
        >>> import numpy as np
        >>> counts = np.zeros((1, 100), int); counts[0, -1] = 100_000
        >>> betting(counts, [0.9999], 1e-3).lower.round(4)
        array([0.9998])
    """
    level = _check.failure_probability("alpha", alpha)
    threshold = _log_up(2.0 / ((1.0 - _VARIANCE_SHARE) * level)) + 1e-9
    spread = _log_up(2.0 / (_VARIANCE_SHARE * level))

    def interval(rows: _Rows) -> Interval:
        first, last = _fraction_steps(rows, threshold, spread)
        lower = _reject_below(rows.least, rows.draws, rows.mean, first, last, threshold)
        mirrored = rows.most[:, ::-1]
        rest = _reject_below(mirrored, rows.draws, 1.0 - rows.mean, first, last, threshold)
        return Interval(lower, np.minimum(np.nextafter(1.0 - rest, 2.0), 1.0))

    return _chunked(counts, mean, interval)[1]


def _fraction_steps(
    rows: _Rows, threshold: float, spread: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and the last q of T: t* is one of 2^(q/4) but for a probability of ``_VARIANCE_SHARE * alpha``.

    Theorem (Maurer and Pontil 2009, theorem 10): the root of the sample variance is above s + sqrt(2 log(1/d) / (n - 1))
    with probability at most d, and below s minus that with probability at most d. Moving each score by at most h moves a
    standard deviation by at most h (it is a distance), and the most spread-out scores share their bins with the true ones.
    """
    others = np.maximum(rows.draws - 1.0, 0.25)  # one draw: the step below exceeds 1/2
    factor = np.sqrt(rows.draws / others)
    step = np.sqrt(2.0 * spread / others)
    variance = rows.variance()
    high = np.minimum(factor * np.sqrt(variance) + step, 0.5)
    low = factor * (np.sqrt(np.maximum(variance - 2 * rows.margin, 0)) - 1 / (rows.least.shape[1] - 1))  # fmt: skip
    low = np.maximum(low - step, 1e-9)  # beyond the largest fraction for every n
    best = np.sqrt(2.0 * threshold / rows.draws)
    # 1e-6 of a step outward, for the roundings here: far more than they amount to.
    first = np.floor(_STEPS * np.log2(best / high) + (0.5 - 1e-6)).astype(np.int64)
    last = np.floor(_STEPS * np.log2(best / low) + (0.5 + 1e-6)).astype(np.int64)
    return np.minimum(first, _LARGEST_STEP), np.minimum(last, _LARGEST_STEP)


def _reject_below(
    weights: NDArray[np.float64],
    draws: NDArray[np.float64],
    mean: NDArray[np.float64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.float64]:
    """(N,) means that are rejected, so that all smaller ones are too; 0 where none is.

    Floats: log K is a sum of J + 1 products and one more, each logarithm at most log(1 + t), so the error is below
    n ((J + 16) log(1 + t) + 4) 2^-53, taken off; the 4 also covers scores that rounding put into a bin a relative 2^-53
    above them. ``threshold`` has 1e-9 on top for the sum of the exponentials.
    """
    least = int(first.min(initial=_LARGEST_STEP))
    steps = np.arange(min(least, int(_MIXTURE_STEPS[0])), _LARGEST_STEP + 1)
    fraction = 2.0 ** (steps / _STEPS)
    edges = np.linspace(0.0, 1.0, weights.shape[1])
    products = weights @ np.log1p(np.outer(edges, fraction))
    products -= draws[:, None] * ((edges.size + 16) * np.log1p(fraction) + 4.0) * _UNIT
    outside = (steps < first[:, None]) | (steps > last[:, None])
    mixture = _MIXTURE_STEPS - steps[0]
    log_weights = np.log(_MIXTURE_SHARE * _MIXTURE_WEIGHTS)
    own = math.log1p(-_MIXTURE_SHARE)

    def rejected(m: NDArray[np.float64]) -> NDArray[np.bool_]:
        capital = products - draws[:, None] * np.log1p(m[:, None] * fraction)
        mixed = capital[:, mixture] + log_weights
        smallest = np.where(outside, np.inf, capital).min(axis=1) + own
        top = np.maximum(mixed.max(axis=1), smallest)
        total = np.exp(mixed - top[:, None]).sum(axis=1) + np.exp(smallest - top)
        return np.asarray(top + np.log(total) >= threshold)

    low, high = np.zeros(draws.size), mean.copy()
    # Halved until the bracket is below 1e-4 / n; an interval is several 1 / n wide at least.
    for _ in range(14 + int(draws.max(initial=1.0)).bit_length()):
        middle = (low + high) / 2
        good = rejected(middle)
        low = np.where(good, middle, low)
        high = np.where(good, high, middle)
    return low


_METHODS: dict[str, Callable[[Any, Any, float], Interval]] = {
    "betting": betting,
    "bernstein": empirical_bernstein,
}


def score_interval(counts: Any, mean: Any, alpha: float, method: str = "betting") -> Interval:
    """Two-sided intervals for the mean score of each sample.

    Args:
        counts: (N, J) whole numbers: draws with score in [j/J, (j+1)/J), the last bin with 1.
        mean: (N,) means of the scores, right to within 2^-40 (``ScoreHistogram.means``).
        alpha: failure probability of an interval, both sides together.
        method: ``"betting"``, ``"bernstein"`` or ``"hoeffding"``.

    Returns:
        ``Interval`` of (N,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range, or means that the counts do not allow.

    Source:
        :func:`betting`, :func:`empirical_bernstein`, :func:`hoeffding`.

    Example:
        >>> score_interval([[10, 20, 970]], [0.9], 1e-3, method="hoeffding").upper.round(3)
        array([0.962])
    """
    _check.choice("method", method, (*_METHODS, "hoeffding"))
    if method == "hoeffding":
        histogram = score_counts(counts)
        means = _checked_mean(mean, histogram.shape[0])
        _residual(histogram, means)  # refuses means that the counts do not allow
        return hoeffding(means, histogram.sum(axis=1), alpha)
    return _METHODS[method](counts, mean, alpha)
