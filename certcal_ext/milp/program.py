# SPDX-License-Identifier: MIT
"""The certified ECE as rows and columns of a mixed-integer program, and points that satisfy them.

A *piece* is a place where a confidence can be: one bin within the interval of one sample, or the
clean confidence of a sample that is not attacked. Each sample chooses one piece; everything else is
linear. ``docs/milp.md`` writes the program down.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext.bins import Bins

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: HiGHS's smallest permitted tolerance for rows, reduced costs and integrality.
TOLERANCE = 1e-10

#: Coefficients that HiGHS may drop, with its option small_matrix_value at 1e-12, its least.
_SMALL = 2e-12


@dataclass(frozen=True)
class Problem:
    """Checked arguments of ``certified_ece_milp``.

    Attributes:
        right: (N,) 0 or 1.
        low: (N,) lower ends of the intervals.
        high: (N,) upper ends.
        edges: (M + 1,) edges of the bins; not used with ``sizes``.
        left: whether bins are [e, e') and not (e, e'].
        sizes: (M,) sizes of the groups that the order of the confidences forms; None for bins with
            fixed edges.
        clean: (N,) confidences without an attack, or None.
        attacked: at most so many samples leave ``clean``; None for no such limit.
        rows: (coefficients (N,), least, most) of the linear constraints, each scaled by a power of
            two so that the largest coefficient is in [1/2, 1).
    """

    right: NDArray[np.uint8]
    low: Floats
    high: Floats
    edges: Floats
    left: bool
    sizes: NDArray[np.int64] | None = None
    clean: Floats | None = None
    attacked: int | None = None
    rows: tuple[tuple[Floats, float, float], ...] = ()

    @property
    def bins(self) -> int:
        """Number of bins or groups."""
        return self.edges.size - 1 if self.sizes is None else self.sizes.size

    @property
    def coupled(self) -> bool:
        """Whether a confidence cannot be chosen inside its piece without a look at the others."""
        return self.sizes is not None or bool(self.rows)

    @property
    def relaxes(self) -> bool:
        """Whether without its limits this is the problem that ``certified_ece`` solves."""
        return self.sizes is None and (self.attacked is not None or bool(self.rows))

    def bin_of(self, confidence: Floats) -> NDArray[np.int64]:
        """The bin with fixed edges in which each confidence lies."""
        return Bins(self.edges, "left" if self.left else "right").index(confidence)

    def satisfied(self, confidence: Floats, slack: float = 0.0) -> bool:
        """Whether the linear constraints hold."""
        sums = ((float(row @ confidence), least, most) for row, least, most in self.rows)
        return all(least - slack <= total <= most + slack for total, least, most in sums)


@dataclass(frozen=True)
class Pieces:
    """The pieces, those of a sample side by side.

    Attributes:
        sample: (P,) the sample.
        bin: (P,) the bin or group.
        low: (P,) least confidence of the piece; ends that a bin does not hold included.
        high: (P,) largest one.
        right: (P,) 1.0 where the sample is right, else 0.0.
        stays: (P,) whether it is the clean confidence.
        floors: (M - 1,) least value of the threshold above each group but the last; empty for bins
            with fixed edges.
        ceilings: (M - 1,) largest value of it.
    """

    sample: NDArray[np.int64]
    bin: NDArray[np.int64]
    low: Floats
    high: Floats
    right: Floats
    stays: Bools
    floors: Floats = field(default_factory=lambda: np.zeros(0))
    ceilings: Floats = field(default_factory=lambda: np.zeros(0))


def pieces_of(problem: Problem) -> Pieces:
    """All places where the confidences can be."""
    if problem.sizes is None:
        first, last = problem.bin_of(problem.low), problem.bin_of(problem.high)
        width = last - first + 1
        sample = np.repeat(np.arange(problem.right.size), width)
        at = np.arange(sample.size) - (np.cumsum(width) - width)[sample] + first[sample]
        below, above = problem.edges[:-1], problem.edges[1:]
        floors = ceilings = np.zeros(0)
    else:
        # The threshold above group m is the largest confidence in it or below: an order statistic,
        # which lies between those of the lower and of the upper ends.
        ranks = np.cumsum(problem.sizes)[:-1] - 1
        floors, ceilings = np.sort(problem.low)[ranks], np.sort(problem.high)[ranks]
        below, above = np.r_[0.0, floors], np.r_[ceilings, 1.0]
        reached = (problem.low[:, None] <= above) & (problem.high[:, None] >= below)
        sample, at = np.nonzero(reached)
    low = np.maximum(problem.low[sample], below[at])
    high = np.minimum(problem.high[sample], above[at])
    stays = np.zeros(sample.size, np.bool_)
    if problem.clean is not None and problem.attacked is not None:
        clean = problem.clean[sample]
        if problem.sizes is None:
            own = np.flatnonzero(at == problem.bin_of(problem.clean)[sample])
        else:
            own = np.flatnonzero((low <= clean) & (clean <= high))
        extra = np.ones(own.size, np.bool_)
        kept = slice(None) if problem.attacked else slice(0)
        low, high = np.r_[low[kept], clean[own]], np.r_[high[kept], clean[own]]
        sample, at = np.r_[sample[kept], sample[own]], np.r_[at[kept], at[own]]
        stays = np.r_[stays[kept], extra]
        order = np.lexsort((stays, at, sample))
        sample, at, low, high, stays = (
            sample[order],
            at[order],
            low[order],
            high[order],
            stays[order],
        )
    right = problem.right[sample].astype(np.float64)
    return Pieces(sample, at, low, high, right, stays, floors, ceilings)


@dataclass(frozen=True)
class Program:
    """A maximisation for HiGHS: bounds of columns, rows as (row, column, value), and its error.

    Attributes:
        columns: (lower, upper) of the columns: a (P), v (P), s (M), t (M), thresholds (M - 1 or
            none).
        integral: how many columns at the start are binary: all of a, or none where a maximum with
            whole a exists anyway.
        binary_signs: the columns of s, binary too.
        objective: the columns of t, whose sum is N times the ECE.
        rows: (lower, upper) of the rows.
        entries: (row, column, value).
        slack: how far the true maximum can be above HiGHS's dual bound, in units of N times the
            ECE.
    """

    columns: tuple[Floats, Floats]
    integral: int
    binary_signs: slice
    objective: slice
    rows: tuple[Floats, Floats]
    entries: tuple[NDArray[np.int64], NDArray[np.int64], Floats]
    slack: float

    def lp(self, highspy: Any) -> Any:
        """The program as HiGHS takes it."""
        row, column, value = self.entries
        order = np.lexsort((row, column))
        count = self.columns[0].size
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = count, self.rows[0].size
        lp.sense_ = highspy.ObjSense.kMaximize
        cost = np.zeros(count)
        cost[self.objective] = 1.0
        lp.col_cost_ = cost
        lp.col_lower_, lp.col_upper_ = self.columns
        lp.row_lower_, lp.row_upper_ = self.rows
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.r_[0, np.cumsum(np.bincount(column, minlength=count))]
        lp.a_matrix_.start_ = starts.astype(np.int32)
        lp.a_matrix_.index_ = row[order].astype(np.int32)
        lp.a_matrix_.value_ = value[order]
        kinds = [highspy.HighsVarType.kContinuous] * count
        kinds[: self.integral] = [highspy.HighsVarType.kInteger] * self.integral
        signs = range(count)[self.binary_signs]
        kinds[self.binary_signs] = [highspy.HighsVarType.kInteger] * len(signs)
        lp.integrality_ = kinds
        return lp


def sums(index: NDArray[np.int64], values: Floats, size: int) -> Floats:
    """The sum of the values of each index."""
    return np.bincount(index, values, size).astype(np.float64)


class _Rows:
    """Rows as they are added; small entries that HiGHS may drop loosen their row instead."""

    def __init__(self) -> None:
        self.entries: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = []
        self.lower: list[Floats] = []
        self.upper: list[Floats] = []
        self.count = 0

    def add(
        self, lower: Floats, upper: Floats, *entries: tuple[NDArray[np.int64], Any, Floats]
    ) -> None:
        """Adds rows numbered from 0; the columns of an entry have a range of at most 1."""
        lost = np.zeros(lower.size)
        for row, column, value in entries:
            small = np.abs(value) <= _SMALL
            lost += np.bincount(row[small], np.abs(value[small]), lower.size)
            self.entries.append((row[~small] + self.count, column[~small], value[~small]))
        self.lower.append(lower - lost)
        self.upper.append(upper + lost)
        self.count += lower.size


def program_of(problem: Problem, pieces: Pieces) -> Program:
    """The program of ``docs/milp.md``."""
    count, samples, bins = pieces.sample.size, problem.right.size, problem.bins
    # A tiny span is widened, since HiGHS would drop it as a coefficient and fix v at 0.
    span = pieces.high - pieces.low
    span = np.where((span > 0) & (span <= _SMALL), 2 * _SMALL, span)
    most, least = pieces.right - pieces.low, pieces.low + span - pieces.right
    largest, largest_negative = _extremes(problem, pieces, most), _extremes(problem, pieces, least)
    big_plus, big_minus = (
        np.where(x > 0, np.maximum(2 * x, 1e-9), 0.0) for x in (largest_negative, largest)
    )
    ceiling = np.maximum(np.maximum(largest, largest_negative), 0)

    piece, bin_ = np.arange(count), np.arange(bins)
    a, v, s, t = piece, count + piece, 2 * count + bin_, 2 * count + bins + bin_
    thresholds = 2 * count + 2 * bins + np.arange(pieces.floors.size)
    infinite = np.full(max(count, bins), np.inf)
    one, ones = np.ones(count), np.ones(bins)
    rows = _Rows()
    rows.add(-infinite[:count], np.zeros(count), (piece, v, one), (piece, a, -span))
    rows.add(np.ones(samples), np.ones(samples), (pieces.sample, a, one))
    for sign, big, top in ((1.0, big_plus, big_plus), (-1.0, -big_minus, np.zeros(bins))):
        # t - E + K s <= K and t + E - L s <= 0
        rows.add(
            -infinite[:bins],
            top,
            (pieces.bin, a, -sign * most),
            (pieces.bin, v, sign * one),
            (bin_, t, ones),
            (bin_, s, big),
        )
    if problem.sizes is not None:
        _add_groups(rows, problem.sizes, pieces, thresholds)
    if problem.attacked:
        stay = np.flatnonzero(pieces.stays)
        unmoved = np.array([samples - problem.attacked], np.float64)
        rows.add(unmoved, np.array([np.inf]), (np.zeros_like(stay), stay, np.ones(stay.size)))
    for coefficients, at_least, at_most in problem.rows:
        weight = coefficients[pieces.sample]
        # What rounding of the products and of the sum can cost.
        margin = 1e-15 * samples
        rows.add(
            np.array([at_least - margin]),
            np.array([at_most + margin]),
            (np.zeros(count, np.int64), a, weight * pieces.low),
            (np.zeros(count, np.int64), v, weight),
        )
    lower = np.concatenate([np.zeros(2 * count + 2 * bins), pieces.floors])
    upper = np.concatenate([one, span, ones, ceiling, pieces.ceilings])
    row, column, value = (np.concatenate(part) for part in zip(*rows.entries, strict=True))
    # For fixed s, each a is in one row "one piece a sample" and at most in the row of the attacked:
    # a totally unimodular matrix, whose vertices are whole. So branching on the M signs is enough,
    # and much quicker. The problem that the recursion solves keeps its binaries, as its referee
    # should.
    whole = problem.attacked is not None and not problem.coupled
    # Any prices y give the valid bound y'b + sum_j max over the range of column j of (cost - A'y)_j
    # x_j, and HiGHS's own differs from it by at most its tolerance on a reduced cost times the
    # range of each column.
    return Program(
        columns=(lower, upper),
        integral=0 if whole else count,
        binary_signs=slice(2 * count, 2 * count + bins),
        objective=slice(2 * count + bins, 2 * count + 2 * bins),
        rows=(np.concatenate(rows.lower), np.concatenate(rows.upper)),
        entries=(row, column, value),
        slack=TOLERANCE * float((upper - lower).sum()),
    )


def _extremes(problem: Problem, pieces: Pieces, gain: Floats) -> Floats:
    """(M,) the largest sum of gains of the samples in a bin.

    A sample that must be in the bin counts whatever its sign, another one only where it helps.
    """
    if problem.sizes is not None:
        return np.array(
            [
                np.sort(gain[(pieces.bin == m) & _roomiest(pieces)])[::-1][:size].sum()
                for m, size in enumerate(problem.sizes)
            ]
        )
    starts = np.flatnonzero(np.r_[True, pieces.sample[1:] != pieces.sample[:-1]])
    only = np.minimum.reduceat(pieces.bin, starts) == np.maximum.reduceat(pieces.bin, starts)
    counted = np.where(only[pieces.sample], gain, np.maximum(gain, 0))
    return sums(pieces.bin, np.where(_roomiest(pieces), counted, 0.0), problem.bins)


def _roomiest(pieces: Pieces) -> Bools:
    """One piece a sample and bin: the attacked one, which holds the clean confidence too."""
    same = (pieces.sample[1:] == pieces.sample[:-1]) & (pieces.bin[1:] == pieces.bin[:-1])
    return np.concatenate([[True], ~same])


def _add_groups(
    rows: _Rows, sizes: NDArray[np.int64], pieces: Pieces, columns: NDArray[np.int64]
) -> None:
    """Sizes of the groups, and each confidence on its side of each threshold."""
    count = pieces.sample.size
    a, v = np.arange(count), count + np.arange(count)
    rows.add(sizes.astype(np.float64), sizes.astype(np.float64), (pieces.bin, a, np.ones(count)))
    for m, threshold in enumerate(columns):
        floor, ceiling = pieces.floors[m], pieces.ceilings[m]
        # With A the sum of a over the groups up to m and z' the confidence where A = 1 (else 0): z'
        # <= e - floor (1 - A). Above m, z'' >= e - ceiling (1 - A'').
        for inside, bound, above in (
            (pieces.bin <= m, floor, False),
            (pieces.bin > m, ceiling, True),
        ):
            matters = inside & ((pieces.low < ceiling) if above else (pieces.high > floor))
            members = np.unique(pieces.sample[matters])
            if not members.size:
                continue
            mine = np.flatnonzero(inside & np.isin(pieces.sample, members))
            row = np.searchsorted(members, pieces.sample[mine])
            free, fixed = np.full(members.size, np.inf), np.full(members.size, -bound)
            rows.add(
                fixed if above else -free,
                free if above else fixed,
                (row, a[mine], pieces.low[mine] - bound),
                (row, v[mine], np.ones(mine.size)),
                (
                    np.arange(members.size),
                    np.full(members.size, threshold),
                    np.full(members.size, -1.0),
                ),
            )
    for lower, upper in itertools.pairwise(columns):
        one, zero = np.ones(1), np.zeros(1, np.int64)
        rows.add(
            np.zeros(1), np.full(1, np.inf), (zero, upper[None], one), (zero, lower[None], -one)
        )
