# SPDX-License-Identifier: MIT
"""Calibration metrics and their exact worst cases over confidences inside certified intervals.

"Exact" means the global optimum over all confidences inside the given intervals. Where the
intervals hold more than an attack can reach, it lies above the true worst case, never below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext._rounding import constant_and_skill, rounded_up
from certcal_ext.metrics.ece_table import FRACTION_BITS, CertifiedEce, EceTable
from certcal_ext.metrics.state import LOW_BITS

__all__ = [
    "CertifiedBrier",
    "CertifiedEce",
    "EceTable",
    "brier",
    "certified_brier",
    "certified_ece",
    "ece",
]


def mean_rounded_up(high: int, low: int, rows: int) -> float:
    """The smallest float64 at or above ``(high * 2^26 + low) / 2^52 / rows``, at most 1."""
    return min(1.0, rounded_up(Fraction((int(high) << LOW_BITS) + int(low), rows << FRACTION_BITS)))


@dataclass(frozen=True)
class CertifiedBrier:
    """The exact worst-case top-label Brier score.

    Attributes:
        value: the worst mean squared error, rounded up.
        n: number of samples.
        accuracy: share of right samples.
    """

    value: float
    n: int
    accuracy: float

    @property
    def constant(self) -> float:
        """What a constant confidence equal to the accuracy scores: acc(1 - acc), rounded down."""
        return constant_and_skill(round(self.accuracy * self.n), self.n, self.value)[0]

    @property
    def skill(self) -> float:
        """1 - value / constant, rounded down: it says nothing unless above 0; nan where ``constant`` is 0."""
        return constant_and_skill(round(self.accuracy * self.n), self.n, self.value)[1]


def certified_brier(correct: Any, lower: Any, upper: Any) -> CertifiedBrier:
    """The exact worst-case Brier score of the predicted class.

    Theorem (certified Brier score, Emde et al., ICLR 2025): a squared error is worst at the end of
    its interval away from the truth, so the maximum of (1/N) sum_n (c_n - z_n)^2 over l_n <= z_n <=
    u_n is the mean of (1 - l)^2 over right and of u^2 over wrong samples. Each square is rounded up
    to a multiple of 2^-52 and the sum is one of integers: it does not depend on the order of the
    samples or the number of threads.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.

    Returns:
        ``CertifiedBrier``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or bounds that are NaN, unordered or outside [0,
            1].

    Example:
        >>> certified_brier([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5]).value
        0.25
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    sums = np.zeros(2, np.int64)
    bad = core.brier_update(right, low, high, sums, threads=_threads.num_threads())
    if bad >= 0:
        raise _check.bad_bounds(bad, low, high)
    value = mean_rounded_up(sums[0], sums[1], right.size)
    return CertifiedBrier(value, right.size, int(np.count_nonzero(right)) / right.size)


def brier(correct: Any, confidence: Any) -> float:
    """The top-label Brier score (1/N) sum_n (c_n - z_n)^2 without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].

    Returns:
        The score, at most 2^-50 too large: it is the worst case over intervals that are points,
        where a confidence, its square and the mean are each rounded up.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or confidences outside [0, 1].

    Example:
        >>> brier([1, 0], [1.0, 0.5])
        0.125
    """
    points = _points(correct, confidence)
    return certified_brier(points[0], points[1], points[1]).value


def certified_ece(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> CertifiedEce:
    """The exact worst-case expected calibration error over all confidences inside the intervals.

    Theorem (``csrc/core/ece_solve.hpp``): with ECE = (1/N) sum_m |sum_{n in bin m} (c_n - z_n)| and
    |x| = max_s s x, the worst case is the maximum over the signs of the bins of a sum in which the
    samples no longer interact, and a recursion over runs of equal signs finds it in O(N + M^2).
    Emde et al. (ICLR 2025) pose the same problem as a mixed-integer program and solve it
    approximately. The value is a supremum: an open edge of a bin is approached.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: ``"right"``: bins are (e, e'] and the first also holds 0. ``"left"``: bins are [e,
            e') and the last also holds 1.

    Returns:
        ``CertifiedEce``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0,
            1], or bad bins.

    Example:
        >>> result = certified_ece([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5], bins=2)
        >>> result.value, result.worst_confidence
        (0.5, array([0.5, 0.5]))
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    table = EceTable(bins, edges, closed)
    table.add_checked(right, low, high)
    return table.solve((right, low, high))


def ece(
    correct: Any,
    confidence: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The expected calibration error (1/N) sum_m |sum_{n in bin m} (c_n - z_n)| without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The error, at most 2^-50 too large: it is the worst case over intervals that are points.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Example:
        >>> ece([1, 0], [1.0, 0.25])
        0.125
    """
    points = _points(correct, confidence)
    return certified_ece(points[0], points[1], points[1], bins, edges, closed).value


def _points(correct: Any, confidence: Any) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    right = _check.correct_vector("correct", correct)
    points = _check.float_vector("confidence", confidence, right.size)
    good = (points >= 0) & (points <= 1)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"confidence: expected values in [0, 1], got {points[row]} in row {row}")
    return right, points
