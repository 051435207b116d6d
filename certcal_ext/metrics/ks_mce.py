# SPDX-License-Identifier: MIT
"""Exact worst cases of two further calibration errors: Kolmogorov-Smirnov and maximum."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up

__all__ = ["CertifiedKs", "CertifiedMce", "certified_ks", "certified_mce"]

_Fixed = NDArray[np.int64]


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
    The sum of these best terms for sign +1 rises in t only at lower ends of right samples, and for sign -1 falls only at
    upper ends of right ones, so the supremum is found at one of the former, at the limit from the left of one of the
    latter, or above all. O(N log N); terms are rounded to multiples of 2^-52 (from 1,024 samples on, fewer bits: 2^-42
    for a million) in the direction that raises the result, and their sums are exact.

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
    bits = _fraction_bits(right.size)
    chosen = right != 0
    right_low, right_high = np.sort(low[chosen]), np.sort(high[chosen])
    wrong_low, wrong_high = np.sort(low[~chosen]), high[~chosen]
    order = np.argsort(wrong_high)
    low_by_high, wrong_high = low[~chosen][order], wrong_high[order]
    gain_right = _sums((1 << bits) - _floor(right_low, bits))
    loss_right = _sums((1 << bits) - _ceil(right_high, bits))
    loss_wrong = _sums(_floor(low_by_high, bits))
    gain_wrong = _sums(_ceil(wrong_high, bits))

    # Too low: the sum rises only where a right sample begins. Of equal ends the last one counts them all.
    too_low = gain_right[1:] - loss_wrong[np.searchsorted(wrong_high, right_low, "right")]
    # Too high: it falls only where a right sample ends, so it is largest just before one or after all.
    # Of equal ends the first one counts none of them.
    ended = np.searchsorted(wrong_high, right_high, "left")
    begun = np.searchsorted(wrong_low, right_high, "left")
    before = gain_wrong[ended] + _ceil(right_high, bits) * (begun - ended) - loss_right[:-1]

    peak, threshold, sign = int(gain_wrong[-1] - loss_right[-1]), float(high.max()), -1
    for sums, ends, of in ((too_low, right_low, 1), (before, right_high, -1)):
        at = int(np.argmax(sums)) if sums.size else 0
        if sums.size and sums[at] > peak:
            peak, threshold, sign = int(sums[at]), float(ends[at]), of
    value = rounded_up(Fraction(max(peak, 0), right.size << bits))
    return CertifiedKs(min(1.0, value), threshold, sign, right.size)


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
    add, for as long as that is above the mean. Of those that reach a bin across its edge all right ones add the same, and
    all wrong ones, so each interval is looked at in the bins of its ends only: O(N log N + M log M).

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
    bits = _fraction_bits(right.size)
    one = right.astype(np.int64) << bits
    # Too low: what begins in a bin adds its own best term there, what began before it that of the bin's left edge. Too
    # high: the same with ends, from the right.
    too_low = _Terms(first, one - _floor(low, bits), first == last, borders.size - 1)
    too_high = _Terms(last, _ceil(high, bits) - one, first == last, borders.size - 1)
    at_left, at_right = _floor(borders[:-1], bits), _ceil(borders[1:], bits)
    passing_left, passing_right = (
        tuple(_passing(first[right == c], last[right == c], borders.size - 1, of) for c in (1, 0))
        for of in ("left", "right")
    )
    best, best_bin, best_sign = Fraction(0), 0, 1
    for m in range(borders.size - 1):
        left, at = int(at_left[m]), int(at_right[m])
        for sign, mean in (
            (1, too_low.largest_mean(m, ((1 << bits) - left, -left), passing_left)),
            (-1, too_high.largest_mean(m, (at - (1 << bits), at), passing_right)),
        ):
            if mean > best:
                best, best_bin, best_sign = mean, m, sign
    value = rounded_up(best / (1 << bits))
    return CertifiedMce(min(1.0, value), best_bin, best_sign, right.size)


def _passing(first: _Fixed, last: _Fixed, bins: int, side: str) -> _Fixed:
    """(M,) how many samples reach each bin across its left or right edge."""
    begun, ended = np.bincount(first, minlength=bins), np.bincount(last, minlength=bins)
    inside = np.cumsum(begun) - np.cumsum(ended)  # that go on across the right edge
    return inside if side == "right" else np.append(0, inside[:-1])


def _by_bin(home: _Fixed, terms: _Fixed, bins: int) -> list[_Fixed]:
    """The terms of each bin."""
    grouped = terms[np.argsort(home.astype(np.int16), kind="stable")]  # of int16: a radix sort
    return np.split(grouped, np.cumsum(np.bincount(home, minlength=bins))[:-1])


class _Terms:
    """The terms of samples by the bin in which each has one of its own."""

    def __init__(self, home: _Fixed, terms: _Fixed, must: NDArray[np.bool_], bins: int) -> None:
        self._forced = _by_bin(home[must], terms[must], bins)
        self._optional = _by_bin(home[~must], terms[~must], bins)

    def largest_mean(
        self, m: int, values: tuple[int, int], passing: tuple[_Fixed, ...]
    ) -> Fraction:
        """The largest mean of the terms that must count in bin m and any of the others (at least one in all; else 0).

        Beside its own terms bin m has ``passing[k][m]`` optional ones of ``values[k]``. In decreasing order of the
        optional terms, each raises the mean as long as it is above it; once one is not, none that follows is, and equal
        ones all do or none does. So the number of terms to add is found by bisection, in exact arithmetic.
        """
        own = self._optional[m]
        terms = np.append(own, values)
        counts = np.append(np.ones(own.size, np.int64), [int(part[m]) for part in passing])
        order = np.argsort(-terms, kind="stable")
        order = order[counts[order] > 0]
        terms, counts = terms[order], counts[order]
        forced = self._forced[m].size
        if not forced + terms.size:
            return Fraction(0)
        sums = int(self._forced[m].sum()) + _sums(terms * counts)
        sizes = forced + _sums(counts)
        taken, most = 0 if forced else 1, terms.size
        while taken < most:
            middle = (taken + most) // 2
            if int(terms[middle]) * int(sizes[middle]) > int(sums[middle]):
                taken = middle + 1
            else:
                most = middle
        return Fraction(int(sums[taken]), int(sizes[taken]))


def _fraction_bits(samples: int) -> int:
    """How many bits of a fraction the terms keep, so that a sum of N of them, each at most 1, stays below 2^62.

    Terms are rounded to multiples of 2^-bits in the direction that raises the worst case, and their sums are exact: the
    result does not depend on the order of the samples and is at most 2^-bits too large.
    """
    return min(52, 62 - samples.bit_length())


def _floor(values: NDArray[np.float64], bits: int) -> _Fixed:
    return np.floor(np.ldexp(values, bits)).astype(np.int64)


def _ceil(values: NDArray[np.float64], bits: int) -> _Fixed:
    return np.ceil(np.ldexp(values, bits)).astype(np.int64)


def _sums(values: _Fixed) -> _Fixed:
    """The sums of the first 0, 1, ..., all values."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
