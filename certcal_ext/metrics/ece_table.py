# SPDX-License-Identifier: MIT
"""The table of sums from which the certified ECE is computed, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext import _check, _threads
from certcal_ext._load import core

#: A table holds at most this many rows; its 64-bit words cannot overflow below that.
MAX_ROWS = 2**36

#: A confidence is kept as a multiple of 2^-52 and a sum of them in two words, the lower one of 26
#: bits.
FRACTION_BITS = 52
LOW_BITS = 26
_CELL_WORDS = 5

Intervals = tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class CertifiedEce:
    """The exact worst-case expected calibration error.

    Attributes:
        value: the supremum, rounded up.
        signs: (M,) int8, +1 or -1: the side on which each bin is pushed.
        edges: (M + 1,) float64, the edges of the bins.
        closed: which end of a bin belongs to it.
        n: number of samples.
    """

    value: float
    signs: NDArray[np.int8]
    edges: NDArray[np.float64]
    closed: str
    n: int
    _intervals: Intervals | None = field(default=None, repr=False)
    _state: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def bins(self) -> int:
        """Number of bins."""
        return self.edges.size - 1

    @cached_property
    def worst_confidence(self) -> NDArray[np.float64]:
        """(N,) confidences within [lower, upper] whose plain ECE reaches ``value``, to 1e-9.

        Computed from the arrays given to ``certified_ece`` when it is first asked for. These are
        referred to, not copied, so they are tabulated again first: if their content has changed the
        certificate is not theirs, and this is an error.

        Raises:
            ValueError: the result comes from an ``EceTable``, which keeps no samples; or the arrays
                were changed.
        """
        if self._intervals is None:
            raise ValueError(
                "worst_confidence: an EceTable keeps no samples; pass them to "
                "worst_confidence_of(correct, lower, upper)"
            )
        again = np.zeros((2, self.bins, self.bins, _CELL_WORDS), np.int64)
        bad = core.ece_update(
            *self._intervals,
            self.edges,
            self.closed == "left",
            again,
            threads=_threads.num_threads(),
        )
        if bad >= 0 or self._state is None or not np.array_equal(again, self._state):
            raise ValueError(
                "worst_confidence: the arrays given to certified_ece were changed after the call; "
                "ask for worst_confidence before changing them, or pass copies"
            )
        return self._worst(*self._intervals)

    def worst_confidence_of(self, correct: Any, lower: Any, upper: Any) -> NDArray[np.float64]:
        """The worst confidences of samples that entered the table, in any part and order.

        Args:
            correct: (N,) booleans or 0/1.
            lower: (N,) lower ends of the intervals.
            upper: (N,) upper ends of the intervals.

        Returns:
            (N,) float64, each within its interval; read-only.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: shapes that differ, or bounds that are not ordered in [0, 1].
        """
        right, low, high = _check.intervals(correct, lower, upper)
        _check.require_ordered(low, high)
        return self._worst(right, low, high)

    def _worst(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        out = np.empty(right.size)
        core.ece_worst_confidence(
            right,
            low,
            high,
            self.edges,
            self.closed == "left",
            self.signs,
            out,
            threads=_threads.num_threads(),
        )
        return _read_only(out)


class EceTable:
    """The sums from which the certified ECE is computed; constant memory, and tables add.

    For each (correct, bin of lower, bin of upper): how many samples, and the sums of their lower
    and upper ends in fixed point. ``certify`` gives the value of ``certified_ece`` on all rows bit
    for bit, whatever the split and order.

    Args:
        bins: number M of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``.

    Raises:
        TypeError: ``bins`` or ``edges`` of the wrong kind.
        ValueError: bad bins.

    Example:
        >>> table = EceTable(bins=2)
        >>> table.update([1], [0.5], [1.0])
        >>> table.update([0], [0.25], [0.5])
        >>> table.certify().value, table.rows
        (0.5, 2)
    """

    def __init__(self, bins: int = 15, edges: Any = None, closed: str = "right") -> None:
        """An empty table; the arguments are described with the class."""
        self._edges = _read_only(_check.bin_edges(bins, edges))
        self._closed = "left" if _check.closed_left(closed) else "right"
        count = self._edges.size - 1
        self._state = np.zeros((2, count, count, _CELL_WORDS), np.int64)
        self._rows = 0

    @classmethod
    def from_state(
        cls, state: Any, bins: int = 15, edges: Any = None, closed: str = "right"
    ) -> EceTable:
        """A table from the integers of another one, or from the sum of those of several.

        Args:
            state: (2, M, M, 5) integers, as ``state`` gives them.
            bins: as they were for that table.
            edges: as they were for that table.
            closed: as it was for that table.

        Returns:
            A table of its own; ``state`` is copied.

        Raises:
            TypeError: ``state`` is no array of integers.
            ValueError: its shape does not fit the bins, it holds more than 2^36 rows, or no samples
                can give it.
        """
        table = cls(bins, edges, closed)
        given = _check.array("state", state)
        if given.dtype.kind not in "iu":
            raise TypeError(f"state: expected integers, got dtype {given.dtype}")
        if given.shape != table._state.shape:
            raise ValueError(f"state: expected shape {table._state.shape}, got {given.shape}")
        table._state[...] = given
        table._rows = _rows_of_state(table._state, table._edges)
        return table

    @property
    def rows(self) -> int:
        """Number of samples in the table."""
        return self._rows

    def update(self, correct: Any, lower: Any, upper: Any) -> None:
        """Adds samples; arguments and errors as ``certified_ece``.

        No rows are fine, and where one is bad none is added.
        """
        self.add_checked(*_check.intervals(correct, lower, upper))

    def merge(self, other: EceTable) -> None:
        """Adds all samples of another table with the same bins.

        Raises:
            TypeError: ``other`` is no ``EceTable``.
            ValueError: its edges or its ``closed`` differ, or the two together pass 2^36 rows.
        """
        if not isinstance(other, EceTable):
            raise TypeError(f"other: expected an EceTable, got {type(other).__name__}")
        if not np.array_equal(self._edges, other._edges):
            raise ValueError(
                f"other: expected the same edges, {_brief(self._edges)}, got {_brief(other._edges)}"
            )
        if self._closed != other._closed:
            raise ValueError(f'other: expected closed="{self._closed}", got "{other._closed}"')
        self._rows = _check_rows(self._rows + other._rows)
        self._state += other._state

    def state(self) -> NDArray[np.int64]:
        """(2, M, M, 5) int64, a copy. Adding the arrays of two tables is merging the tables.

        Axes: correct; bin of the lower end; bin of the upper end; (count, lower sum high and low
        word, upper sum high and low word), where a sum is (high * 2^26 + low) / 2^52.
        """
        result: NDArray[np.int64] = self._state.copy()
        return result

    def certify(self) -> CertifiedEce:
        """The exact worst case over all samples of the table.

        Raises:
            ValueError: the table is empty.
        """
        if not self._rows:
            raise ValueError("EceTable: expected at least one sample before certify(), got none")
        return self.solve(None)

    def add_checked(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> None:
        """``update`` for arrays that ``_check.intervals`` gave."""
        rows = _check_rows(self._rows + right.size)
        bad = core.ece_update(
            right,
            low,
            high,
            self._edges,
            self._closed == "left",
            self._state,
            threads=_threads.num_threads(),
        )
        if bad >= 0:
            raise _check.bad_bounds(bad, low, high)
        self._rows = rows

    def solve(self, intervals: Intervals | None) -> CertifiedEce:
        """``certify``; the result refers to ``intervals``, all rows of the table where given."""
        signs = np.empty(self._edges.size - 1, np.int8)
        value = core.ece_solve(self._state, self._edges, signs)
        state = None if intervals is None else _read_only(self._state)
        return CertifiedEce(
            value, _read_only(signs), self._edges, self._closed, self._rows, intervals, state
        )


def _check_rows(rows: int) -> int:
    if rows > MAX_ROWS:
        raise ValueError(f"EceTable: expected at most 2^36 rows in one table, got {rows}")
    return rows


def _rows_of_state(state: NDArray[np.int64], edges: NDArray[np.float64]) -> int:
    """The number of rows, after checking that samples can have given these sums."""
    counts = state[..., 0]
    if (state < 0).any() or int(counts.max()) > MAX_ROWS:
        raise ValueError("state: expected counts from 0 to 2^36 and sums of at least 0")
    rows = _check_rows(int(counts.sum(dtype=object)))
    if (state[..., 1:] > (counts << LOW_BITS)[..., None]).any():
        raise ValueError("state: expected no word of a sum above 2^26 a sample")
    if np.tril(counts, -1).any():
        raise ValueError(
            "state: expected no samples whose lower end lies in a higher bin than their upper end"
        )
    # Compared in float64, so with a slack that covers its rounding and one unit of fixed point a
    # sample.
    for high, bin_axis in ((1, 1), (3, 2)):
        sums = np.ldexp(state[..., high].astype(np.float64), LOW_BITS - FRACTION_BITS)
        sums += np.ldexp(state[..., high + 1].astype(np.float64), -FRACTION_BITS)
        shape = [-1 if axis == bin_axis else 1 for axis in range(3)]
        slack = 1e-12 * counts
        least = counts * edges[:-1].reshape(shape) - slack
        most = counts * edges[1:].reshape(shape) + slack
        if ((sums < least) | (sums > most)).any():
            raise ValueError(
                "state: expected each sum of ends to lie in its bin; is it of a table with other "
                "bins?"
            )
    return rows


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


def _brief(edges: NDArray[np.float64]) -> str:
    return np.array2string(edges, threshold=6, precision=6)
