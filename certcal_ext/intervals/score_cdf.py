# SPDX-License-Identifier: MIT
"""The CDF certificate of a mean score: bounds on P(score >= s) at every bin edge s, shifted and summed.

A mean score is the integral of P(score >= s) over s. A perturbation of length R moves each of these probabilities by at
most R / sigma in probit space, so a band around all of them, and an interval of their integral, bound the mean under it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext.intervals.clopper_pearson import Interval, clopper_pearson, probit
from certcal_ext.intervals.scores import betting, score_counts

#: Least alpha of a band: an order statistic gets a share of it that must stay above 1e-15.
LEAST_ALPHA = 1e-8

_UNIT = 2.0**-53
_CHUNK = 2**21  # entries of the arrays (rows, J) that exist at the same time

# Chosen by the width of the certificates of synthetic scores (docs/scores.md); any choice made before the draws is valid.
_RANK_STEP = 0.5  # order statistics are that many roots of their rank apart
_DKW_SHARE = 0.5  # of alpha, where both bands are made
_TAIL = 0.25  # order statistics beyond this share of the draws are left to the other band


@dataclass(frozen=True, eq=False)
class ScoreBand:
    """What is known of P(score >= s) of each sample, as its worst case for a low and for a high mean score.

    With probability at least 1 - alpha the intervals of a sample at all shifts hold at once. Pieces of [0, 1] that have the
    same height are kept once.

    Attributes:
        bins: the number J of bins; a piece is one bin wide.
        alpha: failure probability of one sample.
        probit_lower: (E,) heights in probit space, rounded down.
        probit_upper: (E,) the same rounded up.
        lowest: (N, E) sparse float64: how many pieces have which height, for the lower end; rows sum to J.
        highest: (N, E) the same for the upper end.
        row: (N,) int64, the sample of each row of the two.
    """

    bins: int
    alpha: float
    probit_lower: NDArray[np.float64]
    probit_upper: NDArray[np.float64]
    lowest: sparse.csr_matrix
    highest: sparse.csr_matrix
    row: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.row.size)

    def at(self, shift: float) -> Interval:
        """Where the mean score of each sample stays under every perturbation of length ``shift * sigma``.

        Args:
            shift: radius / sigma, at least 0; round a quotient up.

        Returns:
            ``Interval`` of (N,) ends, rounded outward: Phi by the compiled module; a relative 2^-52 for each of J + 16
            roundings of the sum; and J 2^-53 for scores that rounding put into a bin a relative 2^-53 above them, each
            edge of which may be that far from its nominal place.

        Raises:
            TypeError: ``shift`` is not a number.
            ValueError: ``shift`` is negative or not finite.

        Source:
            Kumar et al., "Certifying confidence via randomized smoothing" (NeurIPS 2020), section 4; Neyman and Pearson for
            the shift of a probability.

        Example:
            >>> score_band([[0, 0, 500, 500]], 1e-3).at(0.5).lower.round(3)
            array([0.545])
        """
        value = _check.radius("shift", shift)
        ends = Interval(np.empty(self.probit_lower.size), np.empty(self.probit_upper.size))
        core.shift_interval(
            self.probit_lower,
            self.probit_upper,
            value,
            *ends,
            threads=_threads.num_threads(),
        )
        relative, absolute = (self.bins + 16) * 2 * _UNIT, self.bins * _UNIT
        lower, upper = np.empty(len(self)), np.empty(len(self))
        lower[self.row] = (self.lowest @ ends.lower) / self.bins * (1.0 - relative) - absolute
        upper[self.row] = (self.highest @ ends.upper) / self.bins * (1.0 + relative) + absolute
        return Interval(np.maximum(lower, 0.0), np.minimum(upper, 1.0))


def _tail_ranks(n: int, most: int) -> NDArray[np.int64]:
    """0 and further numbers up to ``most``, half a root apart, ascending."""
    ranks = [0]
    while (following := ranks[-1] + max(1, int(_RANK_STEP * ranks[-1] ** 0.5))) <= most:
        ranks.append(following)
    return np.array(ranks, np.int64)


@functools.lru_cache(maxsize=64)
def _order_statistics(
    n: int, alpha: float, tail: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ranks r, ascending, and b_r with P(b_r <= P(X >= r-th largest of n draws) for all r) >= 1 - alpha; b rises.

    Theorem: with G(s) = P(X >= s) and X_r the r-th largest draw, G(X_r) is stochastically at least Beta(r, n - r + 1)
    (equal to it for a continuous distribution), so it is below its quantile at level a with probability at most a. The
    levels of all ranks add up to alpha.

    How the levels are split: ranks are 1 + f and n - f for f = 0, 1, ..., up to the given share of n, half a root of f
    apart, about a sixth of the width of a bound. Each octave of 1 + f gets the same part, each rank within it the same
    again: all scales of a tail count alike.
    """
    offsets = _tail_ranks(n, max(0, int(tail * n)))
    octave = np.log2(offsets + 1.0).astype(np.int64)
    ranks = np.concatenate([1 + offsets, n - offsets])
    bounds = np.zeros(ranks.size)
    used = 2 * (int(octave[-1]) + 1)
    for number in range(used // 2):
        members = np.flatnonzero(octave == number)
        level = alpha / (used * members.size)
        for part in (members, members + offsets.size):
            bounds[part] = clopper_pearson(ranks[part], n, 2.0 * level).lower
    order = np.argsort(ranks, kind="stable")
    return ranks[order], np.maximum.accumulate(bounds[order])


def _lower_bounds(k: NDArray[np.int64], n: int, alpha: float, method: str) -> NDArray[np.float64]:
    """Bounds below P(X >= s), for all s at once, where k of n draws are at least s; alpha for this side."""
    bound = np.zeros(k.size)
    if method != "binomial":
        level = alpha * (_DKW_SHARE if method == "both" else 1.0)
        distance = np.sqrt((-np.log(level) * (1 + 8 * _UNIT) + 8 * _UNIT) / (2.0 * n))
        bound = np.maximum(bound, k / n - distance * (1 + 8 * _UNIT) - 4 * _UNIT)
    if method != "dkw":
        share, tail = (1.0 - _DKW_SHARE, _TAIL) if method == "both" else (1.0, 0.5)
        ranks, quantiles = _order_statistics(n, alpha * share, tail)
        # k draws at or above s: so is the r-th largest for every r <= k, and P(X >= s) is at least its G.
        reached = np.concatenate([[0.0], quantiles])[np.searchsorted(ranks, k, side="right")]
        bound = np.maximum(bound, reached)
    return bound


def survival_bounds(k: Any, n: int, alpha: float, method: str = "both") -> Interval:
    """Bounds on P(score >= s) for all s at once, as functions of how many of n draws are at least s.

    * ``"dkw"``: Dvoretzky, Kiefer and Wolfowitz with Massart's constant: k/n -+ sqrt(log(2/alpha) / (2n)).
    * ``"binomial"``: exact bounds on the probability beyond chosen order statistics, which hold at once by a union bound,
      and in between because P(score >= s) falls in s. Much tighter near 0 and 1, a little wider in the middle.
    * ``"both"``: the better of the two, each with alpha / 2; the order statistics then come from the outer quarters only.

    Args:
        k: (K,) whole numbers from 0 to n.
        n: number of draws.
        alpha: failure probability of the band, both sides together, at least 1e-8.
        method: ``"both"``, ``"dkw"`` or ``"binomial"``.

    Returns:
        ``Interval`` of (K,) ends.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument out of range.

    Source:
        Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality" (Annals of Probability 1990); Clopper
        and Pearson (Biometrika 1934); the choice of order statistics: this project.

    Example:
        >>> survival_bounds([1000, 500], 1000, 1e-3).lower.round(4)
        array([0.989 , 0.4356])
    """
    draws = _check.whole_number("n", n, 1, 10**9)
    level = _band_alpha(alpha)
    _check_method(method)
    reached = _check.int_vector("k", k)
    if reached.size and (reached.min() < 0 or reached.max() > draws):
        raise ValueError(
            f"k: expected counts from 0 to n = {draws}, got {reached.min()} to {reached.max()}"
        )
    lower = _lower_bounds(reached, draws, level / 2, method)
    # The same from below: P(X < s) has the draws below s, and the upper end is one minus its lower bound.
    below = _lower_bounds(draws - reached, draws, level / 2, method)
    upper = np.where(below > 0, np.minimum(np.nextafter(1.0 - below, 2.0), 1.0), 1.0)
    return Interval(lower, upper)


def _band_alpha(alpha: Any) -> float:
    level = _check.failure_probability("alpha", alpha)
    if level < LEAST_ALPHA:
        raise ValueError(f"alpha: expected at least {LEAST_ALPHA} for a band, got {alpha}")
    return level


def _check_method(method: Any) -> None:
    _check.choice("method", method, ("both", "dkw", "binomial"))


def _levels(
    low: NDArray[np.float64], high: NDArray[np.float64], mean: Interval, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per row the c whose clip(c, low, high) has a mean just below ``mean.lower``, and the c for just above ``mean.upper``.

    Rows of ``low`` and ``high`` fall, so what c cuts off are a first and a last part, whose sums are known. Sums of J terms
    cost J roundings, and edges are J 2^-53 off in all: twice that is taken off.
    """
    bins = low.shape[1]
    margin = (bins + 16) * 4 * _UNIT
    steps = 30 + int(draws).bit_length()  # to 1e-9 / n
    start = np.zeros((low.shape[0], 1))
    sums = Interval(
        np.hstack([start, np.cumsum(low, axis=1)]), np.hstack([start, np.cumsum(high, axis=1)])
    )
    below = _level(low, high, sums, mean.lower - margin, steps)[0]
    return below, _level(low, high, sums, mean.upper + margin, steps)[1]


def _level(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    sums: Interval,
    mean: NDArray[np.float64],
    steps: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per row two c, 2^-steps apart: the mean of clip(c, low, high) is at most, and at least, ``mean`` (or c is 0, or 1)."""
    rows, bins = low.shape
    every = np.arange(rows)
    bottom, top = np.zeros(rows), np.ones(rows)
    # How many entries of low and of high are above each of the two: both fall in c, which narrows the next search.
    many = [np.full(rows, bins), np.full(rows, bins)]
    few = [np.zeros(rows, np.int64), np.zeros(rows, np.int64)]
    for _ in range(steps):
        c = (bottom + top) / 2
        first, last = (
            _above(part, c, few[which], many[which]) for which, part in enumerate((low, high))
        )
        total = sums.lower[every, first] + c * (last - first)
        total += sums.upper[:, -1] - sums.upper[every, last]
        less = total <= mean * bins
        bottom, top = np.where(less, c, bottom), np.where(less, top, c)
        for which, number in enumerate((first, last)):
            many[which] = np.where(less, number, many[which])
            few[which] = np.where(less, few[which], number)
    return bottom, top


def _above(
    falling: NDArray[np.float64],
    c: NDArray[np.float64],
    least: NDArray[np.int64],
    most: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many entries at the front of each row are above c, between ``least`` and ``most``, by bisection."""
    every = np.arange(c.size)
    for _ in range(int((most - least).max(initial=0)).bit_length()):
        middle = (least + most) // 2
        entry = falling[every, np.minimum(middle, falling.shape[1] - 1)]
        larger = (middle < most) & (entry > c)
        least, most = np.where(larger, middle + 1, least), np.where(larger, most, middle)
    return least


class _Pieces:
    """A sparse matrix that grows row by row: how many pieces of a row have the height of which column."""

    def __init__(self, most: int) -> None:
        # Memory that is never written to is never taken.
        self.column, self.length = np.empty(most, np.int32), np.empty(most)
        self.row_ends: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]

    def append(self, columns: NDArray[np.int64]) -> None:
        """(rows, J) columns, of which runs are joined."""
        first = np.ones(columns.shape, np.bool_)
        np.not_equal(columns[:, 1:], columns[:, :-1], out=first[:, 1:])
        starts = np.flatnonzero(first)
        filled = int(self.row_ends[-1][-1])
        new = slice(filled, filled + starts.size)
        self.column[new] = columns.reshape(-1)[starts]
        self.length[new] = np.diff(starts, append=first.size)
        self.row_ends.append(filled + np.cumsum(first.sum(axis=1)))

    def matrix(self, columns: int) -> sparse.csr_matrix:
        ends = np.concatenate(self.row_ends)
        used = slice(0, int(ends[-1]))
        shape = (ends.size - 1, columns)
        return sparse.csr_matrix((self.length[used], self.column[used], ends), shape=shape)


def score_band(counts: Any, alpha: float, method: str = "both", mean: Any = None) -> ScoreBand:
    """The worst cases of each sample, from its histogram of scores and, where it is given, its mean score.

    With G(s) = P(score >= s), the mean score is the integral of G. On the piece between the edges s_i and s_{i+1} of a bin,
    G stays between the lower bound at s_{i+1} and the upper bound at s_i (0 and 1 at the outer edges). Under a perturbation
    of length R, G(s) stays at or above f(G(s)) = Phi(Phi^-1(G(s)) - R/sigma). Without a mean, the integral of f over the
    lower bounds is the lower end: Kumar et al.'s certificate.

    With a mean, half of alpha goes to an interval [a, b] of it (``betting``), half to the bounds. Theorem: f is convex and
    rises, so among all heights within the bounds whose mean is at least a, the sum of f is smallest for those closest to
    each other: a constant c where the bounds allow it, the bound nearest to c elsewhere. Proof: let g be those, with mean a,
    and p the slope of f at c. Other heights x change the sum by at least the sum of f'(g_i) (x_i - g_i). Where g_i is a
    lower bound, f'(g_i) >= p and x_i >= g_i; where it is an upper one, both the other way round. So the change is at least
    p times the sum of x_i - g_i, which is not negative. Within a piece, f of the mean height is at most the mean of f. The
    upper end mirrors it: there the function is concave, and the mean at most b. No c depends on R: the worst case is found
    once for all radii. A smaller c makes the lower end smaller, so c need not be exact. The result joins the standard and
    the CDF certificate: each with half of alpha, it is at least as tight as both, and it does not lose the width of a bin.

    Args:
        counts: (N, J) whole numbers: draws with score in [j/J, (j+1)/J), the last bin with 1. Rows may have different
            numbers of draws.
        alpha: failure probability of one sample, both sides together, at least 1e-8 (2e-8 with a mean).
        method: ``"both"`` (default), ``"dkw"`` or ``"binomial"``; see :func:`survival_bounds`.
        mean: (N,) means of the scores, right to within 2^-40 (``ScoreHistogram.means``), or None.

    Returns:
        A :class:`ScoreBand`; its ``at(shift)`` gives the certified interval of the mean score.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a row without draws, a mean that the counts do not allow, or an argument out of range.

    Source:
        Kumar et al., "Certifying confidence via randomized smoothing" (NeurIPS 2020), section 4;
        :func:`survival_bounds`; the mean as a constraint: this project.

    Example:
        >>> counts = [[0, 0, 0, 1000], [250, 250, 250, 250]]
        >>> score_band(counts, 1e-3, mean=[0.99, 0.5]).at(0.25).upper.round(3)
        array([0.998, 0.649])
    """
    histogram = score_counts(counts)
    level = _band_alpha(alpha)
    _check_method(method)
    bins = histogram.shape[1]
    limits = None if mean is None else betting(histogram, mean, level / 2)
    share = level if mean is None else _band_alpha(level / 2)
    draws = histogram.sum(axis=1)
    order = np.argsort(draws, kind="stable")
    lowest, highest = _Pieces(histogram.size), _Pieces(histogram.size)
    heights: list[NDArray[np.float64]] = []
    filled, step = 0, max(1, _CHUNK // (bins + 1))
    for n, group in _groups(draws, order):
        k = _needed_counts(histogram, group, n)
        bounds = survival_bounds(k, n, share, method)
        heights += bounds
        table, filled = filled, filled + 2 * k.size
        for begin in range(0, group.size, step):
            rows = group[begin : begin + step]
            place = _reached(histogram[rows])
            if k.size <= n:
                place = np.searchsorted(k, place)
            # At the outer edges k is 0 and n, whose bounds are 0 and 1.
            low, high = bounds.lower[place[:, 1:]], bounds.upper[place[:, :-1]]
            below, above = np.zeros(rows.size), np.ones(rows.size)
            if limits is not None:
                mean_ends = Interval(limits.lower[rows], limits.upper[rows])
                below, above = _levels(low, high, mean_ends, n)
            for pieces, c in ((lowest, below), (highest, above)):
                own = filled + np.arange(rows.size)[:, None]
                at_high = np.where(high < c[:, None], table + k.size + place[:, :-1], own)
                pieces.append(np.where(low > c[:, None], table + place[:, 1:], at_high))
                heights.append(c)
                filled += rows.size
    values = np.concatenate([np.empty(0), *heights])
    probits = probit(values, values)
    for array in (*probits, order):
        array.flags.writeable = False
    return ScoreBand(bins, level, *probits, lowest.matrix(filled), highest.matrix(filled), order)


def _groups(
    draws: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows that have as many draws, and so share the bounds, in the order given."""
    different, sizes = np.unique(draws, return_counts=True)
    begins = np.cumsum(sizes) - sizes
    for n, begin, count in zip(different.tolist(), begins, sizes, strict=True):
        yield n, order[begin : begin + count]


def _reached(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows, J + 1): how many draws reach each edge; all the first one, and 0 beyond the last bin."""
    result = np.zeros((counts.shape[0], counts.shape[1] + 1), np.int64)
    np.cumsum(counts[:, ::-1], axis=1, out=result[:, -2::-1])
    return result


def _needed_counts(
    histogram: NDArray[np.int64], group: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """All counts from 0 to n, or those that occur where this is much less."""
    if n <= 4 * group.size * histogram.shape[1] + 1024:
        return np.arange(n + 1)
    return np.unique(_reached(histogram[group]))
