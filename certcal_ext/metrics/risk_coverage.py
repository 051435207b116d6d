# SPDX-License-Identifier: MIT
"""The certified risk-coverage curve, the area under it, and counts of it that add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import ratios_down, ratios_up
from certcal_ext.metrics.base import Floats, Right
from certcal_ext.metrics.state import MAX_ROWS, CertifiedState

__all__ = [
    "CertifiedRiskCoverage",
    "RiskCoverageState",
    "certified_risk_coverage",
    "risk_coverage",
]

#: Ranks up to this one are summed one by one in ``_aurc_of_groups``.
_SUMMED_RANKS = 2**20

_Counts = NDArray[np.int64]


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

    thresholds: Floats
    risk: Floats
    coverage: Floats
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
    def coverage_at_worst(self) -> Floats:
        """(T,) the share of samples accepted where ``risk`` is reached: (errors + kept) / n."""
        return (self.errors + self.kept) / self.n

    @property
    def constant(self) -> float:
        """The area for confidences that say nothing (a random order, in expectation): 1 - accuracy."""
        return 1.0 - self.accuracy


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
    at = np.unique(ends) if thresholds is None else _checked_thresholds(thresholds)
    chosen = right != 0
    wrong, sure = np.sort(high[~chosen]), np.sort(low[chosen])
    worst = np.unique(np.concatenate((wrong, sure)))  # z*, in groups of equal confidence
    return _curve_of_counts(
        thresholds=at,
        errors=_at_least(wrong, at),
        kept=_at_least(sure, at),
        stay=_at_least(np.sort(low), at),
        n=right.size,
        right=sure.size,
        aurc=_aurc_of_groups(_equal_to(wrong, worst)[::-1], _equal_to(sure, worst)[::-1]),
    )


def risk_coverage(correct: Any, confidence: Any, thresholds: Any = None) -> CertifiedRiskCoverage:
    """The risk-coverage curve and the area under it, without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        thresholds: (T,) strictly increasing, in [0, 1]; None: all distinct confidences.

    Returns:
        ``CertifiedRiskCoverage``. Among equal confidences its area counts the wrong ones first.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad thresholds.

    Example:
        >>> curve = risk_coverage([1, 0], [0.75, 0.5])
        >>> curve.thresholds, curve.risk, round(curve.aurc, 12)
        (array([0.5 , 0.75]), array([0.5, 0. ]), 0.25)
    """
    right, z = _check.points(correct, confidence)
    return certified_risk_coverage(right, z, z, thresholds)


class RiskCoverageState(CertifiedState[CertifiedRiskCoverage]):
    """The certified risk-coverage curve of data in parts, at thresholds fixed in advance.

    Risk and coverage are those of ``certified_risk_coverage`` at these thresholds, exactly. The area is an upper bound:
    of samples between two neighbouring thresholds the wrong ones count as the more confident.

    State: (3, T + 1), counts of right samples by lower end, wrong ones by upper end and wrong ones by lower end; entry j
    counts the ends at or above threshold j - 1 and below threshold j.

    Args:
        thresholds: (T,) strictly increasing, in [0, 1]; None: 0, 1/1000, ..., 1.

    Raises:
        TypeError: ``thresholds`` is no array of numbers.
        ValueError: they do not increase inside [0, 1].

    Example:
        >>> state = RiskCoverageState(thresholds=[0.25, 0.75])
        >>> state.update([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.75])
        >>> state.compute().risk
        array([0.5, 1. ])
    """

    def __init__(self, thresholds: Any = None) -> None:
        """A state of no samples; ``thresholds`` is described with the class."""
        default = np.linspace(0, 1, 1001)
        self._thresholds = default if thresholds is None else _checked_thresholds(thresholds)
        super().__init__((3, self._thresholds.size + 1))

    def _add(self, right: Right, low: Floats, high: Floats) -> None:
        _check.require_ordered(low, high)
        chosen = right != 0
        rows = (low[chosen], high[~chosen], low[~chosen])
        size = self._thresholds.size + 1
        cells = [np.searchsorted(self._thresholds, ends, "right") for ends in rows]
        self._state += np.array([np.bincount(cell, minlength=size) for cell in cells], np.int64)

    def _result(self) -> CertifiedRiskCoverage:
        kept, errors, low_wrong = np.cumsum(self._state[:, :0:-1], axis=1)[:, ::-1]
        return _curve_of_counts(
            thresholds=np.array(self._thresholds),
            errors=errors,
            kept=kept,
            stay=kept + low_wrong,
            n=self._rows,
            right=int(self._state[0].sum()),
            aurc=_aurc_of_groups(self._state[1, ::-1], self._state[0, ::-1]),
        )

    def _settings(self) -> dict[str, Any]:
        return {"thresholds": self._thresholds.tolist()}

    def _checked_rows(self) -> int:
        right, wrong, wrong_begun = self._state.sum(axis=1, dtype=object)
        if max(right, wrong) > MAX_ROWS:
            raise ValueError("state: expected at most 2^36 samples")
        if wrong != wrong_begun or (np.cumsum(self._state[1] - self._state[2]) > 0).any():
            raise ValueError("state: expected each upper end at or above its lower end")
        if self._thresholds[0] == 0 and self._state[:, 0].any():
            raise ValueError("state: expected no ends below a threshold of 0")
        return int(right + wrong)


def _checked_thresholds(value: Any) -> Floats:
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


def _curve_of_counts(
    thresholds: Floats,
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


def _aurc_of_groups(wrong: _Counts, right: _Counts) -> float:
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


def _at_least(ordered: Floats, thresholds: Floats) -> _Counts:
    """(T,) how many of the sorted values lie at or above each threshold."""
    return ordered.size - np.searchsorted(ordered, thresholds, "left")


def _equal_to(ordered: Floats, values: Floats) -> _Counts:
    """How many of the sorted numbers equal each of the values, which are sorted and contain them all."""
    return np.diff(np.searchsorted(ordered, values, "right"), prepend=0)
