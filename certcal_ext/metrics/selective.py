# SPDX-License-Identifier: MIT
"""Selective prediction: the exact worst-case risk among the accepted, and the certified risk-coverage curve."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import ratios_down, ratios_up, rounded_down, rounded_up

__all__ = [
    "CertifiedRiskCoverage",
    "CertifiedSelectiveRisk",
    "certified_risk_coverage",
    "certified_selective_risk",
]

#: Ranks up to this one are summed one by one in ``aurc_of_groups``.
_SUMMED_RANKS = 2**20

_Counts = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CertifiedSelectiveRisk:
    """The exact worst cases of accepting the samples with a confidence of at least ``threshold``.

    Attributes:
        threshold: samples with confidence z >= threshold are accepted.
        risk: the largest share of wrong ones among the accepted, ``errors / (errors + kept)``, rounded up; 0 where no
            wrong sample can be accepted.
        errors: how many wrong samples can be accepted: those with upper end >= threshold.
        kept: how many right samples cannot be rejected: those with lower end >= threshold.
        coverage: the smallest share of all samples that is accepted, rounded down. It is reached by another attack than
            ``risk``; see ``coverage_at_worst``.
        n: number of samples.
        accuracy: share of right samples.
    """

    threshold: float
    risk: float
    errors: int
    kept: int
    coverage: float
    n: int
    accuracy: float

    @property
    def value(self) -> float:
        """``risk``, under the name that every certified metric has."""
        return self.risk

    @property
    def coverage_at_worst(self) -> float:
        """The share of samples accepted where ``risk`` is reached: (errors + kept) / n."""
        return (self.errors + self.kept) / self.n

    @property
    def constant(self) -> float:
        """The risk of accepting without regard to the confidence: 1 - accuracy."""
        return 1.0 - self.accuracy


@dataclass(frozen=True, eq=False)
class CertifiedRiskCoverage:
    """The certified risk-coverage curve, one entry a threshold, and the area under it.

    Attributes:
        thresholds: (T,) float64, increasing.
        risk: (T,) float64, the worst-case selective risk at each threshold, rounded up.
        coverage: (T,) float64, the smallest coverage at each threshold, rounded down.
        errors: (T,) int64, how many wrong samples can be accepted.
        kept: (T,) int64, how many right samples cannot be rejected.
        aurc: the worst-case area under the risk-coverage curve, rounded up; see ``certified_risk_coverage``.
        n: number of samples.
        accuracy: share of right samples.
    """

    thresholds: _Floats
    risk: _Floats
    coverage: _Floats
    errors: _Counts
    kept: _Counts
    aurc: float
    n: int
    accuracy: float

    @property
    def value(self) -> float:
        """``aurc``, under the name that every certified metric has."""
        return self.aurc

    @property
    def coverage_at_worst(self) -> _Floats:
        """(T,) the share of samples accepted where ``risk`` is reached: (errors + kept) / n."""
        return (self.errors + self.kept) / self.n

    @property
    def constant(self) -> float:
        """The area for confidences that say nothing (a random order, in expectation): 1 - accuracy."""
        return 1.0 - self.accuracy


def certified_selective_risk(
    correct: Any, lower: Any, upper: Any, threshold: float
) -> CertifiedSelectiveRisk:
    """The worst-case risk among, and the smallest number of, the samples with confidence z_n >= t.

    A wrong sample can be accepted if u >= t, and a right one cannot be rejected if l >= t. With w wrong and r right
    samples accepted the risk w / (w + r) rises in w and falls in r, so its maximum is W / (W + R), W counting the wrong
    ones with u >= t and R the right ones with l >= t. The smallest coverage has all samples at their lower ends. An
    empty set of accepted samples has risk 0.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        threshold: t, in [0, 1].

    Returns:
        ``CertifiedSelectiveRisk``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], or a threshold
            outside [0, 1].

    Source:
        Selective risk: El-Yaniv and Wiener (JMLR 2010). Its worst case: this project.

    Example:
        >>> result = certified_selective_risk(
        ...     [1, 1, 0], lower=[0.5, 0.75, 0.25], upper=[1.0, 1.0, 0.75], threshold=0.75)
        >>> result.risk, result.coverage_at_worst == 2 / 3, result.coverage < 1 / 3 + 1e-12
        (0.5, True, True)
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    t = checked_threshold(threshold)
    chosen = right != 0
    errors = int(np.count_nonzero(~chosen & (high >= t)))
    kept = int(np.count_nonzero(chosen & (low >= t)))
    stay = int(np.count_nonzero(low >= t))
    return CertifiedSelectiveRisk(
        threshold=t,
        risk=rounded_up(Fraction(errors, errors + kept)) if errors else 0.0,
        errors=errors,
        kept=kept,
        coverage=rounded_down(Fraction(stay, right.size)),
        n=right.size,
        accuracy=int(np.count_nonzero(chosen)) / right.size,
    )


def certified_risk_coverage(
    correct: Any, lower: Any, upper: Any, thresholds: Any = None
) -> CertifiedRiskCoverage:
    """The worst-case selective risk at many thresholds, and the worst-case area under the curve (AURC).

    All thresholds share one worst case z*: wrong samples at u, right ones at l, and at equal confidence the wrong ones
    first. Raising a wrong sample or lowering a right one never takes a wrong one out of the k most confident, so z* has
    the most errors among the k most confident for every k at once. ``aurc`` is the mean over k = 1..N of the share of
    wrong ones among the k most confident under z*: no confidences inside the intervals, and no order of equal ones, have
    a larger area. O(N log N).

    For confidences that are not attacked pass them as both ends. Where some of them are equal, the area is that of the
    order with the wrong ones first, the largest one.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        thresholds: (T,) strictly increasing, in [0, 1]; None: all distinct ends of intervals, between which nothing
            changes.

    Returns:
        ``CertifiedRiskCoverage``; ``aurc`` does not depend on ``thresholds`` and exceeds the exact value by at most
        2^-44.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], or thresholds that
            do not increase inside [0, 1].

    Source:
        The curve and its area: Geifman, Uziel and El-Yaniv (ICLR 2019). Their worst case: this project.

    Example:
        >>> curve = certified_risk_coverage([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.75])
        >>> curve.thresholds, curve.risk
        (array([0.25, 0.5 , 0.75, 1.  ]), array([0.5, 0.5, 1. , 0. ]))
        >>> round(curve.aurc, 12)
        0.75
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    ends = np.concatenate((low, high))
    at = np.unique(ends) if thresholds is None else checked_thresholds(thresholds)
    chosen = right != 0
    wrong, sure = np.sort(high[~chosen]), np.sort(low[chosen])
    worst = np.unique(np.concatenate((wrong, sure)))  # z*, in groups of equal confidence
    return curve_of_counts(
        thresholds=at,
        errors=_at_least(wrong, at),
        kept=_at_least(sure, at),
        stay=_at_least(np.sort(low), at),
        n=right.size,
        right=sure.size,
        aurc=aurc_of_groups(_equal_to(wrong, worst)[::-1], _equal_to(sure, worst)[::-1]),
    )


def checked_threshold(value: Any) -> float:
    """A threshold in [0, 1] as a float."""
    result = _check.real_number("threshold", value)
    if not 0 <= result <= 1:
        raise ValueError(f"threshold: expected a confidence from 0 to 1, got {value}")
    return result


def checked_thresholds(value: Any) -> _Floats:
    """(T,) strictly increasing thresholds in [0, 1], copied."""
    result = np.array(_check.float_vector("thresholds", value))
    if not result.size:
        raise ValueError("thresholds: expected at least one, got none")
    good = (result >= 0) & (result <= 1) & np.append(True, result[1:] > result[:-1])
    if not good.all():
        at = int(np.argmin(good))
        raise ValueError(
            f"thresholds: expected strictly increasing numbers in [0, 1], got {result[at]} at "
            f"position {at}"
        )
    return result


def curve_of_counts(
    thresholds: _Floats,
    errors: _Counts,
    kept: _Counts,
    stay: _Counts,
    n: int,
    right: int,
    aurc: float,
) -> CertifiedRiskCoverage:
    """The curve from how many samples count at each threshold."""
    result = CertifiedRiskCoverage(
        thresholds=thresholds,
        risk=ratios_up(errors, errors + kept),
        coverage=ratios_down(stay, np.full(stay.shape, n)),
        errors=errors,
        kept=kept,
        aurc=aurc,
        n=n,
        accuracy=right / n,
    )
    for column in (result.thresholds, result.risk, result.coverage, result.errors, result.kept):
        column.flags.writeable = False
    return result


def aurc_of_groups(wrong: _Counts, right: _Counts) -> float:
    """The area, rounded up, where group after group of equal confidence is accepted, in each the wrong ones first.

    Ranks up to 2^20 are summed one by one. In a run of wrong samples from rank a + 1 to b, with e errors before it, the
    terms (e + k - a) / k sum to b - a + (e - a) (H_b - H_a), and in a run of right ones to e (H_b - H_a). There a >=
    2^20, so H_b - H_a = log((2b + 1) / (2a + 1)) + (1 / (b + 1/2)^2 - 1 / (a + 1/2)^2) / 24 to 2^-80.

    Args:
        wrong: (G,) wrong samples of each group, from the most confident on.
        right: (G,) right samples of each group.

    Returns:
        The area, at most 1.
    """
    runs = np.column_stack((wrong, right)).ravel()
    ends = np.cumsum(runs)
    errors_at_end = np.cumsum(np.column_stack((wrong, np.zeros_like(right))).ravel())
    rows, errors = int(ends[-1]), int(errors_at_end[-1])
    if not errors:
        return 0.0
    # The part of each run among the ranks that are summed one by one, which may cut one of them.
    head = np.diff(np.minimum(ends, _SUMMED_RANKS), prepend=0)
    is_wrong = np.arange(runs.size) % 2 == 0
    among = np.cumsum(np.repeat(is_wrong, head))
    total = float((among / np.arange(1, among.size + 1)).sum())

    rest = runs > head
    a = (ends - runs + head)[rest].astype(np.float64)
    b = ends[rest].astype(np.float64)
    of_wrong = is_wrong[rest]
    before = (errors_at_end - np.where(is_wrong, runs - head, 0))[rest]
    harmonic = np.log1p((b - a) / (a + 0.5))
    harmonic += ((b + 0.5) ** -2.0 - (a + 0.5) ** -2.0) / 24
    total += float(np.where(of_wrong, (b - a) + (before - a) * harmonic, before * harmonic).sum())
    # One by one: positive quotients summed in pairs, so a relative error below 2^-47. By runs: terms
    # of at most their number of samples, each right to a few units of 2^-53 of that.
    slack = 2.0**-46 * total + (2.0**-46 * rows if rest.any() else 0.0)
    return min(1.0, (total + slack) / rows * (1 + 2.0**-50))


def _at_least(ordered: _Floats, thresholds: _Floats) -> _Counts:
    """(T,) how many of the sorted values lie at or above each threshold."""
    return ordered.size - np.searchsorted(ordered, thresholds, "left")


def _equal_to(ordered: _Floats, values: _Floats) -> _Counts:
    """How many of the sorted numbers equal each of the values, which are sorted and contain them all."""
    return np.diff(np.searchsorted(ordered, values, "right"), prepend=0)
