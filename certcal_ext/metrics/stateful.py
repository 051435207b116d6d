# SPDX-License-Identifier: MIT
"""Certified metrics of data that comes in parts: an integer array is all their state, and such arrays add.

``update`` adds samples, ``merge`` those of another object, ``compute`` gives the result. The sum of the arrays that
``state`` gives in several processes, put back by ``from_state``, is the state of all their samples: the result is the
same, bit for bit, whatever the split and the order.

There is no state for the maximum calibration error: which samples join a bin depends on how their best confidences there
are ordered, so it needs each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core
from certcal_ext._rounding import rounded_up
from certcal_ext.metrics.brier_ece import CertifiedBrier, mean_rounded_up
from certcal_ext.metrics.ece_table import FRACTION_BITS, LOW_BITS, MAX_ROWS, CertifiedEce, EceTable
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

__all__ = ["BrierState", "EceState", "KsState", "LogLossState", "RiskCoverageState"]

_Integers = NDArray[np.int64]
_Result = TypeVar("_Result")
_Self = TypeVar("_Self", bound="CertifiedState[Any]")


class CertifiedState(ABC, Generic[_Result]):
    """What all states share: adding samples, adding states, and back from integers."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """A state of no samples; ``shape`` is that of its integers."""
        self._state: _Integers = np.zeros(shape, np.int64)
        self._rows = 0

    @classmethod
    def from_state(cls: type[_Self], state: Any, *arguments: Any, **named: Any) -> _Self:
        """An object with the integers of another one, or with the sum of those of several.

        Args:
            state: integers as ``state`` gives them; copied.
            *arguments: those of the class, as they were for that object.
            **named: likewise.

        Returns:
            A new object of this class.

        Raises:
            TypeError: ``state`` is no array of integers, or an argument is of the wrong kind.
            ValueError: its shape does not fit, it holds more than 2^36 samples, or no samples can give it.
        """
        result = cls(*arguments, **named)
        given = _check.array("state", state)
        if given.dtype.kind not in "iu":
            raise TypeError(f"state: expected integers, got dtype {given.dtype}")
        if given.shape != result._state.shape:
            raise ValueError(f"state: expected shape {result._state.shape}, got {given.shape}")
        result._state[...] = given
        if (result._state < 0).any():
            raise ValueError("state: expected integers of at least 0")
        result._rows = result._checked_rows()
        return result

    @property
    def rows(self) -> int:
        """Number of samples so far."""
        return self._rows

    def update(self, correct: Any, lower: Any, upper: Any) -> None:
        """Adds samples. No samples are fine, and where one is bad none is added.

        Args:
            correct: (N,) booleans or 0/1, whether the prediction is right.
            lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
            upper: (N,) upper ends, each at least its lower end.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: shapes that differ, bounds that are NaN, unordered or outside [0, 1], or more than 2^36 samples.
        """
        right, low, high = _check.intervals(correct, lower, upper)
        rows = _check_rows(self._rows + right.size)
        self._state += self._integers(right, low, high)
        self._rows = rows

    def merge(self: _Self, other: _Self) -> None:
        """Adds the samples of another object with the same settings.

        Raises:
            TypeError: ``other`` is of another class.
            ValueError: its settings differ, or the two together pass 2^36 samples.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        if other._settings() != self._settings():
            raise ValueError(f"other: expected {self._settings()}, got {other._settings()}")
        self._rows = _check_rows(self._rows + other._rows)
        self._state += other._state

    def state(self) -> _Integers:
        """The integers, int64, a copy. Adding those of two objects is merging the objects."""
        return np.array(self._state)

    def compute(self) -> _Result:
        """The worst case over all samples so far.

        Raises:
            ValueError: there are none.
        """
        if not self._rows:
            raise ValueError(
                f"{type(self).__name__}: expected at least one sample before compute(), got none"
            )
        return self._result()

    @abstractmethod
    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        """The integers of these samples, whose order of bounds is still to be checked."""

    @abstractmethod
    def _checked_rows(self) -> int:
        """The number of samples of a state given by the user, none of it negative; raises where none can give it."""

    @abstractmethod
    def _result(self) -> _Result:
        """What ``compute`` gives for at least one sample."""

    def _settings(self) -> dict[str, Any]:
        """What two states must share to be added."""
        return {}


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

    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        result = np.array([right.size, np.count_nonzero(right), 0, 0], np.int64)
        bad = core.brier_update(right, low, high, result[2:], threads=_threads.num_threads())
        if bad >= 0:
            raise _check.bad_bounds(bad, low, high)
        return result

    def _result(self) -> CertifiedBrier:
        rows, right, high, low = (int(word) for word in self._state)
        return CertifiedBrier(mean_rounded_up(high, low, rows), rows, right / rows)

    def _checked_rows(self) -> int:
        rows, right, high, low = (int(word) for word in self._state)
        if right > rows or (high << LOW_BITS) + low > rows << FRACTION_BITS:
            raise ValueError(
                "state: expected no more right samples, and no larger sum, than samples"
            )
        return _check_rows(rows)


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

    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        return loss_sums(right, low, high, self._clip)

    def _result(self) -> CertifiedLogLoss:
        return loss_of_sums(self._state, self._clip)

    def _settings(self) -> dict[str, Any]:
        return {"clip": self._clip.clip, "dtype": self._clip.dtype}

    def _checked_rows(self) -> int:
        rows, right, infinite = (int(word) for word in self._state[:3])
        if max(right, infinite) > rows:
            raise ValueError("state: expected no more right or infinite samples than samples")
        return _check_rows(rows)


class EceState(CertifiedState[CertifiedEce]):
    """The certified ECE of data in parts: an ``EceTable`` with the methods of the other states.

    State: (2, M, M, 5), that of the table.

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

    def __init__(self, bins: int = 15, edges: Any = None, closed: str = "right") -> None:
        """A state of no samples; the arguments are described with the class."""
        self._edges = _check.bin_edges(bins, edges)
        self._closed = closed
        super().__init__(self._table().state().shape)

    def _table(self) -> EceTable:
        return EceTable(edges=self._edges, closed=self._closed)

    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        table = self._table()
        table.add_checked(right, low, high)
        return table.state()

    def _result(self) -> CertifiedEce:
        return EceTable.from_state(self._state, edges=self._edges, closed=self._closed).certify()

    def _settings(self) -> dict[str, Any]:
        return {"edges": self._edges.tolist(), "closed": self._closed}

    def _checked_rows(self) -> int:
        return EceTable.from_state(self._state, edges=self._edges, closed=self._closed).rows


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

    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        _check.require_ordered(low, high)
        chosen = right != 0
        size = 2**self._bits + 1
        begin = np.floor(np.ldexp(low, self._bits)).astype(np.int64)
        end = np.ceil(np.ldexp(high, self._bits)).astype(np.int64)
        result = np.zeros((5, size), np.int64)
        for row, (which, cells) in enumerate(((chosen, begin), (chosen, end), (~chosen, begin))):
            result[row] = np.bincount(cells[which], minlength=size)
        result[3] = np.bincount(end[~chosen], minlength=size)
        np.add.at(result[4], end[~chosen], begin[~chosen])
        return result

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
        rows = _check_rows(right + wrong)
        if right != right_ended or wrong != wrong_ended:
            raise ValueError("state: expected as many lower as upper ends")
        if (self._state[4] > self._state[3] * np.arange(2**self._bits + 1)).any():
            raise ValueError("state: expected no sum of lower ends above that of the upper ends")
        return rows


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

    def _integers(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> _Integers:
        _check.require_ordered(low, high)
        chosen = right != 0
        rows = (low[chosen], high[~chosen], low[~chosen])
        size = self._thresholds.size + 1
        cells = [np.searchsorted(self._thresholds, ends, "right") for ends in rows]
        return np.array([np.bincount(cell, minlength=size) for cell in cells], np.int64)

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
        rows = _check_rows(right + wrong)
        if wrong != wrong_begun or (np.cumsum(self._state[1] - self._state[2]) > 0).any():
            raise ValueError("state: expected each upper end at or above its lower end")
        return rows


def _check_rows(rows: int) -> int:
    if rows > MAX_ROWS:
        raise ValueError(f"expected at most 2^36 samples in one state, got {rows}")
    return rows
