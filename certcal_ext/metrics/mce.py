# SPDX-License-Identifier: MIT
"""The maximum calibration error and its exact worst case.

There is no state for data in parts: which samples join a bin depends on how their best confidences there are ordered, so
each of them is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.bins import Bins
from certcal_ext.metrics.base import Metric, Options, Samples
from certcal_ext.metrics.fixed import Fixed, fixed_ceil, fixed_floor, fraction_bits, running_sums

__all__ = ["CertifiedMce", "certified_mce", "mce"]


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


def certified_mce(
    correct: Any,
    lower: Any,
    upper: Any,
    bins: int | Bins = 15,
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
    cells = Bins.of(bins, edges, closed)
    first, last = cells.index(low), cells.index(high)
    bits = fraction_bits(right.size)
    one = right.astype(np.int64) << bits
    # Too low: what begins in a bin adds its own best term there, what began before it that of the bin's left edge. Too
    # high: the same with ends, from the right.
    too_low = _Terms(first, one - fixed_floor(low, bits), first == last, len(cells))
    too_high = _Terms(last, fixed_ceil(high, bits) - one, first == last, len(cells))
    at_left, at_right = fixed_floor(cells.edges[:-1], bits), fixed_ceil(cells.edges[1:], bits)
    passing_left, passing_right = (
        tuple(_passing(first[right == c], last[right == c], len(cells), of) for c in (1, 0))
        for of in ("left", "right")
    )
    best, best_bin, best_sign = Fraction(0), 0, 1
    for m in range(len(cells)):
        left, at = int(at_left[m]), int(at_right[m])
        for sign, mean in (
            (1, too_low.largest_mean(m, ((1 << bits) - left, -left), passing_left)),
            (-1, too_high.largest_mean(m, (at - (1 << bits), at), passing_right)),
        ):
            if mean > best:
                best, best_bin, best_sign = mean, m, sign
    value = rounded_up(best / (1 << bits))
    return CertifiedMce(min(1.0, value), best_bin, best_sign, right.size)


def mce(
    correct: Any,
    confidence: Any,
    bins: int | Bins = 15,
    edges: Any = None,
    closed: str = "right",
) -> float:
    """The maximum calibration error max_m abs(accuracy_m - mean confidence_m) without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Returns:
        The error over bins that hold samples, at most 2^-b too large; b = 52 up to 1,023 samples, 42 for a million.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, confidences outside [0, 1], or bad bins.

    Example:
        >>> mce([1, 0], [1.0, 0.25])
        0.25
    """
    right, z = _check.points(correct, confidence)
    return certified_mce(right, z, z, bins, edges, closed).value


def _passing(first: Fixed, last: Fixed, bins: int, side: str) -> Fixed:
    """(M,) how many samples reach each bin across its left or right edge."""
    begun, ended = np.bincount(first, minlength=bins), np.bincount(last, minlength=bins)
    inside = np.cumsum(begun) - np.cumsum(ended)  # that go on across the right edge
    return inside if side == "right" else np.append(0, inside[:-1])


def _by_bin(home: Fixed, terms: Fixed, bins: int) -> list[Fixed]:
    """The terms of each bin."""
    grouped = terms[np.argsort(home.astype(np.int16), kind="stable")]  # of int16: a radix sort
    return np.split(grouped, np.cumsum(np.bincount(home, minlength=bins))[:-1])


class _Terms:
    """The terms of samples by the bin in which each has one of its own."""

    def __init__(self, home: Fixed, terms: Fixed, must: NDArray[np.bool_], bins: int) -> None:
        self._forced = _by_bin(home[must], terms[must], bins)
        self._optional = _by_bin(home[~must], terms[~must], bins)

    def largest_mean(self, m: int, values: tuple[int, int], passing: tuple[Fixed, ...]) -> Fraction:
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
        sums = int(self._forced[m].sum()) + running_sums(terms * counts)
        sizes = forced + running_sums(counts)
        taken, most = 0 if forced else 1, terms.size
        while taken < most:
            middle = (taken + most) // 2
            if int(terms[middle]) * int(sizes[middle]) > int(sums[middle]):
                taken = middle + 1
            else:
                most = middle
        return Fraction(int(sums[taken]), int(sizes[taken]))


class Mce(Metric):
    """The worst bin."""

    name = "mce"
    title = "MCE"
    words = "maximum calibration error"
    uses = ("bins",)

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_mce``."""
        rows = samples.correct, samples.lower, samples.upper
        return certified_mce(*rows, options.bins).value

    def failed(self, samples: Samples, options: Options, k: int) -> float:
        """One free sample may be alone in an empty bin."""
        return 1.0 if k or samples.gap.size else self.certified(samples, options)


METRIC = Mce()
