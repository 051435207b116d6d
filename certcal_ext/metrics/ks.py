# SPDX-License-Identifier: MIT
"""The Kolmogorov-Smirnov calibration error, its exact worst case, and sums that bound it from above."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certcal_ext import _check
from certcal_ext._rounding import rounded_up
from certcal_ext.metrics.base import Floats, Options, Right, Samples, SignedSumMetric
from certcal_ext.metrics.fixed import fixed_ceil, fixed_floor, fraction_bits, running_sums
from certcal_ext.metrics.state import MAX_ROWS, CertifiedState

__all__ = ["CertifiedKs", "KsState", "certified_ks", "ks"]


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
    bits = fraction_bits(right.size)
    chosen = right != 0
    right_low, right_high = np.sort(low[chosen]), np.sort(high[chosen])
    wrong_low, wrong_high = np.sort(low[~chosen]), high[~chosen]
    order = np.argsort(wrong_high)
    low_by_high, wrong_high = low[~chosen][order], wrong_high[order]
    gain_right = running_sums((1 << bits) - fixed_floor(right_low, bits))
    loss_right = running_sums((1 << bits) - fixed_ceil(right_high, bits))
    loss_wrong = running_sums(fixed_floor(low_by_high, bits))
    gain_wrong = running_sums(fixed_ceil(wrong_high, bits))

    # Too low: the sum rises only where a right sample begins. Of equal ends the last one counts them all.
    too_low = gain_right[1:] - loss_wrong[np.searchsorted(wrong_high, right_low, "right")]
    # Too high: it falls only where a right sample ends, so it is largest just before one or after all.
    # Of equal ends the first one counts none of them.
    ended = np.searchsorted(wrong_high, right_high, "left")
    begun = np.searchsorted(wrong_low, right_high, "left")
    before = gain_wrong[ended] + fixed_ceil(right_high, bits) * (begun - ended) - loss_right[:-1]

    peak, threshold, sign = int(gain_wrong[-1] - loss_right[-1]), float(high.max()), -1
    for sums, ends, of in ((too_low, right_low, 1), (before, right_high, -1)):
        at = int(np.argmax(sums)) if sums.size else 0
        if sums.size and sums[at] > peak:
            peak, threshold, sign = int(sums[at]), float(ends[at]), of
    value = rounded_up(Fraction(max(peak, 0), right.size << bits))
    return CertifiedKs(min(1.0, value), threshold, sign, right.size)


def ks(correct: Any, confidence: Any) -> float:
    """The Kolmogorov-Smirnov calibration error max_t (1/N) abs(sum_{z_n <= t} (c_n - z_n)) without an attack.

    Args:
        correct: (N,) booleans or 0/1, whether the prediction is right.
        confidence: (N,) confidences of the predicted class, in [0, 1].

    Returns:
        The error, at most 2^-b too large; b as for ``mce``.

    Raises:
        TypeError: an argument is no array of numbers.
        ValueError: no samples, shapes that differ, or confidences outside [0, 1].

    Example:
        >>> ks([1, 0], [1.0, 0.25])
        0.125
    """
    right, z = _check.points(correct, confidence)
    return certified_ks(right, z, z).value


class KsState(CertifiedState[CertifiedKs]):
    """The certified KS calibration error of data in parts, from above: ends of intervals go outward to a grid.

    The exact value needs each sample. Here lower ends are rounded down and upper ends up to multiples of 2^-bits, and the
    value is exact for these wider intervals: at least that of ``certified_ks``, and equal where all ends lie on the grid.
    Each sample moves by at most 2^-bits, but may also pass a threshold that it did not reach: the excess is at most
    2^-bits and the share of samples with an end in one cell of the grid.

    State: (5, 2^bits + 1); by lower end the right samples, by upper end the right ones, likewise the wrong ones, and by
    upper end of the wrong ones the sum of their lower ends in units of the grid.

    Args:
        bits: the grid is the multiples of 2^-bits; from 1 to 20.

    Raises:
        TypeError: ``bits`` is no whole number.
        ValueError: it is out of range.

    Example:
        >>> state = KsState()
        >>> state.update([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5])
        >>> state.compute().value
        0.25
    """

    def __init__(self, bits: int = 12) -> None:
        """A state of no samples; ``bits`` is described with the class."""
        self._bits = _check.whole_number("bits", bits, 1, 20)
        super().__init__((5, 2**self._bits + 1))

    def _add(self, right: Right, low: Floats, high: Floats) -> None:
        _check.require_ordered(low, high)
        chosen = right != 0
        size = 2**self._bits + 1
        begin = np.floor(np.ldexp(low, self._bits)).astype(np.int64)
        end = np.ceil(np.ldexp(high, self._bits)).astype(np.int64)
        parts = ((chosen, begin), (chosen, end), (~chosen, begin), (~chosen, end))
        counts = [np.bincount(cells[which], minlength=size) for which, cells in parts]
        self._state[:4] += np.array(counts)
        np.add.at(self._state[4], end[~chosen], begin[~chosen])

    def _result(self) -> CertifiedKs:
        grid = np.arange(2**self._bits + 1)
        begun_right, ended_right, begun_wrong, ended_wrong, lows = self._state
        steps = (
            begun_right
            * (grid[-1] - grid),  # too low: gains of right samples, losses of wrong ones
            lows,
            ended_wrong * grid,  # too high: gains of wrong ones that lie below t, and of those at t
            begun_wrong - ended_wrong,
            ended_right * (grid[-1] - grid),
        )
        upto = np.cumsum(np.array(steps), axis=1)
        best, threshold, sign = 0, 0, 1
        for up in (upto, upto - np.array(steps)):  # z <= t, and its limit from the left, z < t
            for sums, of in ((up[0] - up[1], 1), (up[2] + grid * up[3] - up[4], -1)):
                at = int(np.argmax(sums))
                if sums[at] > best:
                    best, threshold, sign = int(sums[at]), at, of
        value = rounded_up(Fraction(best, self._rows << self._bits))
        return CertifiedKs(value, threshold / 2**self._bits, sign, self._rows)

    def _settings(self) -> dict[str, Any]:
        return {"bits": self._bits}

    def _checked_rows(self) -> int:
        # Python's integers: what is checked may be too large for a sum of int64.
        right, right_ended, wrong, wrong_ended = self._state[:4].sum(axis=1, dtype=object)
        if max(right, wrong) > MAX_ROWS:
            raise ValueError("state: expected at most 2^36 samples")
        if right != right_ended or wrong != wrong_ended:
            raise ValueError("state: expected as many lower as upper ends")
        begun_right, ended_right, begun, ended, lows = self._state
        if any(
            (np.cumsum(b - e) < 0).any() for b, e in ((begun_right, ended_right), (begun, ended))
        ):
            raise ValueError("state: expected each upper end at or above its lower end")
        grid = np.arange(2**self._bits + 1)
        if (lows > ended * grid).any() or int(lows.sum()) != int((begun * grid).sum()):
            raise ValueError("state: expected the sum of lower ends, none above its upper end")
        # The wrong samples that end first cannot have lower ends with a sum below that of the lowest of all.
        count, total = (np.append(0, np.cumsum(part)) for part in (begun, begun * grid))
        least = np.interp(np.cumsum(ended), count, total)
        if (np.cumsum(lows) < np.floor(least * (1 - 2.0**-40))).any():
            raise ValueError("state: expected sums of lower ends that the lower ends can give")
        return int(right + wrong)


class Ks(SignedSumMetric):
    """The largest gap between the running sums of correctness and confidence."""

    name = "ks"
    title = "KS"
    words = "KS calibration error"

    def certified(self, samples: Samples, options: Options) -> float:
        """``certified_ks``."""
        return certified_ks(samples.correct, samples.lower, samples.upper).value

    def state(self, options: Options) -> KsState:
        """Counts on a grid: from above."""
        return KsState()


METRIC = Ks()
