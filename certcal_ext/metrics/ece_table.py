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
from certcal_ext.bins import Bins
from certcal_ext.metrics.state import (
    FRACTION_BITS,
    LOW_BITS,
    MAX_ROWS,
    CertifiedState,
    possible_sums,
)

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

    A result of ``certified_ece`` keeps its table, 80 M^2 bytes for M bins, and refers to its arrays.
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

    @property
    def cells(self) -> Bins:
        """The bins as an object, with the lookup of the one that a confidence is in."""
        return Bins(self.edges, self.closed)

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


class EceTable(CertifiedState[CertifiedEce]):
    """The sums from which the certified ECE is computed; constant memory, and tables add.

    For each (correct, bin of lower, bin of upper): how many samples, and the sums of their lower
    and upper ends in fixed point. ``certify`` gives the value of ``certified_ece`` on all rows bit
    for bit, whatever the split and order.

    State: (2, M, M, 5) integers. Axes: correct; bin of the lower end; bin of the upper end; (count,
    lower sum high and low word, upper sum high and low word), where a sum is
    (high * 2^26 + low) / 2^52.

    Memory: 80 M^2 bytes (18 kB for 15 bins, 335 MB for 2048). Beside that ``update`` takes at most 16
    MiB a thread, whatever M and N are, and ``certify`` less than 300 M bytes.

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

    def __init__(self, bins: int | Bins = 15, edges: Any = None, closed: str = "right") -> None:
        """An empty table; the arguments are described with the class."""
        self._bins = Bins.of(bins, edges, closed)
        count = len(self._bins)
        super().__init__((2, count, count, _CELL_WORDS))

    def certify(self) -> CertifiedEce:
        """The exact worst case over all samples of the table.

        Raises:
            ValueError: the table is empty.
        """
        return self.compute()

    def solve(self, intervals: Intervals | None) -> CertifiedEce:
        """``certify`` of at least one row; the result refers to ``intervals``, all of them where given."""
        signs = np.empty(len(self._bins), np.int8)
        value = core.ece_solve(self._state, self._bins.edges, signs)
        state = None if intervals is None else _read_only(self._state)
        return CertifiedEce(
            value,
            _read_only(signs),
            self._bins.edges,
            self._bins.closed,
            self._rows,
            intervals,
            state,
        )

    def _add(
        self, right: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> None:
        bad = core.ece_update(
            right,
            low,
            high,
            self._bins.edges,
            self._bins.closed_left,
            self._state,
            threads=_threads.num_threads(),
        )
        if bad >= 0:
            raise _check.bad_bounds(bad, low, high)

    def _result(self) -> CertifiedEce:
        return self.solve(None)

    def _settings(self) -> dict[str, Any]:
        return {"edges": self._bins.edges.tolist(), "closed": self._bins.closed}

    def _checked_rows(self) -> int:
        return _rows_of_state(self._state, self._bins.edges)


def _rows_of_state(state: NDArray[np.int64], edges: NDArray[np.float64]) -> int:
    """The number of rows, after checking that samples can have given these sums."""
    counts = state[..., 0]
    if int(counts.max()) > MAX_ROWS:
        raise ValueError("state: expected counts of at most 2^36")
    rows = int(counts.sum())
    lower, upper = ((state[..., word], state[..., word + 1]) for word in (1, 3))
    for words in (lower, upper):
        if not possible_sums(*words, counts, FRACTION_BITS).all():
            raise ValueError("state: expected no word of a sum above what its samples can give")
    if np.tril(counts, -1).any():
        raise ValueError(
            "state: expected no samples whose lower end lies in a higher bin than their upper end"
        )
    # One of two sums of two words is larger where the difference is, put together as (high, low).
    low = lower[1] - upper[1]
    high = lower[0] - upper[0] + (low >> LOW_BITS)
    if ((high > 0) | ((high == 0) & (low & ((1 << LOW_BITS) - 1) > 0))).any():
        raise ValueError("state: expected no sum of lower ends above that of the upper ends")
    # Compared in float64, so with a slack that covers its rounding and one unit of fixed point a
    # sample.
    for words, bin_axis in ((lower, 1), (upper, 2)):
        sums = np.ldexp(words[0].astype(np.float64), LOW_BITS - FRACTION_BITS)
        sums += np.ldexp(words[1].astype(np.float64), -FRACTION_BITS)
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
