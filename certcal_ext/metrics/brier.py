# SPDX-License-Identifier: MIT
"""The top-label Brier score, its exact worst case, and sums of it that add."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext._rounding import constant_and_skill, rounded_up
from certcal_ext.metrics.base import Floats, MeanMetric, Options, Right, Samples
from certcal_ext.metrics.state import (
    FRACTION_BITS,
    LOW_BITS,
    MAX_ROWS,
    CertifiedState,
    possible_sums,
)

__all__ = ["BrierState", "CertifiedBrier", "brier", "certified_brier"]


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
    right, z = _check.points(correct, confidence)
    return certified_brier(right, z, z).value


class BrierState(CertifiedState[CertifiedBrier]):
    """The certified Brier score of data in parts; ``compute`` equals ``certified_brier`` bit for bit.

    State: (4,) samples, right ones, and the sum of the squared errors in two words, (high * 2^26 + low) / 2^52.

    Example:
        >>> first, second = BrierState(), BrierState()
        >>> first.update([1], lower=[0.5], upper=[1.0])
        >>> second.update([0], lower=[0.25], upper=[0.5])
        >>> BrierState.from_state(first.state() + second.state()).compute().value
        0.25
    """

    def __init__(self) -> None:
        """A state of no samples."""
        super().__init__((4,))

    def _add(self, right: Right, low: Floats, high: Floats) -> None:
        bad = core.brier_update(right, low, high, self._state[2:], threads=_threads.num_threads())
        if bad >= 0:
            raise _check.bad_bounds(bad, low, high)
        self._state[:2] += np.array([right.size, np.count_nonzero(right)])

    def _result(self) -> CertifiedBrier:
        rows, right, high, low = (int(word) for word in self._state)
        return CertifiedBrier(mean_rounded_up(high, low, rows), rows, right / rows)

    def _checked_rows(self) -> int:
        rows, right, high, low = self._state
        if rows > MAX_ROWS or right > rows or not possible_sums(high, low, rows, FRACTION_BITS):
            raise ValueError(
                "state: expected at most 2^36 samples, no more right ones, and no larger sum, than that"
            )
        return int(rows)


def mean_rounded_up(high: int, low: int, rows: int) -> float:
    """The smallest float64 at or above ``(high * 2^26 + low) / 2^52 / rows``, at most 1."""
    return min(1.0, rounded_up(Fraction((int(high) << LOW_BITS) + int(low), rows << FRACTION_BITS)))


class Brier(MeanMetric):
    """The mean squared gap between correctness and confidence."""

    name = "brier"
    title = "Brier"
    words = "Brier score"

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_brier``."""
        return certified_brier(samples.correct, samples.lower, samples.upper).value

    def terms(self, samples: Samples, options: Options) -> tuple[Floats, float]:
        """Squared gaps."""
        return samples.largest_gaps() ** 2, 1.0

    def state(self, options: Options) -> BrierState:
        """Sums of squares."""
        return BrierState()


METRIC = Brier()
