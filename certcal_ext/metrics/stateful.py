# SPDX-License-Identifier: MIT
"""Certified metrics of data that comes in parts: an integer array is all their state, and such arrays add.

``update`` adds samples, ``merge`` those of another object, ``compute`` gives the result. The sum of the arrays that
``state`` gives in several processes, put back by ``from_state``, is the state of all their samples: the result is the
same, bit for bit, whatever the split and the order.

There is no state for the maximum calibration error: which samples join a bin depends on how their best confidences there
are ordered, so it needs each of them.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext._rounding import rounded_up
from certcal_ext.metrics.brier_ece import CertifiedBrier, mean_rounded_up
from certcal_ext.metrics.ece_table import FRACTION_BITS, EceTable
from certcal_ext.metrics.ks_mce import CertifiedKs
from certcal_ext.metrics.log_loss import (
    LOSS_WORDS,
    CertifiedLogLoss,
    checked_clip,
    loss_of_sums,
    loss_sums,
)
from certcal_ext.metrics.selective import (
    CertifiedRiskCoverage,
    aurc_of_groups,
    checked_thresholds,
    curve_of_counts,
)
from certcal_ext.metrics.state import LOW_BITS, MAX_ROWS, CertifiedState, possible_sums

__all__ = ["BrierState", "EceState", "KsState", "LogLossState", "RiskCoverageState"]

_Right = NDArray[np.uint8]
_Floats = NDArray[np.float64]


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

    def _add(self, right: _Right, low: _Floats, high: _Floats) -> None:
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


class LogLossState(CertifiedState[CertifiedLogLoss]):
    """The certified log loss of data in parts; ``compute`` equals ``certified_log_loss`` bit for bit.

    State: (5,) samples, right ones, those of infinite loss, and the sum of the other losses in two words, (high * 2^26 +
    low) / 2^42.

    Args:
        clip: as for ``certified_log_loss``.
        dtype: likewise.

    Raises:
        TypeError: ``clip`` is no number.
        ValueError: it is out of range or vanishes in ``dtype``, or ``dtype`` is unknown.

    Example:
        >>> state = LogLossState(clip=0.01)
        >>> state.update([1, 0], lower=[0.0, 0.25], upper=[1.0, 0.5])
        >>> round(state.compute().value, 6)
        2.649159
    """

    def __init__(self, clip: float | None = None, dtype: str = "float64") -> None:
        """A state of no samples; the arguments are described with the class."""
        super().__init__((LOSS_WORDS,))
        self._clip = checked_clip(clip, dtype)

    def _add(self, right: _Right, low: _Floats, high: _Floats) -> None:
        self._state += loss_sums(right, low, high, self._clip)

    def _result(self) -> CertifiedLogLoss:
        return loss_of_sums(self._state, self._clip)

    def _settings(self) -> dict[str, Any]:
        return {"clip": self._clip.clip, "dtype": self._clip.dtype}

    def _checked_rows(self) -> int:
        rows, right, infinite, high, low = (int(word) for word in self._state)
        if rows > MAX_ROWS or max(right, infinite) > rows:
            raise ValueError(
                "state: expected at most 2^36 samples, no more of them right or infinite"
            )
        if infinite and self._clip.clip is not None:
            raise ValueError("state: expected no infinite loss with a clip")
        # The largest finite loss of a right and of a wrong sample, and the least one: with a clip neither 0 nor infinite.
        of_right, of_wrong = self._loss(1, 0.0), self._loss(0, 1.0)
        least = min(self._loss(1, 1.0), self._loss(0, 0.0))
        finite = rows - infinite
        most = min(right, finite) * of_right + (finite - min(right, finite)) * of_wrong
        total = (high << LOW_BITS) + low
        if not finite * least <= total <= most or low > finite * ((1 << LOW_BITS) - 1):
            raise ValueError("state: expected a sum of losses that its finite samples can give")
        return rows

    def _loss(self, correct: int, confidence: float) -> int:
        """The loss of one sample in units; of the confidence beside it where it would be infinite."""
        ends = np.array([confidence]), np.array([confidence])
        words = loss_sums(np.array([correct], np.uint8), *ends, self._clip)
        if words[2]:
            return self._loss(correct, float(np.nextafter(confidence, 0.5)))
        return (int(words[3]) << LOW_BITS) + int(words[4])


class EceState(EceTable):
    """The certified ECE of data in parts: an ``EceTable`` among the other states.

    State and memory: those of ``EceTable``.

    Args:
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Raises:
        TypeError: ``bins`` or ``edges`` of the wrong kind.
        ValueError: bad bins.

    Example:
        >>> state = EceState(bins=2)
        >>> state.update([1, 0], lower=[0.5, 0.25], upper=[1.0, 0.5])
        >>> state.compute().value
        0.5
    """


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

    def _add(self, right: _Right, low: _Floats, high: _Floats) -> None:
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
        self._thresholds = default if thresholds is None else checked_thresholds(thresholds)
        super().__init__((3, self._thresholds.size + 1))

    def _add(self, right: _Right, low: _Floats, high: _Floats) -> None:
        _check.require_ordered(low, high)
        chosen = right != 0
        rows = (low[chosen], high[~chosen], low[~chosen])
        size = self._thresholds.size + 1
        cells = [np.searchsorted(self._thresholds, ends, "right") for ends in rows]
        self._state += np.array([np.bincount(cell, minlength=size) for cell in cells], np.int64)

    def _result(self) -> CertifiedRiskCoverage:
        kept, errors, low_wrong = np.cumsum(self._state[:, :0:-1], axis=1)[:, ::-1]
        return curve_of_counts(
            thresholds=np.array(self._thresholds),
            errors=errors,
            kept=kept,
            stay=kept + low_wrong,
            n=self._rows,
            right=int(self._state[0].sum()),
            aurc=aurc_of_groups(self._state[1, ::-1], self._state[0, ::-1]),
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
