# SPDX-License-Identifier: MIT
"""Exact worst cases of two further calibration errors: Kolmogorov-Smirnov and maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check

_Wide = np.longdouble
_Sums = NDArray[np.longdouble]


@dataclass(frozen=True)
class CertifiedKs:
    """The exact worst-case Kolmogorov-Smirnov calibration error.

    Attributes:
        value: the supremum, rounded up.
        threshold: the confidence t at which it is approached.
        sign: +1 where confidences up to t are too low, -1 where they are too high.
        n: number of samples.
    """

    value: float
    threshold: float
    sign: int
    n: int


@dataclass(frozen=True)
class CertifiedMce:
    """The exact worst-case maximum calibration error.

    Attributes:
        value: the supremum over bins of abs(accuracy - mean confidence), rounded up.
        bin: the bin in which it is approached.
        sign: +1 where that bin's confidences are too low, -1 where they are too high.
        n: number of samples.
    """

    value: float
    bin: int
    sign: int
    n: int


def certified_ks(correct: Any, lower: Any, upper: Any) -> CertifiedKs:
    """The worst-case KS calibration error max_t (1/N) abs(sum_{z_n <= t} (c_n - z_n)).

    For a fixed t and sign the samples do not interact: each adds its best confidence up to t, or lies above t if it can.
    The sum of these best terms changes at ends of intervals only, and rises between them for sign -1, so its supremum is
    found at an end or at the limit from the left of one. O(N log N).

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.

    Returns:
        ``CertifiedKs``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or bounds that are NaN, unordered or outside [0, 1].

    Source:
        The error: Gupta et al., "Calibration of neural networks using splines" (ICLR 2021). Its worst case: this project.

    Example:
        >>> round(certified_ks([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5]).value, 6)
        0.25
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    chosen = right != 0
    right_low, right_high = np.sort(low[chosen]), np.sort(high[chosen])
    wrong_low, wrong_high = np.sort(low[~chosen]), np.sort(high[~chosen])
    low_by_high = low[~chosen][np.argsort(high[~chosen], kind="stable")]
    gain_right = _prefix_sums(1 - right_low.astype(_Wide))
    loss_right = _prefix_sums(1 - right_high.astype(_Wide))
    loss_wrong = _prefix_sums(low_by_high.astype(_Wide))
    gain_wrong = _prefix_sums(wrong_high.astype(_Wide))
    thresholds = np.unique(np.concatenate((low, high)))

    best = (_Wide(0), float(thresholds[0]), 1)
    for side in ("right", "left"):  # z <= t, and its limit from the left, z < t
        ended = np.searchsorted(wrong_high, thresholds, side)
        begun = np.searchsorted(wrong_low, thresholds, side)
        too_low = gain_right[np.searchsorted(right_low, thresholds, side)] - loss_wrong[ended]
        too_high = (
            gain_wrong[ended]
            + thresholds.astype(_Wide) * (begun - ended)
            - loss_right[np.searchsorted(right_high, thresholds, side)]
        )
        for sign, sums in ((1, too_low), (-1, too_high)):
            at = int(np.argmax(sums))
            if sums[at] > best[0]:
                best = (sums[at], float(thresholds[at]), sign)
    return CertifiedKs(_rounded_up(best[0] / right.size, right.size), best[1], best[2], right.size)


def certified_mce(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int = 15,
    edges: Any = None,
    closed: str = "right",
) -> CertifiedMce:
    """The worst-case maximum calibration error max_m abs(accuracy_m - mean confidence_m).

    For one bin and sign, a sample whose interval lies inside must be there and counts with its best confidence; one that
    only reaches the bin may stay away. A mean is largest when the optional samples join in decreasing order of what they
    add, for as long as that is above the mean. O(M N log N).

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
        upper: (N,) upper ends, each at least its lower end.
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        ``CertifiedMce``. Empty bins do not count.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, bounds that are NaN, unordered or outside [0, 1], or bad bins.

    Source:
        The error: Naeini, Cooper and Hauskrecht, AAAI 2015. Its worst case: this project.

    Example:
        >>> round(certified_mce([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5], bins=2).value, 6)
        0.5
    """
    right, low, high = _check.some_intervals(correct, lower, upper)
    _check.require_ordered(low, high)
    borders = _check.bin_edges(bins, edges)
    side: Any = "right" if _check.closed_left(closed) else "left"
    first = np.searchsorted(borders[1:-1], low, side)
    last = np.searchsorted(borders[1:-1], high, side)
    best = (_Wide(0), 0, 1)
    for m in range(borders.size - 1):
        inside = (first <= m) & (m <= last)
        if not inside.any():
            continue
        must = (first == last)[inside]
        c = right[inside].astype(_Wide)
        for sign, terms in (
            (1, c - np.maximum(low[inside], borders[m])),
            (-1, np.minimum(high[inside], borders[m + 1]) - c),
        ):
            mean = _largest_mean(terms, must)
            if mean > best[0]:
                best = (mean, m, sign)
    return CertifiedMce(_rounded_up(best[0], right.size), best[1], best[2], right.size)


def _largest_mean(terms: _Sums, must: NDArray[np.bool_]) -> np.longdouble:
    """The largest mean of all terms that must count and any of the others (at least one in all)."""
    optional = np.sort(terms[~must])[::-1]
    sums = np.concatenate(([terms[must].sum()], terms[must].sum() + np.cumsum(optional)))
    counts = np.count_nonzero(must) + np.arange(sums.size)
    means: np.longdouble = (sums[counts > 0] / counts[counts > 0]).max()
    return means


def _prefix_sums(values: _Sums) -> _Sums:
    return np.concatenate(([_Wide(0)], np.cumsum(values)))


def _rounded_up(value: np.longdouble, samples: int) -> float:
    """Above the exact value: the sums of N terms below 1 are wrong by at most N rounding steps of their type each."""
    error = 4 * samples * float(np.finfo(_Wide).eps)
    above = np.nextafter(float(value), 2.0) + error if value > 0 else 0.0
    return float(min(1.0, above))
